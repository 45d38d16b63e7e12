"""Plans from order statistics: small tensors are ranked in memory, other groups by a search over the file."""

from __future__ import annotations

from array import array
from dataclasses import replace
from math import ceil
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from prunecli.io.files import PAGE
from prunecli.io.threads import Tasks, Worker
from prunecli.kernels.key_arrays import CODES, COUNTED, joined, magnitudes
from prunecli.plans import RankGroup
from prunecli.ranking.kth_smallest import RankSearch, Sample, statistics_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from prunecli.checkpoint import TensorInfo
    from prunecli.dtypes import Float
    from prunecli.engine.planner import Batch
    from prunecli.engine.scored_tensors import ScoredTensors
    from prunecli.io.threads import Pool
    from prunecli.kernels.key_arrays import Keys
    from prunecli.kernels.ops import Array
    from prunecli.plans import OrderStatistic, TensorPlan
    from prunecli.strategies.strategy import PlansFromRanks

T = TypeVar("T")

_Bracket: TypeAlias = tuple[int, int, int]
"""A target, the first pattern of its bracket, and the number of patterns."""

BATCH_BYTES = 1 << 24
"""Tensors that are ranked one by one are planned in batches of this size."""

SMALL_TENSOR = 1 << 22
"""A tensor of up to this many bytes is ranked in memory, in one read."""

SMALL_CHUNK = 1 << 19
"""Chunks of up to this many bytes are counted by one thread at a time."""

SAMPLE_SHARE, SAMPLE_LEAST = 64, 1 << 14
"""A sample is taken in blocks of one page.

The sample of a smaller group is one of this many elements, and at least the second number of them."""


class RankPlanner:
    """Plans the tensors of one strategy from order statistics.

    `remaining` has the number of weights of each target that are not already pruned. The plans go to `plans`.
    """

    def __init__(
        self,
        strategy: PlansFromRanks,
        tensors: ScoredTensors,
        remaining: Sequence[int],
        plans: dict[int, TensorPlan],
    ) -> None:
        """Read nothing yet."""
        self.strategy, self.tensors, self.remaining, self.plans = strategy, tensors, remaining, plans
        self._sampler = Sampler(tensors)

    def groups(self, members: Sequence[int]) -> list[RankGroup]:
        """Return the groups of the strategy, with indices of targets as members."""
        groups = self.strategy.groups(
            [self.tensors.as_ranked(m) for m in members], [self.remaining[m] for m in members]
        )
        if all(index == member for index, member in enumerate(members)):
            return groups
        return [RankGroup(tuple([members[m] for m in group.members]), group.ranks, group.ties) for group in groups]

    def batches(self, members: Sequence[int]) -> Sequence[Batch]:
        """Return the groups in batches, in the order of the files."""
        # Groups of several tensors are ranked by all processes, one after the other, in the same order everywhere.
        shared: list[RankGroup] = []
        own: list[RankGroup] = []
        for group in self.groups(members):
            if self._is_shared(group):
                shared.append(group)
            elif self.tensors.part.has(group.members[0]):
                own.append(group)
        scored = [group for group in own if self._is_scored_on_devices(group)]
        if scored:
            from prunecli.engine.scored_ranks import ScoredRankBatch  # noqa: PLC0415 - it needs torch

            return [ScoredRankBatch(self, scored), *self._on_host(own, scored)]
        alone = self.tensors.part.group.size == 1
        live = [(group, found) for group in own if (found := self._on_devices(group))] if alone else []
        if live:
            from prunecli.engine.device_ranks import DeviceRankBatch  # noqa: PLC0415 - it needs torch

            return [DeviceRankBatch(self, live), *self._on_host(own, [group for group, _ in live])]
        return [*self._on_host(own, ()), *(RankBatch(self, [group]) for group in shared)]

    def _on_host(self, groups: Sequence[RankGroup], others: Sequence[RankGroup]) -> Iterator[RankBatch]:
        """Yield the groups but for `others` in batches, in the order of the files."""
        there, targets = {group.members[0] for group in others}, self.tensors.targets
        rest = [group for group in groups if group.members[0] not in there]
        for batch in in_batches(rest, lambda group: [targets[member] for member in group.members]):
            yield RankBatch(self, batch)

    def _is_scored_on_devices(self, group: RankGroup) -> bool:
        """Return whether the scores of a group are computed on devices, all of them."""
        tensors = self.tensors
        if tensors.scorer is None or tensors.part.group.size > 1:
            return False
        return all(tensors.reader.on_device(tensors.targets[member]) for member in group.members)

    def _on_devices(self, group: RankGroup) -> dict[int, Array]:
        """Return the weights of a group that lie on devices, in any order; none if scores are ranked."""
        tensors, found = self.tensors, {}
        for member in group.members if tensors.scorer is None else ():
            values = tensors.reader.on_a_device(tensors.targets[member])
            if values is not None:
                found[member] = values
        return found

    def samples_of(self, members: Iterable[int], share: float) -> Iterator[Sample]:
        """Yield samples of about this share of the elements of members."""
        yield from self._sampler.samples_of(members, share)

    def search(self, group: RankGroup) -> RankSearch:
        """Return the search for the ranks of a group, narrowed by a sample."""
        numels = [self.tensors.targets[member].numel for member in group.members]
        dtypes, processes = [self.tensors.dtype(member) for member in group.members], self.tensors.part.group
        search = RankSearch(group, dtypes, numels)
        if self._is_shared(group):
            from prunecli.ranking.shared_search import SharedRankSearch  # noqa: PLC0415 - for several processes only

            search = SharedRankSearch(group, dtypes, numels, processes)
        search.narrow_to(list(self._sampler.samples(group)))
        return search

    def _is_shared(self, group: RankGroup) -> bool:
        """Return whether all processes rank a group: one tensor is ranked by the process that owns it, alone."""
        return self.tensors.part.group.size > 1 and len(group.members) > 1

    def among_all(self, group: RankGroup) -> RankGroup:
        """Return the group with ranks among all its weights: patterns of already pruned ones are the smallest."""
        pruned = self._already_pruned(group)
        return replace(group, ranks=tuple(rank + pruned for rank in group.ranks)) if pruned else group

    def conclude(self, group: RankGroup, statistics: Sequence[OrderStatistic]) -> None:
        """Store the plans of a group from its statistics among all weights."""
        if pruned := self._already_pruned(group):
            statistics = [replace(s, rank=s.rank - pruned, less=s.less - pruned) for s in statistics]
        tensors = [self.tensors.as_ranked(m) for m in group.members]
        cuts = self.strategy.cuts(tensors, statistics, [self.remaining[m] for m in group.members])
        self.plans.update(zip(group.members, cuts, strict=True))

    def _already_pruned(self, group: RankGroup) -> int:
        if self.tensors.scorer is None:  # only scorers know pruned weights
            return 0
        return sum(self.tensors.targets[m].numel - self.remaining[m] for m in group.members)


