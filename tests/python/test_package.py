"""`import dimo_cli` is fast and offers its names to people, editors and type checkers."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import dimo_cli

SOURCE = Path(dimo_cli.__file__)


def fresh(code):
    """Run code in a new process; what it printed."""
    program = [sys.executable, "-c", code]
    ended = subprocess.run(program, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_the_package_alone_imports_nothing_heavy():
    code = "import sys, dimo_cli; print(*{m.split('.')[0] for m in sys.modules})"
    assert not {"torch", "numpy", "pydantic", "rich", "typer"} & set(fresh(code).split())


def test_a_run_can_be_looked_at_without_loading_a_network_library():
    code = (
        "import sys; from dimo_cli import Callback, Run, list_runs; print('torch' in sys.modules)"
    )
    assert fresh(code) == "False\n"


@pytest.mark.parametrize("name", sorted(set(dimo_cli.__all__) - {"__version__"}))
def test_every_name_is_there_and_documented(name):
    value = getattr(dimo_cli, name)
    assert value.__name__ == name
    assert len(value.__doc__) > 20
    assert name in dir(dimo_cli)


def test_what_editors_see_is_what_is_imported():
    tree = ast.parse(SOURCE.read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.name: node.module.removeprefix("dimo_cli.")
        for node in block.body
        for alias in node.names
    }
    assert seen == dimo_cli.HOMES
    assert set(dimo_cli.__all__) == {*seen, "__version__"}


def test_the_package_says_that_it_is_typed():
    assert SOURCE.with_name("py.typed").is_file()


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'destill'"):
        dimo_cli.destill  # noqa: B018


def test_a_subpackage_is_no_name_of_the_api():
    assert not set(dimo_cli.HOMES) & {path.stem for path in SOURCE.parent.iterdir()}
