"""The house keeps its shape: imports go down, never up, beside or in a circle."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest

import dimo_cli

PACKAGE = Path(dimo_cli.__file__).parent
PAGE = (Path(__file__).parents[1] / "docs" / "layout.md").read_text(encoding="utf-8")

# From the top of the house to its ground. Rooms on one line know nothing of each other.
LAYERS = (
    ("__main__",),
    ("main",),
    ("commands",),
    ("publishing",),
    ("python",),
    ("runs", "exporting", "play", "pipeline"),
    ("evaluation",),
    ("sampling", "planning", "checking"),
    ("students", "training", "metrics"),
    ("engine", "rewards", "data", "cards", "reporting"),
    ("teachers", "run_folder"),
    ("hub", "distributed", "console"),
    ("specs",),
    ("files",),
    ("errors",),
    ("redacting", "plugins", "__init__"),
)
LEVEL = {room: level for level, rooms in enumerate(reversed(LAYERS)) for room in rooms}

LOOSE = {"__init__", "__main__", "main", "errors", "redacting", "plugins", "pipeline"}

EXCEPTIONS = {
    ("__init__", home): "the package's face, which imports it only when it is asked for"
    for home in dimo_cli.HOMES.values()
}
"""(who imports, what): why it may."""


HEAVY = {
    ("planning.health", "students.folder"): "torch, which may be what is broken",
    ("python.run", "pipeline"): "torch, where a run is only looked at",
    ("python.run", "reporting.page"): "torch and jinja2, likewise",
    ("rewards.registry", "hub.store"): "torch, where only a name is checked",
    ("runs.closing", "reporting.page"): "jinja2, once a run has ended",
    ("specs.objectives", "files.untrusted"): "NumPy, where settings of an objective are refused",
}
"""(who imports inside a function, what): what starts behind it. Commands have their own rules."""


@dataclass(frozen=True)
class Arrow:
    """One import of a module of the package by another, wherever in the file it stands."""

    source: str
    target: str
    line: int

    def __str__(self) -> str:
        return f"{self.source}:{self.line} imports {self.target}"


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


MODULES = {module_name(path): path for path in PACKAGE.rglob("*.py")}


def room(module: str) -> str:
    return module.split(".")[0]


def folder(module: str, depth: int) -> str | None:
    """The folder of so many steps that a module is in; None where it lies higher."""
    path = MODULES[module].relative_to(PACKAGE).parent
    return ".".join(path.parts[:depth]) if len(path.parts) >= depth else None


def imported(node: ast.AST) -> Iterator[str]:
    """The modules of the package that a statement imports."""
    match node:
        case ast.Import(names=names):
            for alias in names:
                if alias.name.startswith("dimo_cli."):
                    yield alias.name.removeprefix("dimo_cli.")
        case ast.ImportFrom(module=str(module), names=names, level=0):
            if module.split(".")[0] != "dimo_cli":
                return
            base = module.removeprefix("dimo_cli").removeprefix(".")
            for alias in names:
                inner = f"{base}.{alias.name}" if base else alias.name
                yield inner if inner in MODULES else base or "__init__"


def arrows() -> list[Arrow]:
    found = {}
    for name, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for target in imported(node):
                if target != name:
                    found.setdefault((name, target), Arrow(name, target, node.lineno))
    return list(found.values())


ARROWS = arrows()
STRICT = [arrow for arrow in ARROWS if (arrow.source, arrow.target) not in EXCEPTIONS]


def circles(edges: set[tuple[str, str]]) -> list[list[str]]:
    """Groups of nodes that reach each other (Tarjan's strongly connected components)."""
    after: dict[str, list[str]] = {}
    for source, target in edges:
        after.setdefault(source, []).append(target)
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in after.get(node, ()):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            group = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(group) > 1:
                found.append(sorted(group))

    for node in sorted(after):
        if node not in index:
            visit(node)
    return found


def test_every_import_goes_down() -> None:
    wrong = [
        str(arrow)
        for arrow in STRICT
        if room(arrow.source) != room(arrow.target)
        and LEVEL[room(arrow.target)] >= LEVEL[room(arrow.source)]
    ]
    assert not wrong, "\n".join(sorted(wrong))


def test_no_files_import_each_other_in_a_circle() -> None:
    assert circles({(arrow.source, arrow.target) for arrow in STRICT}) == []


@pytest.mark.parametrize("depth", [1, 2])
def test_no_folders_import_each_other_in_a_circle(depth: int) -> None:
    """Folders of one depth; what lies loose in a folder belongs to that folder alone."""
    edges = set()
    for arrow in STRICT:
        ends = [folder(module, depth) for module in (arrow.source, arrow.target)]
        if None not in ends and ends[0] != ends[1]:
            edges.add((str(ends[0]), str(ends[1])))
    assert circles(edges) == []


def late_imports() -> set[tuple[str, str]]:
    """What modules of the package import inside their functions, but for commands."""
    found = set()
    for name, path in MODULES.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
        inside = (target for f in functions for node in ast.walk(f) for target in imported(node))
        found |= {(name, target) for target in inside if room(name) != "commands"}
    return found


def test_an_import_inside_a_function_has_something_heavy_behind_it() -> None:
    assert late_imports() == set(HEAVY)


def test_nothing_new_lies_about_beside_the_folders() -> None:
    assert {path.stem for path in PACKAGE.glob("*.py")} == LOOSE
    assert {path.name for path in PACKAGE.iterdir() if path.is_dir()} - {
        "__pycache__",
        "presets",
    } == {name for rooms in LAYERS for name in rooms} - LOOSE


@pytest.mark.parametrize("pair", sorted(EXCEPTIONS))
def test_every_exception_is_still_needed(pair: tuple[str, str]) -> None:
    assert pair in {(arrow.source, arrow.target) for arrow in ARROWS}


def section(title: str) -> str:
    """What the page for contributors says under a heading."""
    return PAGE.split(f"## {title}\n")[1].split("\n## ")[0]


def first_cells(text: str) -> list[list[str]]:
    """The names in the first cell of each row of the tables of a text."""
    rows = re.findall(r"^\| (`.*?`) \|", text, re.MULTILINE)
    return [re.findall(r"`([^`]+)`", row) for row in rows]


def test_the_page_for_contributors_has_these_layers() -> None:
    named = first_cells(PAGE.split("\n## ")[0])
    assert [set(rooms) for rooms in named] == [set(rooms) for rooms in LAYERS]


def test_the_ways_that_the_page_shows_are_those_of_the_imports() -> None:
    chain = r"`[a-z_/]+`(?:\s+->\s+`[a-z_/]+`)+"
    ways = [
        [step.replace("/", ".") for step in re.findall(r"`([^`]+)`", way)]
        for way in re.findall(chain, section("Two ways through it"))
    ]
    assert [len(way) for way in ways] == [6, 5]
    known = {(arrow.source, arrow.target) for arrow in ARROWS}
    steps = {step for way in ways for step in pairwise(way)}
    assert steps - known == set()


# What reaches beyond a caller: garbage collection, signals, the environment, libraries' settings.
PROCESS_WIDE = re.compile(
    r"\bgc\.(freeze|disable)\(|\bsignal\.signal\(|\bos\.environ(\[.+?\] = |\.setdefault\()"
    r"|\bsys\.std(in|out|err) = "
    r"|\.reconfigure\(|\bset_(num_threads|rng_state|verbosity\w*|start_method|default_\w+)\("
    r"|\b(backends|_dynamo\.config)\.[\w.]+ = |\b(simplefilter|filterwarnings)\("
    r"|\bsetLogRecordFactory\(|\bsetrlimit\(|\bset_client_factory\("
    r"|\.setLevel\(|\bsys\.(excepthook|path|unraisablehook)\b|\bos\.(umask|chdir)\(|\bunittest\b"
)


def test_what_changes_the_whole_process_is_on_the_page() -> None:
    named = {
        name.replace("/", ".")
        for row in first_cells(section("What changes the whole process"))
        for name in row
    }
    found = {n for n, p in MODULES.items() if PROCESS_WIDE.search(p.read_text(encoding="utf-8"))}
    assert found == named
