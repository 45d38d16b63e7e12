"""Counts of the magnitudes of a tensor, in constant memory.

Magnitudes are sign-cleared patterns, binned by their leading bits: the order of the bins is the order of the
magnitudes, and where every pattern has a bin of its own the counts are exact.
"""

from __future__ import annotations

from ctypes import byref, c_int32, c_int64, c_uint64, c_void_p
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from prunecli.kernels.arrays import UINTS
from prunecli.kernels.backend import has_native
from prunecli.kernels.bit_patterns import values
from prunecli.kernels.native.library import Function, address, format_of, function

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from prunecli.dtypes import Float

RUN = 1 << 13
"""Elements counted at once: few enough that their float64 copies stay in the cache, and in the allocator's pool."""

BINS_LIMIT = 1 << 20
"""Bins that one histogram may span, empty ones included: 16 bytes each while counting."""


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts of sign-cleared patterns; bin b holds the patterns p with p >> shift == b (shift 0: one pattern each).

    `bins` (int64) ascend and none is empty. `counts` (int64) are their numbers of members, and `squares` (float64)
    the sums of squares of the finite members. All three have the shape (bins,).
    """

    dtype: Float
    shift: int
    bins: NDArray[np.int64]
    counts: NDArray[np.int64]
    squares: NDArray[np.float64]

    @property
    def total(self) -> int:
        """The number of counted weights."""
        return int(self.counts.sum())


class HistogramBuilder:
    """Counts that grow with every call of `add`, with a place for each bin of [low, high), empty or not."""

    def __init__(
        self, dtype: Float, low: int = 0, high: int | None = None, shift: int | None = None, *, squares: bool = True
    ) -> None:
        """Count the patterns in [low, high).

        Without `squares`, their sums of squares are not computed where bins have several patterns, and are 0 then.

        `high` None means all patterns, NaN included. `shift` None keeps the 15 leading bits of a magnitude: 0 for
        8- and 16-bit types, 16 for 32-bit and 48 for 64-bit ones. Raises ValueError where [low, high) spans more than
        BINS_LIMIT bins.
        """
        self.dtype, self.shift = dtype, max(8 * dtype.itemsize - 16, 0) if shift is None else shift
        self.low, self.high = max(low, 0), dtype.top + 1 if high is None else min(high, dtype.top + 1)
        self._first = self.low >> self.shift
        size = max(((self.high - 1) >> self.shift) - self._first + 1, 0) if self.high > self.low else 0
        if size > BINS_LIMIT:
            raise ValueError(f"[{low}, {high}) >> {self.shift} spans {size} bins, more than {BINS_LIMIT}")
        self._whole = not self.low and self.high == dtype.top + 1
        self._adds_squares = squares and self.shift > 0
        # The last place counts the patterns that are in no bin.
        self._counts, self._squares = np.zeros(size + 1, np.int64), np.zeros(size + 1)

    def add(self, y: NDArray[Any]) -> None:
        """Count the flat patterns `y`; those outside [low, high), and -1 for pruned weights, are left out."""
        if has_native():
            self._add_native(y)
            return
        for first in range(0, y.size, RUN):
            self._add_run(y[first : first + RUN])

    def _add_native(self, y: NDArray[Any]) -> None:
        squares = address(self._squares) if self._adds_squares else None
        bins = (self.low, max(self.high, self.low), self.shift, self._first, byref(format_of(self.dtype)))
        _kernel(y.itemsize)(address(y), y.size, *bins, address(self._counts), squares)

    def _add_run(self, y: NDArray[Any]) -> None:
        if not self._whole:
            y = y[(y >= self.low) & (y < self.high)]
        # As unsigned numbers, negative patterns lie above all others.
        places = (y.view(UINTS[y.itemsize]) >> self.shift).astype(np.intp)
        if self._first:
            places -= self._first
        np.minimum(places, self._counts.size - 1, out=places)
        # In place: bincount would return a new table for every run.
        np.add.at(self._counts, places, 1)
        if self._adds_squares:
            with np.errstate(over="ignore"):
                np.add.at(self._squares, places, _squares(y, self.dtype))

    def histogram(self) -> Histogram:
        """Return the counts without the empty bins."""
        used = np.flatnonzero(self._counts[:-1])
        bins, counts = used + self._first, self._counts[used]
        squares = self._squares[used] if self.shift else counts * _squares(bins, self.dtype)
        return Histogram(self.dtype, self.shift, bins, counts, squares)


@lru_cache(maxsize=4)
def _kernel(itemsize: int) -> Function:
    places = (c_uint64, c_uint64, c_int32, c_int64, c_void_p)
    return function(f"histogram_{8 * itemsize}", (c_void_p, c_int64, *places, c_void_p, c_void_p))


def _squares(patterns: NDArray[Any], dtype: Float) -> NDArray[np.float64]:
    """Return the squares of the finite magnitudes, and 0 for the others."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        squares = np.square(values(patterns, dtype))
    if patterns.size and int(patterns.max()) > dtype.finite_max:
        squares[patterns > dtype.finite_max] = 0
    return squares
