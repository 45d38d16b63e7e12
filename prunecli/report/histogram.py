"""Histograms of magnitudes before and after pruning, as values.

A bin is a range of the leading bits of the sign-cleared bit pattern, 8 bins per factor of 2. This module counts and
draws nothing.
"""

from __future__ import annotations

from functools import lru_cache
from math import ldexp
from typing import TYPE_CHECKING

from prunecli.dtypes import FLOATS
from prunecli.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prunecli.dtypes import Float

FRACTION = 3
"""Leading bits of the fraction that select a bin: 8 bins per factor of 2, fewer in formats with fewer bits."""

LOWEST, HIGHEST = -40, 24
"""The exponents of 2 between which bins separate magnitudes (1e-12 to 2e7). Others fall into the first or last bin."""


@dataclass(frozen=True, slots=True)
class Bins:
    """The bins of a format: bin b holds the patterns p with p >> shift == b, first <= b <= last.

    The first bin also holds all smaller magnitudes, and the last bin all larger finite ones.
    """

    dtype: Float
    shift: int
    first: int
    last: int

    def edge(self, index: int) -> float:
        """Return the smallest magnitude in a bin, in the units of the weights; extrapolated past the format's end."""
        bits, dtype = index << self.shift, self.dtype
        exponent, fraction = bits >> dtype.mantissa, bits & ((1 << dtype.mantissa) - 1)
        # IEEE 754: subnormal numbers have no hidden bit.
        if exponent:
            fraction += 1 << dtype.mantissa
        return ldexp(fraction, max(exponent, 1) - dtype.bias - dtype.mantissa)


@lru_cache(maxsize=len(FLOATS))
def bins_of(dtype: Float) -> Bins:
    """Return the bins of `dtype`: at most 512."""
    shift = max(dtype.mantissa - FRACTION, 0)
    low, high = (max(dtype.bias + exponent, 0) << dtype.mantissa for exponent in (LOWEST, HIGHEST))
    return Bins(dtype, shift, low >> shift, min(dtype.finite_max, high - 1) >> shift)


@dataclass(frozen=True, slots=True)
class BeforeAfter:
    """The weights of one tensor by magnitude, without zeros and non-finite weights.

    `before` and `after` have the same length. They count the weights in consecutive bins of `bins_of(FLOATS[dtype])`,
    beginning with the bin `first`.
    """

    dtype: str
    first: int
    before: Sequence[int]
    after: Sequence[int]

    @property
    def edges(self) -> list[float]:
        """The magnitudes at the edges of the bins, one more than there are bins."""
        bins = bins_of(FLOATS[self.dtype])
        return [bins.edge(index) for index in range(self.first, self.first + len(self.before) + 1)]


def together(histograms: Sequence[BeforeAfter]) -> list[BeforeAfter]:
    """Return one histogram per dtype, the sum of those in `histograms`, in the order of the dtypes' first."""
    result = []
    for dtype in dict.fromkeys(one.dtype for one in histograms):
        same = [one for one in histograms if one.dtype == dtype and len(one.before)]
        first = min((one.first for one in same), default=0)
        length = max((one.first + len(one.before) for one in same), default=0) - first
        before, after = [0] * length, [0] * length
        for one in same:
            for index, (was, now) in enumerate(zip(one.before, one.after, strict=True), one.first - first):
                before[index] += was
                after[index] += now
        result.append(BeforeAfter(dtype, first, before, after))
    return result
