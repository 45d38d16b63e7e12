"""What a tensor's report is made of, measured from the bytes about to be written, piece by piece in any order.

A `Tally` collects one tensor. Whole-number facts come out the same for any cutting into pieces. The sums of squares
are taken in the weights' precision over short runs and in float64 across them.
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
"""Rows shorter than this are looked at column by column: a reduction over few entries costs more than its work."""

FIRST_ROWS = 32
"""Rows in which nearly all columns show a non-zero, if they have one."""


CONFORM_RUN = 1 << 16
"""Elements checked at once for a 2:4 pattern: what does not conform shows at once."""

COUNT_RUN = 1 << 15
"""Elements sorted into bins at once: their indices stay in the cache until they are counted."""


@dataclass(frozen=True, slots=True)
class TensorStats:
    """What was found in one tensor; magnitudes are values, counts are elements or slices."""

    zeros_before: int
    zeros_after: int
    nonfinite: int
    l2_kept: float | None
    largest_pruned: float | None
    smallest_kept: float | None
    zero_rows: int | None
    zero_cols: int | None
    two_four: bool | None


class StatsCollector:
    """The running counts of one tensor of `shape`, seen as (rows, cols, inner): dim 0, dim 1, and the rest."""

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: Float,
        bounds: tuple[int, int] | None = None,
        *,
        histogram: bool = False,
    ) -> None:
        """Start with nothing seen.

        `bounds` are the largest pattern that can be pruned and the smallest that can be kept, where they are known:
        once both were seen there is nothing to look for. With `histogram` magnitudes are counted as well: it takes
        8 kB and some time.
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
        """Take in what another tally of the same tensor saw."""
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
            self._split_groups[key] = self._split_groups.get(key, 0) + count
            self._two_four &= self._split_groups[key] <= 2
        if self._counts is not None and other._counts is not None:
            self._counts.merge(other._counts)

    def add(self, start: int, before: NDArray[Any], after: NDArray[Any], squares: tuple[float, float]) -> None:
        """Take in the magnitudes of a run from row-major element `start`, before and after pruning.

        Both are overwritten. `squares` are the sums of squares of the run before and after.
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
            self._look_at_slices(start, after)
        self._look_at_cut(before, after, alive)

    def _look_at_cut(self, before: NDArray[Any], after: NDArray[Any], alive: int) -> None:
        """Find the largest magnitude that went and the smallest non-zero one that stayed; spoils both arrays."""
        if alive < before.size and self._largest_pruned < self._most:
            self._largest_pruned = max(self._largest_pruned, int(np.bitwise_xor(before, after, out=before).max()))
        if alive and self._smallest_kept > self._least:
            # Zeros wrap around to the top and so drop out of the minimum.
            lowered = np.subtract(after, after.dtype.type(1), out=after).view(UINTS[after.itemsize])
            self._smallest_kept = min(self._smallest_kept, int(lowered.min()) + 1)

    def _look_at_slices(self, start: int, after: NDArray[Any]) -> None:
        """Cut the run where rows begin: a part of a row, whole rows, a part of a row."""
        head = min(-start % self._row, after.size)
        body = (after.size - head) // self._row * self._row
        if head:
            self._part_of_row(start, after[:head])
        if body:
            self._whole_rows((start + head) // self._row, after[head : head + body].reshape(-1, self._row))
        if head + body < after.size:
            self._part_of_row(start + head + body, after[head + body :])

    def _part_of_row(self, start: int, after: NDArray[Any]) -> None:
        row, offset = divmod(start, self._row)
        if not self._rows_alive[row]:
            self._rows_alive[row] = bool(after.max())
        if not self._cols_done:
            self._cols_alive[(offset + np.flatnonzero(after)) // self.inner] = True
        if self._two_four:
            self._split_two_four(row, offset, after)

    def _whole_rows(self, first: int, after: NDArray[Any]) -> None:
        if self._row < SHORT_ROW:
            alive = np.bitwise_or.reduce([after[:, column] for column in range(self._row)]) != 0
        else:
            alive = _rows_alive(after)
        self._rows_alive[first : first + len(after)] |= alive
        if not self._cols_done:
            self._look_at_columns(after.reshape(len(after), self.cols, self.inner))
        if self._two_four:
            self._two_four = conforms(after.reshape(len(after), self.cols, self.inner))

    def _look_at_columns(self, after: NDArray[Any]) -> None:
        """Mark columns with a non-zero; after the first rows few are left to look at."""
        self._cols_alive |= after[:2].any(axis=(0, 2))
        for rows in (after[2:FIRST_ROWS], after[FIRST_ROWS:]):
            open_columns = np.flatnonzero(~self._cols_alive)
            if not len(open_columns):
                self._cols_done = True
                return
            self._cols_alive[open_columns] = rows[:, open_columns].any(axis=(0, 2))

    def _split_two_four(self, row: int, offset: int, after: NDArray[Any]) -> None:
        """Judge the whole groups of a part of a row, and count those at its edges until all their parts are in."""
        unit = 4 * self.inner
        head = min(-offset % unit, after.size)
        tail = head + (after.size - head) // unit * unit
        self._two_four = conforms(after[head:tail].reshape(1, -1, self.inner))
        for low, part in ((offset, after[:head]), (offset + tail, after[tail:])):
            at = low + np.flatnonzero(part)
            for column, count in Counter((at // unit * self.inner + at % self.inner).tolist()).items():
                key = row * self._row + column
                self._split_groups[key] = self._split_groups.get(key, 0) + count
                self._two_four &= self._split_groups[key] <= 2

    def facts(self) -> TensorStats:
        """Return what all pieces together say."""
        slices = self.dims >= 2
        before, left = _sum(self._squares_before), _sum(self._squares_after)
        kept = self._smallest_kept <= self.dtype.top
        return TensorStats(
            self._zeros_before,
            self._zeros_after,
            self._nonfinite,
            left / before if 0 < before < inf and left < inf else None,
            finite(self.dtype.decode(self._largest_pruned)) if self._largest_pruned else None,
            finite(self.dtype.decode(self._smallest_kept)) if kept else None,
            int(self.rows - np.count_nonzero(self._rows_alive)) if slices else None,
            int(self.cols - np.count_nonzero(self._cols_alive)) if slices else None,
            bool(self._two_four) if slices else None,
        )

    def histogram(self) -> BeforeAfter | None:
        """Return the magnitudes counted in all pieces, or None where nobody asked for that."""
        return None if self._counts is None else self._counts.found()


class _Counts:
    """How many magnitudes fell into which bin, before (row 0) and after (row 1)."""

    def __init__(self, dtype: Float) -> None:
        self.dtype, self.bins = dtype, bins_of(dtype)
        self.counts = np.zeros((2, self.bins.last - self.bins.first + 1), np.int64)

    def merge(self, other: _Counts) -> None:
        self.counts += other.counts

    def add(self, before: NDArray[Any], after: NDArray[Any]) -> None:
        """Take in a run; what was nothing or not finite before and after is in no bin."""
        for row, y in enumerate((before, after)):
            for at in range(0, y.size, COUNT_RUN):
                self._add(self.counts[row], y[at : at + COUNT_RUN])

    def _add(self, counts: NDArray[np.int64], y: NDArray[Any]) -> None:
        if int(y.max()) > self.dtype.finite_max:
            y = y[y <= self.dtype.finite_max]
        at = y >> y.dtype.type(self.bins.shift)
        np.clip(at, self.bins.first, self.bins.last, out=at)
        at -= at.dtype.type(self.bins.first)
        counts += np.bincount(at, minlength=counts.size)
        counts[0] -= y.size - np.count_nonzero(y)

    def found(self) -> BeforeAfter:
        """Return the bins from the first to the last that is not empty."""
        used = np.flatnonzero(self.counts[0])
        low, high = (int(used[0]), int(used[-1]) + 1) if used.size else (0, 0)
        before, after = (array("q", row.tobytes()) for row in self.counts[:, low:high])
        return BeforeAfter(self.dtype.name, self.bins.first + low, before, after)


def _rows_alive(after: NDArray[Any]) -> NDArray[np.bool_]:
    """Tell which rows have a non-zero: in a long row one nearly always stands near the front."""
    rows, length = after.shape
    front = SHORT_ROW if length >= 8 * SHORT_ROW else length
    alive: NDArray[np.bool_] = np.maximum.reduce(after[:, :front], axis=1) != 0
    if front == length or np.count_nonzero(alive) == rows:
        return alive
    dark = np.flatnonzero(~alive)
    if len(dark) > rows // 4:
        return np.asarray(after.max(axis=1) != 0)
    alive[dark] = after[dark].max(axis=1) != 0
    return alive


def _sum(parts: list[float]) -> float:
    """Add up what several threads found, in whatever order, to the same result."""
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
