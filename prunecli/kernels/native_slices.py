"""Slices with a non-zero, and the 2:4 pattern. The kernel that prunes finds them; what runs divide is added here."""

from __future__ import annotations

import sys
from ctypes import c_int32, c_int64, c_void_p
from typing import TYPE_CHECKING

from prunecli.kernels.native.library import address
from prunecli.kernels.native_flags import each_width, size_of
from prunecli.layout import SliceView

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prunecli.dtypes import Float
    from prunecli.kernels.native_ranks import Buffer
    from prunecli.kernels.tally import Shared

GROUP, MOST = 4, 2
"""The length of a group, and the most non-zeros it may have."""

_COUNT = 8
"""The bytes of a number of slices."""

_count_columns = each_width("count_columns", (c_void_p, c_int64, c_int64, c_int64, c_int32, c_void_p))


def cycles(view: SliceView) -> tuple[int, int, int, int]:
    """Return the dimensions of a view as the kernels mark its slices.

    With one run of each slice per stack, the slices of all stacks follow each other.
    """
    stacks, slices = (view.stacks, view.slices) if view.before > 1 else (1, view.total)
    return stacks, view.before, slices, view.after


class AliveSlices:
    """Marks the slices of a view (stacks, before, slices, after) that have a non-zero."""

    def __init__(self, view: SliceView) -> None:
        """Start without a mark."""
        stacks, before, slices, after = cycles(view)
        dead = slices.to_bytes(_COUNT, sys.byteorder) * stacks  # slices without a mark, by stack
        self._marks, self._first = bytearray(dead).ljust(len(dead) + view.total, b"\0"), len(dead)
        place = address(self._marks)
        self.marks = (before, slices, after, place + len(dead), place)
        """The numbers of `marks_t` of tally.h, which point to memory of this object."""

    @property
    def dead(self) -> int:
        """The number of slices without a mark."""
        return self._marks.count(0, self._first)

    @property
    def flags(self) -> bytes:
        """A byte per slice, 0 for one without a mark."""
        return bytes(self._marks[self._first :])

    def merge(self, other: AliveSlices) -> None:
        """Add the marks of another object for the same view."""
        both = int.from_bytes(self.flags, "little") | int.from_bytes(other.flags, "little")
        self._marks[self._first :] = both.to_bytes(len(self._marks) - self._first, "little")


class TwoFour:
    """The groups of 4 along the middle dimension of (outer, length, inner) of which a run has only a part.

    Each thread has one object for a tensor. They are counted in `shared`.
    """

    def __init__(self, length: int, inner: int, shared: Shared) -> None:
        """Start without a run."""
        self._length, self._inner, self._shared = length, inner, shared

    def add(self, first: int, x: Buffer, dtype: Float) -> None:
        """Add the parts of groups at the edges of a run from row-major element `first`."""
        if self._shared.overfull:
            return
        stop = first + size_of(x)
        for low, high in self._split(first, stop):
            start, end = max(low, first), min(high, stop)
            self._add_split(low, high - low, start, memoryview(x)[start - first : end - first], dtype)

    def _split(self, first: int, stop: int) -> Iterator[tuple[int, int]]:
        """Yield the elements [low, high) of the `inner` neighbouring groups of which the run has only a part."""
        for element in sorted({self._group(first), self._group(stop - 1)}):
            low, high = element
            if low < first or high > stop:
                yield low, high

    def _group(self, element: int) -> tuple[int, int]:
        slab, unit = self._length * self._inner, GROUP * self._inner
        start = element - element % slab
        low = element - (element - start) % unit
        return low, min(low + unit, start + slab)

    def _add_split(self, low: int, whole: int, start: int, part: memoryview, dtype: Float) -> None:
        """Count the non-zeros of a part; forget the groups once they are complete."""
        counts, size, inner = bytearray(self._inner), len(part), self._inner
        kernel, fnuz = _count_columns[dtype.itemsize], dtype.negative_zero_is_nan
        kernel(address(part), size, (start - low) % inner, inner, fnuz, address(counts))
        parts = self._shared.join("group", low, whole, (start - low, size, int.from_bytes(counts, "little")))
        # No column has more than 4, so the bytes of the sum are the sums of the bytes.
        if parts is not None and max(sum(parts).to_bytes(inner, "little")) > MOST:
            self._shared.overfull = True
