"""The statistics of a tensor with NumPy: the reference for the tallies of other backends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from prunecli.kernels.alive_slices import AliveSlices, aligned
from prunecli.kernels.arrays import UINTS
from prunecli.kernels.squares import ExactSum, block_sums
from prunecli.kernels.tally import BLOCK, Counts, TallyPart
from prunecli.kernels.two_four import TwoFour

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from prunecli.dtypes import Float
    from prunecli.kernels.numpy_ops import NumpyOps
    from prunecli.kernels.ops import Array, Keep
    from prunecli.kernels.tally import Shared, Statistics
    from prunecli.layout import SliceView

COUNT_RUN = 1 << 15
"""Elements sorted into bins at once: their indices stay in the cache until they are counted."""


class NumpyTally:
    """The running counts of one tensor in one thread."""

    def __init__(self, ops: NumpyOps, statistics: Statistics, shared: Shared) -> None:
        """Start without a chunk."""
        self._ops, self._statistics, self._shared = ops, statistics, shared
        self._dtype = statistics.dtype
        self._most, self._least = statistics.bounds or (self._dtype.top, 1)
        self._zeros_before = self._zeros_after = self._nonfinite = 0
        self._before, self._after = ExactSum(), ExactSum()
        self._largest_pruned, self._smallest_kept = 0, self._dtype.top + 1
        self._outputs, self._inputs = _alive(statistics.outputs), _alive(statistics.inputs)
        groups = statistics.groups
        self._two_four = None if groups is None else TwoFour(*groups, shared)
        self._bins = None if statistics.bins is None else _Bins(self._dtype, *statistics.bins)

    def prune(self, x: Array, keep: Keep, first: int, *, write: bool) -> None:
        """Count the weights before and after pruning, and zero those that `keep` drops, if `write`."""
        before = self._ops.magnitudes(x, self._dtype)
        self.add(before, keep, first)
        if write:
            self._ops.store_masked(x, keep, x, self._dtype)

    def add(self, y: Array, keep: Keep, first: int) -> None:
        """Count magnitudes, before and after what `keep` drops is zero; `y` is overwritten."""
        kept = keep if keep.dtype == y.dtype else keep.astype(y.dtype)
        after = np.bitwise_and(y, kept)
        self._zeros_before += y.size - int(np.count_nonzero(y))
        alive = int(np.count_nonzero(after))
        self._zeros_after += after.size - alive
        if y.size and int(y.max()) > self._dtype.finite_max:
            self._nonfinite += int(np.count_nonzero(y > self._dtype.finite_max))
        self._add_squares(first, y, after)
        if self._bins is not None:
            self._bins.add(y, after)
        for part in (self._outputs, self._inputs, self._two_four):
            if part is not None:
                part.add(first, after)
        self._add_extremes(y, after, alive)

    def _add_squares(self, first: int, before: NDArray[Any], after: NDArray[Any]) -> None:
        """Add the sums of whole blocks, and keep or complete those at the edges."""
        head, body = aligned(first, before.size, BLOCK)
        whole = slice(head, head + body)
        self._before.add(block_sums(before[whole], self._dtype))
        self._after.add(block_sums(after[whole], self._dtype))
        for part in (slice(0, head), slice(head + body, before.size)):
            if part.start < part.stop:
                self._add_part(first + part.start, before[part], after[part])

    def _add_part(self, first: int, before: NDArray[Any], after: NDArray[Any]) -> None:
        number, offset = divmod(first, BLOCK)
        size = min(BLOCK, self._statistics.numel - number * BLOCK)
        value = (before, after) if before.size == size else (before.copy(), after.copy())
        parts = self._shared.join("block", number, size, (offset, before.size, value))
        if parts is not None:
            for index, total in enumerate((self._before, self._after)):
                block = np.zeros(BLOCK, before.dtype)
                block[:size] = np.concatenate([part[index] for part in parts])
                total.add(block_sums(block, self._dtype))

    def _add_extremes(self, before: NDArray[Any], after: NDArray[Any], alive: int) -> None:
        """Find the largest pruned magnitude and the smallest kept non-zero one; overwrites both arrays."""
        if alive < before.size and self._largest_pruned < self._most:
            self._largest_pruned = max(self._largest_pruned, int(np.bitwise_xor(before, after, out=before).max()))
        if alive and self._smallest_kept > self._least:
            # Zeros wrap around to the largest number and so cannot be the minimum.
            lowered = np.subtract(after, after.dtype.type(1), out=after).view(UINTS[after.itemsize])
            self._smallest_kept = min(self._smallest_kept, int(lowered.min()) + 1)

    def merge(self, other: NumpyTally) -> None:
        """Add the counts of another tally of the same tensor."""
        self._zeros_before += other._zeros_before
        self._zeros_after += other._zeros_after
        self._nonfinite += other._nonfinite
        self._before.merge(other._before)
        self._after.merge(other._after)
        self._largest_pruned = max(self._largest_pruned, other._largest_pruned)
        self._smallest_kept = min(self._smallest_kept, other._smallest_kept)
        for own, others in ((self._outputs, other._outputs), (self._inputs, other._inputs)):
            if own is not None and others is not None:
                own.merge(others)
        if self._bins is not None and other._bins is not None:
            self._bins.counts += other._bins.counts

    def counts(self) -> Counts:
        """Return the numbers of all chunks."""
        return Counts(
            zeros_before=self._zeros_before,
            zeros_after=self._zeros_after,
            nonfinite=self._nonfinite,
            squares_before=self._before.value,
            squares_after=self._after.value,
            largest_pruned=self._largest_pruned,
            smallest_kept=self._smallest_kept if self._smallest_kept <= self._dtype.top else None,
            dead_outputs=None if self._outputs is None else self._outputs.dead,
            dead_inputs=None if self._inputs is None else self._inputs.dead,
            two_four=None if self._two_four is None else self._two_four.holds,
            bins_before=() if self._bins is None else self._bins.counts[0].tolist(),
            bins_after=() if self._bins is None else self._bins.counts[1].tolist(),
        )

    def part(self) -> TallyPart:
        """Return the numbers of all chunks of a part."""
        return TallyPart(
            (self._zeros_before, self._zeros_after),
            self._nonfinite,
            (self._before.units, self._after.units),
            self._largest_pruned,
            self._smallest_kept if self._smallest_kept <= self._dtype.top else None,
            None if self._two_four is None else not self._two_four.holds,
            None if self._outputs is None else self._outputs.flags,
            None if self._inputs is None else self._inputs.flags,
        )


class _Bins:
    """The number of magnitudes in each bin, before (row 0) and after (row 1)."""

    def __init__(self, dtype: Float, shift: int, first: int, last: int) -> None:
        self._dtype, self._shift, self._first, self._last = dtype, shift, first, last
        self.counts = np.zeros((2, last - first + 1), np.int64)

    def add(self, before: NDArray[Any], after: NDArray[Any]) -> None:
        """Count a chunk. Zeros and values that are not finite are in no bin."""
        for row, y in enumerate((before, after)):
            for first in range(0, y.size, COUNT_RUN):
                self._add(self.counts[row], y[first : first + COUNT_RUN])

    def _add(self, counts: NDArray[np.int64], y: NDArray[Any]) -> None:
        if int(y.max()) > self._dtype.finite_max:
            y = y[y <= self._dtype.finite_max]
        places = y >> y.dtype.type(self._shift)
        np.clip(places, self._first, self._last, out=places)
        places -= places.dtype.type(self._first)
        counts += np.bincount(places, minlength=counts.size)
        counts[0] -= y.size - np.count_nonzero(y)  # zeros, which the clipping put into the first bin


def _alive(view: SliceView | None) -> AliveSlices | None:
    return None if view is None else AliveSlices(view)
