"""Compiled kernels of ranking: counts in a bracket, the largest of groups, the smallest of rows and of arrays.

`x` is a flat contiguous array (anything with the buffer protocol) of integers of 1, 2, 4 or 8 bytes. What its numbers
are is said by `form`: `WEIGHTS`, `WEIGHTS_FNUZ`, or `PATTERNS`. Weights are ranked by their magnitudes, which the
kernels compute on the fly. Patterns are signed numbers, -1 for a weight that is already pruned; those of 1 byte are
unsigned.
Flags are bytes, one per weight: -1 for a kept weight, 0 for a pruned one. All results have the same bits as those of
`NumpyOps`. No kernel holds the interpreter lock. Import this module only where `library()` is not None.
"""

from __future__ import annotations

from ctypes import c_int32, c_int64, c_uint64, c_void_p
from threading import local
from typing import TYPE_CHECKING, Any

from prunecli.kernels.native.library import address, function
from prunecli.kernels.pages import pages

if TYPE_CHECKING:
    import mmap

    from prunecli.dtypes import Float

Buffer = Any
"""A contiguous array with the buffer protocol."""

WEIGHTS, WEIGHTS_FNUZ, PATTERNS = 0, 1, 2
"""The forms of numbers: weights; weights of a format whose one NaN has the pattern of -0.0; patterns of a scorer."""

_SHORT_GROUP, _LONG_ROW, _TILE = 24, 1 << 14, 1 << 16
"""The smallest SHORT_GROUP and LONG_ROW, and TILE, of ranks.c: larger groups and rows need scratch memory."""

_WIDTHS = (8, 16, 32, 64)

_ARRAY = (c_void_p, c_int64, c_int32)
"""An array, its number of elements or rows, and its form."""

_extract_inside, _count_bins, _keep_largest, _drop_smallest, _count_of_rows, _smallest = (
    {width // 8: function(f"{name}_{width}", arguments, result) for width in _WIDTHS}
    for name, arguments, result in (
        ("extract_inside", (*_ARRAY, c_uint64, c_uint64, c_void_p, c_void_p), c_int64),
        ("count_bins", (*_ARRAY, c_uint64, c_uint64, c_int32, c_void_p), c_int64),
        ("keep_largest", (*_ARRAY, *(c_int64,) * 5, c_void_p, c_void_p), None),
        ("drop_smallest", (*_ARRAY, c_int64, c_void_p, c_int64, c_void_p, c_void_p), None),
        ("count_of_rows", (*_ARRAY, c_int64, c_uint64, c_void_p), None),
        ("smallest", (*_ARRAY, c_int64, c_void_p, c_void_p), None),
    )
)

_MOST = (1 << 64) - 1

_memory = local()


def form_of(dtype: Float) -> int:
    """Return the form of weights of a format."""
    return WEIGHTS_FNUZ if dtype.negative_zero_is_nan else WEIGHTS


def extract_inside(x: Buffer, form: int, low: int, width: int, found: Buffer) -> tuple[int, int]:
    """Write the patterns in [low, low + width) to `found`, in their order.

    Return the number of patterns below `low`, and how many were written. `found` has the width of `x` and space for as
    many. `low` is at least 0 and at most the largest pattern.
    """
    view = memoryview(x)
    below = c_int64()
    kernel = _extract_inside[view.itemsize]
    inside = kernel(address(x), _count(view), form, low & _MOST, width, address(found), address(below))
    return below.value, inside


def count_bins(x: Buffer, form: int, low: int, width: int, shift: int, bins: Buffer) -> int:
    """Add 1 to `bins[(pattern - low) >> shift]` for each pattern in [low, low + width); return the number below `low`.

    `bins` are int64. `low` is at least 0 and at most the largest pattern.
    """
    view = memoryview(x)
    below: int = _count_bins[view.itemsize](address(x), _count(view), form, low, width, shift, address(bins))
    return below


def keep_largest(  # noqa: PLR0913, PLR0917 - as `Ops.keep_largest`
    x: Buffer, form: int, start: int, length: int, inner: int, group: int, keep: int, flags: Buffer
) -> None:
    """Write the flags of the `keep` largest of each group; among equals the lower index survives.

    `x` is a run, from element `start`, of an (outer, length, inner) array. Groups are `group` consecutive entries of
    the middle dimension; the last one of a slab may be short. The run starts and ends between groups.
    """
    view = memoryview(x)
    group = min(group, length)
    size = group_memory(group, view.itemsize)
    kernel = _keep_largest[view.itemsize]
    kernel(address(x), _count(view), form, start, length, inner, group, keep, _scratch(size), address(flags))


def group_memory(group: int, itemsize: int) -> int:
    """Return the bytes of memory that groups of this length need."""
    return (max(_TILE, group) + group) * (itemsize + 1) if group > _SHORT_GROUP else 0


def drop_smallest(x: Buffer, form: int, row: int, numbers: Buffer, flags: Buffer) -> None:
    """Write the flags of rows of `row` elements, of each of which the smallest are pruned; of equals the lowest index.

    `numbers` are int64: how many to prune of each row, or a single one for all rows. Patterns of -1 count as smallest.
    """
    view, number = memoryview(x), memoryview(numbers)
    step = int(_count(number) > 1)
    size = row * view.itemsize if row > _LONG_ROW else 0
    kernel = _drop_smallest[view.itemsize]
    rows = _count(view) // row
    kernel(address(x), rows, form, row, address(numbers), step, _scratch(size), address(flags))


def count_of_rows(x: Buffer, form: int, row: int, least: int, numbers: Buffer) -> None:
    """Write the number of patterns that are `least` or more of each row of `row` elements to the int64 `numbers`."""
    view = memoryview(x)
    _count_of_rows[view.itemsize](address(x), _count(view) // row, form, row, least, address(numbers))


def count_remaining(y: Buffer, row: int, numbers: Buffer) -> None:
    """Write the number of patterns that are not -1 of each row of `row` elements to the int64 `numbers`."""
    count_of_rows(y, PATTERNS, row, 0, numbers)


def smallest(x: Buffer, form: int, rank: int) -> tuple[int, int, int]:
    """Return the `rank`-th smallest pattern (1-based), and the numbers of smaller patterns and of those equal to it."""
    view, found = memoryview(x), (c_int64 * 3)()
    size = view.nbytes if _count(view) > _LONG_ROW else 0
    _smallest[view.itemsize](address(x), _count(view), form, rank, _scratch(size), address(found))
    pattern, less, equal = found
    return pattern, less, equal


def _count(view: memoryview) -> int:
    return view.nbytes // view.itemsize


def _scratch(size: int) -> int:
    """Return the address of `size` bytes that belong to this thread until its next call."""
    if not size:
        return 0
    memory: mmap.mmap | None = getattr(_memory, "scratch", None)
    if memory is None or len(memory) < size:
        memory = _memory.scratch = pages(size)  # often most of it stays untouched
    return address(memory)
