"""Plans from normalised scores: one exact cut over several tensors, each with limits of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prunecli.io.threads import Tasks
from prunecli.kernels.arrays import as_array, on_host
from prunecli.kernels.ops import is_tensor
from prunecli.ranking.normalized_cut import NormalizedCutSearch
from prunecli.ranking.shared_counts import share_counts

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from prunecli.engine.scored_tensors import ScoredTensors
    from prunecli.io.threads import Pool, Worker
    from prunecli.plans import Normalization, RankGroup, TensorPlan
    from prunecli.ranking.normalized_cut import CountRequest


class NormalizedBatch:
    """All tensors of a strategy, which share one cut."""

    def __init__(
        self,
        normalization: Normalization,
        group: RankGroup,
        tensors: ScoredTensors,
        remaining: Sequence[int],
        plans: dict[int, TensorPlan],
    ) -> None:
        """Read nothing yet; the plans go to `plans`."""
        self._normalization, self._group, self._tensors, self._plans = normalization, group, tensors, plans
        self._remaining = [remaining[member] for member in group.members]
        self._search: NormalizedCutSearch | None = None
        self._counting: Tasks | None = None

    @property
    def size(self) -> int:
        """The bytes of weights that are read, at least once."""
        tensors = self._tensors
        members = filter(tensors.part.has, self._group.members)
        return sum(tensors.targets[m].nbytes for m in members) if tensors.reads_weights else 0

    def start(self, pool: Pool) -> None:
        """Begin the first counting pass."""
        dtypes = [self._tensors.dtype(member) for member in self._group.members]
        k = sum(self._group.ranks)
        tables = None
        if any(self._is_on_device(member) for member in self._group.members):
            from prunecli.engine.device_counts import bits_of_table  # noqa: PLC0415 - it needs torch

            tables = [bits_of_table(self._tensors.targets[member].numel) for member in self._group.members]
        self._search = NormalizedCutSearch(dtypes, self._normalization, k, self._remaining, tables)
        self._count(pool, self._search)

    def _is_on_device(self, member: int) -> bool:
        return self._tensors.reader.on_device(self._tensors.targets[member])

    def finish(self, pool: Pool) -> None:
        """Wait for the counts, count more finely until the cut is known, and store the plans."""
        if self._search is None:
            return
        while self._counting is not None:
            self._counting.wait()
            share_counts(self._tensors.part.group, self._search.counted)
            if self._search.advance():
                break
            self._count(pool, self._search)
        self._plans.update(zip(self._group.members, self._search.cuts(), strict=True))
        self._search = self._counting = None

    def _count(self, pool: Pool, search: NormalizedCutSearch) -> None:
        self._counting = Tasks(pool)
        self._counting.each(self._count_chunk, self._chunks(search))
        self._count_on_devices(search)

    def _count_on_devices(self, search: NormalizedCutSearch) -> None:
        """Count tensors on devices, while threads count the others."""
        members = ((self._group.members[request.member], request) for request in search.requests())
        requests = {member: request for member, request in members if self._is_on_device(member)}
        if requests:
            from prunecli.engine.device_counts import CountsOnDevices  # noqa: PLC0415 - it needs torch
            from prunecli.engine.device_rows import DeviceRows  # noqa: PLC0415 - it needs torch

            CountsOnDevices(DeviceRows(self._tensors), search).count(requests)

    def _chunks(self, search: NormalizedCutSearch) -> Iterator[tuple[NormalizedCutSearch, CountRequest, int, int, int]]:
        """Yield (search, request, target, first, stop)."""
        for request in search.requests():
            index = self._group.members[request.member]
            if self._is_on_device(index) or not self._tensors.part.has(index):
                continue
            for first, stop in self._tensors.ranges(index):
                yield search, request, index, first, stop

    def _count_chunk(
        self, worker: Worker, search: NormalizedCutSearch, request: CountRequest, index: int, first: int, stop: int
    ) -> None:
        for start, weights in self._tensors.runs(worker, index, first, stop):
            if self._tensors.scorer is None and not is_tensor(weights):
                y = worker.host.magnitudes(as_array(weights), request.dtype)
            else:
                y = on_host(self._tensors.patterns(worker, index, start, weights))
            search.add(request, request.count(y))
