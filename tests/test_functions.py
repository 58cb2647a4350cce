"""Functions stay short enough to be read at a glance."""

import ast
from functools import cache
from pathlib import Path

import dimo_cli

PACKAGE = Path(dimo_cli.__file__).parent
LONGEST, LONGEST_COMMAND = 80, 60
MOST_PARAMETERS = 10


def read_functions():
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                names = node.args
                taken = [*names.posonlyargs, *names.args, *names.kwonlyargs]
                file = path.relative_to(PACKAGE)
                yield file, node.name, node.end_lineno - node.lineno + 1, len(taken)


@cache
def functions():
    """Every function of the package: its file, its name, its lines, and how many parameters."""
    return list(read_functions())


def commands():
    return [found for found in functions() if found[0].parts[0] == "commands"]


def test_there_are_functions_to_look_at():
    assert len(functions()) > 1000
    assert len(commands()) > 100


def test_no_function_of_the_package_is_too_long():
    assert [found for found in functions() if found[2] > LONGEST] == []


def test_no_function_of_a_command_is_too_long():
    assert [found for found in commands() if found[2] > LONGEST_COMMAND] == []


def test_no_command_takes_more_than_a_person_can_keep_in_mind():
    assert [found for found in commands() if found[3] > MOST_PARAMETERS] == []
