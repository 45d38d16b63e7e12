"""The search for order statistics of magnitudes in a few passes, of which each resolves some bits of their patterns.

A search has a bin for each wanted rank: the patterns that begin with the bits known so far. A pass counts the next bits
of the patterns in the bins. Memory is constant: a few bins for each rank.
"""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from prunecli.dtypes import FLOATS
from prunecli.kernels.bit_patterns import widen
from prunecli.kernels.next_bits import NextBits
from prunecli.ranking.kth_smallest import Keys

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from prunecli.checkpoint import TensorInfo
    from prunecli.dtypes import Float

    BitCounts = tuple[NDArray[Any], NDArray[np.int64]]
    """The next bits of the patterns in a bin, ascending, and how often each is there."""

LEVEL = 16
"""Bits of a pattern that one pass resolves."""

HELD_LIMIT = 1 << 20
"""The patterns inside the bins are held and sorted; if there are more, they are counted in a table."""


def is_narrow(dtype: Float) -> bool:
    """Return whether one pass resolves all bits, so that a histogram has a bin for each pattern."""
    return 8 * dtype.itemsize <= LEVEL


class Inside(Protocol):
    """Counts of the patterns in the bins of a search."""

    def inside(self, lows: NDArray[np.int64]) -> list[BitCounts]:
        """Return the counts of the patterns in the bin from each of `lows`."""


class RankBins:
    """The search for ranks (from 1) in a group of magnitudes that compare as patterns of `dtype`."""

    def __init__(self, dtype: Float, ranks: Iterable[int]) -> None:
        """Start with one bin that holds every pattern."""
        self.dtype, self.span, self.shift = dtype, 8 * dtype.itemsize, max(8 * dtype.itemsize - LEVEL, 0)
        self.bins = dict.fromkeys(ranks, (0, 0, 0))
        """Rank -> (first pattern of its bin, number of patterns below the bin, number of patterns in the bin)."""

    @property
    def done(self) -> bool:
        """Whether each bin is one pattern."""
        return not self.span

    def lows(self) -> NDArray[np.int64]:
        """Return the first patterns of the bins that hold a rank, ascending."""
        return np.unique(np.array([low for low, _, _ in self.bins.values()], np.int64))

    def advance(self, counts: Inside) -> None:
        """Narrow the bins."""
        lows = self.lows()
        found = dict(zip(lows.tolist(), counts.inside(lows), strict=True))
        ends = {low: np.cumsum(numbers) for low, (_, numbers) in found.items()}
        for rank, (low, less, _) in self.bins.items():
            index = int(ends[low].searchsorted(rank - less))
            bits, size = int(found[low][0][index]), int(found[low][1][index])
            self.bins[rank] = low + (bits << self.shift), less + int(ends[low][index]) - size, size
        self.span, self.shift = self.shift, max(self.shift - LEVEL, 0)


class Sorted:
    """Counts of numbers without duplicates, ascending: the bits of patterns from `shift` up."""

    def __init__(self, numbers: NDArray[Any], counts: NDArray[np.int64], span: int, shift: int) -> None:
        """Take the numbers and how often each is there; the bits up to `span` are the next ones."""
        self._numbers, self._counts, self._width, self._shift = numbers, counts, span - shift, shift

    def inside(self, lows: NDArray[np.int64]) -> list[BitCounts]:
        """Return the counts of the patterns in the bin from each of `lows`."""
        limits, last = _limits(self._numbers, lows >> self._shift, self._width), (1 << self._width) - 1
        return [(self._numbers[start:stop] & last, self._counts[start:stop]) for start, stop in limits]


def _limits(ascending: NDArray[Any], firsts: NDArray[np.int64], width: int) -> list[tuple[int, int]]:
    """Return where the numbers start and stop that differ from each of `firsts` in the lowest `width` bits only."""
    firsts = firsts.astype(ascending.dtype)
    lasts = firsts + ((1 << width) - 1)  # one more may be too large for the type
    starts, stops = np.searchsorted(ascending, firsts), np.searchsorted(ascending, lasts, side="right")
    return list(zip(starts.tolist(), stops.tolist(), strict=True))


