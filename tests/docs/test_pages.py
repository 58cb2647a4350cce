"""The pages are what the program says now, they lead where they say, and pictures are real."""

import ast
import json
import re
import shlex
from pathlib import Path
from urllib.parse import unquote

import pytest

from benchmarks.soft_dimo.__main__ import asked_for
from benchmarks.soft_dimo.report import pictures
from dimo_cli.sampling.left_out import words_left_out
from dimo_cli.specs.distill import DistillSpec
from dimo_cli.specs.explain import known_paths
from dimo_cli.specs.refine import RefineSpec
from dimo_cli.specs.resolve import PROGRAM_VARIABLES, preset_names, refine_preset_names
from dimo_cli.specs.teacher import TeacherSource
from dimo_cli.students.folder import BUILTIN
from dimo_cli.teachers.registry import load_skeleton
from docs.generator import costs
from docs.generator.command_pages import command_names
from docs.generator.commands import commands
from docs.generator.fields import rows_of
from docs.generator.filled import PAGES, TABLES, stale_pages
from docs.generator.healthy import CURVES, read_logs
from docs.generator.markdown import HERE
from docs.generator.pages import DOCS, pages, strangers
from docs.generator.presets import preset_pages
from docs.generator.recipes import DRAWN
from tests.docs.shown import ROOT, blocks, text_of
from tests.docs.shown import pages as shown_pages

LINK = re.compile(r"(?<!\\)\]\(([^)\s]+)\)")
PLACES = re.compile(r"<!-- filled: ([^>]+?) -->")
HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)


def test_the_committed_pages_are_what_the_generator_gives():
    wanted = pages()
    assert strangers(wanted) == []
    stale = [n for n, text in wanted.items() if (DOCS / n).read_text(encoding="utf-8") != text]
    assert stale == [], "run `make docs`"


def test_tables_of_measured_numbers_stand_where_pages_want_them():
    assert list(stale_pages()) == [], "run `make docs`"
    names = [name for page in PAGES for name in PLACES.findall(text_of(page))]
    assert sorted(names) == sorted(TABLES)
    drawn = {path.name for path in (ROOT / "examples" / "results").glob("*.svg")}
    assert drawn == set(pictures(asked_for([])))


def test_every_command_and_every_preset_has_a_page_that_is_in_the_index():
    index = text_of("docs/README.md")
    names = [f"commands/{name}.md" for name in command_names()]
    names += [f"presets/{name}.md" for name in [*preset_names(), *refine_preset_names()]]
    assert len(names) > 35
    for name in names:
        assert f"({name})" in index
        assert (DOCS / name).is_file()


def test_what_a_presets_page_draws_is_known_to_its_teacher():
    assert '--student runs/emoji --prompt "a red apple"' in dict(preset_pages())["presets/emoji.md"]
    assert set(BUILTIN) == set(DRAWN)
    for name in ("emoji", "shapes"):
        prompt = shlex.split(DRAWN[name])[1]
        assert words_left_out(load_skeleton(TeacherSource(name=name)), [prompt]) == ()


def test_every_option_of_every_command_is_on_its_page():
    for command in commands():
        page = text_of(f"docs/commands/{command.name.split()[0]}.md")
        for parameter in command.parameters:
            assert all(f"`{name}`" in page for name in parameter.names), (command.name, parameter)


@pytest.mark.parametrize(("model", "page"), [(DistillSpec, "distill"), (RefineSpec, "refine")])
def test_every_setting_is_on_a_page_with_a_description(model, page):
    rows = {row.path: row for row in rows_of(model)}
    groups = {path for path in known_paths(model) if any(p.startswith(f"{path}.") for p in rows)}
    assert set(known_paths(model)) == set(rows) | groups
    text = text_of(f"docs/commands/{page}.md") + text_of("docs/commands/distill.md")
    for row in rows.values():
        assert f"| `{row.path}` |" in text
        assert row.description, row.path
        assert row.type, row.path


def test_the_fields_of_a_page_have_their_limits_and_defaults():
    rows = {row.path: row for row in rows_of(RefineSpec)}
    assert rows["train.steps"].cells()[1:4] == [
        "whole number", "`1000`", "at least 1, at most 10,000,000"
    ]  # fmt: skip
    assert rows["init.mask_ratio.kind"].allowed == "fixed, random"
    assert rows["gan.optimizer.beta1"].default == "`0.0`", "the group's default, not the class's"
    assert rows["gan.weight"].type == "number or `auto`"


