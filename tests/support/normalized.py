"""Normalised cuts by sorting every score, and a driver of the search that serves chunks in random order."""

from __future__ import annotations

from fractions import Fraction
from math import inf, sqrt
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from prunecli.dtypes import FLOATS, Float
from prunecli.errors import UsageError
from prunecli.kernels.arrays import INTS
from prunecli.plans import Normalization
from prunecli.ranking.normalized_cut import NormalizedCutSearch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from prunecli.plans import Cut

Member = tuple[str, "NDArray[Any]"]
"""A dtype's name, and magnitudes as patterns; -1 is a weight that is already pruned."""


def member(numbers: Sequence[float] | NDArray[np.float64], name: str = "F32") -> Member:
    """Return the magnitudes of `numbers` in a format of `name`, in the width that the kernels use."""
    dtype, floats = FLOATS[name], np.abs(np.asarray(numbers, np.float64))
    if name in {"F64", "F32", "F16"}:
        with np.errstate(over="ignore"):
            return name, floats.astype(f"<f{dtype.itemsize}").view(INTS[dtype.itemsize])
    patterns = [dtype.encode(x) if x < inf else dtype.finite_max + 1 for x in floats.tolist()]
    return name, np.array(patterns, INTS[max(dtype.itemsize, 2)])


def sums_from_the_top(patterns: Sequence[int], dtype: Float) -> list[Fraction]:
    """Return, for patterns in ascending order, the exact sum of squares of each and all after it."""
    sums, total = [], Fraction(0)
    for bits in reversed(patterns):
        total += Fraction(dtype.decode(bits)) ** 2 if bits <= dtype.finite_max else 0
        sums.append(total)
    return sums[::-1]


def scores(kind: str, name: str, patterns: Sequence[int]) -> list[float]:
    """Return the scores of patterns in ascending order, by the definitions, with exact sums rounded once."""
    dtype = FLOATS[name]
    sums = sums_from_the_top(patterns, dtype)
    finite = sum(bits <= dtype.finite_max for bits in patterns)
    found = []
    for bits, after in zip(patterns, sums, strict=True):
        w = dtype.decode(bits)
        if bits > dtype.finite_max:
            found.append(inf)
        elif kind == "none":
            found.append(w)
        elif not sums[0]:
            found.append(0.0)
        elif kind == "lamp":
            found.append(w * w / float(after))
        else:
            found.append(w / sqrt(float(sums[0] / (finite if kind == "rms" else 1))))
    return found


def by_sorting(kind: str, members: Sequence[Member], bounds: Sequence[tuple[int, int]], k: int) -> list[int] | None:
    """Return how many weights are pruned in each member, by sorting all scores; None where that is impossible."""
    rest, counts, competing = k, [], []
    for at, ((name, patterns), (lo, hi)) in enumerate(zip(members, bounds, strict=True)):
        left = np.sort(patterns[patterns >= 0]).tolist()
        high = min(hi, max(len(left) - (kind == "lamp"), 0))
        if lo > high:
            return None
        counts.append(lo)
        rest -= lo
        competing += [(s, at, rank) for rank, s in enumerate(scores(kind, name, left)) if lo <= rank < high]
    if not 0 <= rest <= len(competing):
        return None
    for _, at, _ in sorted(competing)[:rest]:
        counts[at] += 1
    return counts


def drive(
    kind: str,
    members: Sequence[Member],
    bounds: Sequence[tuple[int, int]],
    k: int,
    *,
    chunk: int = 100,
    seed: int = 0,
    leading: int | None = None,
) -> tuple[NormalizedCutSearch, int]:
    """Serve chunks in a random order until the cut is known; return the search and its number of passes."""
    search, random = (
        cut_search([name for name, _ in members], kind, bounds, k, leading=leading),
        np.random.default_rng(seed),
    )
    for passes in range(1, 100):
        chunks = [
            (request, at) for request in search.requests() for at in range(0, members[request.member][1].size, chunk)
        ]
        for index in random.permutation(len(chunks)):
            request, at = chunks[index]
            search.add(request, request.count(members[request.member][1][at : at + chunk]))
        if search.advance():
            return search, passes
    raise RuntimeError("the search does not end")


def no_limits(members: Sequence[Member]) -> list[tuple[int, int]]:
    """Return limits that exclude nothing."""
    return [(0, patterns.size) for _, patterns in members]


def check_cuts(members: Sequence[Member], counts: Sequence[int], cuts: Sequence[Cut]) -> None:
    """Compare each cut with the sorted patterns: the pruned weights, and the equal ones in all and pruned."""
    for (name, patterns), count, cut in zip(members, counts, cuts, strict=True):
        left = np.sort(patterns[patterns >= 0]).astype(np.int64)
        assert count == int((left < cut.bits).sum()) + cut.ties
        if not count:
            assert (cut.bits, cut.ties) == (0, 0)
            continue
        last = int(left[count - 1])
        assert cut.bits == last + (cut.ties == 0)
        assert int((left == last).sum()) == cut.equal
        assert count - int((left < last).sum()) == cut.equal_pruned
        value = FLOATS[name].decode(last)
        assert cut.value == value or value != value  # noqa: PLR0124 - NaN


def check(kind: str, members: Sequence[Member], bounds: Sequence[tuple[int, int]], k: int, **how: int) -> int:
    """Compare with sorting all scores, and return the number of passes."""
    expected = by_sorting(kind, members, bounds, k)
    if expected is None:
        with pytest.raises(UsageError):
            drive(kind, members, bounds, k, **how)
        return 0
    search, passes = drive(kind, members, bounds, k, **how)
    assert expected == search.counts()
    check_cuts(members, expected, search.cuts())
    return passes


def cut_search(
    names: Sequence[str],
    kind: str,
    bounds: Sequence[tuple[int, int]],
    k: int,
    remaining: Sequence[int] | None = None,
    leading: int | None = None,
) -> NormalizedCutSearch:
    """Return the search for the cut of tensors of the dtypes `names`, which counts by so many `leading` bits first."""
    dtypes, most = [FLOATS[name] for name in names], None if leading is None else [leading] * len(names)
    return NormalizedCutSearch(dtypes, Normalization(kind, tuple(bounds)), k, remaining, most)
