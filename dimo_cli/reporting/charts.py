"""Line charts as inline SVG, with everything they show also in words and as a table."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from markupsafe import Markup, escape

from dimo_cli.errors import counted

T = TypeVar("T")
Point = tuple[float, float | None]
"""A step and what was measured there; None is a number that was not finite."""

WIDTH, HEIGHT = 380, 230
LEFT, RIGHT, TOP, BOTTOM = 52, 52, 12, 34
LABEL_HEIGHT = 13  # between the numbers at the ends of curves
MOST_POINTS, MOST_ROWS, DOTS_UP_TO = 300, 60, 40
SMOOTHED_OVER = 20  # a moving average is over this part of a curve
LOG_FROM = 100.0  # a curve that spans this factor is drawn on a logarithmic scale
FLAT = 1e-300  # a lesser span has no parts
LOG_DEPTH = 1e6  # below this part of the highest value, a curve lies on the lower edge


@dataclass(frozen=True)
class Series:
    """One curve."""

    name: str
    points: Sequence[Point]

    @property
    def finite(self) -> list[tuple[float, float]]:
        """The points that can be drawn."""
        return [(x, y) for x, y in self.points if y is not None]


@dataclass(frozen=True)
class Level:
    """A horizontal line to compare a curve with."""

    name: str
    value: float


@dataclass(frozen=True)
class Chart:
    """Some curves over the same axes."""

    title: str
    series: Sequence[Series]
    about: str = ""
    """What a healthy run does, or how to read it."""
    levels: Sequence[Level] = ()
    x_name: str = "step"

    @property
    def values(self) -> list[float]:
        """Everything that has to fit."""
        measured = [y for series in self.series for _, y in series.finite]
        return [*measured, *(level.value for level in self.levels)]

    @property
    def is_logarithmic(self) -> bool:
        """Whether a linear scale would hide most of it."""
        values = self.values
        return min(values) > 0 and max(values) / min(values) >= LOG_FROM

    @property
    def gaps(self) -> int:
        """How many numbers were not finite."""
        return sum(y is None for series in self.series for _, y in series.points)

    def sentence(self) -> str:
        """The chart in words."""
        scale = "logarithmic" if self.is_logarithmic else "linear"
        parts = [f"Line chart by {self.x_name}, {scale} scale."]
        for series in self.series:
            (first, start), (last, end) = series.finite[0], series.finite[-1]
            low_at, low = min(series.finite, key=lambda point: point[1])
            high_at, high = max(series.finite, key=lambda point: point[1])
            parts.append(
                f"{series.name}: {number(start)} at {self.x_name} {number(first)}, "
                f"{number(end)} at {number(last)}; lowest {number(low)} at {number(low_at)}, "
                f"highest {number(high)} at {number(high_at)}."
            )
        parts += [f"{level.name}: {number(level.value)}." for level in self.levels]
        if self.gaps:
            parts.append(f"Left out as not finite: {counted(self.gaps, 'value')}.")
        return " ".join(parts)


def number(value: float) -> str:
    """A number as short as it stays true to four digits."""
    if float(value).is_integer() and abs(value) < 1e9:
        return f"{int(value):,}"
    return f"{value:.4g}"


def thin(points: Sequence[Point], limit: int = MOST_POINTS) -> list[Point]:
    """At most about `limit` points; the lowest and the highest of each stretch stay."""
    if len(points) <= limit:
        return list(points)
    stretches = max(1, limit // 2 - 1)
    inner = points[1:-1]
    kept: list[Point] = [points[0]]
    for index in range(stretches):
        part = inner[len(inner) * index // stretches : len(inner) * (index + 1) // stretches]
        finite = [point for point in part if point[1] is not None]
        ends = {min(finite, key=_height), max(finite, key=_height)} if finite else set(part[:1])
        kept += sorted(ends, key=lambda point: point[0])
    return [*kept, points[-1]]


def _height(point: Point) -> float:
    return point[1] if point[1] is not None else math.nan


def spread(items: Sequence[T], limit: int) -> list[T]:
    """At most `limit` items, evenly from the first to the last."""
    if len(items) <= limit:
        return list(items)
    return [items[round(i * (len(items) - 1) / (limit - 1))] for i in range(limit)]


@dataclass(frozen=True)
class Axis:
    """From values to places on the page."""

    low: float
    high: float
    start: float
    end: float
    is_logarithmic: bool = False

    def __call__(self, value: float) -> float:
        low, high = self.low, self.high
        if self.is_logarithmic:
            value, low, high = math.log10(max(value, low)), math.log10(low), math.log10(high)
        share = (value - low) / ((high - low) or 1.0)
        return round(self.start + share * (self.end - self.start), 1)

    def ticks(self) -> list[float]:
        """Round values within."""
        if not self.is_logarithmic:
            return round_steps(self.low, self.high)
        powers = range(math.ceil(math.log10(self.low)), math.floor(math.log10(self.high)) + 1)
        every = max(1, math.ceil(len(powers) / 6))
        return [10.0**power for power in powers][::every]


def round_steps(low: float, high: float, about: int = 4) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten between two values."""
    span = high - low
    if span < FLAT:
        return [low]
    rough = span / about
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * unit for factor in (1, 2, 5, 10) if factor * unit >= rough)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def axes(chart: Chart) -> tuple[Axis, Axis]:
    """The axes of a chart; a flat curve gets room around it."""
    steps = [x for series in chart.series for x, _ in series.points]
    low, high = min(chart.values), max(chart.values)
    if not chart.is_logarithmic:
        room = 0.05 * (high - low) or 0.1 * abs(high) or 1.0
        low, high = (low if low == 0 else low - room), high + room
        if 0 <= min(chart.values) < 0.25 * high:
            low = 0.0
    else:
        low = max(low, high / LOG_DEPTH)
    left, right = min(steps), max(steps)
    if right == left:  # one point stands in the middle
        left, right = left - 1, right + 1
    x_axis = Axis(left, right, LEFT, WIDTH - RIGHT)
    return x_axis, Axis(low, high, HEIGHT - BOTTOM, TOP, chart.is_logarithmic)


