"""The first phase: from a strategy to one local strategy per tensor, reading weights only where it needs numbers.

Tensors are planned in batches, in the order of the file, and a batch is applied before the next one is read: what was
read to plan it is then still in the page cache.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from prunecli.dtypes import FLOATS, Float
from prunecli.engine.measured_planner import Measurer, TensorResult
from prunecli.engine.scorers import blank
from prunecli.io.files import PAGE
from prunecli.io.reader import Reader
from prunecli.io.threads import Pool, Tasks, Worker, results
from prunecli.kernels.numpy_ops import NumpyOps
from prunecli.kernels.ops import INTS
from prunecli.plans import RankGroup, TensorPlan
from prunecli.ranking.kth_smallest import RankSearch, Sample, orders_of
from prunecli.strategies.unstructured import L1, Global, Percentile, Random

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from concurrent.futures import Future

    from numpy.typing import NDArray

    from prunecli.checkpoint import TensorInfo
    from prunecli.engine.scorers import Scorer
    from prunecli.io.files import Source
    from prunecli.plans import OrderStatistic
    from prunecli.ranking.normalized_cut import CountRequest, NormalizedCutSearch
    from prunecli.strategies.unstructured import Strategy

BATCH = 1 << 25
"""Bytes of tensors that are planned together where each tensor has its own ranks."""

SMALL = 1 << 22
"""A tensor of up to this many bytes is ranked in memory, in one read."""

SAMPLE = 1 << 20
"""Elements of the largest sample of a group; it is taken as blocks of a page."""

SAMPLE_SHARE, SAMPLE_LEAST = 32, 1 << 14
"""A smaller group gives one element of so many, and no fewer than the least."""

SCAN, SMALL_TILE = 1 << 20, 1 << 19
"""Bytes a scanning task reads at once, and how many are few."""

Ranked = (Percentile, L1, Global, Random)
"""The strategies that cut at order statistics."""


@dataclass(slots=True)
class Batch:
    """Some groups on their way to cuts."""

    groups: list[RankGroup]
    searches: list[RankSearch] = field(default_factory=list)
    small: list[tuple[RankGroup, Future[list[OrderStatistic]]]] = field(default_factory=list)
    measured: list[tuple[int, Future[TensorPlan]]] = field(default_factory=list)
    curves: tuple[RankGroup, NormalizedCutSearch] | None = None
    counting: Tasks | None = None

    def let_go(self) -> None:
        """Forget what led to the cuts: it can be large, and the cuts outlive it."""
        self.searches, self.small, self.measured, self.curves, self.counting = [], [], [], None, None


class Planner:
    """Plans some of the `targets` for `strategy`; `batches` says when which of them are ready in `plans`.

    `scorer` says what is ranked where that is not the magnitudes, and `left` how many weights of each target are not
    gone already. `followers` are targets that share the plan of another one: {leader: follower}.
    """

    def __init__(  # noqa: PLR0913 - what there is to know
        self,
        strategy: Strategy,
        targets: Sequence[TensorInfo],
        sources: Sequence[Source],
        advance: Callable[[int], None],
        *,
        members: Sequence[int] | None = None,
        plans: dict[int, TensorPlan] | None = None,
        scorer: Scorer | None = None,
        left: Sequence[int] | None = None,
        followers: dict[int, int] | None = None,
    ) -> None:
        """Nothing is read yet; `advance` will be told the bytes that were."""
        self.strategy, self.scorer = strategy, scorer
        self.members = range(len(targets)) if members is None else members
        self.left = [t.numel for t in targets] if left is None else left
        self.plans = {} if plans is None else plans
        # Strategies see the format of what is ranked.
        self.targets = targets
        self._ranked_as = list(targets)
        if scorer is not None:
            for at in self.members:
                self._ranked_as[at] = replace(targets[at], dtype=scorer.dtype(at).name)
        self._reader = Reader(sources, advance)
        self._measurer = Measurer(strategy, targets, self._reader, scorer)
        self._followers = followers or {}
        self._own: Worker | None = None

    @property
    def reads(self) -> bool:
        """Whether planning reads the weights."""
        ranked = self._ranked() is not None and (self.scorer is None or self.scorer.reads_weights)
        return ranked or isinstance(self.strategy, TensorResult)

    def _ranked(self) -> Percentile | L1 | Global | Random | None:
        """Return the strategy if it needs order statistics."""
        strategy = self.strategy
        if isinstance(strategy, L1) and strategy.scope == "row":
            return None
        return strategy if isinstance(strategy, Ranked) else None

    def batches(self) -> list[Batch]:
        """Cut the work up; strategies that need no numbers are planned at once, in no batch."""
        strategy, ranked = self.strategy, self._ranked()
        if ranked is not None:
            tensors = [self._ranked_as[m] for m in self.members]
            groups = ranked.groups(tensors, [self.left[m] for m in self.members])
            own = [replace(g, members=tuple(self.members[m] for m in g.members)) for g in groups]
            return list(_packed(own, self.targets))
        if isinstance(strategy, TensorResult):
            return list(_packed([RankGroup((at,), ()) for at in self.members], self.targets))
        if hasattr(strategy, "plan"):
            self.plans.update((at, strategy.plan(self._ranked_as[at])) for at in self.members)
        return []

    def start(self, pool: Pool, batch: Batch) -> None:
        """Begin to read what the batch needs."""
        if isinstance(self.strategy, Global) and self.strategy.curved:
            (group,) = batch.groups
            batch.curves = (group, self._curves(self.strategy, group))
            self._count_curves(pool, batch)
            return
        for group in batch.groups:
            if isinstance(self.strategy, TensorResult):
                batch.measured.append((group.members[0], pool.submit(self._measure, group.members[0])))
            elif not group.ranks:
                self._conclude(group, [])
            elif self._is_small(group):
                batch.small.append((group, pool.submit(self._rank_in_memory, self._shifted(group))))
            else:
                batch.searches.append(self._search(self._shifted(group)))
        self._count(pool, batch, batch.searches)

    def finish(self, pool: Pool, batch: Batch) -> None:
        """Wait for the numbers, read again where a bracket missed, and fill in the plans."""
        if batch.curves is not None:
            self._finish_curves(pool, batch, *batch.curves)
            return
        searches = batch.searches
        while searches:
            if batch.counting is not None:
                batch.counting.wait()
            open_searches = [search for search in searches if not search.advance()]
            for search in searches:
                if search not in open_searches:
                    self._conclude(search.group, search.orders())
            searches = open_searches
            self._count(pool, batch, searches)
        for group, orders in batch.small:
            self._conclude(group, results([orders])[0])
        for member, plan in batch.measured:
            self.plans[member] = results([plan])[0]
            if member in self._followers:
                self.plans[self._followers[member]] = self.plans[member]
        batch.let_go()

    def _shifted(self, group: RankGroup) -> RankGroup:
        """Return the group with ranks among all its weights: those that are gone come first."""
        gone = self._gone(group)
        return replace(group, ranks=tuple(rank + gone for rank in group.ranks)) if gone else group

    def _gone(self, group: RankGroup) -> int:
        return sum(self.targets[m].numel - self.left[m] for m in group.members)

    def _conclude(self, group: RankGroup, orders: Sequence[OrderStatistic]) -> None:
        if (ranked := self._ranked()) is None:
            return
        gone = self._gone(group)
        orders = (
            [replace(order, rank=order.rank - gone, less=order.less - gone) for order in orders] if gone else orders
        )
        tensors, left = [self._ranked_as[m] for m in group.members], [self.left[m] for m in group.members]
        self.plans.update(zip(group.members, ranked.cuts(tensors, orders, left), strict=True))

    def _measure(self, worker: Worker, member: int) -> TensorPlan:
        return self._measurer.plan(worker, member)

    # --- what is ranked

    def _dtype(self, at: int) -> Float:
        return FLOATS[self._ranked_as[at].dtype]

    def _weights(self, worker: Worker, tensor: TensorInfo, first: int, stop: int) -> NDArray[Any]:
        """Return a run of weights, or what stands for them where nobody looks."""
        if self.scorer is not None and not self.scorer.reads_weights:
            return blank(tensor, stop - first)
        return self._reader.read(worker, tensor, first, stop)

    def _patterns(self, worker: Worker, at: int, first: int, x: NDArray[Any]) -> Any:  # noqa: ANN401 - an Array
        """Return what is ranked of the weights `x` from element `first`, where the worker computes."""
        if self.scorer is None:
            return worker.ops.magnitudes(worker.ops.load(x), self._dtype(at))
        return worker.ops.load(self.scorer.of(worker, at, x, first))

    # --- groups that fit in memory

    def _is_small(self, group: RankGroup) -> bool:
        return len(group.members) == 1 and self.targets[group.members[0]].nbytes <= SMALL

    def _rank_in_memory(self, worker: Worker, group: RankGroup) -> list[OrderStatistic]:
        at = group.members[0]
        y = self._patterns(worker, at, 0, self._weights(worker, self.targets[at], 0, self.targets[at].numel))
        return orders_of(worker.ops, y, group.ranks, self._dtype(at))

    # --- groups that are searched

    def _search(self, group: RankGroup) -> RankSearch:
        numels = [self.targets[member].numel for member in group.members]
        search = RankSearch(group, [self._dtype(member) for member in group.members], numels)
        search.narrow_to(list(self._samples(group)))
        return search

    def _samples(self, group: RankGroup) -> Iterator[Sample]:
        """Take a page of neighbours at even distances, in proportion to each tensor's elements."""
        total = sum(self.targets[member].numel for member in group.members)
        size = min(SAMPLE, max(total // SAMPLE_SHARE, SAMPLE_LEAST))
        for member in group.members:
            tensor = self.targets[member]
            share = min(-(-size * tensor.numel // total), tensor.numel)
            length = min(PAGE // tensor.itemsize, share)
            blocks = self._blocks if self.scorer is None else self._scored_blocks
            yield Sample(member, blocks(member, length, share // length))

    def _blocks(self, at: int, length: int, count: int) -> NDArray[Any]:
        """Read `count` blocks of `length` elements of the storage between the tensor's first and last element."""
        tensor = self.targets[at]
        kind = INTS[tensor.itemsize].newbyteorder(">" if tensor.big_endian else "<")
        found = np.empty((count, length), kind)
        raw = memoryview(found.data).cast("B")
        size, step = length * tensor.itemsize, (tensor.extent - length) // max(count - 1, 1)
        for block in range(count):
            place = tensor.start + block * step * tensor.itemsize
            self._reader.sources[tensor.file].read(raw[block * size : (block + 1) * size], place)
        flat = found.astype(INTS[tensor.itemsize]).reshape(-1)
        patterns: NDArray[Any] = NumpyOps().magnitudes(flat, FLOATS[tensor.dtype])
        return patterns.reshape(count, length).copy()

    def _scored_blocks(self, at: int, length: int, count: int) -> NDArray[Any]:
        """Return the patterns of `count` blocks of `length` elements in row-major order."""
        worker = self._own = self._own or Worker(None)
        numel = self.targets[at].numel
        step = (numel - length) // max(count - 1, 1)
        found = []
        for first in [block * step for block in range(count)]:
            x = self._weights(worker, self.targets[at], first, first + length)
            found.append(self._patterns(worker, at, first, x)[:length].copy())
        return np.stack(found)

    def _count(self, pool: Pool, batch: Batch, searches: Sequence[RankSearch]) -> None:
        batch.counting = Tasks(pool)
        batch.counting.each(self._count_tile, self._tiles(searches))

    def _tiles(self, searches: Sequence[RankSearch]) -> Iterator[tuple[RankSearch, int, int, int, int, int]]:
        """Yield what to count, run by run."""
        for search in searches:
            for member, low, width in search.brackets():
                for first, stop in _scans(self.targets[member]):
                    yield search, member, low, width, first, stop

    def _count_tile(
        self, worker: Worker, search: RankSearch, member: int, low: int, width: int, first: int, stop: int
    ) -> None:
        x = self._weights(worker, self.targets[member], first, stop)
        with worker.computing(small=self.scorer is None and x.nbytes <= SMALL_TILE):
            y = self._patterns(worker, member, first, x)
            if low > self._dtype(member).top:
                below, patterns, counts = stop - first, np.empty(0, np.int64), None
            else:
                below, patterns, counts = worker.ops.below_and_inside(y, low, width)
            with search.lock:
                search.add(member, below, patterns, counts)

    # --- curves

    def _curves(self, strategy: Global, group: RankGroup) -> NormalizedCutSearch:
        from prunecli.ranking.normalized_cut import NormalizedCutSearch  # noqa: PLC0415 - plain runs do without

        left = [self.left[m] for m in group.members]
        return NormalizedCutSearch(
            [self._dtype(m) for m in group.members], strategy.normalize, strategy.bounds(left), sum(group.ranks), left
        )

    def _count_curves(self, pool: Pool, batch: Batch) -> None:
        if batch.curves is None:
            return
        group, curves = batch.curves
        batch.counting = Tasks(pool)
        batch.counting.each(self._count_curve, self._wanted(group, curves))

    def _wanted(
        self, group: RankGroup, curves: NormalizedCutSearch
    ) -> Iterator[tuple[NormalizedCutSearch, CountRequest, int, int, int]]:
        for want in curves.wanted():
            at = group.members[want.member]
            for first, stop in _scans(self.targets[at]):
                yield curves, want, at, first, stop

    def _count_curve(
        self, worker: Worker, curves: NormalizedCutSearch, want: CountRequest, at: int, first: int, stop: int
    ) -> None:
        x = self._weights(worker, self.targets[at], first, stop)
        y = worker.host.magnitudes(x, want.dtype) if self.scorer is None else self.scorer.of(worker, at, x, first)
        curves.add(want, want.count(y))

    def _finish_curves(self, pool: Pool, batch: Batch, group: RankGroup, curves: NormalizedCutSearch) -> None:
        while True:
            if batch.counting is not None:
                batch.counting.wait()
            if curves.advance():
                break
            self._count_curves(pool, batch)
        self.plans.update(zip(group.members, curves.cuts(), strict=True))
        batch.let_go()


def count_left(worker: Worker, reader: Reader, scorer: Scorer, at: int, tensor: TensorInfo) -> int:
    """Return how many weights of a target are not gone already."""
    left = 0
    for first, stop in _scans(tensor):
        x = reader.read(worker, tensor, first, stop) if scorer.reads_weights else blank(tensor, stop - first)
        left += int(np.count_nonzero(scorer.of(worker, at, x, first) >= 0))
    return left


def _scans(tensor: TensorInfo) -> Iterator[tuple[int, int]]:
    """Yield the element ranges a scan reads: pieces of a contiguous tensor, all of another."""
    step = SCAN // tensor.itemsize if tensor.contiguous else tensor.numel
    for first in range(0, tensor.numel, step):
        yield first, min(first + step, tensor.numel)


def _packed(groups: Sequence[RankGroup], tensors: Sequence[TensorInfo]) -> Iterator[Batch]:
    """Pack the groups into batches in the order in which their tensors lie in the files."""
    waiting: list[RankGroup] = []
    size = 0
    for group in sorted(groups, key=lambda g: min((tensors[m].file, tensors[m].start) for m in g.members)):
        waiting.append(group)
        size += sum(tensors[member].nbytes for member in group.members)
        if size >= BATCH:
            yield Batch(waiting)
            waiting, size = [], 0
    if waiting:
        yield Batch(waiting)
