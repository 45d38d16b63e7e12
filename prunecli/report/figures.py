"""The geometry of figures: axes with ticks, histograms and columns, as numbers and SVG path data without markup.

Lengths are SVG user units. This module knows nothing about HTML or files.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, floor, log2, log10
from typing import TYPE_CHECKING

from prunecli.report.histogram import together

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from prunecli.report.histogram import BeforeAfter
    from prunecli.report.model import Row

WIDTH, HEIGHT = 320, 132
"""The view box of a histogram."""

LEFT, RIGHT, TOP, BASE = 6, 314, 16, 112
"""The plot in a histogram's view box: magnitudes run from LEFT to RIGHT, counts from BASE up to TOP."""

PER_OCTAVE = 4
"""Steps of a histogram per factor of 2. They are wider than the bins of most formats, which makes them smooth."""

TAIL = 0.002
"""The fraction of the weights, the smallest, that may lie left of the plot: a logarithmic axis has no zero."""

COLUMNS = 300
"""Columns of the overview. More tensors share columns with their neighbours."""

SPACED = 120
"""The largest number of columns with gaps between them."""

SLACK = 1.07
"""The factor by which a cut may differ from the weights it separates: rounding to a dtype of 3 bits."""

_OCTAVES = 48  # at most, so that one outlier does not squeeze the other weights into a corner
_TICKS = 6  # intervals of a linear axis, at most
_TENS = 7  # powers of ten that a logarithmic axis marks, at most


# --- axes


@dataclass(frozen=True, slots=True)
class Tick:
    """A mark at the position `at` with its text. `anchor` is SVG's text-anchor."""

    at: float
    text: str
    anchor: str = "middle"


@dataclass(frozen=True, slots=True)
class Axis:
    """A linear map from the values `low` to `high` to the positions `start` to `end`.

    A logarithmic axis maps logarithms.
    """

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Return the position of `value`."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self, values: Iterable[float], text: Callable[[float], str]) -> tuple[Tick, ...]:
        """Return a tick at each of `values`, with the text that `text` gives."""
        return tuple(Tick(round(self(value), 1), text(value)) for value in values)


def ticks_between(low: float, high: float) -> list[float]:
    """Return evenly spaced round numbers: the first is at most `low`, the last at least `high`; two or more."""
    size = max(abs(low), abs(high))
    span = max(high - low, 1e-9 * size) if high > low else size or 1.0  # a float cannot separate finer ticks
    power = 10.0 ** floor(log10(span / _TICKS))
    step = next(power * k for k in (1, 2, 5, 10) if span / (power * k) <= _TICKS)
    # 1e-9 of a step absorbs the rounding of the division.
    first, last = floor(low / step + 1e-9), -floor(-high / step + 1e-9)
    return [round(step * i, 12 - floor(log10(step))) for i in range(first, max(last, first + 1) + 1)]


# --- magnitudes


@dataclass(frozen=True, slots=True)
class Histogram:
    """Two areas as path data, the weights `before` and those that are `kept`, with ticks and the cut.

    `most` is the number of weights per factor of 2 at the top of the plot.
    """

    before: str
    kept: str
    ticks: tuple[Tick, ...]
    cut: Tick | None
    most: int


def histogram(counts: Sequence[BeforeAfter], cut: float | None = None) -> Histogram | None:
    """Return the figure of some tensors together, with a line at the magnitude `cut`; None if all weights are zero.

    The x axis is the logarithm of the magnitude, the y axis the number of weights per factor of 2.
    """
    before, after = _resampled(counts)
    if not before:
        return None
    low, high = _range(before, cut)
    # If a cut lies inside a step, both areas include that step; the line marks the cut.
    x, y = Axis(low, high, LEFT, RIGHT), Axis(0, max(before.values()), BASE, TOP)

    def area(heights: dict[int, float]) -> str:
        steps = range(low * PER_OCTAVE, high * PER_OCTAVE)
        tops = (f"H{round(x(step / PER_OCTAVE), 1):g}V{round(y(heights.get(step, 0.0)), 1):g}" for step in steps)
        return f"M{LEFT} {BASE}{''.join(tops)}H{RIGHT}V{BASE}Z"

    most = round(max(before.values()) * PER_OCTAVE)
    return Histogram(area(before), area(after), _ticks(x), None if cut is None else _cut(cut, x), most)


