"""A metric over sampling temperatures as a PNG, with axes and the best value marked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from dimo_cli.errors import MissingError
from dimo_cli.files.writing import whole_file
from dimo_cli.reporting.charts import Axis, number, round_steps, tick

Point = tuple[float, float]

WIDTH, HEIGHT = 720, 440
LEFT, RIGHT, TOP, BOTTOM = 84, 28, 56, 70
INK, SOFT, RULE, CURVE, MARK = "#1b1c1f", "#55585f", "#dddddd", "#1f5fbf", "#b0420b"
LETTERS, LARGE = 14, 17


def draw_curve(
    points: Sequence[Point], best: Point, path: Path, metric: str, setting: str = "temperature"
) -> None:
    """A line through the values of a metric, by the setting that was swept."""
    picture = Image.new("RGB", (WIDTH, HEIGHT), "white")
    pen = ImageDraw.Draw(picture)
    small, large = ImageFont.load_default(LETTERS), ImageFont.load_default(LARGE)
    x_axis, y_axis = axes_of(points)
    for value in round_steps(y_axis.low, y_axis.high):
        pen.line((LEFT, y_axis(value), WIDTH - RIGHT, y_axis(value)), RULE)
        pen.text((LEFT - 10, y_axis(value)), tick(value), SOFT, small, anchor="rm")
    for value in round_steps(x_axis.low, x_axis.high, 8):
        pen.line((x_axis(value), HEIGHT - BOTTOM, x_axis(value), HEIGHT - BOTTOM + 6), SOFT)
        pen.text((x_axis(value), HEIGHT - BOTTOM + 20), tick(value), SOFT, small, anchor="mm")
    pen.line((LEFT, HEIGHT - BOTTOM, WIDTH - RIGHT, HEIGHT - BOTTOM), SOFT)
    pen.text((LEFT, 24), f"{metric} by {setting}", INK, large, anchor="lm")
    middle = (LEFT + WIDTH - RIGHT) / 2
    pen.text((middle, HEIGHT - 22), setting, SOFT, small, anchor="mm")
    places = [(x_axis(x), y_axis(y)) for x, y in points]
    pen.line(places, CURVE, 2, joint="curve")
    for place in places:
        pen.circle(place, 4, CURVE)
    mark_best(pen, best, (x_axis(best[0]), y_axis(best[1])), small)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as temporary:
            picture.save(temporary, "PNG")
    except OSError as error:
        raise MissingError(
            f"Cannot write `{path}`: {error.strerror or error}.", "Choose another `--plot`."
        ) from None


def axes_of(points: Sequence[Point]) -> tuple[Axis, Axis]:
    """From the lowest to the highest of both, with room around them."""
    xs, ys = [x for x, _ in points], [y for _, y in points]
    room = 0.2 * (max(ys) - min(ys)) or 0.1 * abs(max(ys)) or 1.0
    beside = 0.04 * (max(xs) - min(xs)) or 0.5
    return (
        Axis(min(xs) - beside, max(xs) + beside, LEFT, WIDTH - RIGHT),
        Axis(min(ys) - room, max(ys) + room, HEIGHT - BOTTOM, TOP),
    )


def mark_best(
    pen: ImageDraw.ImageDraw,
    best: Point,
    place: Point,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
) -> None:
    """A ring around the best value, and what it is, where there is room."""
    pen.circle(place, 9, outline=MARK, width=2)
    is_low = place[1] > (TOP + HEIGHT - BOTTOM) / 2  # the curve is above it then
    told = f"best: {number(best[1])} at {number(best[0])}"
    half = font.getlength(told) / 2
    left = min(max(place[0], LEFT + half), WIDTH - RIGHT - half)
    pen.text((left, place[1] + (22 if is_low else -22)), told, MARK, font, anchor="mm")
