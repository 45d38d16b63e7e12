"""The array operations of `Ops` with the compiled kernels, which hold no interpreter lock."""

from __future__ import annotations

from array import array
from ctypes import c_int32, c_int64, c_void_p
from typing import TYPE_CHECKING

from prunecli.kernels import native_ranks as ranks
from prunecli.kernels.key_arrays import CODES, COUNTED
from prunecli.kernels.native.library import address, function
from prunecli.kernels.native_flags import (
    Keep,
    Ranked,
    each_width,
    size_of,
    view_of,
)
from prunecli.kernels.native_many import prune_each
from prunecli.kernels.native_ranks import PATTERNS, Buffer, form_of
from prunecli.kernels.native_tally import NativeTally
from prunecli.kernels.pages import pages

if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable, Iterator, Sequence

    from prunecli.dtypes import Float
    from prunecli.kernels.native_codes import ScaledCodes
    from prunecli.kernels.native_many import Item
    from prunecli.kernels.tally import Counts, Shared, Statistics
    from prunecli.layout import SliceView

_keep_slices = function("keep_slices", (c_int64, c_int64, c_void_p, c_void_p, c_void_p))
_keep_blocks = function("keep_blocks", (c_int64, c_int64, c_void_p, c_void_p, c_void_p, c_void_p))
_drop_from = function("drop_from", (c_int64,) * 5 + (c_void_p,))
_ones = function("ones", (c_void_p, c_int64, c_void_p))
_drop_pruned = each_width("drop_pruned", (c_void_p, c_int64, c_void_p))
_keep_above = each_width("keep_above", (c_void_p, c_int64, c_int32, c_int64, *(c_void_p,) * 4))
_mask = each_width("mask", (c_void_p, c_int64, c_void_p, c_int32))


