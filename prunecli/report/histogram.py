"""How many weights of a tensor had and have which magnitude: the figures a report draws, as values.

Eight bins to an octave, by the leading bits of the sign-cleared pattern. Nothing here counts, draws, or knows NumPy.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import ldexp
from typing import TYPE_CHECKING

from prunecli.dtypes import FLOATS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prunecli.dtypes import Float

FRACTION = 3
"""Leading bits of the fraction that tell bins apart: 8 bins to an octave, fewer where a format has fewer bits."""

LOWEST, HIGHEST = -40, 24
"""Exponents of 2 between which bins tell magnitudes apart: 1e-12 to 2e7; what lies outside is in the end bins."""


@dataclass(frozen=True, slots=True)
class Bins:
    """The bins of a format: bin b holds the patterns p with p >> shift == b, first <= b <= last.

    The first bin holds all smaller magnitudes too, and the last all larger finite ones.
    """

    dtype: Float
    shift: int
    first: int
    last: int

    def edge(self, at: int) -> float:
        """Return the smallest magnitude in bin `at`, in the weights' units; past the format's end as if it went on."""
        bits, dtype = at << self.shift, self.dtype
        exponent, fraction = bits >> dtype.mantissa, bits & ((1 << dtype.mantissa) - 1)
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
    """The weights of one tensor by magnitude, zeros and what is not finite left out.

    `before` and `after` count the weights in the bins from number `first` of `bins_of(FLOATS[dtype])`, and are
    equally long.
    """

    dtype: str
    first: int
    before: Sequence[int]
    after: Sequence[int]

    @property
    def edges(self) -> list[float]:
        """The magnitudes between which the bins lie, one more than there are bins."""
        bins = bins_of(FLOATS[self.dtype])
        return [bins.edge(at) for at in range(self.first, self.first + len(self.before) + 1)]


def together(found: Sequence[BeforeAfter]) -> list[BeforeAfter]:
    """Return one histogram per dtype, in order of appearance: the sums of those of `found`."""
    result = []
    for dtype in dict.fromkeys(one.dtype for one in found):
        same = [one for one in found if one.dtype == dtype and len(one.before)]
        first = min((one.first for one in same), default=0)
        length = max((one.first + len(one.before) for one in same), default=0) - first
        before, after = [0] * length, [0] * length
        for one in same:
            for at, (had, has) in enumerate(zip(one.before, one.after, strict=True), one.first - first):
                before[at] += had
                after[at] += has
        result.append(BeforeAfter(dtype, first, before, after))
    return result
