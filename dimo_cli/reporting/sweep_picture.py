"""A sweep as a picture: one SVG file that needs no page around it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import escape

from dimo_cli.reporting.charts import LOG_FROM, Axis, number, spread, tick

WIDTH, HEIGHT = 640, 400
LEFT, RIGHT, TOP, BOTTOM = 70, 24, 48, 64
BY_FACTORS_FROM, MOST_TICKS = 10.0, 8
COLORS = ("#2457a6", "#b8401f", "#2c7a4b", "#7a3fa0", "#8a6a00", "#44525f")
STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#333}.y{text-anchor:end}.x{text-anchor:middle}"
    ".title{font-size:16px;font-weight:600}.line{stroke:#ddd}.best{font-weight:600}"
)


@dataclass(frozen=True)
class Dot:
    """A value of the setting, and the number there; None where there is none."""

    at: str
    value: float | None
    is_best: bool = False


def picture(title: str, setting: str, curves: Mapping[str, Sequence[Dot]]) -> str:
    """Curves by what tells them apart, over the values of one setting."""
    dots = [dot for curve in curves.values() for dot in curve]
    places = places_of([dot.at for dot in dots])
    y_axis = height_axis([dot.value for dot in dots if dot.value is not None])
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
        f"<title>{escape(title)} over {escape(setting)}</title><style>{STYLE}</style>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        f'<text class="title" x="{LEFT}" y="24">{escape(title)}</text>',
        *grid(y_axis, places, setting),
    ]
    for index, (name, curve) in enumerate(curves.items()):
        parts += drawn_curve(curve, places, y_axis, COLORS[index % len(COLORS)])
        if name:
            color = COLORS[index % len(COLORS)]
            parts.append(f'<text class="y" x="{WIDTH - RIGHT}" y="{TOP + 4 + 16 * index}" ')
            parts.append(f'style="fill:{color}">{escape(name)}</text>')
    parts += marked([dot for dot in dots if dot.is_best], places, y_axis)
    return "".join(parts) + "</svg>\n"


def places_of(values: Sequence[str]) -> dict[str, float]:
    """Where each value is from left to right: to scale if all are numbers, else side by side."""
    values = list(dict.fromkeys(values))
    try:
        numbers = [float(value) for value in values]
    except ValueError:
        numbers = [float(index) for index in range(len(values))]
    low, high = min(numbers), max(numbers)
    by_factors = low > 0 and high / low >= BY_FACTORS_FROM
    axis = Axis(low, high, LEFT + 16, WIDTH - RIGHT - 16, by_factors)
    return {value: axis(place) for value, place in zip(values, numbers, strict=True)}


def height_axis(values: Sequence[float]) -> Axis:
    """From the lowest number to the highest, with room around them."""
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    by_factors = low > 0 and high / low >= LOG_FROM
    room = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
    if by_factors:
        low, high = low / 1.3, high * 1.3
    else:
        low, high = low - room, high + room
    return Axis(low, high, HEIGHT - BOTTOM, TOP, by_factors)


def grid(y_axis: Axis, places: Mapping[str, float], setting: str) -> Iterator[str]:
    """Lines and numbers of both axes."""
    for value in y_axis.ticks():
        y = y_axis(value)
        yield f'<path class="line" d="M{LEFT} {y}H{WIDTH - RIGHT}"/>'
        yield f'<text class="y" x="{LEFT - 8}" y="{y + 4}">{tick(value)}</text>'
    for name in spread(sorted(places, key=lambda known: places[known]), MOST_TICKS):
        x = places[name]
        yield f'<path class="line" d="M{x} {HEIGHT - BOTTOM}v6"/>'
        yield f'<text class="x" x="{x}" y="{HEIGHT - BOTTOM + 22}">{escape(name)}</text>'
    middle = (LEFT + WIDTH - RIGHT) / 2
    yield f'<text class="x" x="{middle}" y="{HEIGHT - 12}">{escape(setting)}</text>'


def drawn_curve(
    curve: Sequence[Dot], places: Mapping[str, float], y_axis: Axis, color: str
) -> Iterator[str]:
    """A line through the numbers there are; a cross at the foot where there is none."""
    dots = sorted(curve, key=lambda dot: places[dot.at])
    finite = [(places[dot.at], y_axis(dot.value)) for dot in dots if dot.value is not None]
    path = "L".join(f"{x} {y}" for x, y in finite)
    if path:
        yield f'<path d="M{path}" fill="none" stroke="{color}" stroke-width="2"/>'
    for x, y in finite:
        yield f'<circle cx="{x}" cy="{y}" r="4" fill="{color}"/>'
    for dot in dots:
        if dot.value is None or not math.isfinite(dot.value):
            x, y = places[dot.at] - 5, HEIGHT - BOTTOM - 12
            yield f'<path d="M{x} {y}l10 10m0-10l-10 10" stroke="{color}" stroke-width="2">'
            yield f"<title>{escape(dot.at)}: no number</title></path>"


def marked(best: Sequence[Dot], places: Mapping[str, float], y_axis: Axis) -> Iterator[str]:
    """A ring around the best number, and what it is."""
    for dot in best:
        assert dot.value is not None
        x, y = places[dot.at], y_axis(dot.value)
        side = "end" if x > WIDTH / 2 else "start"
        yield f'<circle cx="{x}" cy="{y}" r="9" fill="none" stroke="#222" stroke-width="2"/>'
        yield f'<text class="best" x="{x + (-14 if side == "end" else 14)}" y="{y - 12}" '
        yield f'style="text-anchor:{side}">best: {number(dot.value)} at {escape(dot.at)}</text>'