class Table:
    """Counts of the patterns inside some bins, with a place for each possible value of their next bits."""

    def __init__(self, lows: NDArray[np.int64], span: int, shift: int) -> None:
        """Start without counts for the bins with the ascending first patterns `lows`."""
        self._lows, self._width, self._shift = lows, span - shift, shift
        self._counts = np.zeros((len(lows), 1 << self._width), np.int64)

    def add(self, ascending: NDArray[Any]) -> None:
        """Add ascending numbers, the bits of patterns from `shift` up; those outside the bins are ignored."""
        last = self._counts.shape[1] - 1
        limits = _limits(ascending, self._lows >> self._shift, self._width)
        for row, (start, stop) in enumerate(limits):
            if start < stop:
                self._counts[row] += np.bincount(ascending[start:stop] & last, minlength=last + 1)

    def join(self, counts: Inside) -> None:
        """Add the counts of each bin."""
        for row, (bits, numbers) in zip(self._counts, counts.inside(self._lows), strict=True):
            row[bits] += numbers

    def inside(self, lows: NDArray[np.int64]) -> list[BitCounts]:
        """Return the counts of the patterns in the bin from each of `lows`."""
        rows = [self._counts[index] for index in np.searchsorted(self._lows, lows).tolist()]
        places = [np.flatnonzero(row != 0) for row in rows]
        return [(used, row[used]) for used, row in zip(places, rows, strict=True)]


def count_inside(chunks: Iterable[NDArray[Any]], searches: Sequence[RankBins]) -> Inside:
    """Count the weights of 4 or 8 bytes inside the bins of any of the searches, which have resolved the same bits."""
    search = searches[0]
    span, shift = search.span, search.shift
    lows = np.unique(np.concatenate([each.lows() for each in searches]))
    following = NextBits(search.dtype.itemsize, lows, span, shift)
    held: list[NDArray[Any]] = []
    table: Table | None = None
    for x in chunks:
        held.append(following.of(x))
        if sum(part.size for part in held) > HELD_LIMIT:
            table = Table(lows, span, shift) if table is None else table
            table.add(np.sort(np.concatenate(held)))
            held.clear()
    if table is None:
        return Sorted(*np.unique(np.concatenate(held), return_counts=True), span, shift)
    if held:
        table.add(np.sort(np.concatenate(held)))
    return table


class Whole:
    """Counts of every pattern, for each narrow dtype of some tensors. Threads add those of their tensors."""

    def __init__(self) -> None:
        """Start without counts."""
        self.counts: dict[str, NDArray[np.int64]] = {}
        self._lock = Lock()

    def add(self, dtype: Float, patterns: NDArray[np.int64], counts: NDArray[np.int64]) -> None:
        """Add the counts of patterns without duplicates."""
        with self._lock:
            own = self.counts.setdefault(dtype.name, np.zeros(dtype.top + 1, np.int64))
            own[patterns] += counts

    def below(self, dtype: Float, cuts: Sequence[int]) -> list[int]:
        """Count the weights of a dtype below each of some patterns."""
        ends = np.concatenate([[0], np.cumsum(self.counts[dtype.name])])
        numbers: list[int] = ends[list(cuts)].tolist()
        return numbers


class JointRanks:
    """The search for ranks of all tensors together. Threads add the counts of their tensors."""

    def __init__(self, tensors: Sequence[TensorInfo], ranks: Iterable[int]) -> None:
        """Start without counts. Narrow dtypes are counted in `whole`, others by the bins of `search`."""
        self.keys = Keys([FLOATS[t.value_dtype] for t in tensors])
        self.search, self.whole = RankBins(self.keys.common, ranks), Whole()
        self._lock, self._table = Lock(), self._new_table()

    def _new_table(self) -> Table:
        return Table(self.search.lows(), self.search.span, self.search.shift)

    def reads(self, dtype: Float) -> bool:
        """Return whether the next pass counts the weights of a dtype."""
        return not (self.search.done or is_narrow(dtype))

    def add(self, counts: Inside) -> None:
        """Add the counts of a tensor in the bins of the search."""
        with self._lock:
            self._table.join(counts)

    def advance(self) -> None:
        """Narrow the bins at the end of a pass."""
        if self.search.done:
            return
        for name, counts in self.whole.counts.items():
            self._table.join(self._keys_of(FLOATS[name], counts))
        self.search.advance(self._table)
        if not self.search.done:
            self._table = self._new_table()

    def _keys_of(self, dtype: Float, counts: NDArray[np.int64]) -> Inside:
        """Return the counts of a narrow dtype by the next bits of their keys."""
        used = np.flatnonzero(counts)
        keys = used if dtype is self.keys.common else widen(used, dtype, self.keys.common).astype(np.int64)
        numbers, starts = np.unique(keys >> self.search.shift, return_index=True)
        return Sorted(numbers, np.add.reduceat(counts[used], starts), self.search.span, self.search.shift)
