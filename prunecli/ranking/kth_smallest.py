"""The exact k-th smallest of a stream of magnitudes, in constant memory and usually in one pass.

A sample brackets the wanted ranks. One pass counts the magnitudes below the bracket and, pattern by pattern, those
inside it. A bracket that misses a rank is widened and counted again. The result equals that of a full sort for any
order of the stream; it is never approximate. Formats of different widths are merged by value. Sampling to bracket an
order statistic is Floyd and Rivest's SELECT (1975).
"""

from __future__ import annotations

import importlib
from array import array
from bisect import bisect_left
from collections import Counter
from itertools import accumulate, chain
from math import sqrt
from threading import Lock
from typing import TYPE_CHECKING, Any

from prunecli.dtypes import FLOATS, Float
from prunecli.kernels.key_arrays import add_to_bins, count_equal, count_from, joined, smallest, within
from prunecli.plans import OrderStatistic
from prunecli.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from prunecli.kernels import key_arrays
    from prunecli.kernels.ops import Array, Ops
    from prunecli.plans import RankGroup

HELD_LIMIT = 12 << 20
"""The most bytes of keys that one search keeps before it joins them into bins."""

BINS_BITS = 17
"""A bin is named by this many leading bits of a key's offset in the bracket: a megabyte of counts."""

FEW_BINS_BITS = 10
"""The same of the bins of kept keys; the keys of one bin are then ranked."""

MARGIN = 5.0
"""Half the width of a bracket, in standard errors of the sample's rank. A miss costs one more pass."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Some magnitudes of members of a group, of one dtype: `patterns` has blocks of `length` neighbours.

    `member` is one of them.
    """

    member: int
    patterns: key_arrays.Keys
    length: int


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
        self.different = tuple({dtype.name: dtype for dtype in self.dtypes}.values())
        wider = FLOATS["F64" if FLOATS["F64"] in self.different else "F32"]
        self.common = self.dtypes[0] if len(self.different) == 1 else wider

    def of(self, patterns: key_arrays.Keys, dtype: Float) -> key_arrays.Keys:
        """Return the keys of `patterns` of `dtype`, in the same order."""
        if dtype is self.common:
            return patterns
        return _bit_patterns().widen(patterns, dtype, self.common)

    def of_range(self, low: int, width: int, dtype: Float) -> Sequence[int]:
        """Return the keys of the patterns in [low, low + width)."""
        if dtype is self.common:
            return range(low, low + width)
        keys: list[int] = self.of(array("q", range(low, low + width)), dtype).tolist()
        return keys

    def first_pattern(self, key: int, dtype: Float) -> int:
        """Return the smallest pattern of `dtype` with a key of at least `key`; one above the largest if none has."""
        if dtype is self.common or key > self.common.top:
            return min(key, dtype.top + 1)
        pattern: int = _bit_patterns().narrow(key, dtype, self.common)
        return pattern

    def value(self, key: int) -> float:
        """Return the magnitude of a key."""
        return self.common.decode(key)