class RankBatch:
    """Groups of tensors whose order statistics are found together."""

    def __init__(self, planner: RankPlanner, groups: Sequence[RankGroup]) -> None:
        """Read nothing yet."""
        self._planner, self._tensors, self._groups = planner, planner.tensors, groups
        self._searches: list[RankSearch] = []
        self._small: dict[int, RankGroup] = {}
        self._ranked: dict[int, list[OrderStatistic]] = {}
        self._ranking: Tasks | None = None
        self._counting: Tasks | None = None

    @property
    def size(self) -> int:
        """The bytes of weights that are read, at least once."""
        if not self._tensors.reads_weights:
            return 0
        members = [m for group in self._groups for m in group.members if self._tensors.part.has(m)]
        return sum(self._tensors.targets[m].nbytes for m in members)

    def start(self, pool: Pool) -> None:
        """Rank small tensors, and begin the first counting pass over other groups."""
        for group in self._groups:
            if not group.ranks:
                self._planner.conclude(group, [])
            elif self._is_small(group):
                self._small[group.members[0]] = self._planner.among_all(group)
            else:
                self._searches.append(self._planner.search(self._planner.among_all(group)))
        self._ranking = Tasks(pool)
        self._ranking.each(self._rank_in_memory, [(run,) for run in self._tensors.neighbours(self._small)])
        self._counting = self.count(pool, self._searches, self._tensors.part.has)

    def finish(self, pool: Pool) -> None:
        """Wait for the counts, count again where a bracket missed a rank, and store the plans."""
        searches = self._searches
        while searches:
            if self._counting is not None:
                self._counting.wait()
            unfinished = [search for search in searches if not search.advance()]
            for search in searches:
                if search not in unfinished:
                    self._planner.conclude(search.group, search.statistics())
            searches = unfinished
            self._counting = self.count(pool, searches, self._tensors.part.has)
        if self._ranking is not None:
            self._ranking.wait()
        for group in self._groups:
            if group.members[0] in self._small:
                self._planner.conclude(group, self._ranked[group.members[0]])
        # The counts can be large, and batches live as long as the run.
        self._searches, self._counting, self._ranking = [], None, None
        self._small.clear()
        self._ranked.clear()

    def _is_small(self, group: RankGroup) -> bool:
        first = self._tensors.targets[group.members[0]]
        return len(group.members) == 1 and first.numel * first.value_size <= SMALL_TENSOR

    def _rank_in_memory(self, worker: Worker, members: Sequence[int]) -> None:
        tensors = self._tensors
        for member, weights in zip(members, tensors.read_together(worker, members), strict=True):
            ranks, y = self._small[member].ranks, tensors.patterns(worker, member, 0, weights)
            self._ranked[member] = statistics_of(worker.ops_of(weights), y, ranks, tensors.dtype(member))

    def count(self, pool: Pool, searches: Sequence[RankSearch], has: Callable[[int], bool]) -> Tasks:
        """Begin to count what searches ask for in the members for which `has` is true."""
        counting = Tasks(pool)
        counting.each(self._count_chunk, self._chunks(searches, has))
        return counting

    def _chunks(
        self, searches: Sequence[RankSearch], has: Callable[[int], bool]
    ) -> Iterator[tuple[RankSearch, list[_Bracket], int, int]]:
        """Yield (search, brackets, first, stop): count elements [first, stop) of one tensor, or all of several."""
        for search in searches:
            brackets = {bracket[0]: bracket for bracket in search.brackets() if has(bracket[0])}
            for run in self._tensors.neighbours(brackets):
                own = [brackets[member] for member in run]
                ranges = self._tensors.ranges(run[0]) if len(run) == 1 else ((0, 0),)
                for first, stop in ranges:
                    yield search, own, first, stop

    def _count_chunk(
        self, worker: Worker, search: RankSearch, brackets: Sequence[_Bracket], first: int, stop: int
    ) -> None:
        if len(brackets) == 1:
            for start, weights in self._tensors.runs(worker, brackets[0][0], first, stop):
                self._count_run(worker, search, brackets[0], start, weights)
            return
        together = self._tensors.read_together(worker, [member for member, _, _ in brackets])
        for bracket, weights in zip(brackets, together, strict=True):
            self._count_run(worker, search, bracket, 0, weights)

    def _count_run(self, worker: Worker, search: RankSearch, bracket: _Bracket, start: int, weights: Array) -> None:
        """Count weights from element `start` of a tensor."""
        member, low, width = bracket
        ops: Any = worker.ops_of(weights)
        if self._tensors.scorer is None and hasattr(ops, "bracket") and 0 < width <= COUNTED:  # on a device
            dtype = self._tensors.dtype(member)
            table = ops.bracket(ops.load(weights), dtype, low, low + width, 0).tolist()
            search.add(member, table[0], None, table[1:])
            return
        with worker.computing(small=self._tensors.scorer is None and weights.nbytes <= SMALL_CHUNK):
            y = self._tensors.patterns(worker, member, start, weights)
            if low > self._tensors.dtype(member).top:  # in mixed dtypes, the bracket may lie above all of one
                search.add(member, len(weights), None, None)
            else:
                search.add(member, *ops.below_and_inside(y, low, width))


