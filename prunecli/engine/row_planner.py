"""Plans for the rows of tensors whose rows do not lie in one piece, such as those of a matrix stored as [in, out].

The cut of each row is searched in passes over the tensor; after that every window decides about its weights alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from prunecli.engine.rank_planner import in_batches
from prunecli.engine.scorers import MagnitudeScorer
from prunecli.io.scales import ScaleReader
from prunecli.io.threads import Tasks
from prunecli.kernels.arrays import INTS, as_array
from prunecli.plans import CutPerSlice, PruneSmallestOfRow
from prunecli.ranking.slice_cuts import SliceSearch, Tile, tiles

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from prunecli.engine.scored_tensors import ScoredTensors
    from prunecli.io.threads import Pool, Worker
    from prunecli.plans import TensorPlan


@dataclass(frozen=True, slots=True)
class _Searched:
    """The search for the cuts of one target; the cuts and limits of its slices are filled in."""

    index: int
    plan: PruneSmallestOfRow
    cuts: NDArray[np.int64]
    limits: NDArray[np.int64]


class RowBatch:
    """Targets whose rows are cut together."""

    def __init__(
        self, tensors: ScoredTensors, rows: Mapping[int, PruneSmallestOfRow], plans: dict[int, TensorPlan]
    ) -> None:
        """Read nothing yet; `rows` has the wanted plan of each target, and the final ones go to `plans`."""
        self._tensors, self._rows, self._plans = tensors, rows, plans
        self._scorer = tensors.scorer or MagnitudeScorer(tensors.targets, ScaleReader(tensors.reader.sources))
        self._searched: list[_Searched] = []
        self._searching: Tasks | None = None

    @property
    def size(self) -> int:
        """The bytes of weights that are read, at least once."""
        return sum(self._tensors.targets[index].nbytes for index in self._rows) if self._tensors.reads_weights else 0

    def start(self, pool: Pool) -> None:
        """Begin to search."""
        self._searching = Tasks(pool)
        self._searching.each(self._search, self._parts())

    def _parts(self) -> Iterator[tuple[_Searched, Sequence[Tile]]]:
        for index, plan in self._rows.items():
            total, parts = plan.view.total, [[tile] for tile in tiles(plan.view)]
            if not self._tensors.targets[index].contiguous:  # it is read whole, once
                parts = [[tile for part in parts for tile in part]]
            searched = _Searched(index, plan, np.zeros(total, np.int64), np.zeros(total, np.int64))
            self._searched.append(searched)
            yield from ((searched, part) for part in parts)

    def _search(self, worker: Worker, searched: _Searched, part: Sequence[Tile]) -> None:
        index, read = searched.index, self._tensors.reader_of(worker, searched.index)

        def patterns(first: int, count: int) -> NDArray[np.int64]:
            return as_array(self._scorer.patterns(worker, index, read(first, first + count), first))

        bits = self._scorer.dtype(index).top.bit_length()
        for tile in part:
            own = slice(tile.start, tile.start + tile.total)
            search = SliceSearch(tile, patterns, bits, searched.plan.wanted)
            searched.cuts[own], searched.limits[own] = search.cuts()

    def finish(self, pool: Pool) -> None:  # noqa: ARG002 - protocol
        """Wait for the cuts and store the plans."""
        if self._searching is not None:
            self._searching.wait()
        for searched in self._searched:
            # Float8 magnitudes are integers of 16 bits.
            width = max(self._scorer.dtype(searched.index).itemsize, 2)
            cuts = searched.cuts.astype(INTS[width])
            self._plans[searched.index] = CutPerSlice(searched.plan.view, cuts, searched.limits)
        self._searched = []


def row_batches(
    tensors: ScoredTensors, rows: Mapping[int, PruneSmallestOfRow], plans: dict[int, TensorPlan]
) -> list[RowBatch]:
    """Return the targets of `rows` in batches, in the order of the files."""
    batches = in_batches(tuple(rows), lambda index: [tensors.targets[index]])
    return [RowBatch(tensors, {index: rows[index] for index in batch}, plans) for batch in batches]
