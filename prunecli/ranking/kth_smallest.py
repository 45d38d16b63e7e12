"""The exact k-th smallest of a stream of magnitudes, in constant memory and, nearly always, in one pass.

A sample brackets the wanted ranks; one pass counts what is below the bracket and what is inside, pattern by pattern;
a bracket that missed is widened and counted again. Never an approximation: what comes out is what sorting everything
would give, for any order of the stream. Formats of different widths merge by value. Nothing here knows about pruning
or files.
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
"""Bytes of patterns that one search holds before it joins them into bins."""

BINS_BITS = 17
"""It keeps so many leading bits of where they stand in the bracket then: a megabyte of counts."""

RUN = 1 << 17
"""Keys looked at together."""

MARGIN = 5.0
"""Half the bracket's width, in standard errors of the sample's rank."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Some magnitudes of one member of a group, as blocks of neighbours: `patterns` is (blocks, per block)."""

    member: int
    patterns: NDArray[Any]


@dataclass(frozen=True, slots=True)
class Found:
    """Where a rank was found: its key, how many keys are smaller, and how many equal it."""

    key: int
    less: int
    equal: int


class Keys:
    """How a group's patterns compare: as they are if all have one dtype, else as patterns of a format that has all."""

    def __init__(self, dtypes: Sequence[Float]) -> None:
        """Take the dtype of each member."""
        self.dtypes = tuple(dtypes)
        kinds = set(self.dtypes)
        # float32 has every value of the narrower formats, float64 those of float32.
        self.common = self.dtypes[0] if len(kinds) == 1 else FLOATS["F64" if FLOATS["F64"] in kinds else "F32"]

    def of(self, patterns: NDArray[Any], dtype: Float) -> NDArray[Any]:
        """Return the keys of `patterns` of `dtype`, in the same order."""
        if dtype is self.common:
            return patterns
        return widen(patterns, dtype, self.common)

    def first_pattern(self, key: int, dtype: Float) -> int:
        """Return the smallest pattern of `dtype` whose key is at least `key`; one above the largest if none is."""
        if dtype is self.common or key > self.common.top:
            return min(key, dtype.top + 1)
        return narrow(key, dtype, self.common)

    def value(self, key: int) -> float:
        """Return the magnitude a key stands for."""
        return self.common.decode(key)


