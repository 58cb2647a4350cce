"""SECURITY.md says what the program does: its formats, its limits, its hashes, what never runs."""

import ast
import re
import tomllib
from pathlib import Path

import pytest

import dimo_cli
from dimo_cli.commands.usage import commands_of
from dimo_cli.files import pictures, reading, torch_files, torch_programs, untrusted, yaml_text
from dimo_cli.hub import transfer
from dimo_cli.run_folder import log
from dimo_cli.specs.teacher import TeacherSource
from dimo_cli.teachers.families import FAMILIES
from dimo_cli.teachers.registry import blueprint_of
from tests.bounds.lowest import PYPROJECT, requirements
from tests.docs.shown import ROOT

PAGE = (ROOT / "SECURITY.md").read_text(encoding="utf-8")


def mib(size):
    return f"{size // untrusted.MIB:,} MiB"


LIMITS = {
    "a spec": f"{mib(reading.MOST_SPEC)}, {yaml_text.MOST_VALUES:,} keys",
    "a manifest, a configuration, results": mib(reading.MOST_DOCUMENT),
    "a file of prompts": mib(reading.MOST_PROMPTS),
    "statistics in a pickle": mib(reading.MOST_STATISTICS),
    "a log, when a run goes on": f"{mib(log.MOST)}, read line by line; of a longer one than "
    f"{mib(reading.MOST_LOG)}",
    "a picture": f"{pictures.MOST_PIXELS:,} pixels and {mib(pictures.MOST_BYTES)}",
    "what an archive unpacks to": f"{untrusted.MOST_SHRUNK} times its own size, or "
    f"{mib(untrusted.ALWAYS_ALLOWED)}",
    "the pickle in a file of torch": f"{mib(torch_files.MOST_PROGRAM)}, "
    f"{torch_programs.MOST_STEPS:,} steps",
    "a size in a configuration": f"{untrusted.MOST:,}, of layers {untrusted.MOST_LAYERS:,}",
    "a file from the Hub": f"the size that is known or announced; {mib(transfer.MOST_TEXT)}",
    "a download": f"{transfer.PERIOD:g} seconds below {transfer.SLOWEST:,} bytes",
}


@pytest.mark.parametrize("what", LIMITS)
def test_every_limit_on_the_page_is_that_of_the_program(what):
    assert f"| {what} | {LIMITS[what]}" in PAGE


def test_the_page_has_no_limit_that_nobody_looked_at():
    table = PAGE.split("| what | at most |")[1].split("\n\n")[0]
    assert len(table.strip().splitlines()) == 1 + len(LIMITS)


def test_the_formats_of_pictures_are_all_named():
    assert f"six formats that are decoded in this process: {', '.join(pictures.FORMATS)}." in PAGE
    assert len(pictures.FORMATS) == 6


def known(name):
    """Which parts of a teacher are of weights whose hash is known: all files of them."""
    blueprint = blueprint_of(TeacherSource(name=name))
    parts = ("backbone", "tokenizer")
    return {part for part in parts if all(f.sha256 for f in getattr(blueprint, part).files)}


def test_the_teachers_whose_hashes_are_known_are_all_named_and_no_others():
    (row,) = [line for line in PAGE.splitlines() if line.startswith("| weights whose hash")]
    whole, parts = row.split(";")[:2]
    named = [set(re.findall(r"`([\w-]+)`", text)) for text in (whole, parts)]
    assert named[0] == {name for name in FAMILIES if len(known(name)) == 2}
    assert named[1] == {name for name in FAMILIES if known(name) == {"tokenizer"}}


def test_the_lowest_versions_are_those_of_the_package():
    lowest = {
        match["name"].lower(): match["lowest"]
        for match in requirements(tomllib.loads(PYPROJECT.read_text())["project"]).values()
    }
    rows = re.findall(r"^\| ([a-z0-9, ]+) \| ([\d., ]+) \| ", PAGE, re.MULTILINE)
    found = {
        name: version
        for names, versions in rows
        for name, version in zip(names.split(", "), versions.split(", "), strict=True)
    }
    assert len(found) >= 9
    assert {name: lowest[name] for name in found} == found


@pytest.fixture(scope="module")
def trees():
    """The files of the package as Python reads them."""
    package = Path(dimo_cli.__file__).parent
    return {
        path.relative_to(package).as_posix(): ast.parse(path.read_text("utf-8"))
        for path in package.rglob("*.py")
    }


@pytest.fixture(scope="module")
def calls(trees):
    """Every call in the package: the file, the function as it is written, and its arguments."""
    return [
        (name, ast.unparse(node.func), node.keywords)
        for name, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
    ]


def test_nothing_of_a_file_is_run_and_no_program_of_the_system_is(trees, calls):
    never = {"eval", "exec", "os.system", "os.popen", "pickle.load", "pickle.loads", "yaml.load",
             "torch.jit.script", "torch.hub.load"}  # fmt: skip
    assert [(name, call) for name, call, _ in calls if call in never] == []
    imported = {
        alias.name
        for tree in trees.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    assert not {"dill", "cloudpickle", "shelve", "marshal"} & imported
    starters = [name for name, call, _ in calls if call.startswith("subprocess.")]
    assert set(starters) == {"files/tables.py"}, "Parquet alone is read by a process of its own"


def test_what_could_run_something_is_called_in_one_place_each_and_safely(calls):
    loads = [(name, {k.arg: ast.unparse(k.value) for k in words}) for name, call, words in calls
             if call == "torch.load"]  # fmt: skip
    assert [name for name, _ in loads] == ["files/torch_files.py"]
    assert loads[0][1]["weights_only"] == "True"
    scripts = [name for name, call, _ in calls if call == "torch.jit.load"]
    assert scripts == ["metrics/inception.py"]
    words = {word.arg for _, _, keywords in calls for word in keywords}
    assert not {"trust_remote_code", "allow_pickle"} & words


def test_pictures_are_opened_at_one_place(calls):
    assert [name for name, call, _ in calls if call == "Image.open"] == ["files/pictures.py"]


def test_the_command_that_reads_every_hash_again_is_named():
    import typer

    from dimo_cli.main import app

    assert "check" in commands_of(typer.main.get_command(app))
    assert "`dimo check PATH`" in PAGE
