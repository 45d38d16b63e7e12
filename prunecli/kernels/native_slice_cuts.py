"""Compiled kernels of the search for the cuts of slices; see `prunecli.ranking.slice_cuts`.

Arrays are anything with the buffer protocol: `x` has signed patterns of 2, 4 or 8 bytes, all others are int64. A run is
an array of seven numbers: row, rows, column, width, before, slices, after. `known` has the bits of each slice's wanted
pattern from bit `shift` on, `places` those of its position from bit `place_shift` on; -2 excludes a slice.
"""

from __future__ import annotations

from ctypes import c_int32, c_int64, c_void_p
from typing import TYPE_CHECKING

from prunecli.kernels.native.library import address, function

if TYPE_CHECKING:
    from prunecli.kernels.native_ranks import Buffer

_KNOWN = (c_void_p, c_int32, c_void_p, c_int32)
"""Known bits of patterns and of positions, each with the number of bits that are not known."""

_count_digits = {
    width // 8: function(f"count_digits_{width}", (c_void_p, c_void_p, *_KNOWN, *(c_int32,) * 3, c_int64, c_void_p))
    for width in (16, 32, 64)
}
_collect = {
    width // 8: function(f"collect_{width}", (c_void_p, c_void_p, *_KNOWN, *(c_void_p,) * 3)) for width in (16, 32, 64)
}
_cut_slices = function("cut_slices", (c_int64, *(c_void_p,) * 8))

Known = tuple["Buffer", int, "Buffer", int]
"""`known`, `shift`, `places` and `place_shift`."""


def count_digits(
    x: Buffer, run: Buffer, known: Known, low: int, bits: int, counts: Buffer, *, of_position: bool
) -> None:
    """Add 1 to `counts[digit, slice]` for each element that can be the wanted one of its slice.

    The digit is `bits` bits, from `low` on, of its pattern or its position.
    """
    kernel = _count_digits[memoryview(x).itemsize]
    kernel(
        address(x),
        address(run),
        *_bits(known),
        of_position,
        low,
        bits,
        memoryview(counts).nbytes >> bits + 3,
        address(counts),
    )


def collect(x: Buffer, run: Buffer, known: Known, ends: Buffer, patterns: Buffer, positions: Buffer) -> None:
    """Write the elements that can be the wanted one of their slice from `ends[slice]` on, which is then behind them."""
    kernel = _collect[memoryview(x).itemsize]
    kernel(address(x), address(run), *_bits(known), address(ends), address(patterns), address(positions))


def cut_slices(
    ranks: Buffer, starts: Buffer, ends: Buffer, patterns: Buffer, positions: Buffer, cuts: Buffer, limits: Buffer
) -> None:
    """Write the pattern and position of the `ranks`-th smallest collected element of each slice; skip ranks of 0."""
    scratch = bytearray(memoryview(patterns).nbytes)
    arrays = (ranks, starts, ends, patterns, positions, scratch, cuts, limits)
    _cut_slices(len(ranks), *(address(a) for a in arrays))


def _bits(known: Known) -> tuple[int, int, int, int]:
    patterns, shift, places, place_shift = known
    return address(patterns), shift, address(places), place_shift
