"""Pictures: laid out in order, drawn to fit, and saved with their provenance."""

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from dimo_cli.console.images import draw, half_blocks
from dimo_cli.console.live import LiveView, PlainView, sparkline
from dimo_cli.errors import MissingError
from dimo_cli.files.png import enlarge, grid, save_png


def flat(*levels, size=2):
    return np.stack([np.full((size, size, 3), level, np.uint8) for level in levels])


def test_a_grid_reads_like_a_page():
    canvas = grid(flat(10, 20, 30), columns=2, gap=1, background=0)
    assert canvas.shape == (7, 7, 3)
    assert canvas[1, 1, 0] == 10
    assert canvas[1, 4, 0] == 20
    assert canvas[4, 1, 0] == 30
    assert canvas[4, 4, 0] == 0


def test_a_grid_is_no_wider_than_its_images():
    assert grid(flat(1, 2), columns=10).shape[1] == 7


def test_enlarging_repeats_pixels():
    assert enlarge(flat(1), 7).shape == (1, 8, 8, 3)
    assert enlarge(flat(1, size=64), 7).shape == (1, 64, 64, 3)


def test_a_png_says_where_it_comes_from(tmp_path):
    path = tmp_path / "deep" / "x.png"
    save_png(flat(9)[0], path, {"dimo.seed": "3", "dimo.class": "sieben \u2467"})
    with Image.open(path) as image:
        assert image.text == {"dimo.seed": "3", "dimo.class": "sieben \u2467"}
        assert np.asarray(image)[0, 0, 0] == 9


def test_a_place_that_cannot_be_written_is_told_in_a_sentence(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(MissingError, match="Cannot write"):
        save_png(flat(9)[0], tmp_path / "file" / "x.png", {})


def test_half_blocks_carry_two_rows_per_line():
    pixels = np.zeros((3, 4, 3), np.uint8)
    pixels[1, 2] = 255
    text = half_blocks(pixels, 80)
    lines = text.plain.splitlines()
    assert [len(line) for line in lines] == [4, 4]
    styles = {span.style.bgcolor.triplet.red for span in text.spans}
    assert styles == {0, 255}


@pytest.mark.parametrize("width", [10, 40, 200])
def test_drawings_fit_the_terminal(width):
    drawn = draw(np.zeros((20, 8, 8, 3), np.uint8), 10, width)
    assert max(len(line) for line in drawn.plain.splitlines()) <= width


def test_wide_pictures_are_made_smaller_not_cut():
    pixels = np.zeros((100, 400, 3), np.uint8)
    pixels[:, 200:] = 200
    lines = half_blocks(pixels, 40).plain.splitlines()
    assert len(lines[0]) == 40
    assert len(lines) == 5


def test_a_sparkline_spans_from_its_lowest_to_its_highest_value():
    assert sparkline([0, 1, 2]) == "\u2581\u2585\u2588"
    assert sparkline([1, 1]) == "\u2581\u2581"


RECORD = {
    "step": 10, "divergence": 0.2, "auxiliary_loss": 1.5, "auxiliary_gap": 0.5, "entropy": 1.0,
    "top1": 0.6, "fid": 2.5, "images_per_second": 250.0, "skipped": 2,
}  # fmt: skip


def test_the_live_view_shows_numbers_curves_and_samples():
    console = Console(force_terminal=True, width=110, height=40, record=True)
    view = LiveView(console, "a run")
    view.start(0, 20)
    view.log(RECORD)
    view.preview(10, np.full((8, 8, 3), 200, np.uint8))
    with console.capture() as capture:
        console.print(view.render())
    view.stop()
    shown = capture.get()
    for words in ("a run", "10/20", "250 images/s", "auxiliary loss - student entropy", "0.500",
                  "2.500", "student top-1", "skipped steps", "\u2580"):  # fmt: skip
        assert words in shown


def test_the_plain_view_writes_a_line_now_and_then():
    lines = []
    view = PlainView(lines.append, seconds=1000)
    view.start(0, 20)
    view.log(RECORD)
    view.log({**RECORD, "step": 11, "fid": None} | {"step": 11})
    assert "step 10/20" in lines[1]
    assert "auxiliary_gap 0.500" in lines[1]
    assert "fid 2.500" in lines[1]