def separating(row: Row) -> float | None:
    """Return the cut of `row` if it separates the pruned weights from the kept ones, else None.

    The cut of slices and blocks is a norm of many weights, which has no position on an axis of magnitudes.
    """
    cut, pruned, kept = row.cut, row.largest_pruned, row.smallest_kept
    if cut is None or not 0 < cut < float("inf"):
        return None
    fits = (pruned is None or pruned <= cut * SLACK) and (kept is None or kept >= cut / SLACK)
    return cut if fits else None


def _resampled(counts: Sequence[BeforeAfter]) -> tuple[dict[int, float], dict[int, float]]:
    """Return the weights per step of the logarithmic axis, before and after. Bins are split in proportion."""
    before: dict[int, float] = {}
    after: dict[int, float] = {}
    for one in together(counts):
        edges = one.edges
        for index, (was, now) in enumerate(zip(one.before, one.after, strict=True)):
            if was:
                for step, part in _overlaps(edges[index], edges[index + 1]):
                    before[step] = before.get(step, 0.0) + was * part
                    after[step] = after.get(step, 0.0) + now * part
    return before, after


def _overlaps(low: float, high: float) -> list[tuple[int, float]]:
    """Return the steps that overlap the magnitudes from `low` to `high`, and their shares, which sum to 1."""
    end = log2(high) * PER_OCTAVE
    # The first bin begins at zero, whose logarithm is infinite: it is drawn one octave wide.
    start = log2(low) * PER_OCTAVE if low else end - PER_OCTAVE
    steps = range(floor(start), ceil(end))
    return [(step, (min(step + 1, end) - max(step, start)) / (end - start)) for step in steps]


def _range(heights: dict[int, float], cut: float | None) -> tuple[int, int]:
    """Return the octaves to draw: from the end of the tail to the largest weight, the cut included."""
    steps = sorted(heights)
    below, total = 0.0, sum(heights.values())
    for low in steps:
        below += heights[low]
        if below > TAIL * total:
            break
    high = floor(steps[-1] / PER_OCTAVE) + 1
    first = floor(low / PER_OCTAVE)
    if cut is not None:
        first, high = min(first, floor(log2(cut))), max(high, floor(log2(cut)) + 1)
    return max(first, high - _OCTAVES), high


def _ticks(x: Axis) -> tuple[Tick, ...]:
    """Mark powers of ten, or powers of two if the axis has fewer than two powers of ten."""
    low, high = int(x.low), int(x.high)
    tens = range(ceil(low * log10(2)), floor(high * log10(2)) + 1)
    step = -(-len(tens) // _TENS) or 1
    marks = [(round(x(power / log10(2)), 1), f"{10.0**power:g}") for power in tens[::step]]
    if len(marks) < 2:
        twos = range(low, high + 1, -(-(high - low) // 4))
        marks = [(round(x(power), 1), f"{2.0**power:.3g}") for power in twos]
    return tuple(Tick(position, text, _anchor(position)) for position, text in marks)


def _cut(cut: float, x: Axis) -> Tick:
    position = round(x(min(max(log2(cut), x.low), x.high)), 1)
    return Tick(position, f"{cut:.3g}", "end" if position > (LEFT + RIGHT) / 2 else "start")


def _anchor(x: float) -> str:
    return "start" if x < LEFT + 14 else "end" if x > RIGHT - 14 else "middle"


# --- sparsity


@dataclass(frozen=True, slots=True)
class Column:
    """One column of the overview: `count` neighbouring tensors, from `first` to `last`.

    `x` and `width` are percentages of the figure's width, `was` and `now` the percentages of zeros before and after.
    """

    x: float
    width: float
    was: float
    now: float
    count: int
    first: str
    last: str


def overview(rows: Sequence[Row]) -> list[Column]:
    """Return the columns of `rows`, in their order; neighbours share a column if there are more than COLUMNS."""
    count = min(len(rows), COLUMNS)
    columns = []
    for index in range(count):
        some = rows[len(rows) * index // count : len(rows) * (index + 1) // count]
        numel = sum(row.numel for row in some) or 1
        was, now = (sum(getattr(row, key) or 0 for row in some) for key in ("zeros_before", "zeros_after"))
        x, end = 100 * index / count, 100 * (index + 1) / count
        gap = 0.15 * (end - x) if count <= SPACED else 0.0
        part = (100 * was / numel, 100 * now / numel)
        columns.append(Column(round(x, 3), round(end - x - gap, 3), *part, len(some), some[0].name, some[-1].name))
    return columns