class RankSearch:
    """The search for some ranks of one group; `brackets` says what to count next, `advance` whether that was enough."""

    def __init__(self, group: RankGroup, dtypes: Sequence[Float], numels: Sequence[int]) -> None:
        """Start without a bracket: everything would be counted."""
        self.group, self.ranks, self.total = group, group.ranks, sum(numels)
        self.lock = Lock()
        self.keys = Keys(dtypes)
        self.low, self.high = 0, self.keys.common.top + 1
        self._index = {member: at for at, member in enumerate(group.members)}
        self._found: dict[int, Found] = {}
        self._equals: dict[int, list[int]] = {}
        self._clear()

    def _clear(self) -> None:
        self._below = 0
        self._shift = 0
        self._table: NDArray[np.int64] | None = None
        self._entries: list[tuple[int, NDArray[Any], NDArray[np.int64] | None]] = []
        self._held = 0

    def narrow_to(self, samples: Sequence[Sample]) -> None:
        """Bracket the ranks by a sample; the samples' sizes are in proportion to their tensors'."""
        parts = [(s, self.keys.of(s.patterns.reshape(-1), self.keys.dtypes[self._index[s.member]])) for s in samples]
        keys = np.concatenate([part for _, part in parts])
        keys.sort()
        size, ends = len(keys), []
        for rank in (self.ranks[0], self.ranks[-1]):
            share = (rank - 0.5) / self.total
            pivot = keys[min(int(share * size), size - 1)]
            shares = np.concatenate([(part.reshape(s.patterns.shape) <= pivot).mean(axis=1) for s, part in parts])
            error = max(float(shares.std()) / sqrt(len(shares)), sqrt(share * (1 - share) / size))
            ends.append((share * size, MARGIN * error * size + 2))
        first, last = int(ends[0][0] - ends[0][1]), int(ends[1][0] + ends[1][1]) + 1
        self.low = int(keys[first]) if first > 0 else 0
        self.high = int(keys[last]) + 1 if last < size else self.keys.common.top + 1

    def brackets(self) -> list[tuple[int, int, int]]:
        """Return (member, first pattern, how many patterns) to count for each member."""
        found = []
        for member, dtype in zip(self.group.members, self.keys.dtypes, strict=True):
            low = self.keys.first_pattern(self.low, dtype)
            found.append((member, low, self.keys.first_pattern(self.high, dtype) - low))
        return found

    def add(self, member: int, below: int, patterns: NDArray[Any], counts: NDArray[np.int64] | None) -> None:
        """Take in what one tile of a member has, `counts` None meaning one each; threads take turns by `lock`."""
        self._below += below
        if not len(patterns):
            return
        at = self._index[member]
        keys = self.keys.of(patterns, self.keys.dtypes[at])
        if self._table is not None:
            self._table += self._binned(keys, counts, len(self._table))
            return
        self._entries.append((at, keys, counts))
        self._held += keys.nbytes + (0 if counts is None else counts.nbytes)
        # One pattern cannot be joined with others, and who has how many of it is what such a pass is for.
        if self._held > HELD_LIMIT and self.high - self.low > 1:
            self._coarsen()

    def _coarsen(self) -> None:
        """Forget which member had which key, and join neighbouring keys in bins."""
        self._shift = max((self.high - 1 - self.low).bit_length() - BINS_BITS, 0)
        table = np.zeros(((self.high - 1 - self.low) >> self._shift) + 1, np.int64)
        for _, keys, counts in self._entries:
            table += self._binned(keys, counts, len(table))
        self._table, self._entries, self._held = table, [], 0

    def _binned(self, keys: NDArray[Any], counts: NDArray[np.int64] | None, size: int) -> NDArray[np.int64]:
        bins = (keys.astype(np.int64, copy=False) - self.low) >> self._shift
        return np.bincount(bins, counts, size).astype(np.int64, copy=False)

    def _summed(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return all keys held, ascending and once each, with their counts."""
        if self._table is not None:
            found = np.flatnonzero(self._table)
            return found, self._table[found]
        counted = [(keys, counts) for _, keys, counts in self._entries if counts is not None]
        single = [keys for _, keys, counts in self._entries if counts is None]
        if single:
            counted.append(np.unique(np.concatenate(single), return_counts=True))
        if not counted:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        keys, counts = (np.concatenate(parts).astype(np.int64, copy=False) for parts in zip(*counted, strict=True))
        return _sum_equal(keys, counts)

    def advance(self) -> bool:
        """Conclude a pass: True when every rank is known, else the next pass counts the new brackets."""
        if self._table is None and all(counts is None for _, _, counts in self._entries):
            return self._advance_in_place()
        keys, counts = self._summed()
        ends = self._below + np.cumsum(counts)
        inside = int(ends[-1]) if len(ends) else self._below
        for rank in (rank for rank in self.ranks if rank not in self._found):
            if rank <= self._below:
                return self._look_in(0, self.low)
            if rank > inside:
                return self._look_in(self.high, self.keys.common.top + 1)
            at = int(np.searchsorted(ends, rank))
            if self._shift:
                low = self.low + (int(keys[at]) << self._shift)
                return self._look_in(low, low + (1 << self._shift))
            key = int(keys[at]) + (0 if self._table is None else self.low)
            self._found[rank] = Found(key, int(ends[at] - counts[at]), int(counts[at]))
        return self._count_equals()

    def _advance_in_place(self) -> bool:
        """Do what `advance` does where every key is held: bins tell which few to sort, and nothing is copied whole."""
        shift = max((self.high - 1 - self.low).bit_length() - BINS_BITS, 0)
        table = np.zeros(((self.high - 1 - self.low) >> shift) + 1, np.int64)
        for keys in self._runs():
            table += np.bincount((keys.astype(np.int64, copy=False) - self.low) >> shift, minlength=len(table))
        ends = self._below + np.cumsum(table)
        for rank in (rank for rank in self.ranks if rank not in self._found):
            if rank <= self._below:
                return self._look_in(0, self.low)
            if rank > ends[-1]:
                return self._look_in(self.high, self.keys.common.top + 1)
            at = int(np.searchsorted(ends, rank))
            low, less = self.low + (at << shift), int(ends[at] - table[at])
            last = min(low + (1 << shift), self.high) - 1
            keys = np.concatenate([keys[(keys >= low) & (keys <= last)] for keys in self._runs()])
            keys.sort()
            key = keys[rank - less - 1]
            first, stop = (int(np.searchsorted(keys, key, side)) for side in ("left", "right"))
            self._found[rank] = Found(int(key), less + first, stop - first)
        return self._count_equals()

    def _runs(self) -> Iterator[NDArray[Any]]:
        """Yield the keys held, enough at once."""
        run: list[NDArray[Any]] = []
        size = 0
        for _, keys, _ in self._entries:
            run.append(keys)
            size += len(keys)
            if size >= RUN:
                yield np.concatenate(run)
                run, size = [], 0
        if run:
            yield np.concatenate(run)

    def _look_in(self, low: int, high: int) -> bool:
        self.low, self.high = low, high
        self._clear()
        return False

    def _count_equals(self) -> bool:
        """Learn how many equals each member has, from what is held or by one more pass if a cut goes through them."""
        for rank, found in self._found.items():
            if rank in self._equals:
                continue
            holds = self._table is None and self.low <= found.key < self.high
            if not holds and self.group.ties and rank < found.less + found.equal:
                return self._look_in(found.key, found.key + 1)
            if holds:
                self._equals[rank] = self._equals_of(found.key)
        return True

    def _equals_of(self, key: int) -> list[int]:
        counts = [0] * len(self.group.members)
        for at, keys, numbers in self._entries:
            hits = keys == key
            counts[at] += int(np.count_nonzero(hits) if numbers is None else numbers[hits].sum())
        return counts

    def orders(self) -> list[OrderStatistic]:
        """Return the order statistics, one per rank."""
        return [self._order(rank, self._found[rank]) for rank in self.ranks]

    def _order(self, rank: int, found: Found) -> OrderStatistic:
        cuts = tuple(self.keys.first_pattern(found.key, dtype) for dtype in self.keys.dtypes)
        past = (self.keys.first_pattern(found.key + 1, dtype) for dtype in self.keys.dtypes)
        return OrderStatistic(
            rank,
            self.keys.value(found.key),
            found.less,
            found.equal,
            cuts,
            tuple(after > cut for cut, after in zip(cuts, past, strict=True)),
            tuple(self._equals.get(rank) or [None] * len(cuts)),
        )


def orders_of(ops: Ops, y: Array, ranks: Sequence[int], dtype: Float) -> list[OrderStatistic]:
    """Return the order statistics of one tensor whose magnitudes `y` are all at hand."""
    orders = []
    for rank in ranks:
        bits = ops.smallest(y, rank)
        less, equal = ops.below_and_inside(y, bits, 0)[0], ops.count_equal(y, bits)
        orders.append(OrderStatistic(rank, dtype.decode(bits), less, equal, (bits,), (True,), (equal,)))
    return orders


def _sum_equal(keys: NDArray[np.int64], counts: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the keys ascending and once each, with the sums of their counts."""
    order = np.argsort(keys, kind="stable")
    keys, counts = keys[order], counts[order]
    firsts = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]])
    return keys[firsts], np.add.reduceat(counts, firsts)
