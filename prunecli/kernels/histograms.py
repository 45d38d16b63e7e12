"""Counts of the magnitudes of a tensor, in constant memory.

Magnitudes are sign-cleared patterns, binned by their leading bits: the order of the bins is the order of the
magnitudes, and where every pattern has a bin of its own the counts are exact.
"""

from __future__ import annotations

from ctypes import byref, c_int32, c_int64, c_void_p
from dataclasses import dataclass
from functools import lru_cache
from threading import local
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np

from prunecli.kernels.arrays import UINTS
from prunecli.kernels.backend import has_native
from prunecli.kernels.bit_patterns import values
from prunecli.kernels.native.library import Function, address, format_of, function
from prunecli.kernels.numpy_ops import NumpyOps

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from prunecli.dtypes import Float

T = TypeVar("T")

RUN = 1 << 13
"""Elements counted at once: few enough that their float64 copies stay in the cache, and in the allocator's pool."""

LEADING = 16
"""Bits of a weight, its sign included, that separate bins unless there is a shift."""

_COPIES, _SPREAD = 4, 8
"""COPIES and SPREAD of histograms.c."""

MOST = 1 << 31
"""Weights that are counted in numbers of 32 bits."""


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts of sign-cleared patterns; bin b holds the patterns p with p >> shift == b (shift 0: one pattern each).

    `bins` (int64) ascend and none is empty. `counts` (int64) are their numbers of members, and `squares` (float64)
    the sums of squares of the finite members. All three have the shape (bins,). `zeros` is the number of zeros.
    """

    dtype: Float
    shift: int
    bins: NDArray[np.int64]
    counts: NDArray[np.int64]
    squares: NDArray[np.float64]
    zeros: int

    @property
    def total(self) -> int:
        """The number of counted weights."""
        return int(self.counts.sum())

    @property
    def nonfinite(self) -> int:
        """The number of weights that are NaN or infinite."""
        return int(self.counts[self.bins > self.dtype.finite_max >> self.shift].sum())


def leading_shift(dtype: Float) -> int:
    """Return the bits of a magnitude below the leading ones: 0 for 8- and 16-bit types, 16 for 32-bit ones."""
    return max(8 * dtype.itemsize - LEADING, 0)


class HistogramBuilder:
    """Counts that grow with every call of `add`, from one thread."""

    def __init__(self, dtype: Float, shift: int | None = None, *, squares: bool = True) -> None:
        """Count by the bits of magnitudes from `shift` up; None keeps the leading ones.

        No bin may have both finite patterns and others. Without `squares`, their sums of squares are not computed where
        bins have several patterns, and are 0 then.
        """
        self.dtype, self.shift = dtype, leading_shift(dtype) if shift is None else shift
        squares = squares and self.shift > 0
        if has_native() and not squares and self.shift == leading_shift(dtype):
            self._bins: _Leading | _Bins = _Leading(dtype)
        else:
            self._bins = _Bins(dtype, self.shift, squares=squares)

    def add(self, x: NDArray[Any]) -> None:
        """Count the flat weights `x`, integers of the dtype's width."""
        self._bins.add(x)

    def histogram(self) -> Histogram:
        """Return the counts without the empty bins; call it once."""
        bins, counts, squares, zeros = self._bins.take()
        if not self.shift:
            squares = counts * _squares(bins, self.dtype)
            zeros = int(counts[0]) if bins.size and not bins[0] else 0
        return Histogram(self.dtype, self.shift, bins, counts, squares, zeros)


_Taken: TypeAlias = "tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64], int]"
"""The bins that are not empty, their counts, their squares, and the number of zeros where bins do not show it."""


