"""Plans from order statistics of tensors that lie on devices: all groups of a strategy are ranked together there.

Some members of a group may lie on the host: threads count them while the devices compute.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from prunecli.engine.rank_planner import RankBatch
from prunecli.engine.together import BATCH_BYTES, SMALL
from prunecli.io.threads import Worker
from prunecli.kernels.torch_many import many_tensors
from prunecli.ranking.device_ranks import Held, find_on_devices
from prunecli.ranking.device_tables import Together
from prunecli.ranking.kth_smallest import RankSearch, statistic_at

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from prunecli.dtypes import Float
    from prunecli.engine.rank_planner import RankPlanner
    from prunecli.engine.scored_tensors import ScoredTensors
    from prunecli.io.threads import Pool
    from prunecli.kernels.ops import Array
    from prunecli.plans import RankGroup
    from prunecli.ranking.kth_smallest import Sample

Tables: TypeAlias = "dict[tuple[Float, str], Together]"
"""The tables of a search by dtype and device."""

IN_PLACE_BYTES = 1 << 32
"""The bytes of small tensors that are ranked together where they lie."""

GROUPS_AT_ONCE = 32
"""Groups whose ranks are searched together; each takes a few megabytes for its sample."""


class DeviceRankBatch:
    """Groups of tensors on devices, whose order statistics are found together."""

    def __init__(self, planner: RankPlanner, groups: Sequence[tuple[RankGroup, Mapping[int, Array]]]) -> None:
        """Read nothing yet; each group has those of its weights that lie on devices."""
        self._planner, self._groups = planner, groups
        self._worker = Worker(None)

    @property
    def size(self) -> int:
        """The bytes of weights that are read, at least once."""
        targets = self._planner.tensors.targets
        return sum(targets[member].nbytes for group, _ in self._groups for member in group.members)

    def start(self, pool: Pool) -> None:
        """Do nothing: kernels are queued in `finish`, and are computed while later ones are."""

    def finish(self, pool: Pool) -> None:
        """Find the ranks and store the plans."""
        small: list[tuple[RankGroup, Mapping[int, Array]]] = []
        large: list[tuple[RankGroup, Mapping[int, Array]]] = []
        for group, weights in self._groups:
            self._advance(weights)
            alone = len(group.members) == 1 and weights[group.members[0]].nbytes <= SMALL
            if not group.ranks:
                self._planner.conclude(group, [])
            else:
                (small if alone else large).append((group, weights))
        for many in self._kinds([(group, weights[group.members[0]]) for group, weights in small]):
            self._rank_together(many)
        for first in range(0, len(large), GROUPS_AT_ONCE):
            self._search(pool, large[first : first + GROUPS_AT_ONCE])
        self._groups = []

    def _advance(self, weights: Mapping[int, Array]) -> None:
        """Report weights on devices as read."""
        targets = self._planner.tensors.targets
        self._planner.tensors.reader.advance(sum(targets[member].nbytes for member in weights))

    def _kinds(self, items: Sequence[tuple[Any, Array]]) -> Iterator[list[tuple[Any, Array]]]:
        """Yield items with weights of one dtype on one device, of up to `BATCH_BYTES` each if they are copied."""
        kinds: dict[Any, list[tuple[Any, Array]]] = {}
        sizes: dict[Any, int] = {}
        for key, values in items:
            member = key if isinstance(key, int) else key.members[0]
            kind = self._planner.tensors.dtype(member), str(values.device)
            kinds.setdefault(kind, []).append((key, values))
            sizes[kind] = sizes.get(kind, 0) + values.nbytes
            ops: Any = self._worker.ops_of(values)
            if sizes[kind] >= (BATCH_BYTES if ops.fused is None else IN_PLACE_BYTES):
                yield kinds.pop(kind)
                del sizes[kind]
        yield from kinds.values()

    def _rank_together(self, items: Sequence[tuple[RankGroup, Array]]) -> None:
        """Rank small tensors, each for itself."""
        dtype = self._planner.tensors.dtype(items[0][0].members[0])
        arrays = [values for _, values in items]
        many = many_tensors(self._worker.ops_of(arrays[0]), arrays, dtype)  # type: ignore[arg-type]
        # A percentile may lie at a weight or between two: then not all groups have as many ranks.
        most = max(len(group.ranks) for group, _ in items)
        columns = [
            many.ranked([group.ranks[min(at, len(group.ranks) - 1)] for group, _ in items]) for at in range(most)
        ]
        for (group, _), *found in zip(items, *columns, strict=True):
            statistics = [
                statistic_at(rank, dtype, each.bits, each.less, each.equal)
                for rank, each in zip(group.ranks, found, strict=False)
            ]
            self._planner.conclude(group, statistics)

    def _search(self, pool: Pool, groups: Sequence[tuple[RankGroup, Mapping[int, Array]]]) -> None:
        """Rank large tensors, and groups of several ones."""
        tables: Tables = {}
        searches = [
            (new_search(self._planner.tensors, group), self._held(weights, tables)) for group, weights in groups
        ]
        there = {member for _, weights in groups for member in weights}
        on_host = any(member not in there for group, _ in groups for member in group.members)
        find_on_devices(searches, _OnHost(self._planner, pool, there) if on_host else None)
        for search, _ in searches:
            self._planner.conclude(search.group, search.statistics())

    def _held(self, weights: Mapping[int, Array], tables: Tables) -> list[Held]:
        """Return the members of a group: those of one kind in a table, or else small ones together and others alone."""
        small: list[tuple[int, Array]] = []
        large: list[tuple[int, Array]] = []
        found: dict[Together, list[tuple[int, Array]]] = {}
        for member, values in weights.items():
            there = self._table_for(member, values, tables)
            if there is not None:
                found.setdefault(there, []).append((member, values.reshape(-1)))
            else:
                (small if values.nbytes <= SMALL else large).append((member, values))
        held = [there.held(*zip(*items, strict=True)) for there, items in found.items()]
        for items in (*([item] for item in large), *self._kinds(small)):
            members, parts = zip(*items, strict=True)
            held.append(Held(self._worker.ops_of(parts[0]), members, parts, self._planner.tensors.dtype(members[0])))  # type: ignore[arg-type]
        return held

    def _table_for(self, member: int, values: Array, tables: Tables) -> Together | None:
        """Return the table of a tensor, None if it has gaps or kernels cannot find it."""
        ops: Any = self._worker.ops_of(values)
        if ops.fused is None or not values.is_contiguous():
            return None
        dtype = self._planner.tensors.dtype(member)
        kind = dtype, str(values.device)
        if kind not in tables:
            tables[kind] = Together(ops, dtype)
        return tables[kind]


class _OnHost:
    """The members of groups that lie on the host, which threads count."""

    def __init__(self, planner: RankPlanner, pool: Pool, there: set[int]) -> None:
        """Count with the threads of `pool` what is not `there`, on devices."""
        self._planner, self._pool, self._there = planner, pool, there
        self._batch = RankBatch(planner, [])

    def samples(self, search: RankSearch, size: int) -> list[Sample]:
        """Return samples of the members of a group, their shares of one with `size` elements."""
        members = [member for member in search.group.members if member not in self._there]
        return list(self._planner.samples_of(members, size / search.total))

    def count(self, searches: Sequence[RankSearch]) -> None:
        """Count what searches ask for."""
        self._batch.count(self._pool, searches, lambda member: member not in self._there).wait()


def new_search(tensors: ScoredTensors, group: RankGroup) -> RankSearch:
    """Return the search for the ranks of a group, which counts equals, too."""
    numels = [tensors.targets[member].numel for member in group.members]
    return RankSearch(group, [tensors.dtype(member) for member in group.members], numels, equals=True)
