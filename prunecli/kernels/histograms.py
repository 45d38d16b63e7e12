"""How many weights of a tensor have which magnitude, counted run by run in constant memory.

Magnitudes are sign-cleared patterns, grouped by their leading bits: the order of the bins is the order of magnitudes,
and where every pattern has a bin of its own nothing is lost. Nothing here knows about names, files or pruning.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from prunecli.kernels.bit_patterns import values
from prunecli.kernels.numpy_ops import NumpyOps
from prunecli.kernels.ops import UINTS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from prunecli.dtypes import Float
    from prunecli.kernels.ops import Read

READ = 1 << 17
"""Elements read at once."""

RUN = 1 << 13
"""Elements counted at once: few enough that their float64 copies stay in the cache, and in the allocator's pool."""

BINS_LIMIT = 1 << 20
"""Bins that one histogram may span, empty ones included: 16 bytes each while counting."""


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts of sign-cleared patterns; bin b holds the patterns p with p >> shift == b (shift 0: each its own).

    `bins` (int64) ascend and none is empty; `counts` (int64) go with them, and so do `squares` (float64), the sums of
    squares of the members that are finite. All three have one shape, (bins,).
    """

    dtype: Float
    shift: int
    bins: NDArray[np.int64]
    counts: NDArray[np.int64]
    squares: NDArray[np.float64]

    @property
    def total(self) -> int:
        """How many weights were counted."""
        return int(self.counts.sum())

    def merge(self, other: Histogram) -> Histogram:
        """Return the histogram of both together; ValueError where their dtypes or shifts differ."""
        if (self.dtype, self.shift) != (other.dtype, other.shift):
            raise ValueError(
                f"histograms of {self.dtype.name} >> {self.shift} and {other.dtype.name} >> {other.shift} do not add up"
            )
        bins, at = np.unique(np.concatenate([self.bins, other.bins]), return_inverse=True)
        counts, squares = np.zeros(bins.size, np.int64), np.zeros(bins.size)
        for part, where in ((self, at[: self.bins.size]), (other, at[self.bins.size :])):
            counts[where] += part.counts
            with np.errstate(over="ignore"):
                squares[where] += part.squares
        return Histogram(self.dtype, self.shift, bins, counts, squares)


def histogram(
    read: Read, numel: int, dtype: Float, *, low: int = 0, high: int | None = None, shift: int | None = None
) -> Histogram:
    """Count the patterns in [low, high) of a tensor of `numel` elements, read run by run as raw integers.

    `high` None means all there are, NaN included. `shift` None keeps the 15 leading bits of a magnitude: 0 for 8- and
    16-bit types, 16 for 32-bit and 48 for 64-bit ones. ValueError where [low, high) spans more than BINS_LIMIT bins.
    """
    table, ops = HistogramBuilder(dtype, low, high, shift), NumpyOps()
    for first in range(0, numel, READ):
        table.add(ops.magnitudes(read(first, min(first + READ, numel)), dtype))
    return table.histogram()


def count(y: NDArray[Any], dtype: Float, low: int = 0, high: int | None = None, shift: int | None = None) -> Histogram:
    """Count the patterns of `y` (flat, as `NumpyOps.magnitudes` gives them) in [low, high), as `histogram` does.

    Negative entries stand for weights that do not count (already pruned) and are left out.
    """
    table = HistogramBuilder(dtype, low, high, shift)
    table.add(y)
    return table.histogram()


class HistogramBuilder:
    """Counts that grow run by run, with a place for every bin of [low, high), empty or not."""

    def __init__(self, dtype: Float, low: int = 0, high: int | None = None, shift: int | None = None) -> None:
        """Count nothing yet; the arguments are those of `histogram`."""
        self.dtype, self.shift = dtype, max(8 * dtype.itemsize - 16, 0) if shift is None else shift
        self.low, self.high = max(low, 0), dtype.top + 1 if high is None else min(high, dtype.top + 1)
        self._first = self.low >> self.shift
        size = max(((self.high - 1) >> self.shift) - self._first + 1, 0) if self.high > self.low else 0
        if size > BINS_LIMIT:
            raise ValueError(f"[{low}, {high}) >> {self.shift} spans {size} bins, more than {BINS_LIMIT}")
        self._whole = not self.low and self.high == dtype.top + 1
        # The last place takes what does not count.
        self._counts, self._squares = np.zeros(size + 1, np.int64), np.zeros(size + 1)

    def add(self, y: NDArray[Any]) -> None:
        """Take in flat patterns, those outside [low, high) left out."""
        for first in range(0, y.size, RUN):
            self._add_run(y[first : first + RUN])

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
        if self.shift:
            with np.errstate(over="ignore"):
                np.add.at(self._squares, places, _squares(y, self.dtype))

    def histogram(self) -> Histogram:
        """Return what was counted, without the empty bins."""
        held = np.flatnonzero(self._counts[:-1])
        bins, counts = held + self._first, self._counts[held]
        squares = self._squares[held] if self.shift else counts * _squares(bins, self.dtype)
        return Histogram(self.dtype, self.shift, bins, counts, squares)


def _squares(patterns: NDArray[Any], dtype: Float) -> NDArray[np.float64]:
    """Return the squares of the magnitudes that are finite, and 0 for the others."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        squares = np.square(values(patterns, dtype))
    if patterns.size and int(patterns.max()) > dtype.finite_max:
        squares[patterns > dtype.finite_max] = 0
    return squares
