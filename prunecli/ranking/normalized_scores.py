"""What magnitudes are worth when tensors of different scales are ranked together: as brackets, and exactly.

A score is a float64 that never falls as magnitudes rise within a tensor. With w a magnitude and W the finite weights
of its tensor: "none" w; "l2" w / ||W||_2; "rms" w / rms(W); "lamp" w**2 over the sum of squares of all weights that
are not smaller, of equals of those with the same or a higher index (Lee et al. 2021, "Layer-adaptive sparsity for the
Magnitude-based Pruning"). Sums of squares are exact and rounded once. Weights that are not finite score infinity.
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

KINDS = ("none", "l2", "rms", "lamp")
"""The ways to compare magnitudes of different tensors."""

MARGIN = 1e-8
"""More than the relative error of a sum, in float64, over as many runs as are ever held."""

TINY = 2.0**-960
"""LAMP scores smaller than this count as 0: further down a float64 loses digits, and with them the order."""


@dataclass(frozen=True, slots=True)
class PatternRuns:
    """Some neighbours in the ascending order of one tensor's magnitudes, told apart by their leading bits.

    Run b is `counts[b]` weights (n,) whose patterns p have p >> shift == `bins[b]` (n,), ascending; `below` weights
    are smaller than all of them. `squares` is, in squared quanta, the exact sum over the whole tensor for "l2" and
    "rms", and over what is larger than all runs for "lamp"; `finite` is how many finite weights the tensor has.
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
        """The rank of the last weight of each run, shape (n,): 1 for the tensor's smallest weight."""
        return self.below + np.cumsum(self.counts, dtype=np.int64)

    @property
    def first(self) -> NDArray[np.int64]:
        """The smallest pattern that each run can hold, shape (n,)."""
        return self.bins.astype(np.int64) << self.shift

    def between(self, low: int, high: int, kind: str) -> PatternRuns:
        """Return the runs that hold the ranks from `low` to `high`; none where `high` is 0."""
        ends = self.ends
        start, stop = (int(np.searchsorted(ends, rank)) for rank in (max(low, 1), high))
        stop = stop + 1 if high else start
        below = int(ends[start - 1]) if start else self.below
        squares = self.squares
        # Runs of more than one pattern are counted again, and what is larger with them.
        if kind == "lamp" and not self.shift:
            squares += square_sum(self.bins[stop:], self.dtype, self.counts[stop:])
        keep = slice(start, stop)
        return replace(self, bins=self.bins[keep], counts=self.counts[keep], below=below, squares=squares)

    def brackets(self, kind: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return a lower and an upper bound, each (n,) and ascending, of the scores of each run.

        They meet in the score itself where a run is one pattern, but for "lamp".
        """
        first = self.first
        with np.errstate(all="ignore"):
            ends = [values(patterns, self.dtype) for patterns in (first, first + ((1 << self.shift) - 1))]
            infinite = first > self.dtype.finite_max
            for end in ends:
                end[infinite] = 0.0
            low, high = self._lamp(*ends) if kind == "lamp" else [self._scale(end, kind) for end in ends]
        low[infinite] = high[infinite] = np.inf
        return np.maximum.accumulate(low), np.minimum.accumulate(high[::-1])[::-1]

    def _scale(self, magnitudes: NDArray[np.float64], kind: str) -> NDArray[np.float64]:
        if kind == "none":
            return magnitudes
        norm, exponent = root(self.squares, self.dtype, max(self.finite, 1) if kind == "rms" else 1)
        found: NDArray[np.float64] = np.ldexp(magnitudes, -exponent) / norm if norm else np.zeros_like(magnitudes)
        return found

    def _lamp(self, low: NDArray[np.float64], high: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
        """Bound a run's scores: the first weight's from below, with all of the run over it; the last one's from above.

        Everything is divided by a power of two first, so that squares stay in the range of a float64.
        """
        above, exponent = root(self.squares, self.dtype)
        top = max(int(np.frexp(high.max(initial=0.0))[1]), exponent + 2 if above else -(1 << 12))
        low, high = (np.square(np.ldexp(end, -top)) for end in (low, high))
        over = ldexp(above, exponent - top) ** 2
        most = over + np.cumsum((self.counts * high)[::-1])[::-1]
        least = over + np.cumsum(np.r_[0.0, (self.counts * low)[:0:-1]])[::-1]
        lowest = np.where(low > 0, low / most, 0.0) * (1 - MARGIN)
        highest = np.where(high > 0, np.maximum(high / (least + high) * (1 + MARGIN), 4 * TINY), 0.0)
        lowest[lowest < 4 * TINY] = 0.0
        return lowest, highest

    def score(self, kind: str) -> Callable[[int], float]:
        """Return the function from a rank, less one, to the exact score; every run is one pattern (shift 0)."""
        ends = self.ends.tolist()
        if kind != "lamp":
            scores = self.brackets(kind)[0].tolist()
            return lambda index: scores[bisect_right(ends, index)]
        magnitudes = [self.dtype.decode(bits) for bits in self.bins.tolist()]
        squares = [square_sum(self.bins[at : at + 1], self.dtype) for at in range(len(ends))]
        runs = [count * square for count, square in zip(self.counts.tolist(), squares, strict=True)]
        over = list(accumulate(reversed(runs), initial=self.squares))[-2::-1]
        finite_max, patterns = self.dtype.finite_max, self.bins.tolist()

        def lamp(index: int) -> float:
            at = bisect_right(ends, index)
            if patterns[at] > finite_max:
                return inf
            return _share(magnitudes[at], over[at] + (ends[at] - index) * squares[at], self.dtype)

        return lamp


def _share(magnitude: float, squares: int, dtype: Float) -> float:
    """Return magnitude**2 over `squares` (squared quanta): the LAMP score."""
    total, exponent = scaled(squares)
    if not magnitude or not total:
        return 0.0
    score = ldexp(magnitude, -exponent - quantum(dtype)) ** 2 / total
    return score if score >= TINY else 0.0