def smooth(points: Sequence[Point], is_logarithmic: bool = False) -> list[Point]:
    """The moving average of a curve that is too long for dots: of powers on a logarithmic scale."""
    if len(points) <= DOTS_UP_TO:
        return list(points)
    reach = max(2, len(points) // (2 * SMOOTHED_OVER))
    into, back = (math.log, math.exp) if is_logarithmic else (float, float)
    sums, counts = [0.0], [0]
    for _, y in points:
        sums.append(sums[-1] + (0.0 if y is None else into(y)))
        counts.append(counts[-1] + (y is not None))
    found: list[Point] = []
    for index, (x, y) in enumerate(points):
        first, last = max(0, index - reach), min(len(points), index + reach + 1)
        there = counts[last] - counts[first]
        mean = back((sums[last] - sums[first]) / there) if there else None
        found.append((x, None if y is None else mean))
    return found


def draw(chart: Chart, key: str) -> Markup:
    """The chart as an SVG element whose ids begin with `key`."""
    x_axis, y_axis = axes(chart)
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-labelledby="{escape(key)}-title {escape(key)}-desc">',
        f'<title id="{escape(key)}-title">{escape(chart.title)}</title>',
        f'<desc id="{escape(key)}-desc">{escape(chart.sentence())}</desc>',
        *grid_lines(x_axis, y_axis, chart.x_name),
    ]
    for level in chart.levels:
        y = y_axis(level.value)
        parts.append(f'<path class="level" d="M{LEFT} {y}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text class="level-name" x="{LEFT + 4}" y="{y - 4}">{escape(level.name)}')
        parts.append("</text>")
    ends = []
    for index, series in enumerate(chart.series):
        parts += curve(series, x_axis, y_axis, index)
        ends.append(series_end(series, y_axis))
    parts += end_labels(ends)
    parts.append("</svg>")
    return Markup("".join(parts))


