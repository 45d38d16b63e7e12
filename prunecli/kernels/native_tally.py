"""The statistics of a tensor with the compiled kernels: a run is pruned and measured in one pass."""

from __future__ import annotations

import ctypes
from ctypes import byref, c_double, c_int32, c_int64, c_uint64, c_void_p
from functools import lru_cache
from struct import Struct
from typing import TYPE_CHECKING, Any, Literal

from prunecli.dtypes import FLOATS
from prunecli.kernels.native.library import Format, address, format_of, function
from prunecli.kernels.native_flags import dropping, each_width, size_of
from prunecli.kernels.native_slices import AliveSlices, TwoFour
from prunecli.kernels.tally import BLOCK, Counts, TallyPart

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from prunecli.kernels.native_codes import ScaledCodes
    from prunecli.kernels.native_flags import Keep
    from prunecli.kernels.native_ranks import Buffer
    from prunecli.kernels.tally import Shared, Statistics
    from prunecli.layout import SliceView

LIMBS = 68
"""The sum of squares is the sum of so many limbs i, in units of 2**(32 * i - 1074)."""

NO_MAGNITUDE = (1 << 64) - 1

_LETTERS: dict[int, Literal["B", "H", "I", "Q"]] = {1: "B", 2: "H", 4: "I", 8: "Q"}
"""The integers of each width in the format of a memoryview."""


class _Marks(ctypes.Structure):
    """`marks_t` of tally.h."""

    _fields_ = (("view", c_int64 * 3), ("alive", c_void_p), ("dead", c_void_p))


class _Counts(ctypes.Structure):
    """`tally_t` of tally.h."""

    _fields_ = (
        ("format", Format),
        ("numel", c_int64),
        ("zeros", c_int64 * 2),
        ("nonfinite", c_int64),
        ("largest_pruned", c_uint64),
        ("smallest_kept", c_uint64),
        ("overflowed", c_int64 * 2),
        ("limbs", c_int64 * LIMBS * 2),
        ("bins", c_void_p * 2),
        ("bin_shift", c_int64),
        ("bin_first", c_int64),
        ("bin_last", c_int64),
        ("outputs", _Marks),
        ("inputs", _Marks),
        ("length", c_int64),
        ("inner", c_int64),
        ("overfull", c_int64),
    )


_MARKS, _NUMBERS = Struct("3q2P"), Struct("3q2Q")
"""`marks_t`, and the numbers of `tally_t` from `zeros` to `smallest_kept`: fields of a structure take longer."""

_OUTPUTS, _INPUTS, _ZEROS = _Counts.outputs.offset, _Counts.inputs.offset, _Counts.zeros.offset

_total = function("total", (c_void_p, c_int64), c_double)
_prune = each_width("prune", (c_void_p, c_void_p, c_int64, c_int64, c_void_p, c_uint64, c_int64, c_void_p))
_count_codes = function("count_codes", (c_void_p, c_void_p, c_int64, c_void_p, c_void_p))
_mark_codes = function("mark_codes", (c_void_p, c_void_p, c_int64, c_int64, c_int32))
_mask_codes = function("mask_8", (c_void_p, c_int64, c_void_p, c_int32))
_add_block = each_width("add_block", (c_void_p, c_void_p, c_void_p))


