"""A help page waits for nothing that it does not show: what is imported is counted by name."""

import json
import sys
from pathlib import Path

import pytest
import typer

from benchmarks.startup import BAR, TEN_LINES, in_terminal
from dimo_cli.commands.usage import commands_of
from dimo_cli.main import app

RESULT = Path(__file__).parents[2] / "benchmarks" / "results" / "startup.json"

# All that `dimo --help` imports and ten lines of Typer do not.
OWN = {
    *("dimo_cli", "dimo_cli.main", "dimo_cli.errors", "dimo_cli.redacting"),
    *("dimo_cli.commands", "dimo_cli.commands.usage"),
    *("dimo_cli.console", "dimo_cli.console.environment"),
    *("dimo_cli.console.plain", "dimo_cli.console.streams"),
    *("base64", "binascii", "logging", "string", "urllib", "urllib.parse", "ipaddress"),
}
# The specs that a help page is made of, by the first words of the command.
RUN_SPECS = {
    "distill",
    "averaging",
    "divergences",
    "input_noise",
    "objectives",
    "launch",
    "lora",
    "stored",
    "metrics",
    "monitor",
    "train",
}
RUN_SPECS |= {"init", "optimizer", "teacher", "render", "resolve", "unread"}
SPECS = {
    "distill": RUN_SPECS,
    "sweep": RUN_SPECS | {"sweep"},
    "arena": RUN_SPECS | {"arena"},
    "ema": {"averages", "metrics"},
    "refine": RUN_SPECS | {"refine"},
    "tteo": {"tteo"},
    "play": {"tteo"},
    "sample": {"sample"},
    "compare": {"sample", "sides"},
    "eval": {"evaluate", "sample", "tteo", "launch"},
    "data": {"data"},
    "export": {"export"},
    "merge": {"lora", "lowrank"},
    "extract": {"lora", "lowrank"},
    "push": {"push", "launch", "render"},
    "doctor": {"launch", "render"},
    "check": {"check", "launch", "render"},
    "presets": RUN_SPECS | {"refine"},
    "runs": {"runs", "launch", "render", "metrics"},
    "spec": RUN_SPECS | {"refine", "glossary"},
}
SHARED = {"base", "explain", "flags", "shipped"}
HEAVY = {"torch", "numpy", "PIL", "transformers", "diffusers", "accelerate", "jinja2", "scipy"}


def imported_by(program, tmp_path):
    """The modules that are there when a program has shown its page in a terminal."""
    said = tmp_path / "modules.json"
    code = (
        "import atexit, json, sys\n"
        "from pathlib import Path\n"
        f"save = Path({str(said)!r}).write_text\n"
        "atexit.register(lambda: save(json.dumps(sorted(sys.modules))))\n"
    )
    page = in_terminal([sys.executable, "-c", code + program])
    return set(json.loads(said.read_text())), page.decode()


def help_page(words, tmp_path):
    call = f"sys.argv = {['dimo', *words, '--help']!r}\nfrom dimo_cli.main import main\nmain()\n"
    return imported_by(call, tmp_path)


def all_commands(group, path=()):
    for name, command in commands_of(group).items():
        yield (*path, name), command
        yield from all_commands(command, (*path, name))


COMMANDS = dict(all_commands(typer.main.get_command(app)))


def test_the_list_of_commands_imports_hardly_more_than_ten_lines_of_typer(tmp_path):
    ten, _ = imported_by(f"sys.argv = ['ten', '--help']\n{TEN_LINES}", tmp_path)
    dimo, page = help_page((), tmp_path)
    assert dimo - ten <= OWN
    assert all(name in page for name in ("distill", "eval", "doctor"))
    assert "╭" in page


def test_a_spec_of_dimos_own_teachers_and_objectives_is_checked_without_torch(tmp_path):
    spec = tmp_path / "mine.yaml"
    spec.write_text("teacher: {name: maskbit}\nobjectives: [{kind: redi, weight: 2}, idlm]\n")
    argv = ["dimo", "spec", "check", str(spec), "--json"]
    modules, page = imported_by(
        f"sys.argv = {argv!r}\nfrom dimo_cli.main import main\nmain()\n", tmp_path
    )
    assert '"valid": true' in page
    assert not HEAVY & modules


# One process imports what every page is drawn with, and forks for each of them.
SHOWS_ALL = """
import json, os, sys
from pathlib import Path
import typer.rich_utils
from dimo_cli.main import main
for number, words in enumerate(%s):
    sys.stdout.flush()
    if os.fork():
        os.wait()
        print(%r)
        continue
    sys.argv = ["dimo", *words, "--help"]
    try:
        main()
    finally:
        Path(f"{%r}/{number}.json").write_text(json.dumps(sorted(sys.modules)))
        sys.stdout.flush()
        os._exit(0)
"""
END = "=== the end of a page ==="
OF_COMMANDS = [("eval",), *(words for words in COMMANDS if len(words) == 1)]
WITHIN_GROUPS = [("eval", "fid"), ("eval", "ref", "build"), ("data", "encode")]


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """The specs and the other modules that are there when a command has shown its page, and it."""
    folder, asked = tmp_path_factory.mktemp("modules"), [*OF_COMMANDS, *WITHIN_GROUPS]
    said = in_terminal([sys.executable, "-c", SHOWS_ALL % (asked, END, str(folder))]).decode()
    found = {}
    for number, (words, page) in enumerate(zip(asked, said.split(END), strict=False)):
        modules = set(json.loads((folder / f"{number}.json").read_text()))
        specs = {name.removeprefix("dimo_cli.specs.") for name in modules if ".specs." in name}
        found[words] = specs, modules, page
    return found


def test_there_are_commands_of_every_kind_to_be_asked_for_help():
    assert len(COMMANDS) >= 35
    assert {words[0] for words in COMMANDS} == {*SPECS, "report"}


@pytest.mark.parametrize("words", OF_COMMANDS, ids=" ".join)
def test_no_spec_is_built_for_the_help_page_of_another_command(words, shown):
    specs, modules, page = shown[words]
    assert specs <= SPECS.get(words[0], set()) | SHARED
    assert not HEAVY & modules
    assert f"dimo {words[0]}" in page


@pytest.mark.parametrize("words", WITHIN_GROUPS, ids=" ".join)
def test_a_command_within_a_group_waits_for_its_own_spec_alone(words, shown):
    specs, modules, _ = shown[words]
    assert specs <= SPECS[words[0]] | SHARED
    assert not HEAVY & modules


def test_what_the_list_says_of_a_command_is_what_the_command_says_of_itself():
    told = typer.main.get_command(app)
    words_alone = {name: command.help for name, command in told.commands.items()}
    assert words_alone == {name: command.help for name, command in commands_of(told).items()}
    group = told.commands["eval"]
    fresh = typer.main.get_command(app)
    fresh.load("eval")
    words_alone = {name: command.help for name, command in fresh.commands["eval"].commands.items()}
    assert words_alone == {name: command.help for name, command in commands_of(group).items()}


def test_the_committed_measurement_keeps_to_its_bar():
    result = json.loads(RESULT.read_text())
    assert result["bar"] == BAR == 1.25
    assert result["ratio"] <= BAR
    assert result["ratio_piped"] <= BAR