class NativeOps:
    """The compiled kernels on the CPU. Each thread needs an instance of its own, because calls reuse its memory.

    The result of `magnitudes` is no array: the kernels clear the signs as they read the weights.
    """

    device = "cpu"

    def __init__(self) -> None:
        """Start without memory; it grows to the largest chunk."""
        self._memory: dict[str, mmap.mmap] = {}

    def scratch(self, slot: str, size: int) -> memoryview:
        """Return `size` bytes of page-aligned memory, which the next call for the `slot` reuses."""
        memory = self._memory.get(slot)
        if memory is None or len(memory) < size:
            memory = self._memory[slot] = pages(max(size, 1 << 16))
        return memoryview(memory)[:size]

    def load(self, raw: Buffer) -> Buffer:
        """Return `raw` itself."""
        return raw

    def unload(self, x: Buffer, raw: Buffer) -> None:
        """Do nothing: `x` is `raw`."""

    def tally(self, statistics: Statistics, shared: Shared) -> NativeTally:
        """Return the empty counts of a tensor."""
        return NativeTally(self.scratch, statistics, shared)

    def prune_each(self, items: Sequence[Item]) -> Iterator[Counts]:
        """Prune whole tensors where they lie, and return the counts of each."""
        return prune_each(self.scratch, items)

    def part(self, keep: Keep, own: slice) -> Keep:
        """Return a part of what survives."""
        return keep.part(own)

    def magnitudes(self, x: Buffer, dtype: Float) -> Ranked:
        """Return the weights, with how they are ranked."""
        return Ranked(x, form_of(dtype))

    def at_least(self, y: Ranked | Buffer, cut: int) -> Keep:
        """Remember the cut."""
        return Keep(_ranked(y), cut)

    def count_equal(self, y: Ranked | Buffer, value: int) -> int:
        """Return the number of entries equal to `value`."""
        return _ranked(y).count(value)

    def drop_first_equal(self, keep: Keep, y: Ranked | Buffer, value: int, count: int) -> None:
        """Remember the number, if `value` is the cut; otherwise clear flags."""
        ranked = _ranked(y)
        if keep.flags is None and keep.cut == value and keep.y.x is ranked.x:
            keep.ties = max(keep.ties, count)
            return
        ranked.drop_first(value, count, self._flags_of(keep))

    def keep_largest(self, y: Ranked | Buffer, start: int, length: int, inner: int, group: int, keep: int) -> Keep:
        """Rank each group."""
        kept, flags = self._new(y)
        for low, piece in kept.y.pieces(start, length, inner, group):
            own = flags[low : low + size_of(piece.x)]
            ranks.keep_largest(piece.x, piece.form, start + low, length, inner, group, keep, own)
        return kept

    def drop_from(self, keep: Keep, start: int, length: int, inner: int, first: int) -> None:
        """Clear flags from index `first` of the middle dimension on."""
        flags = self._flags_of(keep)
        _drop_from(size_of(flags), start, length, inner, first, address(flags))

    def keep_rows(self, y: Ranked | Buffer, row: int, wanted: Callable[[int], int]) -> Keep:
        """Rank each row; only patterns can be already pruned."""
        kept, flags = self._new(y)
        for low, piece in kept.y.pieces(0, row, 1, row):
            numbers = [wanted(row)]
            if piece.form == PATTERNS:
                remaining = (c_int64 * (size_of(piece.x) // row))()
                ranks.count_remaining(piece.x, row, remaining)
                by_size = {size: row - size + wanted(size) for size in set(remaining)}
                numbers = [by_size[size] for size in remaining]
            ranks.drop_smallest(piece.x, piece.form, row, (c_int64 * len(numbers))(*numbers), flags[low:])
        return kept

    def drop_pruned(self, keep: Keep, y: Buffer) -> None:
        """Clear the flags of negative patterns, which no cut keeps. No product is negative."""
        if keep.flags is not None and _ranked(y).form == PATTERNS:
            _drop_pruned[memoryview(y).itemsize](address(y), size_of(y), address(keep.flags))

    def keep_slices(self, y: Ranked | Buffer, start: int, view: SliceView, alive: bytes) -> Keep:
        """Repeat the flag of each slice over its elements."""
        kept, flags = self._new(y)
        _keep_slices(size_of(kept.y.x), start, view_of(view), address(alive), address(flags))
        return kept

    def keep_blocks(
        self, y: Ranked | Buffer, start: int, view: SliceView, block: tuple[int, int], alive: bytes
    ) -> Keep:
        """Repeat the flag of each block over its columns and rows."""
        (kept, flags), sizes = self._new(y), (c_int64 * 2)(*block)
        _keep_blocks(size_of(kept.y.x), start, view_of(view), sizes, address(alive), address(flags))
        return kept

    def keep_above(self, y: Ranked | Buffer, start: int, view: SliceView, cuts: Buffer, limits: Buffer) -> Keep:
        """Compare with the cut of each element's slice."""
        kept, flags = self._new(y)
        for low, piece in kept.y.tiles(start, 1):
            numbers = (address(cuts), address(limits), address(flags) + low)
            _keep_above[piece.itemsize](*piece.array, start + low, view_of(view), *numbers)
        return kept

    def smallest(self, y: Ranked | Buffer, rank: int) -> tuple[int, int, int]:
        """Return the `rank`-th smallest entry (1-based), and the numbers of smaller and of equal entries."""
        ranked = _ranked(y).whole()
        return ranks.smallest(ranked.x, ranked.form, rank)

    def below_and_inside(self, y: Ranked | Buffer, low: int, width: int) -> tuple[int, Buffer, list[int] | None]:
        """Count the patterns of a narrow bracket; extract those in a wide one."""
        ranked = _ranked(y)
        if not isinstance(ranked, Ranked):
            return ranked.below_and_inside(low, width)
        if width <= COUNTED:
            counts = array("q", bytes(8 * width))
            below = ranks.count_bins(ranked.x, ranked.form, low, width, 0, counts)
            return below, None, counts.tolist()
        found = self.scratch("inside", size_of(ranked.x) * ranked.itemsize)
        below, inside = ranks.extract_inside(ranked.x, ranked.form, low, width, found)
        return below, memoryview(bytes(found[: inside * ranked.itemsize])).cast(CODES[ranked.itemsize]), None

    def as_flags(self, keep: Keep) -> Buffer:
        """Return ones and zeros."""
        flags = self._flags_of(keep)
        ones = memoryview(bytearray(size_of(flags)))
        _ones(address(flags), len(ones), address(ones))
        return ones

    def store_masked(self, x: Buffer, keep: Keep, out: Buffer, dtype: Float) -> None:
        """Copy `x` to `out`, and zero there what does not survive."""
        flags = self._flags_of(keep)
        if out is not x:
            memoryview(out).cast("B")[:] = memoryview(x).cast("B")
        _mask[dtype.itemsize](address(out), size_of(out), address(flags), dtype.negative_zero_is_nan)

    def _new(self, y: Ranked | Buffer) -> tuple[Keep, memoryview]:
        """Return an object with flags, and the flags, which are not set."""
        ranked = _ranked(y)
        flags = self._flag_memory(ranked)
        return Keep(ranked, flags=flags), flags

    def _flags_of(self, keep: Keep) -> Buffer:
        return keep.flags_in(self._flag_memory(keep.y)) if keep.flags is None else keep.flags

    def _flag_memory(self, y: Ranked | ScaledCodes) -> memoryview:
        return self.scratch("keep", size_of(y.x)).cast("b")


def _ranked(y: Ranked | ScaledCodes | Buffer) -> Ranked | ScaledCodes:
    """Return what is ranked: the weights of `magnitudes`, codes with a scale, or patterns as they are."""
    known: Ranked | ScaledCodes = y if hasattr(y, "at_least") else Ranked(y, PATTERNS)
    return known