class Sampler:
    """Takes samples of the values that are ranked, which bracket the wanted ranks."""

    def __init__(self, tensors: ScoredTensors) -> None:
        """Sample `tensors`."""
        self._tensors = tensors
        self._worker: Worker | None = None

    def samples(self, group: RankGroup) -> Iterator[Sample]:
        """Yield pages at even distances of each member of this process, in proportion to its number of elements.

        A sample has the pages of all members of one dtype that have the same length.
        """
        targets = self._tensors.targets
        total = sum(targets[member].numel for member in group.members)
        most = min(self._tensors.reader.sample_limit(targets[member]) for member in group.members)
        size = min(most, max(total // SAMPLE_SHARE, SAMPLE_LEAST))
        yield from self.samples_of(filter(self._tensors.part.has, group.members), size / total)

    def samples_of(self, members: Iterable[int], share: float) -> Iterator[Sample]:
        """Yield such samples of about this share of the elements of members."""
        alike: dict[tuple[Float, int], list[tuple[int, int]]] = {}
        for member in members:
            tensor = self._tensors.targets[member]
            count = min(ceil(share * tensor.numel), tensor.numel)
            length = min(PAGE // tensor.itemsize, count)
            alike.setdefault((self._tensors.dtype(member), length), []).append((member, count // length))
        for (dtype, length), blocks in alike.items():
            if self._tensors.scorer is None:
                raw = bytearray().join([self._raw(member, length, count) for member, count in blocks])
                yield Sample(blocks[0][0], magnitudes(raw, dtype), length)
            else:
                yield Sample(blocks[0][0], joined([self._scores(m, length, count) for m, count in blocks]), length)

    def _raw(self, index: int, length: int, count: int) -> bytearray:
        """Return the bytes of `count` blocks of `length` elements, in native order."""
        tensor = self._tensors.targets[index]
        raw = self._tensors.reader.sample(tensor, length, count)
        if tensor.big_endian:
            in_file = array(CODES[tensor.itemsize], raw)
            in_file.byteswap()
            raw[:] = in_file.tobytes()
        return raw

    def _scores(self, index: int, length: int, count: int) -> Keys:
        """Return the patterns of `count` blocks of `length` elements in row-major order."""
        worker = self._worker = self._worker or Worker(None)
        read = self._tensors.reader_of(worker, index)
        step = (self._tensors.targets[index].numel - length) // max(count - 1, 1)
        blocks = []
        for first in [block * step for block in range(count)]:
            weights = read(first, first + length)
            blocks.append(self._tensors.patterns(worker, index, first, weights).copy())
        return joined(blocks)


def in_batches(items: Sequence[T], tensors_of: Callable[[T], Sequence[TensorInfo]]) -> Iterator[list[T]]:
    """Yield the items in batches of about `BATCH_BYTES`, in the order in which their tensors lie in the files."""
    placed = []
    for number, item in enumerate(items):
        tensors = tensors_of(item)
        place = min([(tensor.file, tensor.start) for tensor in tensors])
        placed.append((place, number, sum([tensor.nbytes for tensor in tensors])))
    batch: list[T] = []
    size = 0
    for _, number, nbytes in sorted(placed):
        batch.append(items[number])
        size += nbytes
        if size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
