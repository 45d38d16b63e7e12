"""How many of the weights equal to a cut each process prunes: those that come first in the whole tensor.

The position of the last of them is searched as a rank is: each pass counts ties by the leading bits of their positions.
So no list of positions travels.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from prunecli.engine.sharded.values import in_pool
from prunecli.io.threads import results

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from prunecli.engine.sharded.values import Values
    from prunecli.io.threads import Pool, Worker
    from prunecli.plans import Cut

BITS = 12
"""The bits of a position that a pass counts by."""

AT_ONCE = 64
"""Tensors whose ties are searched together."""


@dataclass(slots=True)
class _Search:
    """The search for the position of the last pruned tie of one target, the `left`-th one in [low, high).

    `own` is the number of this process's ties before `low`; `counts` are those of the last pass.
    """

    index: int
    bits: int
    left: int
    low: int
    high: int
    own: int = 0
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))

    @property
    def shift(self) -> int:
        return max((self.high - 1 - self.low).bit_length() - BITS, 0)

    @property
    def size(self) -> int:
        return ((self.high - 1 - self.low) >> self.shift) + 1

    def narrow(self, counts: NDArray[np.int64]) -> bool:
        """Look into the bin that has the last pruned tie; return whether its position is known."""
        ends = np.cumsum(counts)
        number = min(int(np.searchsorted(ends, self.left)), self.size - 1)
        self.left -= int(ends[number] - counts[number])
        self.own += int(self.counts[:number].sum())
        shift = self.shift
        self.low += number << shift
        self.high = min(self.low + (1 << shift), self.high)
        if not shift:
            self.own += int(self.counts[number])
        return not shift


def own_ties(pool: Pool, values: Mapping[int, Values], cuts: Mapping[int, Cut]) -> dict[int, int]:
    """Return the number of weights equal to the cut that this process prunes, for each target of `cuts`.

    `values` has the values that each target is ranked by.
    """
    found: dict[int, int] = {}
    indices = sorted(index for index, cut in cuts.items() if cut.ties)
    for first in range(0, len(indices), AT_ONCE):
        some = indices[first : first + AT_ONCE]
        searches = [_Search(i, cuts[i].bits, cuts[i].ties, 0, values[i].targets[i].numel) for i in some]
        found |= _found(pool, values, searches)
    return found


def _found(pool: Pool, values: Mapping[int, Values], searches: Sequence[_Search]) -> dict[int, int]:
    waiting = list(searches)
    while waiting:
        ends = np.cumsum([search.size for search in waiting]).tolist()

        def compute(waiting: list[_Search] = waiting) -> NDArray[np.int64]:
            tasks = [pool.submit(_counts, values[search.index], search) for search in waiting]
            parts = []
            for search, counts in zip(waiting, results(tasks), strict=True):
                search.counts = counts
                parts.append(counts if values[search.index].counted(search.index) else np.zeros_like(counts))
            return np.concatenate(parts)

        group = values[waiting[0].index].group
        counts = np.split(group.sum(ends[-1], lambda: in_pool(pool, compute)), ends[:-1])
        waiting = [search for search, own in zip(waiting, counts, strict=True) if not search.narrow(own)]
    return {search.index: search.own for search in searches}


def _counts(worker: Worker, values: Values, search: _Search) -> NDArray[np.int64]:
    """Return the number of ties of a part in each bin of the searched positions."""
    counts, part = np.zeros(search.size, np.int64), values.parts.get(search.index)
    if part is None:
        return counts
    for first, y in values.patterns(worker, search.index):
        equal = y == search.bits
        places = np.flatnonzero(equal) if isinstance(y, np.ndarray) else equal.nonzero().flatten().cpu().numpy()
        elements = part.elements(places + first)
        inside = elements[(elements >= search.low) & (elements < search.high)]
        counts += np.bincount((inside - search.low) >> search.shift, minlength=search.size)
    return counts
