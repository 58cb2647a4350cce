"""Moving pictures: one palette, times as they were asked for, and frames of any size."""

import numpy as np
import pytest
from PIL import Image

from dimo_cli.errors import MissingError
from dimo_cli.files.gif import save_gif


def frame(color, height=10, width=12):
    return np.full((height, width, 3), color, np.uint8)


def test_frames_keep_their_order_times_and_colors(tmp_path):
    path = tmp_path / "deep" / "a.gif"
    save_gif([frame(40), frame(128), frame(220)], [700, 100, 2000], path, "what made it")
    with Image.open(path) as moving:
        assert moving.info["comment"] == b"what made it"
        assert moving.info["loop"] == 0
        times, colors = [], []
        for index in range(moving.n_frames):
            moving.seek(index)
            times.append(moving.info["duration"])
            colors.append(int(np.asarray(moving.convert("L"))[5, 5]))
    assert times == [700, 100, 2000]
    assert np.allclose(colors, [40, 128, 220], atol=2)


def test_a_smaller_frame_is_filled_up(tmp_path):
    save_gif([frame(40), frame(220, 20, 30)], [100, 100], tmp_path / "a.gif")
    with Image.open(tmp_path / "a.gif") as moving:
        assert moving.size == (30, 20)


def test_a_place_that_cannot_be_written_is_a_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(MissingError, match="Cannot write"):
        save_gif([frame(1), frame(2)], [100, 100], tmp_path / "file" / "a.gif")
