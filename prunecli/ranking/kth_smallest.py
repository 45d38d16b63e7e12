"""The exact k-th smallest of a stream of magnitudes, in constant memory and usually in one pass.

A sample brackets the wanted ranks. One pass counts the magnitudes below the bracket and, pattern by pattern, those
inside it. A bracket that misses a rank is widened and counted again. The result equals that of a full sort for any
order of the stream; it is never approximate. Formats of different widths are merged by value. Sampling to bracket an
order statistic is Floyd and Rivest's SELECT (1975).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from prunecli.dtypes import FLOATS, Float
from prunecli.kernels.bit_patterns import narrow, widen
from prunecli.plans import OrderStatistic

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from prunecli.kernels.ops import Array, Ops
    from prunecli.plans import RankGroup

HELD_LIMIT = 12 << 20
"""The most bytes of keys that one search keeps before it joins them into bins."""

BINS_BITS = 17
"""A bin is named by this many leading bits of a key's offset in the bracket: a megabyte of counts."""

RUN = 1 << 17
"""Keys that are processed together."""

MARGIN = 5.0
"""Half the width of a bracket, in standard errors of the sample's rank. A miss costs one more pass."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Some magnitudes of one member of a group: `patterns` has shape (blocks, neighbours per block)."""

    member: int
    patterns: NDArray[Any]


@dataclass(frozen=True, slots=True)
class RankedKey:
    """The key at a rank, with the numbers of smaller and of equal keys in the group."""

    key: int
    less: int
    equal: int


class Keys:
    """Maps the patterns of several dtypes to keys that compare by value.

    With one dtype, keys are its patterns. Otherwise they are patterns of float32, which has every value of the
    narrower formats, or of float64, which has every value of float32.
    """

    def __init__(self, dtypes: Sequence[Float]) -> None:
        """Take the dtype of each member."""
        self.dtypes = tuple(dtypes)
        different = set(self.dtypes)
        wider = FLOATS["F64" if FLOATS["F64"] in different else "F32"]
        self.common = self.dtypes[0] if len(different) == 1 else wider

    def of(self, patterns: NDArray[Any], dtype: Float) -> NDArray[Any]:
        """Return the keys of `patterns` of `dtype`, in the same order."""
        if dtype is self.common:
            return patterns
        return widen(patterns, dtype, self.common)

    def first_pattern(self, key: int, dtype: Float) -> int:
        """Return the smallest pattern of `dtype` with a key of at least `key`; one above the largest if none has."""
        if dtype is self.common or key > self.common.top:
            return min(key, dtype.top + 1)
        return narrow(key, dtype, self.common)

    def value(self, key: int) -> float:
        """Return the magnitude of a key."""
        return self.common.decode(key)


