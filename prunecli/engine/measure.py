"""The measurements of a tensor for the report, collected from its chunks in any order.

Counts are the same however a tensor is cut into chunks. The sums of squares are taken in the weights' precision over
short runs and in float64 across them.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from math import fsum, inf
from typing import TYPE_CHECKING, Any

import numpy as np

from prunecli.dtypes import FLOATS
from prunecli.engine.alive_slices import AliveSlices
from prunecli.kernels.ops import UINTS
from prunecli.report.histogram import BeforeAfter, bins_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from prunecli.checkpoint import TensorInfo
    from prunecli.dtypes import Float
    from prunecli.engine.two_four import TwoFour
    from prunecli.layout import SliceView

COUNT_RUN = 1 << 15
"""Elements sorted into bins at once: their indices stay in the cache until they are counted."""


@dataclass(frozen=True, slots=True)
class TensorStats:
    """The measurements of one tensor, as in a report's `Row`, and its histogram if it was requested.

    Magnitudes are in the weights' units. Rows are outputs and columns are inputs, of each expert for itself. Statements
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


class StatsCollector:
    """The running counts of one tensor."""

    def __init__(
        self,
        tensor: TensorInfo,
        bounds: tuple[int, int] | None = None,
        *,
        two_four: TwoFour | None = None,
        histogram: bool = False,
    ) -> None:
        """Start without a chunk.

        `bounds` are the largest pattern that can be pruned and the smallest that can be kept, where they are known:
        after both have been seen, later chunks are not searched for them. `two_four` is the check that all collectors
        of the tensor share, or None if it is not checked. With `histogram` magnitudes are counted as well, which takes
        8 kB and some time.
        """
        self.dtype = FLOATS[tensor.value_dtype]
        self._most, self._least = (self.dtype.top, 1) if bounds is None else bounds
        self._zeros_before = self._zeros_after = self._nonfinite = 0
        self._squares_before: list[float] = []
        self._squares_after: list[float] = []
        self._largest_pruned, self._smallest_kept = 0, self.dtype.top + 1
        sliced = len(tensor.shape) >= 2
        self._outputs = _alive(tensor.layout.output_view(tensor.shape) if sliced else None)
        self._inputs = _alive(tensor.layout.input_view(tensor.shape) if sliced else None)
        self._two_four = two_four
        self._counts = _Counts(self.dtype) if histogram else None

    def merge(self, other: StatsCollector) -> None:
        """Add the counts of another collector of the same tensor."""
        self._zeros_before += other._zeros_before
        self._zeros_after += other._zeros_after
        self._nonfinite += other._nonfinite
        self._squares_before += other._squares_before
        self._squares_after += other._squares_after
        self._largest_pruned = max(self._largest_pruned, other._largest_pruned)
        self._smallest_kept = min(self._smallest_kept, other._smallest_kept)
        for own, others in ((self._outputs, other._outputs), (self._inputs, other._inputs)):
            if own is not None and others is not None:
                own.merge(others)
        if self._counts is not None and other._counts is not None:
            self._counts.merge(other._counts)

    def add(self, start: int, before: NDArray[Any], after: NDArray[Any], squares: tuple[float, float]) -> None:
        """Add the magnitudes of a chunk from row-major element `start`, before and after pruning.

        Both arrays are overwritten. `squares` are the sums of squares of the chunk before and after.
        """
        alive = int(np.count_nonzero(after))
        if not np.minimum.reduce(before):
            self._zeros_before += before.size - int(np.count_nonzero(before))
        self._zeros_after += after.size - alive
        if int(np.maximum.reduce(before)) > self.dtype.finite_max:
            self._nonfinite += int(np.count_nonzero(before > self.dtype.finite_max))
        self._squares_before.append(squares[0])
        self._squares_after.append(squares[1])
        if self._counts is not None:
            self._counts.add(before, after)
        for part in (self._outputs, self._inputs, self._two_four):
            if part is not None:
                part.add(start, after)
        self._add_extremes(before, after, alive)

    def _add_extremes(self, before: NDArray[Any], after: NDArray[Any], alive: int) -> None:
        """Find the largest pruned magnitude and the smallest kept non-zero one; overwrites both arrays."""
        if alive < before.size and self._largest_pruned < self._most:
            self._largest_pruned = max(self._largest_pruned, int(np.bitwise_xor(before, after, out=before).max()))
        if alive and self._smallest_kept > self._least:
            # Zeros wrap around to the largest number and so cannot be the minimum.
            lowered = np.subtract(after, after.dtype.type(1), out=after).view(UINTS[after.itemsize])
            self._smallest_kept = min(self._smallest_kept, int(lowered.min()) + 1)

    def stats(self) -> TensorStats:
        """Return the measurements of all chunks together."""
        before, after = _sum(self._squares_before), _sum(self._squares_after)
        has_kept = self._smallest_kept <= self.dtype.top
        return TensorStats(
            zeros_before=self._zeros_before,
            zeros_after=self._zeros_after,
            nonfinite=self._nonfinite,
            l2_kept=after / before if 0 < before < inf and after < inf else None,
            largest_pruned=finite(self.dtype.decode(self._largest_pruned)) if self._largest_pruned else None,
            smallest_kept=finite(self.dtype.decode(self._smallest_kept)) if has_kept else None,
            zero_rows=None if self._outputs is None else self._outputs.dead,
            zero_cols=None if self._inputs is None else self._inputs.dead,
            two_four=None if self._two_four is None else self._two_four.holds,
            histogram=None if self._counts is None else self._counts.histogram(),
        )


class _Counts:
    """The number of magnitudes in each bin, before (row 0) and after (row 1)."""

    def __init__(self, dtype: Float) -> None:
        self.dtype, self.bins = dtype, bins_of(dtype)
        self.counts = np.zeros((2, self.bins.last - self.bins.first + 1), np.int64)

    def merge(self, other: _Counts) -> None:
        self.counts += other.counts

    def add(self, before: NDArray[Any], after: NDArray[Any]) -> None:
        """Count a chunk. Zeros and values that are not finite are in no bin."""
        for row, y in enumerate((before, after)):
            for first in range(0, y.size, COUNT_RUN):
                self._add(self.counts[row], y[first : first + COUNT_RUN])

    def _add(self, counts: NDArray[np.int64], y: NDArray[Any]) -> None:
        if int(y.max()) > self.dtype.finite_max:
            y = y[y <= self.dtype.finite_max]
        places = y >> y.dtype.type(self.bins.shift)
        np.clip(places, self.bins.first, self.bins.last, out=places)
        places -= places.dtype.type(self.bins.first)
        counts += np.bincount(places, minlength=counts.size)
        counts[0] -= y.size - np.count_nonzero(y)  # zeros, which the clipping put into the first bin

    def histogram(self) -> BeforeAfter:
        """Return the bins from the first to the last one that is not empty."""
        used = np.flatnonzero(self.counts[0])
        low, high = (int(used[0]), int(used[-1]) + 1) if used.size else (0, 0)
        before, after = (array("q", row.tobytes()) for row in self.counts[:, low:high])
        return BeforeAfter(self.dtype.name, self.bins.first + low, before, after)


def _alive(view: SliceView | None) -> AliveSlices | None:
    return None if view is None else AliveSlices(view)


def _sum(parts: list[float]) -> float:
    """Return the sum of `parts`, rounded once, so that the order in which threads end has no effect."""
    try:
        return fsum(parts)
    except OverflowError:
        return inf


def finite(value: float) -> float | None:
    """Return `value`, or None for infinity and NaN."""
    return value if np.isfinite(value) else None
