"""Order statistics of tensors that are in parts: each process counts its own, and the counts are added up.

The search is that of `prunecli.ranking.kth_smallest`, without samples: the first pass counts by the leading bits.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from prunecli.engine.sharded.values import in_pool
from prunecli.io.threads import results
from prunecli.kernels.key_arrays import COUNTED, add_to_bins
from prunecli.ranking.kth_smallest import RankSearch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from prunecli.engine.rank_planner import RankPlanner
    from prunecli.engine.sharded.values import Values
    from prunecli.io.threads import Pool, Worker
    from prunecli.plans import RankGroup

AT_ONCE = 64
"""Groups whose ranks are searched together."""

BITS, FEW, BITS_OF_MANY = 16, 4, 12
"""The bits that a pass counts by, up to FEW groups; and for more of them: 2 MB of counts in either case."""


class GroupsInParts:
    """All groups of one strategy."""

    def __init__(self, planner: RankPlanner, values: Values, groups: Sequence[RankGroup]) -> None:
        """Read nothing yet; `planner` knows the whole tensors."""
        self._planner, self._values, self._groups = planner, values, groups

    @property
    def size(self) -> int:
        """The bytes of weights that are read, at least once."""
        members = (member for group in self._groups for member in group.members)
        return sum(self._values.parts[m].local.nbytes for m in members if m in self._values.parts)

    def start(self, pool: Pool) -> None:
        """Do nothing: processes count together, in `finish`."""

    def finish(self, pool: Pool) -> None:
        """Search for the ranks and store the plans."""
        for group in self._groups:
            if not group.ranks:
                self._planner.conclude(group, [])
        groups = [group for group in self._groups if group.ranks]
        for first in range(0, len(groups), AT_ONCE):
            self._find(pool, groups[first : first + AT_ONCE])

    def _find(self, pool: Pool, groups: Sequence[RankGroup]) -> None:
        searches = [self._search(group) for group in groups]
        bits = BITS if len(groups) <= FEW else BITS_OF_MANY
        while searches:
            self._count(pool, [request for search in searches for request in _requests(search, bits)])
            unfinished = [search for search in searches if not search.advance()]
            for search in searches:
                if search not in unfinished:
                    self._planner.conclude(search.group, search.statistics())
            searches = unfinished

    def _search(self, group: RankGroup) -> RankSearch:
        whole = self._values.whole
        numels = [whole.targets[member].numel for member in group.members]
        dtypes = [whole.dtype(member) for member in group.members]
        return RankSearch(self._planner.among_all(group), dtypes, numels, equals=True)

    def _count(self, pool: Pool, requests: Sequence[_Request]) -> None:
        ends = np.cumsum([request.size for request in requests])
        places = [slice(end - request.size, end) for end, request in zip(ends.tolist(), requests, strict=True)]

        def compute() -> NDArray[np.int64]:
            counts = np.zeros(int(ends[-1]), np.int64)
            wanted = [(place, request, m) for place, request in zip(places, requests, strict=True) for m in request.of]
            mine = [one for one in wanted if self._values.counted(one[2])]
            tasks = [pool.submit(self._counts, request, member) for _, request, member in mine]
            for (place, _, _), found in zip(mine, results(tasks), strict=True):
                counts[place] += found
            return counts

        counts = self._values.group.sum(int(ends[-1]), lambda: in_pool(pool, compute))
        for place, request in zip(places, requests, strict=True):
            request.conclude(self._values, counts[place].tolist())

    def _counts(self, worker: Worker, request: _Request, member: int) -> NDArray[np.int64]:
        """Return the numbers of a part's patterns below the bracket of a request, and in each bin of it."""
        counts = np.zeros(request.size, np.int64)
        for _, y in self._values.patterns(worker, member):
            if isinstance(y, np.ndarray):
                counts += request.count(y, self._values.whole.dtype(member))
            else:
                counts += self._on_device(worker, request, member, y)
        return counts

    def _on_device(self, worker: Worker, request: _Request, member: int, y: Any) -> NDArray[np.int64]:  # noqa: ANN401
        from prunecli.ranking.device_ranks import OnDevice, table_of  # noqa: PLC0415 - for devices only

        ops: Any = worker.ops_of(y)
        dtype = self._values.whole.dtype(member)
        if request.patterns:
            low, high = request.low, request.low + max(request.width, 1)
            table = ops.bracket(y, dtype, low, high, 0, marked=True)[: request.size]
        else:
            table = table_of(request.search, OnDevice(ops, y, dtype, marked=True), request.shift)
        found: NDArray[np.int64] = table.cpu().numpy()
        return found


@dataclass(frozen=True, slots=True)
class _Request:
    """What one pass counts for a search: numbers below a bracket, and in each bin of it.

    The bracket is `width` patterns of one member from `low`, one bin each; or without `patterns` that of the search,
    in keys of all members in `of`, and a bin has 2**`shift` of them.
    """

    search: RankSearch
    of: tuple[int, ...]
    patterns: bool
    low: int
    width: int
    shift: int

    @property
    def size(self) -> int:
        return 2 + (self.width - 1 >> self.shift) if self.width else 1

    def count(self, y: NDArray[Any], dtype: Any) -> NDArray[np.int64]:  # noqa: ANN401 - Float
        """Return the counts of some patterns; -1 is below every bracket."""
        if not self.patterns and dtype is not self.search.keys.common:
            gone = len(y)
            y = self.search.keys.of(y[y >= 0], dtype)
            below = gone - len(y)
        else:
            below = 0
        counts = np.zeros(self.size, np.int64)
        counts[0] = below + np.count_nonzero(y < self.low)
        if self.width:
            bins = array("q", bytes(counts[1:].nbytes))
            add_to_bins(y, self.low, self.width, self.shift, bins)
            counts[1:] = bins
        return counts

    def conclude(self, values: Values, counts: Sequence[int]) -> None:
        """Give the counts of all processes to the search."""
        if not self.patterns:
            self.search.add_bins(counts[0], counts[1:], self.shift)
            return
        (member,) = self.of
        if self.low > values.whole.dtype(member).top:  # in mixed dtypes, the bracket may lie above all of one
            self.search.add(member, values.targets[member].numel, None, [])
        else:
            self.search.add(member, counts[0], None, counts[1:])


def _requests(search: RankSearch, bits: int) -> Iterator[_Request]:
    """Yield what the next pass of a search counts."""
    wide = []
    for member, low, width in search.brackets():
        if width > COUNTED:
            wide.append(member)
        else:
            yield _Request(search, (member,), True, low, max(width, 0), 0)
    if wide:
        width = search.high - search.low
        yield _Request(search, tuple(wide), False, search.low, width, search.shift(bits))
