"""One exact cut for normalised scores over tensors that are in parts: the counts of all processes are exchanged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from prunecli.engine.sharded.payloads import packed, unpacked
from prunecli.engine.sharded.values import in_pool
from prunecli.io.threads import results
from prunecli.ranking.normalized_cut import CountAccumulator, CountResult, NormalizedCutSearch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from prunecli.engine.sharded.values import Values
    from prunecli.io.threads import Pool, Worker
    from prunecli.plans import Normalization, RankGroup, TensorPlan
    from prunecli.ranking.normalized_cut import CountRequest

AT_ONCE = 32
"""Tensors whose counts are exchanged together."""


class NormalizedInParts:
    """All tensors of a strategy, which share one cut."""

    def __init__(
        self,
        normalization: Normalization,
        group: RankGroup,
        values: Values,
        remaining: Sequence[int],
        plans: dict[int, TensorPlan],
    ) -> None:
        """Read nothing yet; the plans go to `plans`."""
        self._normalization, self._group, self._values, self._plans = normalization, group, values, plans
        self._remaining = [remaining[member] for member in group.members]

    @property
    def size(self) -> int:
        """The bytes of weights that are read, at least once."""
        parts = self._values.parts
        return sum(parts[member].local.nbytes for member in self._group.members if member in parts)

    def start(self, pool: Pool) -> None:
        """Do nothing: processes count together, in `finish`."""

    def finish(self, pool: Pool) -> None:
        """Count until the cut is known, and store the plans."""
        dtypes = [self._values.whole.dtype(member) for member in self._group.members]
        search = NormalizedCutSearch(dtypes, self._normalization, sum(self._group.ranks), self._remaining)
        while requests := search.requests():
            for first in range(0, len(requests), AT_ONCE):
                self._count(pool, search, requests[first : first + AT_ONCE])
            if search.advance():
                break
        else:
            search.advance()
        self._plans.update(zip(self._group.members, search.cuts(), strict=True))

    def _count(self, pool: Pool, search: NormalizedCutSearch, requests: Sequence[CountRequest]) -> None:
        def counts() -> bytes:
            mine = [r for r in requests if self._values.counted(self._group.members[r.member])]
            tasks = [pool.submit(self._counts, request) for request in mine]
            arrays: dict[str, NDArray[Any]] = {}
            for request, found in zip(mine, results(tasks), strict=True):
                squares = found.squares.to_bytes(found.squares.bit_length() // 8 + 1, "little")
                member = request.member
                arrays |= {f"bins {member}": found.bins, f"counts {member}": found.counts}
                arrays[f"squares {member}"] = np.frombuffer(squares, np.uint8)
            return packed(arrays)

        for payload in self._values.group.gather(lambda: in_pool(pool, counts)):
            arrays = unpacked(payload)
            for request in requests:
                if f"bins {request.member}" in arrays:
                    bins, numbers, squares = (arrays[f"{k} {request.member}"] for k in ("bins", "counts", "squares"))
                    search.add(request, CountResult(bins, numbers, int.from_bytes(squares.tobytes(), "little")))

    def _counts(self, worker: Worker, request: CountRequest) -> CountResult:
        """Return the counts of a part."""
        total = CountAccumulator()
        for _, y in self._values.patterns_on_host(worker, self._group.members[request.member]):
            total.add(request.count(y))
        return CountResult(*total.merged(), total.squares)
