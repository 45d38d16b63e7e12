"""The cut of each row of a tensor whose rows may lie in several parts: the counts of all processes are added up.

As in `prunecli.ranking.slice_cuts`, the weights to prune of a row are those with the smallest keys (pattern, position
in the row), and the k-th smallest key of every row is found together, some bits per pass.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from prunecli.engine.sharded.measured import view_of_part
from prunecli.engine.sharded.values import in_pool
from prunecli.io.threads import results
from prunecli.kernels.arrays import INTS
from prunecli.kernels.views import of_elements
from prunecli.kernels.views import positions as places_of
from prunecli.plans import CutPerSlice, PruneSmallestOfRow

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import TypeAlias

    from numpy.typing import NDArray

    from prunecli.engine.sharded.values import Values
    from prunecli.io.threads import Pool, Worker
    from prunecli.plans import TensorPlan

    _Candidates: TypeAlias = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[Any]]
    """Rows, positions in them, and patterns."""

COUNTERS = 1 << 15
"""The counters of a pass: 256 kB."""

MOST_BITS, LEAST_BITS = 12, 4
"""The bits of a key that a pass counts by; with more rows than COUNTERS has place for, the second number."""

FEW = 1 << 20
"""So many candidates are kept in memory: later passes do not look at all weights again."""


class RowsInParts:
    """Targets whose rows are cut one tensor after the other."""

    def __init__(self, values: Values, rows: Mapping[int, PruneSmallestOfRow], plans: dict[int, TensorPlan]) -> None:
        """Read nothing yet; `rows` has the wanted plan of each target, and the final ones go to `plans`."""
        self._values, self._rows, self._plans = values, rows, plans

    @property
    def size(self) -> int:
        """The bytes of weights that are read, at least once."""
        return sum(self._values.parts[index].local.nbytes for index in self._rows if index in self._values.parts)

    def start(self, pool: Pool) -> None:
        """Do nothing: processes count together, in `finish`."""

    def finish(self, pool: Pool) -> None:
        """Search for the cuts and store the plans."""
        for index, plan in self._rows.items():
            cuts, limits = _RowSearch(self._values, index, plan).find(pool)
            # Float8 magnitudes are integers of 16 bits.
            width = max(self._values.whole.dtype(index).itemsize, 2)
            self._plans[index] = CutPerSlice(plan.view, cuts.astype(INTS[width]), limits)


class _RowSearch:
    """The search for the cuts of the rows of one target."""

    def __init__(self, values: Values, index: int, plan: PruneSmallestOfRow) -> None:
        self._values, self._index, self._plan = values, index, plan
        self._rows = plan.view.total
        self._ranks = np.ones(self._rows, np.int64)
        self._none = np.zeros(self._rows, bool)
        self._bits = max(min(MOST_BITS, (COUNTERS // self._rows).bit_length() - 1), LEAST_BITS)
        self._kept: list[_Candidates] | None = None

    def find(self, pool: Pool) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the largest pruned pattern of each row, and the last pruned position of a weight equal to it."""
        bits = self._values.whole.dtype(self._index).top.bit_length()
        cuts, inside = self._digits(pool, bits, None)
        limits = np.full(self._rows, self._plan.view.size - 1)
        if (inside != self._ranks).any():  # of some rows not all equal weights are pruned
            limits, _ = self._digits(pool, max(self._plan.view.size - 1, 1).bit_length(), cuts)
        cuts[self._none], limits[self._none] = 0, -1
        return cuts, limits

    def _digits(
        self, pool: Pool, bits: int, cuts: NDArray[np.int64] | None
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the wanted pattern of each row, or with `cuts` the wanted position; and how many weights have it."""
        known, inside = np.zeros(self._rows, np.int64), np.zeros(self._rows, np.int64)
        shift, is_first = bits, cuts is None
        while shift:
            width = min(self._bits, shift)
            shift -= width
            counts = self._count(pool, known, (shift, width), cuts)
            if is_first:
                self._set_ranks(counts.sum(axis=0))
                is_first = False
            ends = np.cumsum(counts, axis=0)
            number = np.minimum((ends < self._ranks).sum(axis=0), (1 << width) - 1)
            inside = counts[number, np.arange(self._rows)]
            self._ranks -= ends[number, np.arange(self._rows)] - inside
            known = known << width | number
        return known, inside

    def _set_ranks(self, sizes: NDArray[np.int64]) -> None:
        different, which = np.unique(sizes, return_inverse=True)
        self._ranks = np.array([self._plan.wanted(size) for size in different.tolist()], np.int64)[which.reshape(-1)]
        self._none = self._ranks <= 0

    def _count(
        self, pool: Pool, known: NDArray[np.int64], digit: tuple[int, int], cuts: NDArray[np.int64] | None
    ) -> NDArray[np.int64]:
        shape = (1 << digit[1], self._rows)

        def compute() -> NDArray[np.int64]:
            if not self._values.counted(self._index):
                return np.zeros(shape[0] * shape[1], np.int64)
            return results([pool.submit(self._own_counts, known, digit, cuts)])[0]

        return self._values.group.sum(shape[0] * shape[1], lambda: in_pool(pool, compute)).reshape(shape)

    def _own_counts(
        self, worker: Worker, known: NDArray[np.int64], digit: tuple[int, int], cuts: NDArray[np.int64] | None
    ) -> NDArray[np.int64]:
        """Return the number of candidates of the part, by their next bits and by row."""
        shift, width = digit
        counts, size = np.zeros((1 << width) * self._rows, np.int64), 0
        kept: list[_Candidates] | None = []
        for rows, positions, y in self._candidates(worker, known if cuts is None else cuts, shift + width, cuts):
            keys = y if cuts is None else positions
            chosen = keys >> (shift + width) == known[rows]
            own = (rows[chosen], positions[chosen], y[chosen])
            digits = keys[chosen] >> shift & (1 << width) - 1
            counts += np.bincount(digits * self._rows + own[0], minlength=len(counts))
            size += len(own[0])
            kept = None if kept is None or size > FEW else [*kept, own]
        self._kept = kept if self._kept is None else self._kept
        return counts

    def _candidates(
        self, worker: Worker, known: NDArray[np.int64], shift: int, cuts: NDArray[np.int64] | None
    ) -> Iterator[_Candidates]:
        """Yield weights of the part: those whose pattern is known to be wanted, and maybe more."""
        if self._kept is not None:
            for rows, positions, y in self._kept:
                chosen = slice(None) if cuts is None else y == cuts[rows]
                yield rows[chosen], positions[chosen], y[chosen]
            return
        own = view_of_part(self._values.parts[self._index], self._plan.view)
        numbers, positions_of = own.numbers, own.positions
        for first, y in self._values.patterns_on_host(worker, self._index):
            rows = of_elements(numbers, first, len(y), own.view)
            chosen = np.flatnonzero((y >> shift == known[rows]) & (y >= 0) if cuts is None else y == cuts[rows])
            yield rows[chosen], positions_of[places_of(chosen + first, own.view)[1]], y[chosen].astype(np.int64)