def grid_lines(x_axis: Axis, y_axis: Axis, x_name: str) -> Iterable[str]:
    """Lines and numbers of both axes."""
    foot = HEIGHT - BOTTOM
    for value in y_axis.ticks():
        y = y_axis(value)
        yield f'<path class="line" d="M{LEFT} {y}H{WIDTH - RIGHT}"/>'
        yield f'<text class="y" x="{LEFT - 6}" y="{y + 4}">{tick(value)}</text>'
    # What lies along the foot is counted: there is no step 200.5.
    for value in filter(float.is_integer, map(float, round_steps(x_axis.low, x_axis.high))):
        yield f'<text class="x" x="{x_axis(value)}" y="{foot + 15}">{tick(value)}</text>'
    middle = (LEFT + WIDTH - RIGHT) / 2
    yield f'<text class="x name" x="{middle}" y="{HEIGHT - 4}">{escape(x_name)}</text>'


def tick(value: float) -> str:
    """A tick's number in few letters."""
    if value and (abs(value) >= 1e5 or abs(value) < 1e-3):
        return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value:,.10g}"


def curve(series: Series, x_axis: Axis, y_axis: Axis, index: int) -> Iterable[str]:
    """A line with a break at each gap; dots where there are few points, else its average, too."""
    color = f"c{index % 4}"
    if len(series.points) > DOTS_UP_TO:
        yield f'<path class="curve raw {color}" d="{path_of(series.points, x_axis, y_axis)}"/>'
        average = smooth(series.points, y_axis.is_logarithmic)
        yield f'<path class="curve {color}" d="{path_of(average, x_axis, y_axis)}"/>'
        return
    yield f'<path class="curve {color}" d="{path_of(series.points, x_axis, y_axis)}"/>'
    for x, y in series.finite:
        place = f'cx="{x_axis(x)}" cy="{y_axis(y)}"'
        yield f'<circle class="dot {color}" {place} r="2.5"/>'


def path_of(points: Sequence[Point], x_axis: Axis, y_axis: Axis) -> str:
    """A line through points."""
    path, pen_down = "", False
    for x, y in thin(points):
        if y is None:
            pen_down = False
            continue
        path += f"{'L' if pen_down else 'M'}{x_axis(x)} {y_axis(y)}"
        pen_down = True
    return path


def series_end(series: Series, y_axis: Axis) -> tuple[float, str]:
    """How high a curve ends, and its number there."""
    average = smooth(series.points, y_axis.is_logarithmic)
    value = next(y for _, y in reversed(average) if y is not None)
    return y_axis(value), short_number(value)


def short_number(value: float) -> str:
    """A number of three digits, in the room beside a chart."""
    return tick(float(f"{value:.3g}"))


def end_labels(ends: Sequence[tuple[float, str]]) -> Iterable[str]:
    """The numbers at the ends of curves, moved apart where they would lie on each other."""
    above = -math.inf
    for index in sorted(range(len(ends)), key=lambda place: ends[place][0]):
        height, text = ends[index]
        above = max(height, above + LABEL_HEIGHT)
        place = f'x="{WIDTH - RIGHT + 5}" y="{round(above + 4, 1)}"'
        yield f'<text class="end c{index % 4}" {place}>{text}</text>'


def table(chart: Chart) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the numbers behind a chart, evenly thinned."""
    columns = [dict(series.points) for series in chart.series]
    steps = sorted({x for column in columns for x in column})
    rows = []
    for x in spread(steps, MOST_ROWS):
        cells = ["" if x not in column else told(column[x]) for column in columns]
        rows.append([number(x), *cells])
    return [chart.x_name, *(series.name for series in chart.series)], rows


def told(value: float | None) -> str:
    """A table's cell."""
    return "not finite" if value is None else number(value)
