"""The first phase: from a strategy to one local strategy per tensor, reading weights only where it needs numbers.

Tensors are planned in batches, in the order of the file, so that what was read to plan a batch is still in the page
cache when the batch is applied. While one batch is applied the next is already being counted.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from prunecli.arrays import INTS, NumpyOps
from prunecli.dtypes import FLOATS
from prunecli.norms import deviation, slice_norms, tile_norms, weakest
from prunecli.plans import Group, Local
from prunecli.ranking import Sample, Search, orders_of
from prunecli.reading import Reader
from prunecli.splice import PAGE
from prunecli.strategies import L1, Block, Global, Percentile, Spread, Structured, Threshold, TopK
from prunecli.workers import Pool, Tasks, Worker, results

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from concurrent.futures import Future

    from numpy.typing import NDArray

    from prunecli.plans import Order
    from prunecli.splice import Source
    from prunecli.strategies import Strategy
    from prunecli.tensors import TensorInfo

BATCH = 1 << 26
"""Bytes of tensors that are planned together where each tensor has its own ranks."""

SMALL = 1 << 22
"""A tensor of up to this many bytes is ranked in memory, in one read."""

SAMPLE = 1 << 20
"""Elements of the largest sample of a group; it is taken as blocks of a page."""

SAMPLE_SHARE, SAMPLE_LEAST = 32, 1 << 14
"""A smaller group gives one element of so many, and no fewer than the least."""

SCAN = 1 << 20
"""Bytes a scanning task reads at once."""

Measured = (Spread, Structured, Block)
"""The strategies that decide from a deviation or norms of each tensor."""


@dataclass(slots=True)
class Batch:
    """Some groups on their way to cuts."""

    groups: list[Group]
    searches: list[Search] = field(default_factory=list)
    small: list[tuple[Group, Future[list[Order]]]] = field(default_factory=list)
    measured: list[tuple[int, Future[Local]]] = field(default_factory=list)
    counting: Tasks | None = None


class Planner:
    """Plans `targets` for `strategy`; `batches` says when which of them are ready in `plans`."""

    def __init__(
        self,
        strategy: Strategy,
        targets: Sequence[TensorInfo],
        sources: Sequence[Source],
        advance: Callable[[int], None],
    ) -> None:
        """Nothing is read yet; `advance` will be told the bytes that were."""
        self.strategy, self.targets, self.sources = strategy, targets, sources
        self._reader = Reader(sources, advance)
        self.plans: dict[int, Local] = {}

    @property
    def reads(self) -> bool:
        """Whether planning reads the weights."""
        return self._ranked() is not None or isinstance(self.strategy, Measured)

    def _ranked(self) -> Percentile | L1 | Global | None:
        """Return the strategy if it needs order statistics."""
        strategy = self.strategy
        if isinstance(strategy, L1) and strategy.scope == "row":
            return None
        return strategy if isinstance(strategy, (Percentile, L1, Global)) else None

    def batches(self) -> list[Batch]:
        """Cut the work up; strategies that need no numbers are planned at once, in no batch."""
        if (ranked := self._ranked()) is not None:
            return list(_packed(ranked.groups(self.targets), self.targets))
        strategy = self.strategy
        if isinstance(strategy, Measured):
            return list(_packed([Group((at,), ()) for at in range(len(self.targets))], self.targets))
        if isinstance(strategy, (Threshold, TopK, L1)):
            self.plans.update((at, strategy.plan(tensor)) for at, tensor in enumerate(self.targets))
        return []

    def start(self, pool: Pool, batch: Batch) -> None:
        """Begin to read what the batch needs."""
        for group in batch.groups:
            if isinstance(self.strategy, Measured):
                batch.measured.append((group.members[0], pool.submit(self._measure, group.members[0])))
            elif not group.ranks:
                self._conclude(group, [])
            elif self._is_small(group):
                batch.small.append((group, pool.submit(self._rank_in_memory, group)))
            else:
                batch.searches.append(self._search(group))
        self._count(pool, batch, batch.searches)

    def finish(self, pool: Pool, batch: Batch) -> None:
        """Wait for the numbers, read again where a bracket missed, and fill in the plans."""
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

    def _conclude(self, group: Group, orders: Sequence[Order]) -> None:
        if (ranked := self._ranked()) is not None:
            cuts = ranked.cuts([self.targets[m] for m in group.members], orders)
            self.plans.update(zip(group.members, cuts, strict=True))

    # --- groups that fit in memory

    def _is_small(self, group: Group) -> bool:
        return len(group.members) == 1 and self.targets[group.members[0]].nbytes <= SMALL

    def _rank_in_memory(self, worker: Worker, group: Group) -> list[Order]:
        tensor = self.targets[group.members[0]]
        dtype = FLOATS[tensor.dtype]
        x = self._reader.read(worker, tensor, 0, tensor.numel)
        return orders_of(worker.ops, worker.ops.magnitudes(worker.ops.load(x), dtype), group.ranks, dtype)

    # --- groups that are searched

    def _search(self, group: Group) -> Search:
        tensors = [self.targets[member] for member in group.members]
        search = Search(group, [FLOATS[t.dtype] for t in tensors], [t.numel for t in tensors])
        search.narrow_to(list(self._samples(group)))
        return search

    def _samples(self, group: Group) -> Iterator[Sample]:
        """Take a page of neighbours at even distances, in proportion to each tensor's elements."""
        total = sum(self.targets[member].numel for member in group.members)
        size = min(SAMPLE, max(total // SAMPLE_SHARE, SAMPLE_LEAST))
        host = NumpyOps()
        for member in group.members:
            tensor = self.targets[member]
            share = min(-(-size * tensor.numel // total), tensor.numel)
            length = min(PAGE // tensor.itemsize, share)
            yield Sample(member, self._blocks(host, tensor, length, share // length))

    def _blocks(self, host: NumpyOps, tensor: TensorInfo, length: int, count: int) -> NDArray[Any]:
        """Read `count` blocks of `length` elements of the storage between the tensor's first and last element."""
        kind = INTS[tensor.itemsize].newbyteorder(">" if tensor.big_endian else "<")
        found = np.empty((count, length), kind)
        raw = memoryview(found.data).cast("B")
        size, step = length * tensor.itemsize, (tensor.extent - length) // max(count - 1, 1)
        for at in range(count):
            place = tensor.start + at * step * tensor.itemsize
            self.sources[tensor.file].read(raw[at * size : (at + 1) * size], place)
        flat = found.astype(INTS[tensor.itemsize]).reshape(-1)
        patterns: NDArray[Any] = host.magnitudes(flat, FLOATS[tensor.dtype])
        return patterns.reshape(count, length).copy()

    def _count(self, pool: Pool, batch: Batch, searches: Sequence[Search]) -> None:
        batch.counting = Tasks(pool)
        for search in searches:
            for member, low, width in search.brackets():
                for first, stop in _scans(self.targets[member]):
                    batch.counting.submit(self._count_tile, search, member, low, width, first, stop)

    def _count_tile(
        self, worker: Worker, search: Search, member: int, low: int, width: int, first: int, stop: int
    ) -> None:
        tensor = self.targets[member]
        dtype, ops = FLOATS[tensor.dtype], worker.ops
        x = self._reader.read(worker, tensor, first, stop)
        if low > dtype.top:
            below, patterns, counts = x.size, x[:0], None
        else:
            below, patterns, counts = ops.below_and_inside(ops.magnitudes(ops.load(x), dtype), low, width)
        with search.lock:
            search.add(member, below, patterns, counts)

    # --- deviations and norms

    def _measure(self, worker: Worker, member: int) -> Local:
        """Plan a tensor from a deviation or norms."""
        tensor, strategy = self.targets[member], self.strategy
        dtype, read = FLOATS[tensor.dtype], self._reader.reader(worker, tensor)
        if isinstance(strategy, Structured):
            norms = slice_norms(read, tensor.shape, strategy.axis(tensor), strategy.n, dtype)
            return strategy.local(tensor, *weakest(norms, strategy.wanted(tensor, norms.size)))
        if isinstance(strategy, Block):
            norms = tile_norms(read, tensor.shape, (strategy.rows, strategy.cols), dtype).reshape(-1)
            return strategy.local(tensor, *weakest(norms, strategy.wanted(tensor, norms.size)))
        if isinstance(strategy, Spread):
            return strategy.local(tensor, deviation(read, tensor.numel, dtype))
        raise TypeError(strategy)


def _scans(tensor: TensorInfo) -> Iterator[tuple[int, int]]:
    """Yield the element ranges a scan reads: pieces of a contiguous tensor, all of another."""
    step = SCAN // tensor.itemsize if tensor.contiguous else tensor.numel
    for first in range(0, tensor.numel, step):
        yield first, min(first + step, tensor.numel)


def _packed(groups: Sequence[Group], tensors: Sequence[TensorInfo]) -> Iterator[Batch]:
    """Pack the groups into batches in the order in which their tensors lie in the files."""
    waiting: list[Group] = []
    size = 0
    for group in sorted(groups, key=lambda g: min((tensors[m].file, tensors[m].start) for m in g.members)):
        waiting.append(group)
        size += sum(tensors[member].nbytes for member in group.members)
        if size >= BATCH:
            yield Batch(waiting)
            waiting, size = [], 0
    if waiting:
        yield Batch(waiting)