class RankSearch:
    """Searches for the order statistics of one group.

    Count what `brackets` names, pass the counts to `add`, from any thread, and call `advance`; repeat until it returns
    True. Invariants: keys in [low, high) are kept, counted or binned, keys below `low` are only counted; ranks are
    1-based.
    """

    def __init__(
        self, group: RankGroup, dtypes: Sequence[Float], numels: Sequence[int], *, equals: bool = False
    ) -> None:
        """Start with a bracket of all keys. `dtypes` and `numels` are those of the members.

        With `equals`, each member's number of equals is counted also where no cut goes through them.
        """
        self._needs_equals = equals
        self.group, self.ranks, self.total = group, group.ranks, sum(numels)
        self.keys = Keys(dtypes)
        self.low, self.high = 0, self.keys.common.top + 1
        self.inside: int | None = None
        """The number of keys in the bracket, where it is known."""
        self._lock = Lock()
        self._index = {member: index for index, member in enumerate(group.members)}
        self._ranked: dict[int, RankedKey] = {}
        self._equals: dict[int, list[int]] = {}
        self._clear()

    def _clear(self) -> None:
        self._below = self._held = 0
        self._bins: array[int] | None = None
        self._elsewhere: tuple[int, array[int]] | None = None
        self._kept: list[tuple[int, key_arrays.Keys]] = []
        self._counted: dict[int, list[int]] = {}

    def narrow_to(self, samples: Sequence[Sample]) -> None:
        """Bracket the ranks by a sample, whose sizes are in proportion to the members' sizes.

        Neighbours in a tensor are correlated. The standard error is therefore estimated from the spread between
        blocks, and is at least that of independent draws.
        """
        parts = [self.keys_of(s.member, s.patterns) for s in samples]
        keys = joined(parts)
        size, ends = len(keys), []
        for rank in sorted({self.ranks[0], self.ranks[-1]}):
            share = (rank - 0.5) / self.total  # the expected position of the rank, as a part of any sample
            pivot = smallest(keys, min(int(share * size), size - 1) + 1)[0]
            above = [
                [number / s.length for number in count_from(part, s.length, pivot + 1)]
                for s, part in zip(samples, parts, strict=True)
            ]
            error = max(_standard_error(list(chain(*above))), sqrt(share * (1 - share) / size))
            ends.append((share * size, MARGIN * error * size + 2))  # 2 more: positions are rounded
        first, last = int(ends[0][0] - ends[0][1]), int(ends[-1][0] + ends[-1][1]) + 1
        self.low = max(smallest(keys, first + 1)[0], 0) if first > 0 else 0
        self.high = smallest(keys, last + 1)[0] + 1 if last < size else self.keys.common.top + 1

    def keys_of(self, member: int, patterns: key_arrays.Keys) -> key_arrays.Keys:
        """Return the keys of patterns of a member."""
        return self.keys.of(patterns, self.keys.dtypes[self._index[member]])

    def brackets(self) -> list[tuple[int, int, int]]:
        """Return (member, first pattern, number of patterns) to count for each member."""
        by_dtype = {dtype.name: self._bracket(dtype) for dtype in self.keys.different}
        return [
            (member, *by_dtype[dtype.name]) for member, dtype in zip(self.group.members, self.keys.dtypes, strict=True)
        ]

    def _bracket(self, dtype: Float) -> tuple[int, int]:
        low = self.keys.first_pattern(self.low, dtype)
        return low, self.keys.first_pattern(self.high, dtype) - low

    def add(self, member: int, below: int, patterns: key_arrays.Keys | None, counts: Sequence[int] | None) -> None:
        """Add the counts of one chunk, as `Ops.below_and_inside` returns them."""
        index = self._index[member]
        keys = self.keys_of(member, patterns) if counts is None and patterns is not None else None
        with self._lock:
            self._below += below
            if counts is not None:
                before = self._counted.setdefault(index, [0] * len(counts))
                self._counted[index] = [a + b for a, b in zip(before, counts, strict=True)]
            elif keys is not None and len(keys):
                self._keep(index, keys)

    def _keep(self, index: int, keys: key_arrays.Keys) -> None:
        if self._bins is None:
            self._kept.append((index, keys))
            self._held += memoryview(keys).nbytes
            if self._held > HELD_LIMIT:
                self._bins, self._kept = self._binned(BINS_BITS), []
        else:
            add_to_bins(keys, self.low, self.high - self.low, self._shift(BINS_BITS), self._bins)

    def shift(self, bits: int) -> int:
        """Return how far the offset of a key in the bracket is shifted to name one of about 2**bits bins."""
        return self._shift(bits)

    def add_bins(self, below: int, counts: Sequence[int], shift: int) -> None:
        """Add keys of any members that were counted elsewhere: those below the bracket, and those of each bin of it.

        The keys of a bin have the same (key - low) >> shift. Such a pass ends with `advance`, after which a bracket
        that is not wider than a bin is left.
        """
        with self._lock:
            self._below += below
            known = self._elsewhere
            if known is None:
                self._elsewhere = (shift, array("q", counts))
            else:
                self._elsewhere = (shift, array("q", [a + b for a, b in zip(known[1], counts, strict=True)]))

    def _shift(self, bits: int) -> int:
        return max((self.high - 1 - self.low).bit_length() - bits, 0)

    def _binned(self, bits: int) -> array[int]:
        """Return the number of kept keys in each bin of the bracket."""
        shift = self._shift(bits)
        bins = array("q", bytes(8 * (((self.high - 1 - self.low) >> shift) + 1)))
        for _, keys in self._kept:
            add_to_bins(keys, self.low, self.high - self.low, shift, bins)
        return bins

    def _counted_keys(self) -> Iterator[tuple[int, int]]:
        """Yield the keys that were counted one by one, with their counts; a key may come several times."""
        for index, counts in self._counted.items():
            keys = self._keys_counted(index)
            yield from ((key, count) for key, count in zip(keys, counts, strict=True) if count)

    def _keys_counted(self, index: int) -> Sequence[int]:
        """Return the keys of the patterns that are counted of a member."""
        dtype = self.keys.dtypes[index]
        return self.keys.of_range(*self._bracket(dtype), dtype)

    def advance(self) -> bool:
        """End a pass. Return True when every rank is known; otherwise `brackets` has changed for the next pass."""
        bins, shift = self._all_bins()
        for key, count in self._counted_keys():
            bins[(key - self.low) >> shift] += count
        below, bins = self._in_all(self._below, bins)
        ends = list(accumulate(bins, initial=below))
        for rank in (rank for rank in self.ranks if rank not in self._ranked):
            # The sample was not representative: look at all keys on that side of the bracket.
            if rank <= below:
                return self._look_in(0, self.low)
            if rank > ends[-1]:
                return self._look_in(self.high, self.keys.common.top + 1)
            position = bisect_left(ends, rank) - 1
            less, low = ends[position], self.low + (position << shift)
            if not shift:
                self._ranked[rank] = RankedKey(low, less, bins[position])
            elif self._is_binned:
                # The next rank may be in the next bin. Two bins are a small part of the bracket.
                both = ends[position + 1] < self.ranks[-1] <= ends[min(position + 2, len(bins))]
                inside = sum(bins[position : position + 1 + both])
                return self._look_in(low, min(low + (1 + both << shift), self.high), inside)
            else:
                self._ranked[rank] = self._ranked_in(low, min(1 << shift, self.high - low), rank, less)
        return self._count_equals()

    def _all_bins(self) -> tuple[array[int], int]:
        """Return the bins without the keys that were counted one by one, and their shift."""
        if self._elsewhere is not None:
            return self._in_bins_of_elsewhere(*self._elsewhere)
        if self._bins is not None:
            return self._bins, self._shift(BINS_BITS)
        bits = BINS_BITS if self._is_binned else FEW_BINS_BITS
        return self._binned(bits), self._shift(bits)

    def _in_bins_of_elsewhere(self, shift: int, bins: array[int]) -> tuple[array[int], int]:
        """Add the keys that were counted here to bins that are as wide as these, or wider."""
        for _, keys in self._kept:
            add_to_bins(keys, self.low, self.high - self.low, shift, bins)
        for index, count in enumerate(self._bins or ()):
            bins[index >> (shift - self._shift(BINS_BITS))] += count
        return bins, shift

    @property
    def _is_binned(self) -> bool:
        """Whether keys of this pass are known by their bins only."""
        return self._bins is not None or self._elsewhere is not None

    def _in_all(self, below: int, bins: array[int]) -> tuple[int, array[int]]:
        """Return the number of keys below the bracket and those of its bins, with those that others have counted."""
        return below, bins

    def _ranked_in(self, low: int, width: int, rank: int, less: int) -> RankedKey:
        """Return the key at a rank from the keys in [low, low + width), one bin; `less` keys are below the bin.

        Only this bin is ranked, and no copy of all keys is made.
        """
        counted = [(key, count) for key, count in self._counted_keys() if low <= key < low + width]
        parts = [within(keys, low, width) for _, keys in self._kept]
        if not counted:
            key, smaller, equal = smallest(joined(parts), rank - less)
            return RankedKey(key, less + smaller, equal)
        counts: Counter[int] = Counter(chain.from_iterable(part.tolist() for part in parts))
        for key, count in counted:
            counts[key] += count
        keys = sorted(counts)
        ends = list(accumulate((counts[key] for key in keys), initial=less))
        position = bisect_left(ends, rank) - 1
        return RankedKey(keys[position], ends[position], counts[keys[position]])

    def _look_in(self, low: int, high: int, inside: int | None = None) -> bool:
        """Set the bracket for the next pass, in which so many keys are known to be, and return False."""
        self.low, self.high, self.inside = low, high, inside
        self._clear()
        return False

    def _count_equals(self) -> bool:
        """Count each member's equals: from the kept keys, or in one more pass if a cut goes through them."""
        for rank, ranked in self._ranked.items():
            if rank in self._equals:
                continue
            if len(self.group.members) == 1:
                self._equals[rank] = [ranked.equal]
                continue
            kept = not self._is_binned and self.low <= ranked.key < self.high
            # Without a cut through equals all of them are pruned, and their number per member is not needed.
            if not kept and (self._needs_equals or (self.group.ties and rank < ranked.less + ranked.equal)):
                return self._look_in(ranked.key, ranked.key + 1)
            if kept:
                self._equals[rank] = self._equals_of(ranked.key)
        return True

    def _equals_of(self, key: int) -> list[int]:
        equals = [0] * len(self.group.members)
        for index, keys in self._kept:
            equals[index] += count_equal(keys, key)
        for index, counts in self._counted.items():
            keys = self._keys_counted(index)
            equals[index] += sum(count for k, count in zip(keys, counts, strict=True) if k == key)
        return equals

    def statistics(self) -> list[OrderStatistic]:
        """Return the order statistics, one per rank, after `advance` returned True."""
        return [self._statistic(rank, self._ranked[rank]) for rank in self.ranks]

    def _statistic(self, rank: int, ranked: RankedKey) -> OrderStatistic:
        cuts, past = (
            {dtype.name: self.keys.first_pattern(key, dtype) for dtype in self.keys.different}
            for key in (ranked.key, ranked.key + 1)
        )
        names = [dtype.name for dtype in self.keys.dtypes]
        return OrderStatistic(
            rank,
            self.keys.value(ranked.key),
            ranked.less,
            ranked.equal,
            tuple([cuts[name] for name in names]),
            tuple([past[name] > cuts[name] for name in names]),
            tuple(self._equals.get(rank) or [None] * len(names)),
        )


def statistics_of(ops: Ops, y: Array, ranks: Sequence[int], dtype: Float) -> list[OrderStatistic]:
    """Return the order statistics at `ranks` (1-based, ascending) of one tensor whose magnitudes `y` are in memory."""
    found, bits, less, equal = [], 0, 0, 0
    for rank in ranks:
        if rank > less + equal:
            bits, less, equal = ops.smallest(y, rank)
        found.append(statistic_at(rank, dtype, bits, less, equal))
    return found


def statistic_at(rank: int, dtype: Float, bits: int, less: int, equal: int) -> OrderStatistic:
    """Return the order statistic of one tensor in which `less` magnitudes are below `bits`, and `equal` are it."""
    return OrderStatistic(rank, dtype.decode(bits), less, equal, (bits,), (True,), (equal,))


def _standard_error(shares: Sequence[float]) -> float:
    """Return the standard error of the mean of `shares`."""
    mean = sum(shares) / len(shares)
    return sqrt(sum((share - mean) ** 2 for share in shares)) / len(shares)


def _bit_patterns() -> Any:  # noqa: ANN401 - the module
    """Import the conversion of patterns, which needs NumPy; only groups of several dtypes need it."""
    return importlib.import_module("prunecli.kernels.bit_patterns")
