"""Scores that make magnitudes of different tensors comparable: bounds for a group of magnitudes, and exact values.

With w a magnitude and W the finite weights of its tensor, the scores are "none" w; "l2" w / ||W||_2; "rms" w /
rms(W); "lamp" w**2 over the sum of squares of all weights of rank w or higher (Lee et al. 2021, "Layer-adaptive
Sparsity for the Magnitude-based Pruning", https://arxiv.org/abs/2010.07611). A score is a float64 that never falls as
magnitudes rise within a tensor. Sums of squares are exact integers, rounded once. Infinite weights and NaN score
infinity.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate
from math import inf, ldexp
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from prunecli.kernels.bit_patterns import values
from prunecli.kernels.squares import quantum, root, scaled, square, square_sum
from prunecli.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from prunecli.dtypes import Float

Bounds: TypeAlias = "tuple[NDArray[np.float64], NDArray[np.float64]]"

MARGIN = 1e-8
"""More than the relative error of a float64 sum over as many runs as are kept."""

CELLS = 1 << 18
"""The runs of tensors whose bounds are computed together."""

TINY = 2.0**-960
"""LAMP scores below this count as 0. Further down a float64 loses digits, and equal scores would compare unequal."""


@dataclass(frozen=True, slots=True)
class PatternRuns:
    """Counts of a tensor's magnitudes, binned by their leading bits, ascending.

    Run b has `counts[b]` weights (n,) whose patterns p have p >> shift == `bins[b]` (n,). All runs together have `size`
    weights, and `below` others are smaller. `squares` is an exact sum in squared quanta: over the whole tensor for "l2"
    and "rms", over the weights larger than all runs for "lamp". `finite` is the tensor's number of finite weights.
    """

    dtype: Float
    shift: int
    bins: NDArray[Any]
    counts: NDArray[Any]
    size: int = 0
    below: int = 0
    squares: int = 0
    finite: int = 0

    @property
    def ends(self) -> NDArray[np.int64]:
        """The rank of the last weight of each run, shape (n,); the tensor's smallest weight has rank 1."""
        return self.below + np.cumsum(self.counts, dtype=np.int64)

    def between(self, start: int, stop: int, below: int, size: int, score: str) -> PatternRuns:
        """Return the runs from the number `start` up to `stop`, of `size` weights; `below` others are smaller."""
        squares = self.squares
        # Runs of several patterns are counted again, and that pass sums the squares above them.
        if score == "lamp" and not self.shift and stop < len(self.bins):
            squares += square_sum(self.bins[stop:], self.dtype, self.counts[stop:])
        bins, counts = self.bins[start:stop], self.counts[start:stop]
        return PatternRuns(self.dtype, self.shift, bins, counts, size, below, squares, self.finite)

    def exact_scores(self, score: str) -> Callable[[int], float]:
        """Return the function from a 0-based rank to its exact score. Every run has one pattern (shift 0)."""
        ends = self.ends.tolist()
        if score != "lamp":
            scores = score_bounds([self], score)[0].tolist()
            return lambda rank: scores[bisect_right(ends, rank)]
        magnitudes = [self.dtype.decode(bits) for bits in self.bins.tolist()]
        squares = [square(bits, self.dtype) for bits in self.bins.tolist()]
        runs = [count * square for count, square in zip(self.counts.tolist(), squares, strict=True)]
        over = list(accumulate(reversed(runs), initial=self.squares))[-2::-1]
        finite_max, unit, patterns = self.dtype.finite_max, quantum(self.dtype), self.bins.tolist()

        def lamp(rank: int) -> float:
            run = bisect_right(ends, rank)
            if patterns[run] > finite_max:
                return inf
            return _lamp_score(magnitudes[run], over[run] + (ends[run] - rank) * squares[run], unit)

        return lamp


