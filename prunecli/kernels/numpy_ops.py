"""The array operations of `Ops` with NumPy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from prunecli.kernels.arrays import FLAT_GROUP_LIMIT, UINTS, as_array, before_in_group, is_from, slabs
from prunecli.kernels.key_arrays import COUNTED
from prunecli.kernels.numpy_tally import NumpyTally
from prunecli.kernels.ops import Array
from prunecli.kernels.pages import pages
from prunecli.kernels.views import block_flags, of_elements, positions, slice_flags

if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable

    from numpy.typing import NDArray

    from prunecli.dtypes import Float
    from prunecli.kernels.tally import Shared, Statistics
    from prunecli.layout import SliceView


COMPARED = 8
"""All entries are compared with each pattern of a bracket of up to this width."""


class NumpyOps:
    """The kernels on the CPU. Each thread needs an instance of its own, because every call reuses its scratch memory.

    Masks are applied by arithmetic: assignment through a boolean mask mispredicts a branch per weight and costs ten
    times as much.
    """

    device = "cpu"

    def __init__(self) -> None:
        """Start without scratch memory; it grows to the largest chunk."""
        self._scratch: dict[str, mmap.mmap] = {}

    def scratch(self, slot: str, count: int, dtype: Any) -> NDArray[Any]:  # noqa: ANN401 - any NumPy dtype
        """Return `count` uninitialized elements of the page-aligned scratch memory `slot`."""
        size = count * np.dtype(dtype).itemsize
        memory = self._scratch.get(slot)
        if memory is None or len(memory) < size:
            memory = self._scratch[slot] = pages(max(size, 1 << 16))
        return np.frombuffer(memory, dtype, count)

    def load(self, raw: Array) -> Array:
        """Return `raw` as an array of NumPy's that shares its memory."""
        return as_array(raw)

    def unload(self, x: Array, raw: Array) -> None:
        """Do nothing: `x` is the memory of `raw`."""

    def tally(self, statistics: Statistics, shared: Shared) -> NumpyTally:
        """Return the empty counts of a tensor."""
        return NumpyTally(self, statistics, shared)

    def part(self, keep: Array, own: slice) -> Array:
        """Return a view."""
        return keep[own]

    def magnitudes(self, x: Array, dtype: Float, slot: str = "y") -> Array:
        """Return the sign-cleared patterns in the scratch memory `slot`, which the next call reuses."""
        if dtype.itemsize > 1:
            return np.bitwise_and(x, x.dtype.type(dtype.mask), out=self.scratch(slot, x.size, x.dtype))
        # In 16 bits, because the NaN of fnuz formats becomes 128.
        y = self.scratch(slot, x.size, np.int16)
        np.bitwise_and(x, np.int8(dtype.mask), out=y)
        if dtype.negative_zero_is_nan:
            y[x == np.int8(-128)] = dtype.top
        return y

    def at_least(self, y: Array, cut: int) -> Array:
        """Subtract and spread the sign bit: two passes without a branch."""
        integer = y.dtype.type
        # `cut - 1`, because one above the largest magnitude does not fit the type.
        keep = np.subtract(integer(cut - 1), y, out=self.scratch("keep", y.size, y.dtype))
        return np.right_shift(keep, integer(8 * y.itemsize - 1), out=keep)

    def count_equal(self, y: Array, value: int) -> int:
        """Return the number of entries equal to `value`."""
        return int(np.count_nonzero(np.equal(y, y.dtype.type(value), out=self.scratch("bool", y.size, bool))))

    def drop_first_equal(self, keep: Array, y: Array, value: int, count: int) -> None:
        """Clear `keep` at the first `count` entries equal to `value`."""
        if count:
            keep[np.flatnonzero(y == y.dtype.type(value))[:count]] = 0

    def keep_largest(self, y: Array, start: int, length: int, inner: int, group: int, keep: int) -> Array:
        """Rank short groups by comparing shifted copies, longer ones by partitioning rows."""
        if group < FLAT_GROUP_LIMIT:
            return self._keep_largest_flat(y, start, length, inner, group, keep)
        kept = self.at_least(y, 0)
        for part, shape in slabs(start, y.size, length, inner):
            self._keep_largest_of_slabs(y[part].reshape(shape), kept[part].reshape(shape), group, keep)
        return kept

    def _keep_largest_of_slabs(self, y: Array, kept: Array, group: int, keep: int) -> None:
        """Fill `kept` (slabs, rows, inner): the full groups, then the short last one."""
        if not keep:
            kept[...] = 0
            return
        number, rows, inner = y.shape
        full = rows // group * group
        for low, high, size in ((0, full, group), (full, rows, rows - full)):
            if low < high:
                groups = y[:, low:high].reshape(number, -1, size, inner).swapaxes(2, 3)
                flat = self.keep_largest_of_rows(groups.reshape(-1, size), min(keep, size))
                flags = flat.reshape(number, -1, inner, size).swapaxes(2, 3)
                kept[:, low:high] = flags.reshape(number, high - low, inner)

    def _keep_largest_flat(self, y: Array, start: int, length: int, inner: int, group: int, keep: int) -> Array:
        """Compare each entry with each later one of its group; an entry survives if fewer than `keep` beat it."""
        before = before_in_group(start, y.size, length, inner, group)
        beaten = np.subtract(before, np.int8(keep), out=self.scratch("beaten", y.size, np.int8))
        flags, members = self.scratch("bool", y.size, bool), self.scratch("members", y.size, bool)
        for distance in range(1, group):
            d = distance * inner
            if d >= y.size:
                break
            # The earlier of two equals wins. An entry starts as beaten by all entries before it in its group; each
            # of those that it beats is one defeat less for it and one more for the other.
            wins = np.less(y[:-d], y[d:], out=flags[d:])
            together = np.greater_equal(before[d:], np.int8(distance), out=members[d:])
            np.logical_and(wins, together, out=wins)
            np.subtract(beaten[d:], wins.view(np.int8), out=beaten[d:])
            np.add(beaten[:-d], wins.view(np.int8), out=beaten[:-d])
        # What is still negative was beaten by fewer than `keep`: its sign bit fills the byte.
        np.right_shift(beaten, np.int8(7), out=beaten)
        return self._widened(y, beaten)

    def drop_from(self, keep: Array, start: int, length: int, inner: int, first: int) -> None:
        """Clear `keep` from index `first` of the middle dimension on."""
        keep[is_from(start, keep.size, length, inner, first)] = 0

    def keep_rows(self, y: Array, row: int, wanted: Callable[[int], int]) -> Array:
        """Rank the rows with equal numbers of remaining weights in one call."""
        rows, keep = y.reshape(-1, row), self.at_least(y, 0)
        remaining = np.count_nonzero(rows >= 0, axis=1)
        for size in np.unique(remaining).tolist():
            alike, kept = np.flatnonzero(remaining == size), size - wanted(size)
            chosen = slice(None) if len(alike) == len(rows) else alike
            if kept != row:
                keep.reshape(-1, row)[chosen] = self.keep_largest_of_rows(rows[chosen], kept, last=True) if kept else 0
        return keep

    def drop_pruned(self, keep: Array, y: Array) -> None:
        """Set `keep` to 0 where `y` is negative (already pruned)."""
        np.bitwise_and(keep, ~(y >> y.dtype.type(8 * y.itemsize - 1)), out=keep)

    def keep_slices(self, y: Array, start: int, view: SliceView, alive: bytes) -> Array:
        """Repeat the flag of each slice over its elements."""
        return self._widened(y, slice_flags(start, y.size, view, alive))

    def keep_blocks(self, y: Array, start: int, view: SliceView, block: tuple[int, int], alive: bytes) -> Array:
        """Repeat the flag of each block over its columns and rows."""
        return self._widened(y, block_flags(start, y.size, view, block, alive))

    def keep_above(self, y: Array, start: int, view: SliceView, cuts: NDArray[Any], limits: NDArray[np.int64]) -> Array:
        """Compare with the cut of each element's slice, and look at the positions of the equals alone."""
        integer = y.dtype.type
        cut = of_elements(cuts, start, y.size, view)
        # As in `at_least`. No difference overflows, because -1 is the smallest entry and no cut is negative.
        keep = np.subtract(cut, integer(1), out=self.scratch("keep", y.size, y.dtype))
        np.right_shift(np.subtract(keep, y, out=keep), integer(8 * y.itemsize - 1), out=keep)
        equal = np.flatnonzero(cut == y)
        number, position = positions(start + equal, view)
        keep[equal[position <= limits[number]]] = 0
        return keep

    def _widened(self, y: Array, flags: NDArray[np.int8]) -> Array:
        """Return `flags` (-1 or 0) as a keep array of the width of `y`."""
        keep: NDArray[Any] = self.scratch("keep", y.size, y.dtype)
        np.copyto(keep, flags)
        return keep

    def keep_largest_of_rows(self, rows: Array, keep: int, *, last: bool = False) -> Array:
        """Find the `keep`-th largest of each row; keep the larger entries, and as many equals as complete `keep`."""
        if last:
            kept_last: NDArray[Any] = self.keep_largest_of_rows(rows[:, ::-1], keep)[:, ::-1]
            return kept_last
        width = rows.shape[1]
        # `np.argpartition` would choose any of the equals; the comparison with a pivot chooses them by position.
        pivots = np.partition(rows, width - keep, axis=1)[:, width - keep, None]
        larger, equal = rows > pivots, rows == pivots
        missing = keep - np.count_nonzero(larger, axis=1)[:, None]
        kept = larger | (equal & (np.cumsum(equal, axis=1) <= missing))
        return -kept.astype(rows.dtype)

    def smallest(self, y: Array, rank: int) -> tuple[int, int, int]:
        """Return the `rank`-th smallest entry (1-based), and the numbers of smaller and of equal entries."""
        entry = int(np.partition(y, rank - 1)[rank - 1])
        return entry, self.below_and_inside(y, entry, 0)[0], self.count_equal(y, entry)

    def below_and_inside(self, y: Array, low: int, width: int) -> tuple[int, Any, list[int] | None]:
        """Compare with each pattern of a narrow bracket; extract the patterns in a wide one."""
        integer, flags = y.dtype.type, self.scratch("bool", y.size, bool)
        below = int(np.count_nonzero(np.less(y, integer(low), out=flags)))
        if width <= COMPARED:
            return below, None, [self.count_equal(y, pattern) for pattern in range(low, low + width)]
        # As unsigned numbers, patterns below `low` are larger than all others, so one comparison tests both ends.
        shifted = np.subtract(y, integer(low), out=self.scratch("keep", y.size, y.dtype)).view(UINTS[y.itemsize])
        np.less(shifted, shifted.dtype.type(width), out=flags)
        if width <= COUNTED:
            return below, None, np.bincount(shifted[flags], minlength=width).tolist()
        return below, y[flags], None

    def as_flags(self, keep: Array) -> NDArray[np.uint8]:
        """Compare with zero."""
        flags: NDArray[np.uint8] = (keep != 0).view(np.uint8)
        return flags

    def store_masked(self, x: Array, keep: Array, out: Array, dtype: Float) -> None:
        """Write `x & keep` to `out`; a keep array wider than the weights is cut to their width.

        -0.0 is the smallest integer, so one pass finds out whether there is any.
        """
        if keep.dtype != x.dtype:
            keep = keep.astype(x.dtype)
        negative_zero = np.iinfo(x.dtype).min
        if x.size and not dtype.negative_zero_is_nan and x.min() == negative_zero:
            keep = keep | -(x == negative_zero).astype(x.dtype)
        np.bitwise_and(x, keep, out=as_array(out))
