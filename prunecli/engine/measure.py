"""The measurements of a tensor for the report: what is counted, and what the counts say in the weights' units."""

from __future__ import annotations

from array import array
from functools import lru_cache
from math import inf, isfinite, prod
from typing import TYPE_CHECKING, NamedTuple

from prunecli.dtypes import FLOATS
from prunecli.kernels.tally import Statistics
from prunecli.report.histogram import BeforeAfter, bins_of

if TYPE_CHECKING:
    from prunecli.checkpoint import TensorInfo
    from prunecli.dtypes import Float
    from prunecli.kernels.tally import Counts
    from prunecli.layout import TensorLayout

GROUP = 4
"""The 2:4 pattern is not checked in a tensor with fewer inputs than this."""


class TensorStats(NamedTuple):
    """The measurements of one tensor, as in a report's `Row`, and its histogram if it was requested.

    Magnitudes are in the weights' units. Rows are outputs and columns are inputs, in each expert separately. Statements
    about them are None for a tensor of fewer than two dimensions or without them, and the statement about groups also
    for one with fewer inputs than a group has.
    """

    zeros_before: int
    zeros_after: int
    nonfinite: int
    l2_kept: float | None
    largest_pruned: float | None
    smallest_kept: float | None
    zero_rows: int | None
    zero_cols: int | None
    two_four: bool | None
    histogram: BeforeAfter | None = None


def statistics_of(tensor: TensorInfo, bounds: tuple[int, int] | None = None, *, histogram: bool = False) -> Statistics:
    """Return what is counted about a tensor; with `histogram` its magnitudes as well, which takes 8 kB and some time.

    `bounds` are the largest pattern that can be pruned and the smallest that can be kept, where they are known.
    """
    plain = _statistics(tensor.value_dtype, tensor.shape, tensor.layout)
    if bounds is None and not histogram:
        return plain
    bins = bins_of(plain.dtype) if histogram else None
    return Statistics(
        plain.dtype,
        plain.numel,
        plain.outputs,
        plain.inputs,
        plain.groups,
        bounds,
        None if bins is None else (bins.shift, bins.first, bins.last),
    )


@lru_cache(maxsize=1024)  # many small tensors have few shapes
def _statistics(dtype: str, shape: tuple[int, ...], layout: TensorLayout) -> Statistics:
    """Return what is counted about each tensor like this."""
    sliced, run = len(shape) >= 2, layout.input_run(shape)
    return Statistics(
        FLOATS[dtype],
        prod(shape),
        outputs=layout.output_view(shape) if sliced else None,
        inputs=layout.input_view(shape) if sliced else None,
        groups=None if run is None or run[0] < GROUP else run,
    )


def stats_from(counts: Counts, dtype: Float, *, histogram: bool = False) -> TensorStats:
    """Return the measurements of a tensor whose magnitudes are of `dtype`."""
    before, after = counts.squares_before, counts.squares_after
    smallest = counts.smallest_kept
    return TensorStats(
        zeros_before=counts.zeros_before,
        zeros_after=counts.zeros_after,
        nonfinite=counts.nonfinite,
        l2_kept=after / before if 0 < before < inf and after < inf else None,
        largest_pruned=finite(dtype.decode(counts.largest_pruned)) if counts.largest_pruned else None,
        smallest_kept=None if smallest is None else finite(dtype.decode(smallest)),
        zero_rows=counts.dead_outputs,
        zero_cols=counts.dead_inputs,
        two_four=counts.two_four,
        histogram=_histogram(counts, dtype) if histogram else None,
    )


def _histogram(counts: Counts, dtype: Float) -> BeforeAfter:
    """Return the bins from the first to the last one that is not empty."""
    used = [index for index, count in enumerate(counts.bins_before) if count]
    low, high = (used[0], used[-1] + 1) if used else (0, 0)
    before, after = (array("q", row[low:high]) for row in (counts.bins_before, counts.bins_after))
    return BeforeAfter(dtype.name, bins_of(dtype).first + low, before, after)


def finite(value: float) -> float | None:
    """Return `value`, or None for infinity and NaN."""
    return value if isfinite(value) else None
