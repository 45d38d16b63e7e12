"""Where a cut through many tensors falls when scores that know each tensor's scale decide: exactly, in few passes.

Each tensor's magnitudes in ascending order are a curve of rising scores. A first pass counts magnitudes by their
leading bits, which brackets every score; only the runs that the cut may fall into are counted again, finer, until each
is a single pattern. Counts and sums of squares are whole numbers, so that nothing depends on the order or the size of
the tiles. Nothing here knows about names or files.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, replace
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from prunecli.dtypes import FLOATS, Float
from prunecli.errors import CheckpointError, UsageError
from prunecli.kernels.squares import square_sum
from prunecli.plans import Cut
from prunecli.ranking.normalized_scores import PatternRuns

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

LEADING = 15
"""Bits of a magnitude that the first pass looks at: all there are in 8- and 16-bit types."""

MANY = 1 << 10
"""With every doubling of this number of tensors the first pass looks at one bit less."""

HELD_LIMIT = 1 << 22
"""Runs that a later pass may tell apart, in all tensors together: up to 16 bytes each."""

RUN = 1 << 16
"""Weights counted together."""

_F64 = FLOATS["F64"]


@dataclass(frozen=True, slots=True)
class CountResult:
    """What was counted: `counts` (n,) weights for each of `bins` (n,), ascending, and a sum in squared quanta."""

    bins: NDArray[Any]
    counts: NDArray[Any]
    squares: int


@dataclass(frozen=True, slots=True)
class CountRequest:
    """What to count of one tensor, the `member`-th: its patterns in [low, high) by `pattern >> shift`.

    `above` asks for the sum of squares of the finite weights from that pattern on, too.
    """

    member: int
    dtype: Float
    low: int
    high: int
    shift: int
    above: int | None = None

    def count(self, y: NDArray[Any]) -> CountResult:
        """Count a tile's magnitudes `y` (flat, as `NumpyOps.magnitudes` gives them); negative ones are left out.

        Nothing is changed or kept: threads may count tiles of one tensor at once, in any order.
        """
        parts = [self._count(y[first : first + RUN]) for first in range(0, y.size, RUN)]
        bins, counts = _merged([(part.bins, part.counts) for part in parts])
        if self._at_once:
            return CountResult(bins, counts, square_sum(bins, self.dtype, counts))
        return CountResult(bins, counts, sum(part.squares for part in parts))

    @property
    def _at_once(self) -> bool:
        """Whether the counts tell all squares that are asked for."""
        return self.above == 0 and not self.low and not self.shift and self.high > self.dtype.top

    def _count(self, y: NDArray[Any]) -> CountResult:
        if int(y.min()) < 0:
            y = y[y >= 0]
        squares = 0
        if self.above is not None and not self._at_once:
            squares = square_sum(y[y >= self.above] if self.above else y, self.dtype)
        if self.low or self.high <= self.dtype.top:
            y = y[(y >= self.low) & (y < self.high)]
        y, first = y >> self.shift, self.low >> self.shift
        if ((self.high - 1) >> self.shift) - first > 2 * y.size:
            bins, counts = np.unique(y, return_counts=True)
            return CountResult(bins, counts, squares)
        table = np.bincount(y - first if first else y)
        held = np.flatnonzero(table)
        return CountResult(held + first, table[held], squares)


class NormalizedCutSearch:
    """The search for the cut at the `k` smallest scores; `wanted` says what to count, `advance` whether it was enough.

    Weights of rank `lo` or less within their tensor always go and those of rank above `hi` never; the others compete
    by score, of equal scores those of earlier tensors and then of lower rank go first. Of a tensor's equal weights the
    first in row-major order has the lowest rank. With "lamp" every tensor keeps at least one weight.
    """

    def __init__(
        self,
        dtypes: Sequence[Float],
        kind: str,
        bounds: Sequence[tuple[int, int]],
        k: int,
        left: Sequence[int] | None = None,
    ) -> None:
        """Take each tensor's dtype and (lo, hi); `kind` is one of `normalized.KINDS`.

        `left` says how many weights each tensor has that count, where that is known before they are read. Raises
        UsageError, as `advance` does too, where no counts within the bounds add up to `k`.
        """
        self.kind, self.k = kind, k
        self.lock = Lock()
        self._lo, self._hi = [lo for lo, _ in bounds], [hi for _, hi in bounds]
        self._settle([hi + 1 for hi in self._hi] if left is None else left)
        bits = max(LEADING - (len(dtypes) // MANY).bit_length(), 1)
        shifts = [max(min(8 * dtype.itemsize - 1 - bits, dtype.mantissa), 0) for dtype in dtypes]
        above = 0 if kind in {"l2", "rms"} else None
        self._wants = [
            CountRequest(at, dtype, 0, dtype.top + 1, shift, above)
            for at, (dtype, shift) in enumerate(zip(dtypes, shifts, strict=True))
            if k
        ]
        none = np.empty(0, np.int64)
        self._runs = [PatternRuns(dtype, shift, none, none) for dtype, shift in zip(dtypes, shifts, strict=True)]
        self._heaps = {want.member: CountAccumulator() for want in self._wants}
        self._fresh = True
        self._ends = (-1.0, -1.0)

    def wanted(self) -> list[CountRequest]:
        """Return what to count in this pass; at most one entry per tensor."""
        return list(self._wants)

    def add(self, want: CountRequest, seen: CountResult) -> None:
        """Take in what `want` counted in one tile; threads may call this at once."""
        with self.lock:
            self._heaps[want.member].add(seen)

    def advance(self) -> bool:
        """Conclude a pass: True when the cut is known, False when there is more to count.

        Raises UsageError where the weights that are left do not suffice for `k`, CheckpointError where a later pass
        saw other weights than the one before.
        """
        for want in self._wants:
            self._runs[want.member] = self._taken(want, self._heaps.pop(want.member))
        if self._fresh and self.k:
            self._settle([int(runs.counts.sum(dtype=np.int64)) for runs in self._runs])
        self._fresh = False
        self._narrow()
        self._wants = self._finer()
        self._heaps = {want.member: CountAccumulator() for want in self._wants}
        if not self._wants:
            self._solve()
        return not self._wants

    def counts(self) -> list[int]:
        """Return how many weights go from each tensor, once `advance` said True."""
        return list(self._lo)

    def cuts(self) -> list[Cut]:
        """Return the cut of each tensor, among the weights that were counted, once `advance` said True."""
        return [_cut(runs, count) for runs, count in zip(self._runs, self._lo, strict=True)]

    def _settle(self, totals: Sequence[int]) -> None:
        """Bring the bounds down to what the tensors have; UsageError where they allow no counts that make `k`."""
        spared = self.kind == "lamp"
        room = [max(total - spared, 0) for total in totals]
        self._hi = [min(hi, most) for hi, most in zip(self._hi, room, strict=True)]
        for lo, hi, total in zip(self._lo, self._hi, totals, strict=True):
            if lo > hi:
                raise UsageError(
                    f"of a tensor of {total} weights at least {lo} are to go, but at most {hi} can",
                    hint="--min-per-tensor 0.5",
                )
        least, most = sum(self._lo), sum(self._hi)
        if self.k < least:
            raise UsageError(
                f"{self.k} weights are to go, but --min-per-tensor makes at least {least} go", hint=f"--count {least}"
            )
        if self.k > most:
            why = "LAMP keeps one of every tensor" if spared and self._hi == room else "--max-per-tensor sets limits"
            raise UsageError(f"{self.k} weights are to go, but {why}, so at most {most} can", hint=f"--count {most}")

    def _taken(self, want: CountRequest, heap: CountAccumulator) -> PatternRuns:
        """Return the runs of a tensor that the pass found."""
        old, (bins, counts) = self._runs[want.member], heap.merged()
        if self._fresh:
            inside = bins.astype(np.int64) << want.shift <= want.dtype.finite_max
            finite = int(counts[inside].sum(dtype=np.int64))
            return PatternRuns(want.dtype, want.shift, bins, counts, 0, heap.squares, finite)
        if old.counts.sum(dtype=np.int64) != counts.sum(dtype=np.int64):
            raise CheckpointError("the weights changed while they were being read", hint="run it again")
        squares = heap.squares if want.above is not None else old.squares
        return replace(old, shift=want.shift, bins=bins, counts=counts, squares=squares)

    def _narrow(self) -> None:
        """Bring each tensor's bounds together as far as the brackets tell, and drop the runs outside them."""
        scored = [runs.brackets(self.kind) for runs in self._runs]
        rest = self.k - sum(self._lo)
        if rest:
            competing = [
                np.diff(np.clip(np.r_[runs.below, runs.ends], lo, hi))
                for runs, lo, hi in zip(self._runs, self._lo, self._hi, strict=True)
            ]
            self._ends = (
                _ranked([low for low, _ in scored], competing, rest),
                _ranked([high for _, high in scored], competing, rest),
            )
        least, most = self._ends if rest else (-1.0, -1.0)
        for at, (low, high) in enumerate(scored):
            runs, lo, hi = self._runs[at], self._lo[at], self._hi[at]
            ends = np.r_[runs.below, runs.ends]
            self._lo[at] = int(np.clip(ends[np.searchsorted(high, least)], lo, hi))
            self._hi[at] = int(np.clip(ends[np.searchsorted(low, most, "right")], lo, hi))
            self._runs[at] = runs.between(self._lo[at], self._hi[at], self.kind)

    def _finer(self) -> list[CountRequest]:
        """Return what to count next: the runs left of more than one pattern, as fine as the memory allows."""
        coarse = [(at, runs) for at, runs in enumerate(self._runs) if runs.shift and runs.bins.size]
        spans = [(int(r.bins[-1]) + 1 - int(r.bins[0]), int(r.counts.sum(dtype=np.int64)), r.shift) for _, r in coarse]
        drop = max((runs.shift for _, runs in coarse), default=0)
        while drop > 1 and sum(min(size, span << min(drop, shift)) for span, size, shift in spans) > HELD_LIMIT:
            drop -= 1
        wants = []
        for at, runs in coarse:
            low, high = (int(bits) << runs.shift for bits in (runs.bins[0], int(runs.bins[-1]) + 1))
            above = high if self.kind == "lamp" else None
            wants.append(CountRequest(at, runs.dtype, low, high, max(runs.shift - drop, 0), above))
        return wants

    def _solve(self) -> None:
        """Find the score at the cut among the runs that are left, and how many weights of each tensor it takes."""
        scores = {
            at: runs.score(self.kind) for at, runs in enumerate(self._runs) if self._lo[at] < self._hi[at]
        }  # by tensor, in order
        if not scores:
            return

        def reached(bits: int) -> int:
            """Count what goes if everything up to the score of this pattern does."""
            score = _F64.decode(bits)
            return fixed + sum(self._place(bisect_right, at, score, key) for at, key in scores.items())

        fixed = sum(lo for at, lo in enumerate(self._lo) if at not in scores)
        first, last = (int(np.float64(end).view(np.int64)) for end in self._ends)
        cut = _F64.decode(first + bisect_left(range(first, last), self.k, key=reached))
        below = {at: self._place(bisect_left, at, cut, key) for at, key in scores.items()}
        rest = self.k - fixed - sum(below.values())
        for at, key in scores.items():
            equal = min(self._place(bisect_right, at, cut, key) - below[at], rest)
            rest -= equal
            self._lo[at] = self._hi[at] = below[at] + equal

    def _place(self, search: Callable[..., int], at: int, score: float, key: Callable[[int], float]) -> int:
        """Return how many weights of a tensor have a smaller score, or no larger one, as `search` is left or right."""
        return search(range(self._hi[at]), score, self._lo[at], self._hi[at], key=key)


