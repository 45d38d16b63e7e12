"""Thresholds and histograms as text: what to type after --thr, and where the weights are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prunecli.text.escape import printable
from prunecli.text.numbers import percent
from prunecli.text.tables import Block, Column, View, largest, plural

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from prunecli.inspection.inspect import Drawing
    from prunecli.inspection.thresholds import ThresholdStep, ThresholdTable

_GIVES = (50, 80, 90)  # the sparsities that a histogram tells the threshold for
_LEAST_WANTED = {10: 9, 30: 8, 40: 7, 20: 6, 70: 5, 60: 4, 95: 3, 99: 2, 90: 1}  # columns give way in this order
_BAR = 40  # characters of the longest bar
_BLOCKS = " ▏▎▍▌▋▊▉█"
_NO_THRESHOLD = "-: among the weights up to there are NaN or infinity, which no threshold zeroes"


def threshold_blocks(
    together: ThresholdTable, each: Sequence[ThresholdTable], view: View, *, terminal: bool
) -> Iterator[Block]:
    """Tell what to type for each sparsity, over all tensors and in each."""
    weights = f"{len(each):,} {plural(len(each), 'tensor')}, {together.numel:,} weights"
    yield Block(
        f"One threshold for all that would be pruned ({weights})",
        (Column("sparsity", right=True), Column("--thr"), Column("zeroes", right=True), Column("weights", right=True)),
        tuple(_row(step, together.numel) for step in together.steps),
        _dashes([together]),
    )
    rows = largest(each, lambda ladder: ladder.numel, view, terminal=terminal)
    titles = (Column(f"{step.percent}%", optional=_LEAST_WANTED.get(step.percent, 0)) for step in together.steps)
    left = len(each) - len(rows)
    yield Block(
        "A threshold for each tensor",
        (Column("tensor"), *titles),
        tuple((printable(ladder.name), *(_threshold(step) for step in ladder.steps)) for ladder in rows),
        (
            *_dashes(rows),
            *((f"{left:,} smaller {plural(left, 'tensor')} not shown; --all lists each",) if left else ()),
        ),
    )


def _row(step: ThresholdStep, numel: int) -> tuple[str, ...]:
    if step.zeroed is None:
        return f"{step.percent}%", "-", "-", "-"
    return f"{step.percent}%", _threshold(step), percent(step.zeroed / numel), f"{step.zeroed:,}"


def _threshold(step: ThresholdStep) -> str:
    return "-" if step.threshold is None else number(step.threshold)


def _dashes(ladders: Sequence[ThresholdTable]) -> tuple[str, ...]:
    return (_NO_THRESHOLD,) if any(s.threshold is None for ladder in ladders for s in ladder.steps) else ()


def number(value: float) -> str:
    """Return `value` in the fewest characters that read back as it."""
    return repr(value).removesuffix(".0")


# --- a histogram


def drawing_block(drawing: Drawing, *, terminal: bool) -> Block:
    """Draw bars of magnitudes, and tell percentiles and thresholds."""
    names, weights = drawing.tensors, drawing.ladder.numel
    what = printable(names[0]) if len(names) == 1 else f"{len(names):,} tensors that match {printable(drawing.pattern)}"
    odd = f", {drawing.nonfinite:,} not finite" if drawing.nonfinite else ""
    most = max(drawing.counts)
    rows = tuple(
        (_range(drawing, at), _bar(count, most, terminal=terminal), f"{count:,}", percent(count / weights))
        for at, count in enumerate(drawing.counts)
    )
    return Block(
        f"Magnitudes of {what}: {weights:,} {plural(weights, 'weight')}, {drawing.zeros:,} zero{odd}",
        (Column("|w|"), Column(""), Column("weights", right=True), Column("share", right=True)),
        rows,
        ("", *_percentiles(drawing.ladder), "", *_gives(drawing.ladder), *_dashes([drawing.ladder])),
    )


def _range(drawing: Drawing, at: int) -> str:
    edges = drawing.edges
    if at + 1 < len(edges):
        return f"{edges[at]:g} to {edges[at + 1]:g}"
    return f"{edges[at]:g} and more"


def _bar(count: int, most: int, *, terminal: bool) -> str:
    """Return a bar in proportion to `count`; whatever is not nothing can be seen."""
    if not count:
        return ""
    if not terminal:
        return "#" * max(round(_BAR * count / most), 1)
    full, rest = divmod(max(round(8 * _BAR * count / most), 1), 8)
    return _BLOCKS[8] * full + (_BLOCKS[rest] if rest else "")


def _percentiles(ladder: ThresholdTable) -> tuple[str, str]:
    cells = [(f"{step.percent}%", "-" if step.threshold is None else f"{step.threshold:.3g}") for step in ladder.steps]
    widths = [max(map(len, pair)) for pair in cells]
    titles, values = (
        "  ".join(pair[line].rjust(width) for pair, width in zip(cells, widths, strict=True)) for line in (0, 1)
    )
    return f"percentile  {titles}", f"|w|         {values}"


def _gives(ladder: ThresholdTable) -> Iterator[str]:
    """Yield what to type for each of some sparsities, once where several have one threshold."""
    told = {step.threshold: step for step in ladder.steps if step.percent in _GIVES}
    for step in told.values():
        if step.threshold is not None and step.zeroed is not None:
            exact = f"{percent(step.zeroed / ladder.numel)} of them, {step.zeroed:,} {plural(step.zeroed, 'weight')}"
            yield f"--thr {_threshold(step)} zeroes {exact}"
