"""The picture of a sweep over temperatures."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dimo_cli.errors import MissingError
from dimo_cli.evaluation.curve import MARK, axes_of, draw_curve

POINTS = [(0.5, 9.0), (1.0, 4.0), (1.5, 5.0), (2.0, 12.0)]


def ring_of(path):
    """The middle of what is drawn in the color of the best value."""
    color = [int(MARK[index : index + 2], 16) for index in (1, 3, 5)]
    pixels = np.asarray(Image.open(path).convert("RGB"))
    rows, columns = (pixels == color).all(-1).nonzero()
    return rows, columns


def test_the_best_value_is_ringed_and_said(tmp_path):
    draw_curve(POINTS, POINTS[1], tmp_path / "a.png", "fid256")
    rows, columns = ring_of(tmp_path / "a.png")
    x_axis, y_axis = axes_of(POINTS)
    around = (abs(rows - y_axis(4.0)) <= 10) & (abs(columns - x_axis(1.0)) <= 10)
    assert around.sum() > 30
    assert (~around).sum() > 50  # its words


@pytest.mark.parametrize("points", [[(1.0, 2.0)], [(1.0, 2.0), (2.0, 2.0)], [(0.1, 0.0), (9, -1)]])
def test_any_values_can_be_drawn(tmp_path, points):
    draw_curve(points, points[0], tmp_path / "deep" / "a.png", "fid256")
    assert (tmp_path / "deep" / "a.png").stat().st_size > 1000


def test_a_place_that_cannot_be_written_is_a_sentence():
    with pytest.raises(MissingError, match="Cannot write"):
        draw_curve(POINTS, POINTS[1], Path("/dev/null/a.png"), "fid256")
