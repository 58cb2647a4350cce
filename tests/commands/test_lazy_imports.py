"""A command imports at its top whatever is light: only what is heavy waits until it is needed."""

import ast
from functools import cache
from pathlib import Path

import dimo_cli

PACKAGE = Path(dimo_cli.__file__).parent
MODULES = {
    ".".join(("dimo_cli", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(
        ".__init__"
    ): path
    for path in PACKAGE.rglob("*.py")
}
# What takes long enough to be noticed; and specs, which no help page of another command builds.
HEAVY = {
    *("torch", "numpy", "PIL", "jinja2", "starlette", "accelerate", "huggingface_hub"),
    *("dimo_cli.specs.distill", "dimo_cli.specs.resolve"),
}
# Until something goes wrong, the list of commands needs no console.
ON_MISTAKES = {("usage.py", "dimo_cli.console.output")}


def modules_of(node):
    """What an import statement imports: modules of the package as such, of others by name."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module:
        for alias in node.names:
            inner = f"{node.module}.{alias.name}"
            yield inner if inner in MODULES else node.module


@cache
def imported_with(module):
    """All that an import of a module of the package brings along, at any depth."""
    found = {module}
    for node in ast.parse(MODULES[module].read_text(encoding="utf-8")).body:
        for name in modules_of(node):
            new = {name.split(".")[0]} if name not in MODULES else imported_with(name)
            found |= {name} | new
    return frozenset(found)


def is_heavy(module):
    brought = imported_with(module) if module in MODULES else {module, module.split(".")[0]}
    return bool(HEAVY & brought)


def late_imports():
    """Imports within functions: the file of the command, the function, and the module."""
    for path in sorted((PACKAGE / "commands").glob("*.py")):
        for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(function, ast.FunctionDef):
                for node in ast.walk(function):
                    for module in modules_of(node):
                        yield path.name, function.name, module


LATE = list(late_imports())


def test_torch_and_specs_are_heavy_and_errors_are_not():
    assert is_heavy("dimo_cli.students.student")
    assert is_heavy("dimo_cli.specs.refine")
    assert not is_heavy("dimo_cli.errors")
    assert not is_heavy("dimo_cli.specs.sample")


def test_only_what_is_heavy_is_imported_late():
    light = [
        (file, function, module)
        for file, function, module in LATE
        if (module.startswith("dimo_cli") or module.split(".")[0] in HEAVY | {"rich", "typer"})
        and not is_heavy(module)
        and (file, module) not in ON_MISTAKES
    ]
    assert len(LATE) > 40
    assert light == []
