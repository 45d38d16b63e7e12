"""The exact cut over several tensors for normalised scores, found in a few passes.

A first pass counts magnitudes by their leading bits, which bounds every score. Only the runs that may contain the cut
are counted again, with more bits, until each is a single pattern. Counts and sums of squares are integers, so the
result does not depend on the order or the size of chunks.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from prunecli.dtypes import FLOATS, Float
from prunecli.errors import Argument, CheckpointError, UsageError
from prunecli.kernels.squares import square_sum
from prunecli.plans import Cut
from prunecli.ranking.normalized_scores import AllRuns, PatternRuns, score_bounds
from prunecli.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from prunecli.plans import Normalization

LEADING = 15
"""The bits of a magnitude that the first pass counts by: all bits of 8- and 16-bit dtypes."""

MANY = 1 << 10
"""For this many tensors, and for every doubling, the first pass uses one bit less."""

HELD_LIMIT = 1 << 22
"""The most runs of a later pass, in all tensors together, of up to 16 bytes each."""

FEWER_HELD = 1 << 20
"""The same where counts are copied from devices."""

FEW = 1 << 10
"""For fewer runs than this, a smaller dtype is not worth the time that it takes."""

RUN = 1 << 16
"""Weights that are counted together."""

_F64 = FLOATS["F64"]


@dataclass(frozen=True, slots=True)
class CountResult:
    """Counts of one chunk: `counts` (n,) weights for each of `bins` (n,), ascending; `squares` in squared quanta."""

    bins: NDArray[Any]
    counts: NDArray[Any]
    squares: int


@dataclass(frozen=True, slots=True)
class CountRequest:
    """A request to count the patterns p of one tensor (the `member`-th) in [low, high) by p >> shift.

    If `above` is set, the sum of squares of the finite weights from that pattern upwards is wanted too. `inside` is the
    number of weights in [low, high), where it is known.
    """

    member: int
    dtype: Float
    low: int
    high: int
    shift: int
    above: int | None = None
    inside: int | None = None

    def count(self, y: NDArray[Any]) -> CountResult:
        """Return the counts for the patterns `y` (flat) of one chunk; negative ones are already pruned and ignored.

        The method changes nothing, so threads may count chunks of one tensor at the same time, in any order.
        """
        parts = [self._count(y[first : first + RUN]) for first in range(0, y.size, RUN)]
        bins, counts = _merged([(part.bins, part.counts) for part in parts])
        if self.counts_have_squares:
            return self.result(bins, counts)
        return CountResult(bins, counts, sum(part.squares for part in parts))

    def result(self, bins: NDArray[Any], counts: NDArray[Any]) -> CountResult:
        """Return all counts, with the sum of squares that follows from them."""
        return CountResult(bins, counts, square_sum(bins, self.dtype, counts) if self.counts_have_squares else 0)

    @property
    def counts_have_squares(self) -> bool:
        """Whether all patterns are counted one by one, so that the counts give the sum of squares."""
        return self.above == 0 and not self.low and not self.shift and self.high > self.dtype.top

    def _count(self, y: NDArray[Any]) -> CountResult:
        if int(y.min()) < 0:
            y = y[y >= 0]
        squares = 0
        if self.above is not None and not self.counts_have_squares:
            squares = square_sum(y[y >= self.above] if self.above else y, self.dtype)
        if self.low or self.high <= self.dtype.top:
            y = y[(y >= self.low) & (y < self.high)]
        y, first = y >> self.shift, self.low >> self.shift
        if ((self.high - 1) >> self.shift) - first > 2 * y.size:
            bins, counts = np.unique(y, return_counts=True)
            return CountResult(bins, counts, squares)
        table = np.bincount(y - first if first else y)
        filled = np.flatnonzero(table)
        return CountResult(filled + first, table[filled], squares)


class NormalizedCutSearch:
    """Searches for the cut that prunes the `k` weights with the smallest scores.

    Count what `requests` returns, pass the results to `add`, and call `advance`; repeat until it returns True.

    Each tensor has limits (lo, hi): its weights of rank lo or less are always pruned and those above rank hi never;
    the others compete by score. Ties are broken by position: of equal scores, earlier tensors and then lower ranks are
    pruned first; of equal weights of a tensor, the first in row-major order has the lowest rank. With "lamp" every
    tensor keeps at least one weight, because LAMP's largest score is 1 in every tensor.

    `counted` has the counts of this pass by tensor, for several processes that count some tensors each.

    Invariant between passes: sum(lo) <= k <= sum(hi), and the cut of each tensor is between its lo and hi.
    """

    def __init__(
        self,
        dtypes: Sequence[Float],
        normalization: Normalization,
        k: int,
        remaining: Sequence[int] | None = None,
        leading: Sequence[int] | None = None,
    ) -> None:
        """Take the dtype of each tensor, the score and limits, and the number of weights to prune.

        `remaining` is the number of weights of each tensor that are not already pruned, if it is known before they
        are read. `leading` has the most bits of each tensor that the first pass counts by, if that is to be less than
        usual; so are later passes then. Raises UsageError, as `advance` does, if no counts within the limits add up to
        `k`.
        """
        self.score, self.k = normalization.score, k
        self.lock = Lock()
        self._lo, self._hi = [lo for lo, _ in normalization.limits], [hi for _, hi in normalization.limits]
        self._check_limits([hi + 1 for hi in self._hi] if remaining is None else remaining)
        self._held_limit = HELD_LIMIT if leading is None else FEWER_HELD
        most = max(LEADING - (len(dtypes) // MANY).bit_length(), 1)
        shifts = [
            max(min(8 * dtype.itemsize - 1 - min(bits, most), _most_shift(dtype)), 0)
            for dtype, bits in zip(dtypes, leading or [most] * len(dtypes), strict=True)
        ]
        above = 0 if self.score in {"l2", "rms"} else None
        self._requests = [
            CountRequest(member, dtype, 0, dtype.top + 1, shift, above)
            for member, (dtype, shift) in enumerate(zip(dtypes, shifts, strict=True))
            if k
        ]
        none = np.empty(0, np.int64)
        self._runs = [PatternRuns(dtype, shift, none, none) for dtype, shift in zip(dtypes, shifts, strict=True)]
        self.counted = {request.member: CountAccumulator() for request in self._requests}
        self._is_first_pass = True
        self._cut_bounds = (-1.0, -1.0)

    def requests(self) -> list[CountRequest]:
        """Return what to count in this pass, at most one request per tensor."""
        return list(self._requests)

    def add(self, request: CountRequest, result: CountResult) -> None:
        """Add the counts of one chunk. Any thread may call this."""
        with self.lock:
            self.counted[request.member].add(result)

    def advance(self) -> bool:
        """End a pass. Return True when the cut is known, False when `requests` has more to count.

        Raises UsageError if the remaining weights are fewer than `k`, and CheckpointError if a pass counted other
        weights than the one before.
        """
        for request in self._requests:
            self._runs[request.member] = self._runs_from(request, self.counted.pop(request.member))
        if self._is_first_pass and self.k:
            self._check_limits([runs.size for runs in self._runs])
        self._is_first_pass = False
        self._narrow()
        self._requests = self._next_requests()
        self.counted = {request.member: CountAccumulator() for request in self._requests}
        if not self._requests:
            self._solve()
        return not self._requests

    def counts(self) -> list[int]:
        """Return how many weights are pruned in each tensor, after `advance` returned True."""
        return list(self._lo)

    def cuts(self) -> list[Cut]:
        """Return the cut of each tensor among its remaining weights, after `advance` returned True."""
        return [_cut(runs, count) for runs, count in zip(self._runs, self._lo, strict=True)]

    def _check_limits(self, totals: Sequence[int]) -> None:
        """Reduce the upper limits to the tensors' sizes; UsageError where no counts within the limits add up to k."""
        kept = self.score == "lamp"
        sizes = [max(total - kept, 0) for total in totals]
        self._hi = [min(hi, size) for hi, size in zip(self._hi, sizes, strict=True)]
        for lo, hi, total in zip(self._lo, self._hi, totals, strict=True):
            if lo > hi:
                raise UsageError(
                    f"a tensor of {total} weights must lose at least {lo} of them, but can lose only {hi}",
                    hint=Argument("min_per_tensor", 1000 * hi // total / 1000),
                )
        least, most = sum(self._lo), sum(self._hi)
        if self.k < least:
            raise UsageError(
                f"the amount is {self.k} weights, but the minimum per tensor is {least} in all",
                hint=Argument("count", least),
            )
        if self.k > most:
            why = "LAMP keeps one weight of every tensor" if kept and self._hi == sizes else "tensors have a maximum"
            raise UsageError(
                f"the amount is {self.k} weights, but {why}, so at most {most} can be pruned",
                hint=Argument("count", most),
            )

    def _runs_from(self, request: CountRequest, counted: CountAccumulator) -> PatternRuns:
        """Return the runs of a tensor from the counts of a pass."""
        old, (bins, counts) = self._runs[request.member], counted.merged()
        if self._is_first_pass:
            inside = bins.astype(np.int64) << request.shift <= request.dtype.finite_max
            finite = int(counts[inside].sum(dtype=np.int64))
            size = int(counts.sum(dtype=np.int64))
            return PatternRuns(request.dtype, request.shift, bins, counts, size, 0, counted.squares, finite)
        if old.size != counts.sum(dtype=np.int64):
            raise CheckpointError("the weights changed while they were read", hint="run it again")
        squares = counted.squares if request.above is not None else old.squares
        return PatternRuns(old.dtype, request.shift, bins, counts, old.size, old.below, squares, old.finite)

    def _narrow(self) -> None:
        """Move each tensor's limits together as far as the bounds of the scores allow, and drop the runs outside."""
        every, lo, hi = AllRuns(self._runs), np.array(self._lo), np.array(self._hi)
        low, high = score_bounds(self._runs, self.score)
        rest = self.k - sum(self._lo)
        if rest:
            competing = every.competing(lo, hi)
            # No lower bound exceeds its score, so the rank-th smallest of the lower bounds does not exceed the rank-th
            # smallest score. The same holds for upper bounds, the other way round.
            self._cut_bounds = _score_at(low, competing, rest), _score_at(high, competing, rest)
        least, most = self._cut_bounds if rest else (-1.0, -1.0)
        lowest, highest = (np.clip(every.weights(marks), lo, hi) for marks in (high < least, low <= most))
        self._lo, self._hi = lowest.tolist(), highest.tolist()
        self._runs = every.between(lowest, highest, self.score)

    def _next_requests(self) -> list[CountRequest]:
        """Return requests for the runs of more than one pattern, with as many bits as `HELD_LIMIT` allows."""
        coarse = [(member, runs) for member, runs in enumerate(self._runs) if runs.shift and runs.bins.size]
        drop = _drop([(int(r.bins[-1]) + 1 - int(r.bins[0]), r.size, r.shift) for _, r in coarse], self._held_limit)
        requests = []
        for member, runs in coarse:
            low, high = (int(bits) << runs.shift for bits in (runs.bins[0], int(runs.bins[-1]) + 1))
            above = high if self.score == "lamp" else None
            requests.append(CountRequest(member, runs.dtype, low, high, max(runs.shift - drop, 0), above, runs.size))
        return requests

    def _solve(self) -> None:
        """Find the score at the cut in the remaining runs, and each tensor's number of weights up to it.

        Runs have one pattern each now. The scores of float64 are searched by their patterns, which are in the same
        order, so the bisection takes at most 64 steps. Each step moves the limits of the tensors closer.
        """
        open_ = [member for member, (lo, hi) in enumerate(zip(self._lo, self._hi, strict=True)) if lo < hi]
        if not open_:
            return
        scores = {member: self._runs[member].exact_scores(self.score) for member in open_}  # in checkpoint order
        lo, hi = list(self._lo), list(self._hi)
        first, last = (int(np.float64(end).view(np.int64)) for end in self._cut_bounds)
        while first < last:
            middle = (first + last) // 2
            score = _F64.decode(middle)
            upto = {m: bisect_right(range(hi[m]), score, lo[m], hi[m], key=scores[m]) for m in open_}
            enough = sum(lo) + sum(count - lo[member] for member, count in upto.items()) >= self.k
            first, last = (first, middle) if enough else (middle + 1, last)
            for member, count in upto.items():
                (hi if enough else lo)[member] = count
            open_ = [member for member in open_ if lo[member] < hi[member]]
        cut = _F64.decode(first)
        below = {m: bisect_left(range(hi[m]), cut, lo[m], hi[m], key=key) for m, key in scores.items()}
        rest = self.k - sum(self._lo) - sum(count - self._lo[member] for member, count in below.items())
        # What is missing to k scores exactly `cut`: earlier tensors are pruned first.
        for m, key in scores.items():
            equal = min(bisect_right(range(hi[m]), cut, below[m], hi[m], key=key) - below[m], rest)
            rest -= equal
            self._lo[m] = self._hi[m] = below[m] + equal


def _drop(spans: Sequence[tuple[int, int, int]], limit: int) -> int:
    """Return how many bits more a pass counts by, if no more than `limit` runs are then held.

    `spans` are the runs of a tensor, from the first to the last, their weights, and the bits that are left.
    """
    span, size, shift = np.array(spans, np.float64).reshape(-1, 3).T  # runs may be more than a 64-bit integer has
    drop = int(shift.max(initial=0))
    while drop > 1 and np.minimum(size, span * np.exp2(np.minimum(drop, shift))).sum() > limit:
        drop -= 1
    return drop


class CountAccumulator:
    """Accumulates the counts of one tensor; merges when that halves the memory."""

    __slots__ = ("_merged_size", "_parts", "_waiting", "squares")

    def __init__(self) -> None:
        """Start with no counts."""
        self.squares = 0
        self._parts: list[tuple[NDArray[Any], NDArray[Any]]] = []
        self._merged_size = self._waiting = 0

    def add(self, result: CountResult) -> None:
        """Add the counts of one chunk."""
        self.squares += result.squares
        self._parts.append((result.bins, result.counts))
        self._waiting += result.bins.size
        if self._waiting > self._merged_size:
            self.merged()

    def merged(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return all bins, ascending, and their counts."""
        if self._waiting or not self._parts:
            self._parts = [_merged(self._parts)]
            self._merged_size, self._waiting = self._parts[0][0].size, 0
        return self._parts[0]


def _merged(parts: Sequence[tuple[NDArray[Any], NDArray[Any]]]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the bins, ascending and without repetition, and the sums of their counts, in the smallest dtypes."""
    if not parts:
        return np.empty(0, np.uint8), np.empty(0, np.uint8)
    if len(parts) == 1 and len(parts[0][0]) < FEW:
        return parts[0]
    bins, counts = (np.concatenate(arrays, dtype=np.int64) for arrays in zip(*parts, strict=True))
    if len(parts) > 1 and bins.size:
        bins, counts = _sum_equal(bins, counts)
    return _in_smallest_dtype(bins), _in_smallest_dtype(counts)


def _most_shift(dtype: Float) -> int:
    """Return the most bits of patterns that a run may leave out: none of its runs has finite and other patterns."""
    limit = dtype.finite_max + 1
    return min(dtype.mantissa, (limit & -limit).bit_length() - 1)


def _in_smallest_dtype(numbers: NDArray[Any]) -> NDArray[Any]:
    return numbers.astype(np.min_scalar_type(int(numbers.max(initial=0))))


def _score_at(scores: NDArray[np.float64], counts: NDArray[np.int64], rank: int) -> float:
    """Return the `rank`-th smallest score (1-based), where each score occurs as often as its count."""
    every, times = scores[counts > 0], counts[counts > 0]
    order = np.argsort(every)
    return float(every[order[np.searchsorted(np.cumsum(times[order]), rank)]])


def _cut(runs: PatternRuns, count: int) -> Cut:
    """Return the cut that prunes the `count` smallest weights of a tensor; the last of them is in `runs`."""
    if not count:
        return Cut(0)
    ends = runs.ends
    run = int(np.searchsorted(ends, count))
    bits, equal = int(runs.bins[run]), int(runs.counts[run])
    ties = count - int(ends[run]) + equal
    value = runs.dtype.decode(bits)
    if ties == equal:
        return Cut(bits + 1, 0, equal, equal, value)
    return Cut(bits, ties, equal, ties, value)


def _sum_equal(keys: NDArray[Any], counts: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Return the keys (one or more) ascending and without repetition, with the sums of their counts."""
    order = np.argsort(keys, kind="stable")
    keys, counts = keys[order], counts[order]
    firsts = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]])
    return keys[firsts], np.add.reduceat(counts, firsts, dtype=np.int64)