class _Bins:
    """Counts, and sums of squares if wanted, with a place for each bin."""

    def __init__(self, dtype: Float, shift: int, *, squares: bool) -> None:
        self._dtype, self._shift, self._squared = dtype, shift, squares
        self._size = (dtype.top >> shift) + 1
        self._counts, self._squares = _borrowed(self._size, self._zeros)

    def _zeros(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return counts and sums. The last places count zeros."""
        return np.zeros(self._size + _SPREAD, np.int64), np.zeros(self._size + _SPREAD)

    def add(self, x: NDArray[Any]) -> None:
        if self._squared and has_native():
            places = (self._shift, byref(format_of(self._dtype)), self._size)
            _add_squares(x.itemsize)(address(x), x.size, *places, address(self._counts), address(self._squares))
            return
        for first in range(0, x.size, RUN):
            self._add_run(NumpyOps().magnitudes(x[first : first + RUN], self._dtype))

    def _add_run(self, y: NDArray[Any]) -> None:
        places = np.where(y == 0, self._size, y.view(UINTS[y.itemsize]) >> self._shift).astype(np.intp)
        # In place: bincount would return a new table for every run.
        np.add.at(self._counts, places, 1)
        if self._squared:
            with np.errstate(over="ignore"):
                np.add.at(self._squares, places, _squares(y, self._dtype))

    def take(self) -> _Taken:
        counts, zeros = self._counts[: self._size], int(self._counts[self._size :].sum())
        counts[0] += zeros
        used = np.flatnonzero(counts != 0)
        taken = used, counts[used], self._squares[used], zeros
        counts[used], self._squares[used], self._counts[self._size :] = 0, 0, 0
        _give_back(self._size, (self._counts, self._squares))
        return taken


class _Leading:
    """Counts by the leading bits with the compiled kernel."""

    def __init__(self, dtype: Float) -> None:
        self._half, self._fnuz = 1 << (8 * min(dtype.itemsize, 2) - 1), dtype.negative_zero_is_nan
        self._memory = _borrowed(0, _Memory)
        self._taken: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
        self._pending = self._zeros = 0

    def add(self, x: NDArray[Any]) -> None:
        if self._pending + x.size > MOST:
            self._taken.append(self._take())
        self._pending += x.size
        self._zeros += _count_leading(x.itemsize)(address(x), x.size, address(self._memory.counters))

    def _take(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        counters, bins, counts = self._memory.counters, self._memory.bins, self._memory.counts
        found = _take_counts()(address(counters), self._half, self._fnuz, address(bins), address(counts))
        self._pending = 0
        return bins[:found].copy(), counts[:found].copy()

    def take(self) -> _Taken:
        bins, counts = self._take()
        if self._taken:
            parts = [*self._taken, (bins, counts)]
            total = np.zeros(self._half + 1, np.int64)
            for used, numbers in parts:
                total[used] += numbers
            bins = np.flatnonzero(total)
            counts = total[bins]
        _give_back(0, self._memory)
        return bins, counts, np.zeros(bins.size), self._zeros


class _Memory:
    """Counters that are all 0, and space for what they have."""

    def __init__(self) -> None:
        self.counters = np.zeros(_COPIES << LEADING, np.uint32)
        self.bins, self.counts = (np.empty((1 << (LEADING - 1)) + 1, np.int64) for _ in range(2))


_free = local()


def _borrowed(kind: int, make: Callable[[], T]) -> T:
    """Return the memory of a kind, all 0, that the last builder of this thread gave back, or new memory."""
    found: T | None = vars(_free).pop(str(kind), None)
    return make() if found is None else found


def _give_back(kind: int, memory: object) -> None:
    vars(_free)[str(kind)] = memory


@lru_cache(maxsize=4)
def _count_leading(itemsize: int) -> Function:
    return function(f"count_leading_{8 * itemsize}", (c_void_p, c_int64, c_void_p), c_int64)


@lru_cache(maxsize=4)
def _add_squares(itemsize: int) -> Function:
    return function(f"add_squares_{8 * itemsize}", (c_void_p, c_int64, c_int32, c_void_p, c_int64, c_void_p, c_void_p))


@lru_cache(maxsize=1)
def _take_counts() -> Function:
    return function("take_counts", (c_void_p, c_int64, c_int32, c_void_p, c_void_p), c_int64)


def _squares(patterns: NDArray[Any], dtype: Float) -> NDArray[np.float64]:
    """Return the squares of the finite magnitudes, and 0 for the others."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        squares = np.square(values(patterns, dtype))
    if patterns.size and int(patterns.max()) > dtype.finite_max:
        squares[patterns > dtype.finite_max] = 0
    return squares
