"""Scores that make magnitudes of different tensors comparable: bounds for a group of magnitudes, and exact values.

With w a magnitude and W the finite weights of its tensor, the scores are "none" w; "l2" w / ||W||_2; "rms" w /
rms(W); "lamp" w**2 over the sum of squares of all weights of rank w or higher (Lee et al. 2021, "Layer-adaptive
Sparsity for the Magnitude-based Pruning", https://arxiv.org/abs/2010.07611). A score is a float64 that never falls as
magnitudes rise within a tensor. Sums of squares are exact integers, rounded once. Infinite weights and NaN score
infinity.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, replace
from itertools import accumulate
from math import inf, ldexp
from typing import TYPE_CHECKING, Any

import numpy as np

from prunecli.kernels.bit_patterns import values
from prunecli.kernels.squares import quantum, root, scaled, square_sum

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from prunecli.dtypes import Float

MARGIN = 1e-8
"""More than the relative error of a float64 sum over as many runs as are kept."""

TINY = 2.0**-960
"""LAMP scores below this count as 0. Further down a float64 loses digits, and equal scores would compare unequal."""


@dataclass(frozen=True, slots=True)
class PatternRuns:
    """Counts of a tensor's magnitudes, binned by their leading bits, ascending.

    Run b has `counts[b]` weights (n,) whose patterns p have p >> shift == `bins[b]` (n,); `below` weights are smaller
    than all runs. `squares` is an exact sum in squared quanta: over the whole tensor for "l2" and "rms", over the
    weights larger than all runs for "lamp". `finite` is the tensor's number of finite weights.
    """

    dtype: Float
    shift: int
    bins: NDArray[Any]
    counts: NDArray[Any]
    below: int = 0
    squares: int = 0
    finite: int = 0

    @property
    def ends(self) -> NDArray[np.int64]:
        """The rank of the last weight of each run, shape (n,); the tensor's smallest weight has rank 1."""
        return self.below + np.cumsum(self.counts, dtype=np.int64)

    @property
    def first(self) -> NDArray[np.int64]:
        """The smallest pattern of each run, shape (n,)."""
        return self.bins.astype(np.int64) << self.shift

    def between(self, low: int, high: int, score: str) -> PatternRuns:
        """Return the runs that contain the ranks from `low` to `high`; no runs where `high` is 0."""
        ends = self.ends
        start, stop = (int(np.searchsorted(ends, rank)) for rank in (max(low, 1), high))
        stop = stop + 1 if high else start
        below = int(ends[start - 1]) if start else self.below
        squares = self.squares
        # Runs of several patterns are counted again, and that pass sums the squares above them.
        if score == "lamp" and not self.shift:
            squares += square_sum(self.bins[stop:], self.dtype, self.counts[stop:])
        kept = slice(start, stop)
        return replace(self, bins=self.bins[kept], counts=self.counts[kept], below=below, squares=squares)

    def score_bounds(self, score: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return a lower and an upper bound of the scores in each run, both of shape (n,) and ascending.

        For a run of one pattern both are the score itself, except for "lamp", which differs between equal weights.
        """
        first = self.first
        with np.errstate(all="ignore"):
            ends = [values(patterns, self.dtype) for patterns in (first, first + ((1 << self.shift) - 1))]
            infinite = first > self.dtype.finite_max
            for end in ends:
                end[infinite] = 0.0
            low, high = self._lamp_bounds(*ends) if score == "lamp" else [self._scaled(end, score) for end in ends]
        low[infinite] = high[infinite] = np.inf
        return np.maximum.accumulate(low), np.minimum.accumulate(high[::-1])[::-1]

    def _scaled(self, magnitudes: NDArray[np.float64], score: str) -> NDArray[np.float64]:
        if score == "none":
            return magnitudes
        norm, exponent = root(self.squares, self.dtype, max(self.finite, 1) if score == "rms" else 1)
        scores: NDArray[np.float64] = np.ldexp(magnitudes, -exponent) / norm if norm else np.zeros_like(magnitudes)
        return scores

    def _lamp_bounds(self, low: NDArray[np.float64], high: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
        """Return bounds of the LAMP scores in each run, whose magnitudes are `low` to `high`.

        The first weight of a run has the smallest score: the whole run counts in its denominator. The last weight has
        the largest. All values are first divided by a power of two, so that squares fit in a float64.
        """
        above, exponent = root(self.squares, self.dtype)
        top = max(int(np.frexp(high.max(initial=0.0))[1]), exponent + 2 if above else -(1 << 12))
        low, high = (np.square(np.ldexp(end, -top)) for end in (low, high))
        over = ldexp(above, exponent - top) ** 2
        most = over + np.cumsum((self.counts * high)[::-1])[::-1]
        least = over + np.cumsum(np.r_[0.0, (self.counts * low)[:0:-1]])[::-1]
        # A score near TINY may count as 0 or not. The bounds allow both.
        lowest = np.where(low > 0, low / most, 0.0) * (1 - MARGIN)
        highest = np.where(high > 0, np.maximum(high / (least + high) * (1 + MARGIN), 4 * TINY), 0.0)
        lowest[lowest < 4 * TINY] = 0.0
        return lowest, highest

    def exact_scores(self, score: str) -> Callable[[int], float]:
        """Return the function from a 0-based rank to its exact score. Every run has one pattern (shift 0)."""
        ends = self.ends.tolist()
        if score != "lamp":
            scores = self.score_bounds(score)[0].tolist()
            return lambda rank: scores[bisect_right(ends, rank)]
        magnitudes = [self.dtype.decode(bits) for bits in self.bins.tolist()]
        squares = [square_sum(self.bins[run : run + 1], self.dtype) for run in range(len(ends))]
        runs = [count * square for count, square in zip(self.counts.tolist(), squares, strict=True)]
        over = list(accumulate(reversed(runs), initial=self.squares))[-2::-1]
        finite_max, patterns = self.dtype.finite_max, self.bins.tolist()

        def lamp(rank: int) -> float:
            run = bisect_right(ends, rank)
            if patterns[run] > finite_max:
                return inf
            return _lamp_score(magnitudes[run], over[run] + (ends[run] - rank) * squares[run], self.dtype)

        return lamp


def _lamp_score(magnitude: float, squares: int, dtype: Float) -> float:
    """Return magnitude**2 over `squares` (squared quanta)."""
    total, exponent = scaled(squares)
    if not magnitude or not total:
        return 0.0
    score = ldexp(magnitude, -exponent - quantum(dtype)) ** 2 / total
    return score if score >= TINY else 0.0
