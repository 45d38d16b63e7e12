"""The measurements of a tensor for the report, collected from its chunks in any order.

Counts are the same however a tensor is cut into chunks. The sums of squares are taken in the weights' precision over
short runs and in float64 across them.
"""

from __future__ import annotations

from array import array
from collections import Counter
from dataclasses import dataclass
from math import fsum, inf, prod
from typing import TYPE_CHECKING, Any

import numpy as np

from prunecli.kernels.groups import nonzeros_per_group
from prunecli.kernels.ops import UINTS
from prunecli.report.histogram import BeforeAfter, bins_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from prunecli.dtypes import Float

SHORT_ROW = 32
"""Rows shorter than this are reduced column by column: a reduction over few entries costs more than its work."""

FIRST_ROWS = 32
"""Rows in which nearly all columns show a non-zero, if they have one."""

CONFORM_RUN = 1 << 16
"""Elements checked at once for a 2:4 pattern; most tensors without the pattern fail in the first run."""

COUNT_RUN = 1 << 15
"""Elements sorted into bins at once: their indices stay in the cache until they are counted."""


@dataclass(frozen=True, slots=True)
class TensorStats:
    """The measurements of one tensor, as in a report's `Row`, and its histogram if it was requested.

    Magnitudes are in the weights' units. Statements about rows, columns and groups are None for tensors with fewer
    than two dimensions.
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
    """The running counts of one tensor, seen as (rows, cols, inner): dim 0, dim 1, and the other dimensions."""

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: Float,
        bounds: tuple[int, int] | None = None,
        *,
        histogram: bool = False,
    ) -> None:
        """Start without a chunk.

        `bounds` are the largest pattern that can be pruned and the smallest that can be kept, where they are known:
        after both have been seen, later chunks are not searched for them. With `histogram` magnitudes are counted as
        well, which takes 8 kB and some time.
        """
        self._most, self._least = (dtype.top, 1) if bounds is None else bounds
        self.dtype, self.numel = dtype, prod(shape)
        self.dims = len(shape)
        self.rows, self.cols, self.inner = (*shape, 1, 1)[0], (*shape, 1, 1)[1], prod(shape[2:])
        self._row = self.cols * self.inner
        self._zeros_before = self._zeros_after = self._nonfinite = 0
        self._squares_before: list[float] = []
        self._squares_after: list[float] = []
        self._largest_pruned, self._smallest_kept = 0, dtype.top + 1
        self._rows_alive = np.zeros(self.rows, bool)
        self._cols_alive = np.zeros(self.cols, bool)
        self._cols_done = False
        self._two_four = self.dims >= 2
        self._split_groups: dict[int, int] = {}
        self._counts = _Counts(dtype) if histogram else None

    def merge(self, other: StatsCollector) -> None:
        """Add the counts of another collector of the same tensor."""
        self._zeros_before += other._zeros_before
        self._zeros_after += other._zeros_after
        self._nonfinite += other._nonfinite
        self._squares_before += other._squares_before
        self._squares_after += other._squares_after
        self._largest_pruned = max(self._largest_pruned, other._largest_pruned)
        self._smallest_kept = min(self._smallest_kept, other._smallest_kept)
        self._rows_alive |= other._rows_alive
        self._cols_alive |= other._cols_alive
        self._two_four &= other._two_four
        for key, count in other._split_groups.items():
            self._add_to_group(key, count)
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
        if self.dims >= 2:
            self._add_slices(start, after)
        self._add_extremes(before, after, alive)

    def _add_extremes(self, before: NDArray[Any], after: NDArray[Any], alive: int) -> None:
        """Find the largest pruned magnitude and the smallest kept non-zero one; overwrites both arrays."""
        if alive < before.size and self._largest_pruned < self._most:
            self._largest_pruned = max(self._largest_pruned, int(np.bitwise_xor(before, after, out=before).max()))
        if alive and self._smallest_kept > self._least:
            # Zeros wrap around to the largest number and so cannot be the minimum.
            lowered = np.subtract(after, after.dtype.type(1), out=after).view(UINTS[after.itemsize])
            self._smallest_kept = min(self._smallest_kept, int(lowered.min()) + 1)

    def _add_slices(self, start: int, after: NDArray[Any]) -> None:
        """Split the chunk where rows start: a part of a row, whole rows, a part of a row."""
        head = min(-start % self._row, after.size)
        body = (after.size - head) // self._row * self._row
        if head:
            self._add_part_of_row(start, after[:head])
        if body:
            self._add_rows((start + head) // self._row, after[head : head + body].reshape(-1, self._row))
        if head + body < after.size:
            self._add_part_of_row(start + head + body, after[head + body :])

    def _add_part_of_row(self, start: int, after: NDArray[Any]) -> None:
        row, offset = divmod(start, self._row)
        if not self._rows_alive[row]:
            self._rows_alive[row] = bool(after.max())
        if not self._cols_done:
            self._cols_alive[(offset + np.flatnonzero(after)) // self.inner] = True
        if self._two_four:
            self._check_part_of_row(row, offset, after)

    def _add_rows(self, first: int, after: NDArray[Any]) -> None:
        if self._row < SHORT_ROW:
            alive = np.bitwise_or.reduce([after[:, column] for column in range(self._row)]) != 0
        else:
            alive = _rows_alive(after)
        self._rows_alive[first : first + len(after)] |= alive
        if not self._cols_done:
            self._add_columns(after.reshape(len(after), self.cols, self.inner))
        if self._two_four:
            self._two_four = conforms(after.reshape(len(after), self.cols, self.inner))

    def _add_columns(self, after: NDArray[Any]) -> None:
        """Mark columns with a non-zero; after the first rows few columns are unmarked."""
        self._cols_alive |= after[:2].any(axis=(0, 2))
        for rows in (after[2:FIRST_ROWS], after[FIRST_ROWS:]):
            open_columns = np.flatnonzero(~self._cols_alive)
            if not len(open_columns):
                self._cols_done = True
                return
            self._cols_alive[open_columns] = rows[:, open_columns].any(axis=(0, 2))

    def _check_part_of_row(self, row: int, offset: int, after: NDArray[Any]) -> None:
        """Check the whole groups of a part of a row, and count the split ones at its edges until they are complete."""
        unit = 4 * self.inner
        head = min(-offset % unit, after.size)
        tail = head + (after.size - head) // unit * unit
        self._two_four = conforms(after[head:tail].reshape(1, -1, self.inner))
        for low, part in ((offset, after[:head]), (offset + tail, after[tail:])):
            places = low + np.flatnonzero(part)
            for column, count in Counter((places // unit * self.inner + places % self.inner).tolist()).items():
                self._add_to_group(row * self._row + column, count)

    def _add_to_group(self, key: int, count: int) -> None:
        """Add the non-zeros of a part of a group that is split between chunks."""
        self._split_groups[key] = self._split_groups.get(key, 0) + count
        self._two_four &= self._split_groups[key] <= 2

    def stats(self) -> TensorStats:
        """Return the measurements of all chunks together."""
        sliced = self.dims >= 2
        before, after = _sum(self._squares_before), _sum(self._squares_after)
        has_kept = self._smallest_kept <= self.dtype.top
        return TensorStats(
            zeros_before=self._zeros_before,
            zeros_after=self._zeros_after,
            nonfinite=self._nonfinite,
            l2_kept=after / before if 0 < before < inf and after < inf else None,
            largest_pruned=finite(self.dtype.decode(self._largest_pruned)) if self._largest_pruned else None,
            smallest_kept=finite(self.dtype.decode(self._smallest_kept)) if has_kept else None,
            zero_rows=int(self.rows - np.count_nonzero(self._rows_alive)) if sliced else None,
            zero_cols=int(self.cols - np.count_nonzero(self._cols_alive)) if sliced else None,
            two_four=bool(self._two_four) if sliced else None,
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


def _rows_alive(after: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which rows have a non-zero: a long row nearly always has one near its front."""
    rows, length = after.shape
    front = SHORT_ROW if length >= 8 * SHORT_ROW else length
    alive: NDArray[np.bool_] = np.maximum.reduce(after[:, :front], axis=1) != 0
    if front == length or np.count_nonzero(alive) == rows:
        return alive
    unknown = np.flatnonzero(~alive)
    if len(unknown) > rows // 4:
        return np.asarray(after.max(axis=1) != 0)
    alive[unknown] = after[unknown].max(axis=1) != 0
    return alive


def _sum(parts: list[float]) -> float:
    """Return the sum of `parts`, rounded once, so that the order in which threads end has no effect."""
    try:
        return fsum(parts)
    except OverflowError:
        return inf


def conforms(after: NDArray[Any]) -> bool:
    """Return whether every group of 4 along axis 1 of (rows, cols, inner) has at most 2 non-zeros."""
    rows, cols, inner = after.shape
    step = max(1, CONFORM_RUN // max(cols * inner, 1))
    runs = (after[row : row + step] != 0 for row in range(0, rows, step))
    return all(nonzeros_per_group(nonzero, 4).max(initial=0) <= 2 for nonzero in runs)


def finite(value: float) -> float | None:
    """Return `value`, or None for infinity and NaN."""
    return value if np.isfinite(value) else None
