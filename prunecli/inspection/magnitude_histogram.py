"""Histograms of magnitudes with round edges."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import floor, isfinite, log10
from typing import TYPE_CHECKING

from prunecli.dtypes import FLOATS
from prunecli.inspection.thresholds import ThresholdTable, count_below, rank

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prunecli.checkpoint import TensorInfo
    from prunecli.dtypes import Float
    from prunecli.inspection.passes import Passes

PERCENTILES = (1, 5, 10, 25, 50, 75, 80, 90, 95, 99, 100)
"""The percentiles that accompany a histogram."""

BARS = 20
"""The number of bars up to the 99th percentile. One more bar has the larger magnitudes."""

DRAWING = "drawing"
"""The phase of a histogram, a word for the user."""

_EDGE_DIGITS = 5  # an edge is a multiple of a number of two digits


@dataclass(frozen=True, slots=True)
class MagnitudeHistogram:
    """A histogram of the magnitudes of one or more tensors.

    Attributes:
        pattern: The pattern that selected the tensors.
        tensors: The names of the tensors.
        edges: The lower edge of each bar; the last bar has no upper edge.
        counts: The number of weights in each bar.
        zeros: The number of zeros; they are in the first bar.
        nonfinite: The number of weights that are NaN or infinite; they are in no bar.
        percentiles: The thresholds for the sparsities PERCENTILES.
    """

    pattern: str
    tensors: tuple[str, ...]
    edges: tuple[float, ...]
    counts: tuple[int, ...]
    zeros: int
    nonfinite: int
    percentiles: ThresholdTable


def magnitude_histogram(
    passes: Passes, pattern: str, tensors: Sequence[TensorInfo]
) -> tuple[MagnitudeHistogram, tuple[tuple[int, int], ...]]:
    """Return the histogram of one or more floating-point tensors, and each one's zeros and weights that are not finite.

    Raises CheckpointError if a file cannot be read.
    """
    ranking = rank(passes, tensors, PERCENTILES, DRAWING)
    edges = _edges(ranking.together)
    dtypes = {FLOATS[tensor.value_dtype] for tensor in tensors}
    below = [count_below(passes, tensors, dtype, _cuts(edges, dtype), ranking.whole) for dtype in dtypes]
    ends = [0, *map(sum, zip(*below, strict=True)), ranking.together.numel]
    zeros, first, *bars, nonfinite = (stop - start for start, stop in pairwise(ends))
    names = tuple(tensor.name for tensor in tensors)
    counts = zeros + first, *bars
    return MagnitudeHistogram(pattern, names, edges, counts, zeros, nonfinite, ranking.together), ranking.counts


def _cuts(edges: Sequence[float], dtype: Float) -> list[int]:
    """Return the patterns between zeros, the bars, and magnitudes that are not finite."""
    return [1, *(dtype.ceil(edge) for edge in edges[1:]), dtype.finite_max + 1]


def _edges(percentiles: ThresholdTable) -> tuple[float, ...]:
    """Return equally spaced round edges from 0 to a little above the 99th percentile."""
    thresholds = {step.percent: step.threshold for step in percentiles.steps}
    candidates = [thresholds[99], *(thresholds[percent] for percent in reversed(PERCENTILES))]
    end = next((threshold for threshold in candidates if threshold), 0.0)
    width = float(f"{end / BARS:.1e}")
    if not width or not isfinite(width * BARS):
        return (0.0,)
    # The width is rounded to two digits. If that was down, one unit more covers the 99th percentile.
    width += float(f"{10.0 ** floor(log10(width)) / 10:.0e}") if width * BARS <= end else 0.0
    return tuple(float(f"{i * width:.{_EDGE_DIGITS}g}") for i in range(BARS + 1))