class AllRuns:
    """The runs of all tensors, one after the other."""

    def __init__(self, runs: Sequence[PatternRuns]) -> None:
        """Take the runs of each tensor."""
        self._runs, sizes = runs, np.array([len(own.bins) for own in runs])
        self._owner = np.repeat(np.arange(len(runs)), sizes)
        self._stops = np.cumsum(sizes)
        self._firsts = self._stops - sizes
        self._counts = np.concatenate([own.counts for own in runs], dtype=np.int64)
        self._below = np.array([own.below for own in runs])
        before = np.cumsum(self._counts) - self._counts
        smaller = self._below - self._sums(self._counts, np.zeros_like(self._firsts), self._firsts)
        self._starts = before + smaller[self._owner]
        self._ends = self._starts + self._counts
        """The ranks of the last weights before each run, and of its own last weight."""

    @staticmethod
    def _sums(numbers: NDArray[np.int64], firsts: NDArray[np.int64], stops: NDArray[np.int64]) -> NDArray[np.int64]:
        sums = np.r_[0, np.cumsum(numbers)]
        found: NDArray[np.int64] = sums[stops] - sums[firsts]
        return found

    def competing(self, lo: NDArray[np.int64], hi: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return how many weights of each run have a rank between those of its tensor in `lo` and `hi`."""
        least, most = lo[self._owner], hi[self._owner]
        inside: NDArray[np.int64] = np.clip(self._ends, least, most) - np.clip(self._starts, least, most)
        return inside

    def weights(self, marks: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Return the rank of the last weight of the runs with a mark, which are the first ones of each tensor."""
        return self._below + self._sums(self._counts * marks, self._firsts, self._stops)

    def between(self, lo: NDArray[np.int64], hi: NDArray[np.int64], score: str) -> list[PatternRuns]:
        """Return the runs of each tensor that contain the ranks from `lo` to `hi`; no runs where `hi` is 0."""
        smaller, upto = (self._ends < np.maximum(rank, 1)[self._owner] for rank in (lo, hi))
        start, stop = (self._sums(marks.astype(np.int64), self._firsts, self._stops) for marks in (smaller, upto))
        stop = np.where(hi > 0, stop + 1, start)
        sizes = self._sums(self._counts, self._firsts + start, self._firsts + stop)
        columns = [column.tolist() for column in (start, stop, self.weights(smaller), sizes)]
        each = zip(self._runs, *columns, strict=True)
        return [own.between(first, last, below, size, score) for own, first, last, below, size in each]


def score_bounds(every: Sequence[PatternRuns], score: str) -> Bounds:
    """Return a lower and an upper bound of the scores in each run of each tensor, ascending in each tensor.

    For a run of one pattern both are the score itself, except for "lamp", which differs between equal weights. Tensors
    of one dtype and of similar numbers of runs are computed together, because a model may have thousands of them.
    """
    kinds: dict[tuple[str, int], list[int]] = {}
    for index, runs in enumerate(every):
        kinds.setdefault((runs.dtype.name, len(runs.bins).bit_length()), []).append(index)
    firsts = np.cumsum([0, *(len(runs.bins) for runs in every)])
    low, high = np.empty(firsts[-1]), np.empty(firsts[-1])
    for (_, bits), members in kinds.items():
        step = max(CELLS >> bits, 1)
        for first in range(0, len(members), step):
            part = members[first : first + step]
            _Rows([every[index] for index in part]).store_bounds(score, firsts[part], low, high)
    return low, high


class _Rows:
    """The runs of tensors of one dtype, in a row for each tensor; behind its last run a row has zeros."""

    def __init__(self, every: Sequence[PatternRuns]) -> None:
        """Take the runs."""
        self._every, self._dtype = every, every[0].dtype
        lengths = np.array([[len(runs.bins)] for runs in every])
        self._filled = np.arange(lengths.max()) < lengths
        self._counts = self._in_rows([runs.counts for runs in every])
        self._bins = self._in_rows([runs.bins for runs in every])

    def _in_rows(self, numbers: Sequence[NDArray[Any]]) -> NDArray[np.int64]:
        rows = np.zeros(self._filled.shape, np.int64)
        rows[self._filled] = np.concatenate(numbers, dtype=np.int64)
        return rows

    def store_bounds(
        self, score: str, firsts: NDArray[np.int64], lows: NDArray[np.float64], highs: NDArray[np.float64]
    ) -> None:
        """Store the bounds of the scores of each tensor in `lows` and `highs`, from its place in `firsts` on."""
        shifts = np.array([[runs.shift] for runs in self._every])
        first = self._bins << shifts
        with np.errstate(all="ignore"):
            ends = [values(patterns, self._dtype) for patterns in (first, first + (np.int64(1) << shifts) - 1)]
            infinite = (first > self._dtype.finite_max) | ~self._filled
            for end in ends:
                end[infinite] = 0.0
            low, high = self._lamp(*ends) if score == "lamp" else [self._scaled(end, score) for end in ends]
        low[infinite] = high[infinite] = np.inf
        places = (firsts[:, None] + np.arange(self._filled.shape[1]))[self._filled]
        lows[places] = np.maximum.accumulate(low, 1)[self._filled]
        highs[places] = np.minimum.accumulate(high[:, ::-1], 1)[:, ::-1][self._filled]

    def _scaled(self, magnitudes: NDArray[np.float64], score: str) -> NDArray[np.float64]:
        if score == "none":
            return magnitudes
        over = [max(runs.finite, 1) if score == "rms" else 1 for runs in self._every]
        norms, exponents = self._roots(over)
        scores: NDArray[np.float64] = np.where(norms > 0, np.ldexp(magnitudes, -exponents) / norms, 0.0)
        return scores

    def _roots(self, over: Sequence[int]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Return (m, e) with m * 2**e = the root of each tensor's `squares` over a number, each as a column."""
        roots = [root(runs.squares, self._dtype, number) for runs, number in zip(self._every, over, strict=True)]
        return np.array([[norm] for norm, _ in roots]), np.array([[exponent] for _, exponent in roots])

    def _lamp(self, low: NDArray[np.float64], high: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
        """Return bounds of the LAMP scores in each run, whose magnitudes are `low` to `high`.

        The first weight of a run has the smallest score: the whole run counts in its denominator. The last weight has
        the largest. All values are first divided by a power of two, so that squares fit in a float64.
        """
        above, exponents = self._roots([1] * len(self._every))
        tops = np.maximum(
            np.frexp(high.max(1, initial=0.0, keepdims=True))[1], np.where(above > 0, exponents + 2, -(1 << 12))
        )
        low, high = (np.square(np.ldexp(end, -tops)) for end in (low, high))
        over = np.square(np.ldexp(above, exponents - tops))
        most = over + _from_the_end(self._counts * high)
        least = over + np.pad(_from_the_end(self._counts * low)[:, 1:], ((0, 0), (0, min(1, low.shape[1]))))
        # A score near TINY may count as 0 or not. The bounds allow both.
        lowest = np.where(low > 0, low / most, 0.0) * (1 - MARGIN)
        highest = np.where(high > 0, np.maximum(high / (least + high) * (1 + MARGIN), 4 * TINY), 0.0)
        lowest[lowest < 4 * TINY] = 0.0
        return lowest, highest


def _from_the_end(numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the sum of each number and of those behind it in its row."""
    sums: NDArray[np.float64] = np.cumsum(numbers[:, ::-1], 1)[:, ::-1]
    return sums


def _lamp_score(magnitude: float, squares: int, unit: int) -> float:
    """Return magnitude**2 over `squares`, in squared quanta of 2**`unit`."""
    total, exponent = scaled(squares)
    if not magnitude or not total:
        return 0.0
    score = ldexp(magnitude, -exponent - unit) ** 2 / total
    return score if score >= TINY else 0.0
