"""Every command and every Python block of the README and of docs/ does what the page says."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from accelerate.commands.launch import launch_command_parser
from torch.distributed.run import get_args_parser

from docs.generator.commands import commands
from tests.docs.kinds import Kind, kind_of
from tests.docs.running import QUICK, check, run
from tests.docs.shown import (
    FENCE,
    OTHERS,
    ROOT,
    SHELLS,
    Block,
    Shown,
    all_commands,
    blocks,
    commands_of,
    pages,
    table_commands,
    text_of,
)

IN_PROCESS = (Kind.RUNS, Kind.PLANS, Kind.NEEDS, Kind.REFUSED)


def of_kind(kind):
    return [shown for shown in all_commands() if kind_of(shown) is kind]


def takes_long(page):
    """The pages of presets are of one form: the first of them will do for a quick look."""
    several = page == "docs/multi-gpu.md"  # its processes start one after the other here
    return several or (page.startswith("docs/presets/") and page != "docs/presets/digits.md")


def items_of(page):
    """Commands and other blocks in the order of the page."""
    for block in blocks(page):
        yield from commands_of(block) or [block]


def take(block, names, monkeypatch):
    """Run the Python of a page in miniature, and write a file whose name a block begins with."""
    name = re.match(r"# (\S+\.yaml)$", block.body, flags=re.MULTILINE)
    if block.language == "python":
        with monkeypatch.context() as patch:
            for variable, value in {**QUICK, "DIMO_MONITOR__TABLE_SAMPLES": "100"}.items():
                patch.setenv(variable, value)
            exec(compile(block.body, f"{block.page}:{block.line}", "exec"), names)
    elif name:
        Path(name[1]).write_text(block.body)


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=pytest.mark.slow if takes_long(page) else ()) for page in pages()],
)
def test_what_a_page_shows_works_in_its_order(page, machine, monkeypatch):
    names = {}
    for item in items_of(page):
        if isinstance(item, Block):
            take(item, names, monkeypatch)
        elif kind_of(item) in IN_PROCESS:
            check(item, run(item, monkeypatch))


def test_the_tasks_of_the_readme_work_in_the_order_of_their_table(machine, monkeypatch):
    shown_there = table_commands("README.md")
    assert len(shown_there) >= 5
    for shown in shown_there:
        check(shown, run(shown, monkeypatch))


def test_every_command_is_of_a_kind_and_every_kind_is_used():
    counts = Counter(kind_of(shown) for shown in all_commands())
    assert counts[Kind.RUNS] >= 60
    assert counts[Kind.PLANS] >= 30
    assert counts[Kind.REFUSED] >= 5
    assert set(counts) == set(Kind), "a kind without any command tests nothing"


def test_every_block_says_its_language_so_that_no_command_hides():
    for page in pages():
        fences = re.findall(r"^ *```.*$", text_of(page), flags=re.MULTILINE)
        assert len(fences) == 2 * len(blocks(page)), page
        for block in blocks(page):
            assert block.language in (*SHELLS, *OTHERS), f"{page}:{block.line}"
            hidden = re.search(r"^(dimo|\$) ", block.body, flags=re.MULTILINE)
            assert block.language in SHELLS or not hidden or is_usage(block), (
                f"{page}:{block.line} shows a command as {block.language}"
            )


def is_usage(block):
    """The head of a command's options: `dimo sample [OPTIONS]`."""
    return block.language == "text" and all("[OPTIONS]" in line for line in block.body.splitlines())


@pytest.mark.parametrize("shown", of_kind(Kind.MAKES), ids=str)
def test_what_make_is_asked_for_is_in_the_makefile(shown):
    makefile = (ROOT / "Makefile").read_text()
    assert all(f"\n{target}:" in makefile for target in shown.words[1:])