class CountAccumulator:
    """What the tiles of one tensor had, merged whenever that halves what is held."""

    def __init__(self) -> None:
        """Start with no counts."""
        self.squares = 0
        self._parts: list[tuple[NDArray[Any], NDArray[Any]]] = []
        self._merged_size = self._waiting = 0

    def add(self, seen: CountResult) -> None:
        """Take in the counts of one chunk."""
        self.squares += seen.squares
        self._parts.append((seen.bins, seen.counts))
        self._waiting += seen.bins.size
        if self._waiting > self._merged_size:
            self._parts = [self.merged()]
            self._merged_size, self._waiting = self._parts[0][0].size, 0

    def merged(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return all bins, ascending, and their counts."""
        return _merged(self._parts)


def _merged(parts: Sequence[tuple[NDArray[Any], NDArray[Any]]]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return bins ascending and once each with the sums of their counts, in the smallest types that hold them."""
    if not parts:
        return np.empty(0, np.uint8), np.empty(0, np.uint8)
    bins, counts = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    if len(parts) > 1 and bins.size:
        order = np.argsort(bins, kind="stable")
        bins, counts = bins[order], counts[order]
        firsts = np.flatnonzero(np.r_[True, bins[1:] != bins[:-1]])
        bins, counts = bins[firsts], np.add.reduceat(counts, firsts, dtype=np.int64)
    return _smallest(bins), _smallest(counts)


def _smallest(numbers: NDArray[Any]) -> NDArray[Any]:
    return numbers.astype(np.min_scalar_type(int(numbers.max(initial=0))))


def _ranked(scores: Sequence[NDArray[np.float64]], counts: Sequence[NDArray[np.int64]], rank: int) -> float:
    """Return the `rank`-th smallest score, 1-based, where each is there so many times."""
    held = [(score[count > 0], count[count > 0]) for score, count in zip(scores, counts, strict=True)]
    every, times = (np.concatenate(arrays) for arrays in zip(*held, strict=True))
    order = np.argsort(every, kind="stable")
    return float(every[order[np.searchsorted(np.cumsum(times[order]), rank)]])


def _cut(runs: PatternRuns, count: int) -> Cut:
    """Return the cut that prunes the `count` smallest weights of a tensor, the last of which is in `runs`."""
    if not count:
        return Cut(0)
    ends = runs.ends
    at = int(np.searchsorted(ends, count))
    bits, equal = int(runs.bins[at]), int(runs.counts[at])
    ties = count - int(ends[at]) + equal
    value = runs.dtype.decode(bits)
    if ties == equal:
        return Cut(bits + 1, 0, equal, equal, value)
    return Cut(bits, ties, equal, ties, value)