@pytest.mark.parametrize("name", ["digits", "digits-gan", "shapes"])
def test_what_the_cheap_presets_cost_is_what_is_counted_now(name):
    assert_costs_as_counted(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*preset_names(), *refine_preset_names()])
def test_what_every_preset_costs_is_what_is_counted_now(name):
    assert_costs_as_counted(name)


def assert_costs_as_counted(name):
    """Activations differ a little between versions of torch; nothing else may."""
    kept, counted = costs.read_costs()[name], costs.cost_of(name)
    assert kept["memory"] == pytest.approx(counted["memory"], rel=0.1)
    for key in ("parameters", "tokenizer_parameters", "flops_per_step"):
        assert kept[key] == pytest.approx(counted[key], rel=1e-6)


def test_no_preset_is_without_costs_and_no_costs_without_preset():
    assert set(costs.read_costs()) == {*preset_names(), *refine_preset_names()}


def anchors(text):
    """What GitHub calls the headings of a page."""
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in HEADING.findall(text))
    return {words.strip().replace(" ", "-") for words in plain}


@pytest.mark.parametrize("page", shown_pages())
def test_every_link_of_a_page_leads_somewhere(page):
    text = text_of(page)
    for block in blocks(page):
        text = text.replace(block.body, "")
    for target in LINK.findall(text):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = unquote(target).partition("#")
        found = (ROOT / page).parent / path if path else ROOT / page
        assert found.exists(), target
        assert not anchor or anchor in anchors(found.read_text(encoding="utf-8")), target


def test_pictures_are_small_and_shown():
    texts = "".join(text_of(page) for page in shown_pages())
    pictures = [p for p in DOCS.rglob("*") if p.suffix in (".png", ".svg")]
    assert len(pictures) >= 6
    for picture in pictures:
        assert picture.stat().st_size < 100 * 1024, picture
        assert picture.name in texts, f"{picture} is nowhere to be seen"


def test_the_curves_are_those_of_the_logs_and_the_runs_differ_as_the_page_says():
    runs = {run["name"]: run["log"] for run in read_logs()}
    last = {name: log[-1] for name, log in runs.items()}
    fids = {name: line["fid"] for name, line in last.items()}
    assert all({*CURVES} <= line.keys() for line in last.values())
    assert min(fids, key=fids.get) == "healthy"
    assert fids["masks"] > 3 * fids["healthy"]
    assert fids["rate"] > 50 * fids["healthy"]
    assert last["collapse"]["entropy"] < 0.01 < 0.5 < last["healthy"]["entropy"]
    assert last["auxiliary"]["divergence"] < 0.5 * last["healthy"]["divergence"]
    assert fids["auxiliary"] > 10 * fids["healthy"]


def strings_of_the_program():
    """Every text in the program, as its functions have it."""
    for path in (ROOT / "dimo_cli").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value
    for path in (ROOT / "presets").rglob("*.yaml"):
        yield path.read_text(encoding="utf-8")


@pytest.mark.parametrize(("page", "least"), [("troubleshooting", 15), ("multi-gpu", 4)])
def test_every_sentence_that_a_page_quotes_is_one_of_the_program(page, least):
    said = "\0".join(strings_of_the_program())
    rows = re.findall(r"^\| `([^`]+)`[^|]*\|", text_of(f"docs/{page}.md"), re.MULTILINE)
    quotes = [row for row in rows if row.count(" ") > 1]
    assert len(quotes) >= least
    for quote in quotes:
        parts = [part.strip(" :") for part in re.split(r"\d+|\.\.\.", quote)]
        assert all(part in said for part in parts), quote


def test_every_variable_of_the_program_is_in_the_index():
    internal = {"DIMO_GOLDEN", "DIMO_REPORTS"}  # of the tests, and of processes among each other
    index = text_of("docs/README.md")
    for name in PROGRAM_VARIABLES - internal:
        assert f"`{name}" in index


def test_notes_are_of_commands():
    notes = {path.stem for path in (HERE / "notes").glob("*.md")}
    assert notes == set(command_names())


def test_the_pages_of_presets_hold_the_published_numbers():
    page = dict(preset_pages())["presets/maskbit.md"]
    assert "| Di[M]O student, 1 step | fid | 50,000 | 2.89 | 2.89 ± 0.1 | not run |" in page
    assert "40 GiB: Use `--set train.micro_batch=32" in page
    assert json.loads(Path(costs.FILE).read_text())["maskbit"]["parameters"] == 304_929_024