class RankSearch:
    """Searches for the order statistics of one group.

    Count what `brackets` names, pass the counts to `add`, and call `advance`; repeat until it returns True.
    Invariants: keys in [low, high) are kept or binned, keys below `low` are only counted; ranks are 1-based. Threads
    that call `add` hold `lock`.
    """

    def __init__(self, group: RankGroup, dtypes: Sequence[Float], numels: Sequence[int]) -> None:
        """Start with a bracket of all keys. `dtypes` and `numels` are those of the members."""
        self.group, self.ranks, self.total = group, group.ranks, sum(numels)
        self.lock = Lock()
        self.keys = Keys(dtypes)
        self.low, self.high = 0, self.keys.common.top + 1
        self._index = {member: index for index, member in enumerate(group.members)}
        self._ranked: dict[int, RankedKey] = {}
        self._equals: dict[int, list[int]] = {}
        self._clear()

    def _clear(self) -> None:
        self._below = 0
        self._table: NDArray[np.int64] | None = None
        self._entries: list[tuple[int, NDArray[Any], NDArray[np.int64] | None]] = []
        self._held = 0

    def narrow_to(self, samples: Sequence[Sample]) -> None:
        """Bracket the ranks by a sample, whose sizes are in proportion to the members' sizes.

        Neighbours in a tensor are correlated. The standard error is therefore estimated from the spread between
        blocks, and is at least that of independent draws.
        """
        parts = [(s, self.keys.of(s.patterns.reshape(-1), self.keys.dtypes[self._index[s.member]])) for s in samples]
        keys = np.concatenate([part for _, part in parts])
        keys.sort()
        size, ends = len(keys), []
        for rank in (self.ranks[0], self.ranks[-1]):
            share = (rank - 0.5) / self.total  # the expected position of the rank, as a part of any sample
            pivot = keys[min(int(share * size), size - 1)]
            shares = np.concatenate([(part.reshape(s.patterns.shape) <= pivot).mean(axis=1) for s, part in parts])
            error = max(float(shares.std()) / sqrt(len(shares)), sqrt(share * (1 - share) / size))
            ends.append((share * size, MARGIN * error * size + 2))  # 2 more: positions are rounded
        first, last = int(ends[0][0] - ends[0][1]), int(ends[1][0] + ends[1][1]) + 1
        self.low = int(keys[first]) if first > 0 else 0
        self.high = int(keys[last]) + 1 if last < size else self.keys.common.top + 1

    def brackets(self) -> list[tuple[int, int, int]]:
        """Return (member, first pattern, number of patterns) to count for each member."""
        brackets = []
        for member, dtype in zip(self.group.members, self.keys.dtypes, strict=True):
            low = self.keys.first_pattern(self.low, dtype)
            brackets.append((member, low, self.keys.first_pattern(self.high, dtype) - low))
        return brackets

    def add(self, member: int, below: int, patterns: NDArray[Any], counts: NDArray[np.int64] | None) -> None:
        """Add the counts of one chunk: `below` the bracket, and patterns in it; `counts` None means one each."""
        self._below += below
        if not len(patterns):
            return
        index = self._index[member]
        keys = self.keys.of(patterns, self.keys.dtypes[index])
        if self._table is not None:
            self._table += self._binned(keys, counts)
            return
        self._entries.append((index, keys, counts))
        self._held += keys.nbytes + (0 if counts is None else counts.nbytes)
        # A bracket of one key is counted to learn each member's number of equals, which bins do not have.
        if self._held > HELD_LIMIT and self.high - self.low > 1:
            self._table, self._entries = self._bins_of_kept(), []

    @property
    def _shift(self) -> int:
        return max((self.high - 1 - self.low).bit_length() - BINS_BITS, 0)

    def _binned(self, keys: NDArray[Any], counts: NDArray[np.int64] | None) -> NDArray[np.int64]:
        """Return the number of keys in each bin of the bracket."""
        bins = (keys.astype(np.int64, copy=False) - self.low) >> self._shift
        # bincount adds weights as float64, which is exact: a count is far below 2**53.
        return np.bincount(bins, counts, ((self.high - 1 - self.low) >> self._shift) + 1).astype(np.int64, copy=False)

    def _bins_of_kept(self) -> NDArray[np.int64]:
        table = self._binned(np.empty(0, np.int64), None)
        for keys, counts in self._runs():
            table += self._binned(keys, counts)
        return table

    def _runs(self) -> Iterator[tuple[NDArray[Any], NDArray[np.int64] | None]]:
        """Yield the kept keys and their counts. Single keys come in arrays of about `RUN`, as small ones are slow."""
        run: list[NDArray[Any]] = []
        size = 0
        for _, keys, counts in self._entries:
            if counts is not None:
                yield keys, counts
                continue
            run.append(keys)
            size += len(keys)
            if size >= RUN:
                yield np.concatenate(run), None
                run, size = [], 0
        if run:
            yield np.concatenate(run), None

    def advance(self) -> bool:
        """End a pass. Return True when every rank is known; otherwise `brackets` has changed for the next pass."""
        table = self._bins_of_kept() if self._table is None else self._table
        ends = self._below + np.cumsum(table)
        for rank in (rank for rank in self.ranks if rank not in self._ranked):
            # The sample was not representative: look at all keys on that side of the bracket.
            if rank <= self._below:
                return self._look_in(0, self.low)
            if rank > ends[-1]:
                return self._look_in(self.high, self.keys.common.top + 1)
            position = int(np.searchsorted(ends, rank))
            less = int(ends[position] - table[position])
            low = self.low + (position << self._shift)
            high = min(low + (1 << self._shift), self.high)
            if self._table is None:
                self._ranked[rank] = self._ranked_in(low, high, rank, less)
            elif self._shift:
                return self._look_in(low, high)
            else:
                self._ranked[rank] = RankedKey(low, less, int(table[position]))
        return self._count_equals()

    def _ranked_in(self, low: int, high: int, rank: int, less: int) -> RankedKey:
        """Return the key at a rank from the kept keys in [low, high), one bin; `less` keys are below the bin.

        Only this bin is sorted, and no copy of all keys is made.
        """
        parts = []
        for keys, counts in self._runs():
            inside = (keys >= low) & (keys <= high - 1)  # `high` may be too large for the dtype of the keys
            parts.append(
                np.unique(keys[inside], return_counts=True) if counts is None else (keys[inside], counts[inside])
            )
        keys, counts = sum_equal(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))
        ends = less + np.cumsum(counts)
        position = int(np.searchsorted(ends, rank))
        return RankedKey(int(keys[position]), int(ends[position] - counts[position]), int(counts[position]))

    def _look_in(self, low: int, high: int) -> bool:
        """Set the bracket for the next pass, and return False."""
        self.low, self.high = low, high
        self._clear()
        return False

    def _count_equals(self) -> bool:
        """Count each member's equals: from the kept keys, or in one more pass if a cut goes through them."""
        for rank, ranked in self._ranked.items():
            if rank in self._equals:
                continue
            kept = self._table is None and self.low <= ranked.key < self.high
            # Without a cut through equals all of them are pruned, and their number per member is not needed.
            if not kept and self.group.ties and rank < ranked.less + ranked.equal:
                return self._look_in(ranked.key, ranked.key + 1)
            if kept:
                self._equals[rank] = self._equals_of(ranked.key)
        return True

    def _equals_of(self, key: int) -> list[int]:
        counts = [0] * len(self.group.members)
        for index, keys, numbers in self._entries:
            hits = keys == key
            counts[index] += int(np.count_nonzero(hits) if numbers is None else numbers[hits].sum())
        return counts

    def statistics(self) -> list[OrderStatistic]:
        """Return the order statistics, one per rank, after `advance` returned True."""
        return [self._statistic(rank, self._ranked[rank]) for rank in self.ranks]

    def _statistic(self, rank: int, ranked: RankedKey) -> OrderStatistic:
        cuts = tuple(self.keys.first_pattern(ranked.key, dtype) for dtype in self.keys.dtypes)
        past = (self.keys.first_pattern(ranked.key + 1, dtype) for dtype in self.keys.dtypes)
        return OrderStatistic(
            rank,
            self.keys.value(ranked.key),
            ranked.less,
            ranked.equal,
            cuts,
            tuple(after > cut for cut, after in zip(cuts, past, strict=True)),
            tuple(self._equals.get(rank) or [None] * len(cuts)),
        )


def statistics_of(ops: Ops, y: Array, ranks: Sequence[int], dtype: Float) -> list[OrderStatistic]:
    """Return the order statistics at `ranks` (1-based) of one tensor whose magnitudes `y` are in memory."""
    statistics = []
    for rank in ranks:
        bits = ops.smallest(y, rank)
        less, equal = ops.below_and_inside(y, bits, 0)[0], ops.count_equal(y, bits)
        statistics.append(OrderStatistic(rank, dtype.decode(bits), less, equal, (bits,), (True,), (equal,)))
    return statistics


def sum_equal(keys: NDArray[Any], counts: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Return the keys (one or more) ascending and without repetition, with the sums of their counts."""
    order = np.argsort(keys, kind="stable")
    keys, counts = keys[order], counts[order]
    firsts = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]])
    return keys[firsts], np.add.reduceat(counts, firsts, dtype=np.int64)
