"""The README names every exit code. That its commands work is tested in tests/docs."""

import re
from pathlib import Path

from dimo_cli import errors

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def test_every_exit_code_of_the_program_is_in_the_readme():
    classes = [cls for cls in vars(errors).values() if isinstance(cls, type)]
    codes = {cls.exit_code for cls in classes if issubclass(cls, errors.DimoError)}
    section = README.split("### Exit codes")[1].split("###")[0]
    for code in codes:
        assert re.search(rf"\b{code} \w", section)
