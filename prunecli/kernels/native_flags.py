"""What survives in a run, for the compiled kernels: a cut as long as possible, otherwise one flag per weight."""

from __future__ import annotations

from ctypes import c_int32, c_int64, c_uint64, c_void_p
from typing import TYPE_CHECKING, Any, NamedTuple

from prunecli.kernels.native.library import Function, address, function
from prunecli.kernels.native_ranks import PATTERNS, Buffer, extract_inside

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from prunecli.kernels.native_codes import ScaledCodes
    from prunecli.layout import SliceView


def each_width(name: str, arguments: Sequence[Any], result: Any = None) -> dict[int, Function]:  # noqa: ANN401 - ctypes
    """Return a kernel by the bytes of a weight."""
    return {size: function(f"{name}_{8 * size}", arguments, result) for size in (1, 2, 4, 8)}


_ARRAY = (c_void_p, c_int64, c_int32)
"""Numbers, how many, and their form."""

at_least = each_width("at_least", (*_ARRAY, c_uint64, c_void_p))
count_equal = each_width("count_equal", (*_ARRAY, c_uint64), c_int64)
drop_first = each_width("drop_first_equal", (*_ARRAY, c_uint64, c_int64, c_void_p))


def size_of(x: Buffer) -> int:
    """Return the number of elements of an array."""
    view = memoryview(x)
    return view.nbytes // view.itemsize


def view_of(view: SliceView) -> Any:  # noqa: ANN401 - an array of ctypes
    """Return the dimensions (before, slices, after) of a view for a kernel."""
    return (c_int64 * 3)(view.before, view.slices, view.after)


class Ranked(NamedTuple):
    """Numbers that are ranked: the array `x`, and the form in which the kernels see it."""

    x: Buffer
    form: int

    @property
    def itemsize(self) -> int:
        """The bytes of a number."""
        return memoryview(self.x).itemsize

    @property
    def array(self) -> tuple[int, int, int]:
        """The arguments of a kernel: address, number of elements, form."""
        return address(self.x), size_of(self.x), self.form

    def count(self, value: int) -> int:
        """Return how many numbers equal `value`."""
        found: int = count_equal[self.itemsize](*self.array, value)
        return found

    def at_least(self, cut: int, flags: Buffer) -> None:
        """Write the flags of the numbers that are at least `cut`."""
        at_least[self.itemsize](*self.array, cut, address(flags))

    def drop_first(self, value: int, limit: int, flags: Buffer) -> None:
        """Clear the flags of the first `limit` numbers equal to `value`."""
        drop_first[self.itemsize](*self.array, value, limit, address(flags))

    def part(self, own: slice) -> Ranked:
        """Return a part of the numbers."""
        return Ranked(self.x[own], self.form)

    def copy(self) -> NDArray[Any]:
        """Return the patterns as an array of NumPy's, in memory of their own; those of 8 bits have 16."""
        import numpy as np  # noqa: PLC0415 - runs that rank weights do without it

        found = np.empty(size_of(self.x), f"i{self.itemsize}")
        extract_inside(self.x, self.form, 0, (1 << (8 * self.itemsize - 1)) + 1, found)
        return found if self.itemsize > 1 else found.view(np.uint8).astype(np.int16)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:  # noqa: ANN401, FBT001 - NumPy's protocol
        """Return the patterns."""
        return self.copy()

    def whole(self) -> Ranked:
        """Return the numbers themselves: see `ScaledCodes` for what else is ranked."""
        return self

    def tiles(self, start: int, unit: int) -> Iterator[tuple[int, Ranked]]:  # noqa: ARG002 - as `ScaledCodes`
        """Yield all numbers, and 0."""
        yield 0, self

    def pieces(self, start: int, length: int, inner: int, group: int) -> Iterator[tuple[int, Ranked]]:  # noqa: ARG002
        """Yield all numbers, and 0."""
        yield 0, self


class Keep:
    """What survives: weights with the flag -1, or, without flags, those of `y` that are at least `cut`.

    Of those equal to the cut, the first `ties` do not survive. The flags of those that do not are 0.
    """

    __slots__ = ("cut", "flags", "ties", "y")

    def __init__(self, y: Ranked | ScaledCodes, cut: int = 0, ties: int = 0, flags: Buffer | None = None) -> None:
        """Keep what is not below the cut, or has a flag."""
        self.y, self.cut, self.ties, self.flags = y, cut, ties, flags

    def flags_in(self, memory: memoryview) -> Buffer:
        """Return the flags; they are written to `memory`, if there are none."""
        if self.flags is None:
            self.flags = memory
            self.y.at_least(self.cut, memory)
            if self.ties:
                self.y.drop_first(self.cut, self.ties, memory)
        return self.flags

    def part(self, own: slice) -> Keep:
        """Return a part of what survives."""
        start = own.start or 0
        if not start and own.stop == len(self.y.x):
            return self
        ties = self.ties
        if ties and start:
            ties -= min(self.y.part(slice(start)).count(self.cut), ties)
        flags = None if self.flags is None else self.flags[own]
        return Keep(self.y.part(own), self.cut, ties, flags)


def dropping(keep: Keep, x: Buffer) -> tuple[Buffer | None, int, int]:
    """Return (flags, cut, ties) with which a kernel prunes `x`; flags are None where it ranks `x` itself."""
    if keep.flags is None and keep.y.form != PATTERNS and address(keep.y.x) == address(x):
        return None, keep.cut, keep.ties
    if keep.flags is not None:
        return keep.flags, 0, 0
    return keep.flags_in(memoryview(bytearray(size_of(keep.y.x))).cast("b")), 0, 0
