"""The geometry of a report's figures: what goes where in an SVG, as numbers and path data, without any markup.

Lengths are SVG user units. Nothing here knows about HTML or files.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, floor, log2, log10
from typing import TYPE_CHECKING

from prunecli.report.histogram import together

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from prunecli.report.histogram import BeforeAfter
    from prunecli.report.model import Row

WIDTH, HEIGHT = 320, 132
"""The view box of a histogram."""

LEFT, RIGHT, TOP, BASE = 6, 314, 16, 112
"""The plot inside it: the magnitudes run from LEFT to RIGHT, the counts from BASE up to TOP."""

PER_OCTAVE = 4
"""Steps drawn per factor of 2: wider than most formats' bins, so that the steps are smooth."""

TAIL = 0.002
"""The part of the weights, the smallest, that may lie left of the plot: on a logarithmic axis they go on for ever."""

COLUMNS = 480
"""Columns of the overview: of more tensors than that, neighbours share one."""

SPACED = 120
"""Columns of the overview up to which there are gaps between them."""

SLACK = 1.07
"""How far a cut may lie from what it separates: it is rounded to the tensor's dtype, at worst to 3 bits."""

_OCTAVES = 48  # at most, so that one stray weight does not squeeze the rest into a corner


@dataclass(frozen=True, slots=True)
class Tick:
    """A mark at `x` with its text, which is centred unless `anchor` says start or end."""

    x: float
    text: str
    anchor: str = "middle"


@dataclass(frozen=True, slots=True)
class Histogram:
    """Two areas as path data, one above the other: what is `kept`, and what there was `before`; ticks and the cut."""

    before: str
    kept: str
    ticks: tuple[Tick, ...]
    cut: Tick | None


@dataclass(frozen=True, slots=True)
class Column:
    """Tensors side by side in checkpoint order: how many, from which to which, and which parts were and are zero."""

    x: float
    width: float
    was: float
    now: float
    count: int
    first: str
    last: str


# --- magnitudes


def histogram(found: Sequence[BeforeAfter], cut: float | None = None) -> Histogram | None:
    """Return the figure of some tensors together, with a line at the magnitude `cut`; None where all are zero.

    The x axis is the logarithm of the magnitude, the y axis the number of weights per factor of 2.
    """
    before, after = _resampled(found)
    if not before:
        return None
    low, high = _range(before, cut)
    scale = (RIGHT - LEFT) / (high - low)
    # Where a cut lies inside a step, both areas are drawn of that step: the line tells where it is.
    tallest = max(before.values())

    def x(octave: float) -> float:
        return round(LEFT + (octave - low) * scale, 1)

    def area(heights: dict[int, float]) -> str:
        steps = [(x(at / PER_OCTAVE), heights.get(at, 0.0)) for at in range(low * PER_OCTAVE, high * PER_OCTAVE)]
        tops = "".join(f"H{left:g}V{round(BASE - (BASE - TOP) * height / tallest, 1):g}" for left, height in steps)
        return f"M{LEFT} {BASE}{tops}H{RIGHT}V{BASE}Z"

    return Histogram(area(before), area(after), _ticks(low, high, x), None if cut is None else _cut(cut, low, high, x))


def separating(row: Row) -> float | None:
    """Return the cut of `row` if it lies between the weights that went and those that stayed.

    The cut of slices and tiles is a norm of many weights, which has no place on an axis of magnitudes.
    """
    cut, gone, kept = row.cut, row.largest_pruned, row.smallest_kept
    if cut is None or not 0 < cut < float("inf"):
        return None
    fits = (gone is None or gone <= cut * SLACK) and (kept is None or kept >= cut / SLACK)
    return cut if fits else None


def _resampled(found: Sequence[BeforeAfter]) -> tuple[dict[int, float], dict[int, float]]:
    """Return the weights per step of the logarithmic axis, before and after; a bin is shared out by its overlaps."""
    before: dict[int, float] = {}
    after: dict[int, float] = {}
    for one in together(found):
        edges = one.edges
        for at, (had, has) in enumerate(zip(one.before, one.after, strict=True)):
            if had:
                for step, part in _overlaps(edges[at], edges[at + 1]):
                    before[step] = before.get(step, 0.0) + had * part
                    after[step] = after.get(step, 0.0) + has * part
    return before, after


def _overlaps(low: float, high: float) -> list[tuple[int, float]]:
    """Return the steps that the magnitudes from `low` to `high` reach into, and their shares, which sum to 1."""
    end = log2(high) * PER_OCTAVE
    start = log2(low) * PER_OCTAVE if low else end - PER_OCTAVE
    steps = range(floor(start), ceil(end))
    return [(step, (min(step + 1, end) - max(step, start)) / (end - start)) for step in steps]


def _range(heights: dict[int, float], cut: float | None) -> tuple[int, int]:
    """Return the octaves to draw: all from where the smallest weights end to the largest, and the cut."""
    steps = sorted(heights)
    left, total = 0.0, sum(heights.values())
    for low in steps:
        left += heights[low]
        if left > TAIL * total:
            break
    high = floor(steps[-1] / PER_OCTAVE) + 1
    first = floor(low / PER_OCTAVE)
    if cut is not None:
        first, high = min(first, floor(log2(cut))), max(high, floor(log2(cut)) + 1)
    return max(first, high - _OCTAVES), high


def _ticks(low: int, high: int, x: Callable[[float], float]) -> tuple[Tick, ...]:
    """Mark powers of ten, or where hardly one fits in, powers of two."""
    tens = range(ceil(low * log10(2)), floor(high * log10(2)) + 1)
    step = -(-len(tens) // 7) or 1
    marks = [(x(power / log10(2)), f"{10.0**power:g}") for power in tens[::step]]
    if len(marks) < 2:
        marks = [(x(power), f"{2.0**power:.3g}") for power in range(low, high + 1, -(-(high - low) // 4))]
    return tuple(Tick(at, text, _anchor(at)) for at, text in marks)


def _cut(cut: float, low: int, high: int, x: Callable[[float], float]) -> Tick:
    at = x(min(max(log2(cut), low), high))
    return Tick(at, f"{cut:.3g}", "end" if at > (LEFT + RIGHT) / 2 else "start")


def _anchor(x: float) -> str:
    return "start" if x < LEFT + 14 else "end" if x > RIGHT - 14 else "middle"


# --- sparsity


def overview(rows: Sequence[Row]) -> list[Column]:
    """Return the columns of `rows`, in their order, over a width and height of 100; neighbours share where many."""
    count = min(len(rows), COLUMNS)
    columns = []
    for at in range(count):
        some = rows[len(rows) * at // count : len(rows) * (at + 1) // count]
        numel = sum(row.numel for row in some) or 1
        was, now = (sum(getattr(row, key) or 0 for row in some) for key in ("zeros_before", "zeros_after"))
        x, end = 100 * at / count, 100 * (at + 1) / count
        gap = 0.15 * (end - x) if count <= SPACED else 0.0
        part = (100 * was / numel, 100 * now / numel)
        columns.append(Column(round(x, 3), round(end - x - gap, 3), *part, len(some), some[0].name, some[-1].name))
    return columns