@pytest.mark.parametrize("shown", of_kind(Kind.SCRIPT), ids=str)
def test_a_script_that_is_shown_is_run_by_a_test(shown):
    script = shown.words[1]
    assert (ROOT / script).is_file()
    tests = (path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    assert any(f'"{script.rpartition("/")[2]}"' in text for text in tests)


@pytest.mark.parametrize("shown", of_kind(Kind.INSTALLS), ids=str)
def test_what_is_installed_is_named_in_pyproject(shown):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    known = {re.split(r"[\[><=]", name)[0] for group in extras.values() for name in group}
    places = (project["name"], ".")  # of the index, or a clone of the repository
    known |= {*places, *(f"{place}[{extra}]" for place in places for extra in extras)}
    assert {word for word in shown.words[2:] if not word.startswith("-")} <= known


@pytest.mark.parametrize("shown", of_kind(Kind.TOOL), ids=str)
def test_a_tool_that_is_shown_comes_with_a_dependency(shown):
    scripts = {entry.name for entry in entry_points(group="console_scripts")}
    assert shown.words[0] in scripts or shutil.which(shown.words[0])


@pytest.mark.parametrize("shown", of_kind(Kind.LAUNCHES), ids=str)
def test_a_launcher_understands_its_options_and_dimo_understands_the_rest(shown):
    parsers = {"accelerate": launch_command_parser, "torchrun": get_args_parser}
    words = [word for word in shown.words[1:] if word != "launch"]
    told = parsers[shown.words[0]]().parse_args(words)
    assert told.module
    assert told.training_script == "dimo_cli"
    dimo = Shown(shown.page, shown.line, f"dimo {shlex.join(told.training_script_args)}")
    assert kind_of(dimo) in (Kind.PLANS, Kind.NEEDS)
    config = getattr(told, "config_file", None)
    assert config is None or (ROOT / config).is_file()


def scripts():
    return [block for page in pages() for block in blocks(page) if block.is_script]


@pytest.mark.parametrize("shown", of_kind(Kind.CLUSTER), ids=str)
def test_a_job_that_is_submitted_is_on_the_same_page(shown):
    assert f"`{shown.words[1]}`" in text_of(shown.page)
    assert any(block.page == shown.page for block in scripts())


@pytest.mark.slow
@pytest.mark.parametrize("resumed", [False, True])
@pytest.mark.parametrize("block", scripts(), ids=lambda block: block.page)
def test_a_job_script_starts_dimo_as_dimo_is_to_be_started(block, resumed, prepared, tmp_path):
    """With Slurm's programs played by the shell, and a dry run in place of training."""
    run = tmp_path / "runs" / "digits"
    if resumed:
        shutil.copytree(prepared / "runs" / "digits", run)
    text = block.body.replace("/shared/runs/maskbit", str(run)).replace("maskbit", "digits")
    text = text.replace("--gpus 8", "--gpus 2")  # the run that is resumed has 8 samples a step
    python = shlex.quote(sys.executable)
    played = f"""
scontrol() {{ echo node1; echo node2; }}
srun() {{ "$@"; }}
dimo() {{ echo "dimo $*"; {python} -m dimo_cli "$@" --dry-run --json; }}
"""
    head, _, rest = text.partition("\n")
    (tmp_path / "job.sh").write_text(f"{head}\nset -eu{played}{rest}")
    slurm = {"SLURM_NODEID": "1", "SLURM_NNODES": "2", "SLURM_JOB_NODELIST": "node[1-2]"}
    ended = subprocess.run(
        ["bash", "job.sh"],
        cwd=tmp_path,
        env={**os.environ, **slurm},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "--nodes 2 --main node1:29500" in ended.stdout
    assert ("--resume" in ended.stdout) == resumed


@pytest.mark.parametrize("page", pages())
def test_commands_in_running_text_exist_with_their_options(page):
    for span in re.findall(r"`dimo ([a-z][^`]*)`", FENCE.sub("", text_of(page))):
        meant = commands_meant(span.split())
        assert meant, f"{page}: `dimo {span}` is no command"
        known = {name for command in meant for p in command.parameters for name in p.names}
        for word in re.findall(r"(?<!\S)--?[a-z][a-z-]*", span):
            assert word in (*known, "--help"), f"{page}: `dimo {span}` has no {word}"


def commands_meant(words):
    """The command that is called, or those of a group that is only named."""
    known = commands()
    called = [
        command for command in known if words[: len(command.name.split())] == command.name.split()
    ]
    of_group = [command for command in known if command.name.split()[0] == words[0]]
    longest = max(called, key=lambda command: len(command.name), default=None)
    return [longest] if longest and " " in longest.name else of_group