class NativeTally:
    """The running counts of one tensor in one thread."""

    def __init__(self, scratch: Callable[[str, int], memoryview], statistics: Statistics, shared: Shared) -> None:
        """Start without a chunk; `scratch` returns memory by name and size."""
        self._scratch, self._statistics, self._shared = scratch, statistics, shared
        self._dtype = statistics.dtype
        self._counts = counts = new_counts(statistics)
        self._outputs, self._inputs = _alive(statistics.outputs), _alive(statistics.inputs)
        if self._outputs is not None:
            _MARKS.pack_into(counts, _OUTPUTS, *self._outputs.marks)
        if self._inputs is not None:
            _MARKS.pack_into(counts, _INPUTS, *self._inputs.marks)
        self._two_four = None
        if statistics.groups is not None:
            self._two_four = TwoFour(*statistics.groups, shared)
        self._bins: list[Any] = []
        if statistics.bins is not None:
            shift, first, last = statistics.bins
            self._bins = [(c_int64 * (last - first + 1))() for _ in range(2)]
            self._counts.bins[:] = [ctypes.addressof(bins) for bins in self._bins]
            self._counts.bin_shift, self._counts.bin_first, self._counts.bin_last = shift, first, last

    def prune(self, x: Buffer, keep: Keep, first: int, *, write: bool) -> None:
        """Count the weights before and after pruning, and zero those that `keep` drops, if `write`."""
        flags, cut, ties = dropping(keep, x)
        if not write:
            copy = self._scratch("copy", memoryview(x).nbytes)
            copy[:] = memoryview(x).cast("B")
            x = copy.cast(_LETTERS[self._dtype.itemsize])
        self._prune(x, first, flags, cut, ties)

    def add(self, y: Buffer, keep: Keep, first: int) -> None:
        """Count magnitudes, before and after what `keep` drops is zero; `y` is overwritten."""
        if hasattr(y, "parts"):
            self._add_codes(y, keep, first)
            return
        flags, cut, ties = dropping(keep, y)
        if memoryview(y).itemsize != self._dtype.itemsize:  # NumPy's magnitudes of float8 have 16 bits
            y = y.astype(f"u{self._dtype.itemsize}")
        self._prune(y, first, flags, cut, ties)

    def _prune(self, x: Buffer, first: int, flags: Buffer | None, cut: int, ties: int) -> None:
        count, width, counts = size_of(x), self._dtype.itemsize, self._counts
        if not count:
            return
        edges = None if count == self._statistics.numel else self._scratch("edges", 4 * BLOCK * width)
        counts.overfull = self._shared.overfull
        flag_place, edge_place = (None if memory is None else address(memory) for memory in (flags, edges))
        _prune[width](byref(counts), address(x), count, first, flag_place, cut, ties, edge_place)
        if counts.overfull:
            self._shared.overfull = True
        if edges is not None:
            self._add_edges(first, first + count, edges)
            if self._two_four is not None:
                self._two_four.add(first, x, self._dtype)

    def _add_codes(self, y: ScaledCodes, keep: Keep, first: int) -> None:
        """Count the products of codes; what becomes of slices and groups is seen from the codes."""
        size = size_of(y.x)
        flags, codes = keep.flags_in(self._scratch("keep", size).cast("b")), self._scratch("copy", size)
        codes[:] = memoryview(y.x).cast("B")
        _mask_codes(address(codes), size, address(flags), y.dtype.negative_zero_is_nan)
        counts, edges = self._counts, self._scratch("edges", 4 * BLOCK * y.itemsize)
        for part in y.parts:
            own = first + part.low
            _count_codes(byref(counts), byref(part.scaled), own, address(flags) + part.low, address(edges))
            self._add_edges(own, first + part.high, edges)
        counts.overfull = self._shared.overfull
        _mark_codes(byref(counts), address(codes), size, first, y.dtype.negative_zero_is_nan)
        if counts.overfull:
            self._shared.overfull = True
        if self._two_four is not None:
            self._two_four.add(first, codes, y.dtype)

    def _add_edges(self, first: int, stop: int, edges: memoryview) -> None:
        """Keep or complete the blocks of which the run [first, stop) has a part; `edges` has their magnitudes."""
        numel, width = self._statistics.numel, self._dtype.itemsize
        for number in {first // BLOCK, (stop - 1) // BLOCK}:
            low, high = number * BLOCK, min((number + 1) * BLOCK, numel)
            start, end = max(low, first), min(high, stop)
            if end - start == high - low:
                continue
            place = 0 if start > low else 2 * BLOCK
            before, after = (bytes(edges[at * width : (at + end - start) * width]) for at in (place, place + BLOCK))
            parts = self._shared.join("block", number, high - low, (start - low, end - start, (before, after)))
            if parts is not None:
                self._add_block(parts)

    def _add_block(self, parts: Sequence[tuple[bytes, bytes]]) -> None:
        size = BLOCK * self._dtype.itemsize
        before, after = (b"".join(part[index] for part in parts).ljust(size, b"\0") for index in range(2))
        _add_block[self._dtype.itemsize](byref(self._counts), before, after)

    def merge(self, other: NativeTally) -> None:
        """Add the counts of another tally of the same tensor."""
        own, others = self._counts, other._counts
        own.nonfinite += others.nonfinite
        own.largest_pruned = max(own.largest_pruned, others.largest_pruned)
        own.smallest_kept = min(own.smallest_kept, others.smallest_kept)
        for index in range(2):
            own.zeros[index] += others.zeros[index]
            own.overflowed[index] |= others.overflowed[index]
            _add(own.limbs[index], others.limbs[index])
        for mine, theirs in zip(self._bins, other._bins, strict=True):
            _add(mine, theirs)
        for alive, marks in ((self._outputs, other._outputs), (self._inputs, other._inputs)):
            if alive is not None and marks is not None:
                alive.merge(marks)

    def counts(self) -> Counts:
        """Return the numbers of all chunks."""
        before, after, nonfinite, pruned, kept = _NUMBERS.unpack_from(self._counts, _ZEROS)
        return Counts(
            zeros_before=before,
            zeros_after=after,
            nonfinite=nonfinite,
            squares_before=_total(byref(self._counts), 0),
            squares_after=_total(byref(self._counts), 1),
            largest_pruned=pruned,
            smallest_kept=None if kept == NO_MAGNITUDE else kept,
            dead_outputs=None if self._outputs is None else self._outputs.dead,
            dead_inputs=None if self._inputs is None else self._inputs.dead,
            two_four=None if self._two_four is None else not self._shared.overfull,
            bins_before=list(self._bins[0]) if self._bins else (),
            bins_after=list(self._bins[1]) if self._bins else (),
        )

    def part(self) -> TallyPart:
        """Return the numbers of all chunks of a part."""
        counts = self._counts
        return TallyPart(
            (counts.zeros[0], counts.zeros[1]),
            counts.nonfinite,
            (_units(counts, 0), _units(counts, 1)),
            counts.largest_pruned,
            None if counts.smallest_kept == NO_MAGNITUDE else counts.smallest_kept,
            None if self._two_four is None else self._shared.overfull,
            None if self._outputs is None else self._outputs.flags,
            None if self._inputs is None else self._inputs.flags,
        )


def new_counts(statistics: Statistics) -> _Counts:
    """Return the counts of a tensor before its first run, without memory for marks and bins."""
    counts = _Counts.from_buffer_copy(_empty(statistics.dtype.name))
    counts.numel = statistics.numel
    if statistics.groups is not None:
        counts.length, counts.inner = statistics.groups
    return counts


@lru_cache(maxsize=16)
def _empty(dtype: str) -> bytes:
    """Return the bytes of the counts of a tensor of this dtype before its first run."""
    return bytes(_Counts(format=format_of(FLOATS[dtype]), smallest_kept=NO_MAGNITUDE))


def _alive(view: SliceView | None) -> AliveSlices | None:
    return None if view is None else AliveSlices(view)


def _add(own: Any, others: Any) -> None:  # noqa: ANN401 - arrays of ctypes
    own[:] = [mine + theirs for mine, theirs in zip(own, others, strict=True)]


def _units(counts: _Counts, index: int) -> int | None:
    """Return a sum of squares in units of 2**-1074, or None if a block of it is too large."""
    if counts.overflowed[index]:
        return None
    # Every other limb, of 64 bits and never negative, are the bytes of one long number.
    limbs = memoryview(counts.limbs[index]).cast("B").cast("Q")
    even, odd = (int.from_bytes(limbs[start::2].tobytes(), "little") for start in range(2))
    return even + (odd << 32)
