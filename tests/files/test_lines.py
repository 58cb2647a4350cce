"""A prompt is a line, and a line ends where people end lines: the same wherever one is read."""

import pytest

from dimo_cli.commands.options import read_prompts
from dimo_cli.files.lines import decoded, lines_of
from dimo_cli.metrics.prompts import read_lines
from dimo_cli.runs.prompts import attach_prompts
from dimo_cli.specs.distill import DistillSpec
from dimo_cli.teachers.registry import load_skeleton

GAPS = ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\r"]


def trained_on(file):
    """The prompts of a run."""
    teacher = load_skeleton("shapes")
    given = {"teacher": {"name": "shapes"}, "condition": {"prompts": str(file)}}
    attach_prompts(teacher, DistillSpec.model_validate(given))
    return teacher.conditioner.dataset


@pytest.mark.parametrize("read", [read_lines, read_prompts, trained_on])
def test_only_line_ends_part_prompts_and_a_mark_of_utf_8_is_no_part_of_one(tmp_path, read):
    file = tmp_path / "prompts.txt"
    prompts = [f"a{gap}fox" for gap in GAPS]
    file.write_bytes(("\ufeff" + "\r\n".join(prompts) + "\n").encode())
    assert list(read(file)) == prompts


@pytest.mark.parametrize(
    ("text", "lines"),
    [("", []), ("a", ["a"]), ("a\n", ["a"]), ("a\r\nb\n\n", ["a", "b", ""]), ("\n", [""])],
)
def test_lines_end_as_an_editor_shows_them(text, lines):
    assert lines_of(text) == lines


def test_a_mark_within_a_text_stays():
    assert decoded("\ufeffa\ufeff".encode()) == "a\ufeff"
