"""What is at the other end decides how dimo writes: plainly, in color, or with pictures."""

import io
import os
from base64 import b64decode
from contextlib import redirect_stderr, redirect_stdout
from unittest.mock import patch

import numpy as np
import pytest
from PIL import Image

from dimo_cli.commands.sample import sample
from dimo_cli.console.environment import image_protocol, is_plain
from dimo_cli.console.output import Output
from dimo_cli.console.panels import Panel
from dimo_cli.console.terminal import KITTY_CHUNK, TerminalImage, shown, shown_panels
from dimo_cli.errors import SpecError
from dimo_cli.main import main
from dimo_cli.specs.resolve import preset_names, preset_summary

PIXELS = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self):
        return True


@pytest.fixture
def on_screen(monkeypatch):
    """What a terminal of 80 columns, which knows colors and no pictures, is sent by some work."""
    for name in ("NO_COLOR", "TERM_PROGRAM", "LC_TERMINAL", "KITTY_WINDOW_ID", "TMUX", "COLORTERM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")

    def run(work):
        screen = Terminal()
        with redirect_stdout(screen), redirect_stderr(screen):
            work()
        return screen.getvalue()

    return run


def printing(*views):
    return lambda: [Output().result({}, view) for view in views]


@pytest.mark.parametrize(
    ("variables", "protocol"),
    [
        ({"TERM": "xterm-256color"}, "blocks"),
        ({}, "blocks"),
        ({"KITTY_WINDOW_ID": "1", "TERM": "xterm-256color"}, "kitty"),
        ({"TERM": "xterm-kitty"}, "kitty"),
        ({"TERM_PROGRAM": "ghostty"}, "kitty"),
        ({"TERM": "xterm-ghostty"}, "kitty"),
        ({"TERM_PROGRAM": "iTerm.app"}, "iterm"),
        ({"TERM_PROGRAM": "WezTerm"}, "iterm"),
        ({"LC_TERMINAL": "iTerm2"}, "iterm"),
        ({"TERM_PROGRAM": "Apple_Terminal"}, "blocks"),
        ({"KITTY_WINDOW_ID": "1", "TERM": "tmux-256color"}, "blocks"),
        ({"TERM_PROGRAM": "iTerm.app", "TMUX": "/tmp/tmux"}, "blocks"),
        ({"TERM": "xterm-kitty", "DIMO_IMAGES": "none"}, "none"),
        ({"TMUX": "x", "DIMO_IMAGES": "kitty"}, "kitty"),
        ({"TERM": "xterm-kitty", "DIMO_IMAGES": "auto"}, "kitty"),
    ],
)
def test_the_environment_says_how_a_terminal_takes_pictures(variables, protocol):
    assert image_protocol(variables) == protocol


def test_a_mistyped_override_is_refused_before_anything_is_drawn(dimo, monkeypatch, tmp_path):
    with pytest.raises(SpecError):
        image_protocol({"DIMO_IMAGES": "sixel"})
    monkeypatch.setenv("DIMO_IMAGES", "kity")
    result = dimo("sample", "--class", "7", "-n", "1")
    assert result.exit_code == 2
    assert "Did you mean `kitty`?" in result.stderr
    assert not list(tmp_path.iterdir())


def test_kitty_gets_the_picture_in_chunks_and_is_not_to_answer(on_screen):
    text = on_screen(printing(TerminalImage(PIXELS, "kitty")))
    sequences = [part.removeprefix("\x1b_G") for part in text.strip().split("\x1b\\")[:-1]]
    about = [dict(pair.split("=") for pair in s.split(";")[0].split(",")) for s in sequences]
    assert about[0] == {"a": "T", "f": "100", "q": "2", "c": "12", "m": "1"}
    assert [one["m"] for one in about] == ["1"] * (len(about) - 1) + ["0"]
    chunks = [s.split(";")[1] for s in sequences]
    assert len(chunks) > 1
    assert all(len(chunk) <= KITTY_CHUNK for chunk in chunks)
    assert_shows(b64decode("".join(chunks)))


def test_iterm_gets_the_picture_inline_with_its_size(on_screen):
    text = on_screen(printing(TerminalImage(PIXELS, "iterm")))
    head, _, content = text.strip().removesuffix("\x07").partition(":")
    assert head.startswith("\x1b]1337;File=")
    about = dict(pair.split("=") for pair in head.partition("File=")[2].split(";"))
    png = b64decode(content)
    assert about == {
        "inline": "1", "size": str(len(png)), "width": "12", "preserveAspectRatio": "1"
    }  # fmt: skip
    assert_shows(png)


def assert_shows(png):
    with Image.open(io.BytesIO(png)) as picture:
        assert (np.asarray(picture) == PIXELS).all()


def test_a_picture_is_never_wider_than_the_terminal(on_screen, monkeypatch):
    monkeypatch.setenv("COLUMNS", "7")
    assert ",c=7," in on_screen(printing(TerminalImage(PIXELS, "kitty")))


@pytest.mark.parametrize("choice", ["kitty", "iterm", "blocks", "none"])
def test_images_and_panels_follow_the_choice(on_screen, monkeypatch, choice):
    monkeypatch.setenv("DIMO_IMAGES", choice)
    marks = {"kitty": "\x1b_G", "iterm": "\x1b]1337", "blocks": "\u2580", "none": None}
    images = PIXELS[None, :8, :8]
    for parts in (shown(images, 1, 80), shown_panels([Panel("a", images)], PIXELS, 80)):
        text = on_screen(printing(*parts))
        assert (marks[choice] in text) if marks[choice] else text == ""


@pytest.mark.parametrize("reason", [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_a_terminal_that_wants_text_alone_gets_it(on_screen, monkeypatch, tmp_path, reason):
    monkeypatch.chdir(tmp_path)
    assert not is_plain(Terminal())
    monkeypatch.setenv(*reason)
    assert is_plain(Terminal())
    text = on_screen(lambda: sample(classes=["7"], count=2))
    assert "\x1b" not in text
    assert "\u2580" not in text
    assert "2 images in" in text


def test_an_empty_no_color_asks_for_nothing(on_screen, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "")
    assert not is_plain(Terminal())


def test_a_terminal_gets_the_images_of_a_sample(on_screen, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TERM", "xterm-kitty")
    assert "\x1b_Ga=T,f=100" in on_screen(lambda: sample(classes=["7"], count=2))


def test_rows_are_not_broken_where_a_program_reads(dimo, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    lines = [line.strip() for line in dimo("presets", "list").stdout.splitlines()]
    for name in preset_names():
        (row,) = [line for line in lines if line.startswith(f"{name} ")]
        assert row.endswith(preset_summary(name))


def test_brackets_in_results_are_text(on_screen):
    assert on_screen(printing("saved to [bold]x[/bold].png")) == "saved to [bold]x[/bold].png\n"


@pytest.mark.parametrize(
    ("columns", "left"), [("0", None), ("", None), ("-1", None), ("²", None), ("80", "80")]
)
def test_a_width_in_which_nothing_would_be_seen_is_as_if_not_set(monkeypatch, columns, left):
    monkeypatch.setenv("COLUMNS", columns)
    with patch("dimo_cli.main.app"):
        main()
    assert os.environ.get("COLUMNS") == left
