"""Every command of the README runs, in its order, in a fresh folder."""

import re
import shlex
from pathlib import Path

import pytest

README = (Path(__file__).parent.parent / "README.md").read_text()

# Settings that make a run a matter of seconds, given the way a user could give them.
QUICK = {
    "DIMO_TRAIN__STEPS": "4",
    "DIMO_TRAIN__BATCH_SIZE": "8",
    "DIMO_MONITOR__FID_EVERY": "0",
    "DIMO_MONITOR__TABLE_SAMPLES": "100",
    "DIMO_MONITOR__TEACHER_STEPS": "[1, 2]",
}


def console_commands():
    return re.findall(r"^\$ dimo (.+)$", README, flags=re.MULTILINE)


def table_commands():
    rows = re.findall(r"^\| [^|]+ \|(.+)\|$", README, flags=re.MULTILINE)
    return [command for row in rows for command in re.findall(r"`dimo ([^`]+)`", row)]


def test_the_commands_of_the_walk_through_run_in_order(dimo, monkeypatch):
    for name, value in QUICK.items():
        monkeypatch.setenv(name, value)
    assert len(console_commands()) >= 10
    for command in console_commands():
        command = command.replace("--max 9", "--max 1000")  # after 4 steps it is no generator yet
        result = dimo(*shlex.split(command))
        assert result.exit_code == 0, f"dimo {command}\n{result.stderr}"


def test_the_commands_of_the_table_run(dimo, monkeypatch):
    for name, value in QUICK.items():
        monkeypatch.setenv(name, value)
    commands = table_commands()
    assert len(commands) >= 8
    for command in commands:
        arguments = shlex.split(command.replace("--max 1.0", "--max 1000"))
        if "--resume" in arguments:
            monkeypatch.setenv("DIMO_TRAIN__STEPS", "6")
        result = dimo(*arguments)
        assert result.exit_code == 0, f"dimo {command}\n{result.stderr}"


@pytest.mark.parametrize("block", re.findall(r"```python\n(.+?)```", README, flags=re.DOTALL))
def test_the_python_of_the_readme_runs(block):
    names = {}
    exec(compile(block, "README.md", "exec"), names)
    assert names["images"].shape == (16, 3, 8, 8)


def test_the_set_up_commands_of_the_readme_are_targets_of_the_makefile():
    makefile = (Path(__file__).parent.parent / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", README, flags=re.MULTILINE):
        assert f"\n{target}:" in makefile


def test_every_exit_code_of_the_program_is_in_the_readme():
    from dimo_cli import errors

    codes = {
        cls.exit_code for cls in vars(errors).values() if isinstance(cls, type)
        and issubclass(cls, errors.DimoError)
    }  # fmt: skip
    section = README.split("### Exit codes")[1].split("###")[0]
    for code in codes:
        assert re.search(rf"\b{code} \w", section)
