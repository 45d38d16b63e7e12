"""Plans from order statistics of scores of tensors that lie on devices, where they are computed in runs and ranked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from prunecli.engine.device_ranks import GROUPS_AT_ONCE, new_search
from prunecli.engine.device_rows import DeviceRows
from prunecli.engine.random_ranks import rank_random
from prunecli.engine.together import SMALL
from prunecli.kernels.torch_tally import fetch
from prunecli.kernels.transfers import to_device
from prunecli.ranking.device_ranks import OnDevice, find_on_devices
from prunecli.ranking.kth_smallest import statistic_at

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from prunecli.dtypes import Float
    from prunecli.engine.rank_planner import RankPlanner
    from prunecli.io.threads import Pool
    from prunecli.kernels.ops import Array
    from prunecli.plans import RankGroup


LISTED = 1 << 12
"""The most scores in a bracket that are fetched one by one, which saves passes over those of float64."""


class ScoredRankBatch:
    """Groups of tensors on devices, whose scores are ranked together."""

    def __init__(self, planner: RankPlanner, groups: Sequence[RankGroup]) -> None:
        """Compute nothing yet."""
        self._planner, self._groups = planner, groups
        self._there = DeviceRows(planner.tensors)

    @property
    def size(self) -> int:
        """The bytes of weights that are read, at least once."""
        members = [member for group in self._groups for member in group.members]
        return sum(self._planner.tensors.targets[member].nbytes for member in members)

    def start(self, pool: Pool) -> None:
        """Do nothing: kernels are queued in `finish`, and are computed while later ones are."""

    def finish(self, pool: Pool) -> None:  # noqa: ARG002 - protocol
        """Find the ranks and store the plans."""
        small: dict[int, RankGroup] = {}
        large: list[RankGroup] = []
        for group in rank_random(self._planner, self._groups):
            first = self._planner.tensors.targets[group.members[0]]
            if not group.ranks:
                self._planner.conclude(group, [])
            elif len(group.members) == 1 and first.nbytes <= SMALL:
                small[group.members[0]] = self._planner.among_all(group)
            else:
                large.append(self._planner.among_all(group))
        self._rank_small(small)
        for start in range(0, len(large), GROUPS_AT_ONCE):
            self._search(large[start : start + GROUPS_AT_ONCE])
        self._planner.tensors.reader.advance(self.size)

    def _rank_small(self, groups: Mapping[int, RankGroup]) -> None:
        """Rank small tensors, each for itself, with one copy to the host for each device."""
        stacks = list(self._there.stacks(list(groups)))
        found = fetch([self._ranked([groups[member] for member in stack]) for stack in stacks])
        for stack, numbers in zip(stacks, found, strict=True):
            columns = iter(np.array(numbers).reshape(3, len(stack), -1).transpose(1, 2, 0).tolist())
            for member, column in zip(stack, columns, strict=True):
                group, dtype = groups[member], self._planner.tensors.dtype(member)
                ranked = zip(group.ranks, column, strict=False)
                self._planner.conclude(group, [statistic_at(rank, dtype, *each) for rank, each in ranked])

    def _ranked(self, groups: Sequence[RankGroup]) -> Array:
        """Return the patterns at the ranks of a stack, and how many are smaller, and equal: (3, rows, ranks), flat."""
        y = self._there.patterns(self._there.rows([group.members[0] for group in groups]))
        most = max(len(group.ranks) for group in groups)
        ranks = [[*group.ranks, *group.ranks[-1:] * (most - len(group.ranks))] for group in groups]
        torch, rows = self._there.ops(groups[0].members[0]).torch, y.sort(1).values
        found = rows.gather(1, to_device(np.array(ranks) - 1, y.device))
        less, upto = (torch.searchsorted(rows, found, right=right) for right in (False, True))
        return torch.stack([found.to(torch.int64), less, upto - less]).flatten()

    def _search(self, groups: Sequence[RankGroup]) -> None:
        """Rank large tensors, and groups of several ones."""
        searches = [(new_search(self._planner.tensors, group), self._held(group)) for group in groups]
        find_on_devices(searches)
        for search, _ in searches:
            self._planner.conclude(search.group, search.statistics())

    def _held(self, group: RankGroup) -> list[HeldScores]:
        dtype = self._planner.tensors.dtype
        stacks = self._there.stacks([m for m in group.members if self._planner.tensors.targets[m].numel])
        return [HeldScores(self._there, stack, dtype(stack[0])) for stack in stacks]


@dataclass(frozen=True, slots=True)
class HeldScores:
    """The scores of a stack or of one target, as `Held` has weights; they are computed whenever they are counted."""

    there: DeviceRows
    members: tuple[int, ...]
    dtype: Float

    marked = True

    @property
    def ops(self) -> Any:  # noqa: ANN401 - TorchOps
        """The kernels."""
        return self.there.ops(self.members[0])

    @property
    def length(self) -> int:
        """The number of scores."""
        return len(self.members) * self.there.tensors.targets[self.members[0]].numel

    def joined(self) -> HeldScores:
        """Return all scores."""
        return self

    def pieces(self) -> list[HeldScores]:
        """Return all scores."""
        return [self]

    def runs(self) -> Iterator[Array]:
        """Yield all scores, flat."""
        return (self.there.patterns(rows).flatten() for rows in self.there.parts(self.members))

    def blocks(self, length: int, number: int) -> Array:
        """Return `number` blocks of `length` neighbours at even distances, one in each row."""
        step = (self.length - length) // max(number - 1, 1)
        if len(self.members) == 1:
            return self.there.patterns(self.there.blocks(self.members[0], length, number, step))
        (scores,) = self.runs()
        return scores.as_strided((number, length), (step, 1))

    def keys(self, scores: Array, common: Float) -> Array:
        """Return the keys of some of the scores."""
        return OnDevice(self.ops, scores, self.dtype, marked=True).keys(scores, common)

    def lists(self, inside: int | None) -> bool:
        """Return whether so many scores in a bracket are few enough to be fetched one by one."""
        return inside is not None and inside <= LISTED

    def listed(self, low: int, width: int, inside: int) -> Array:
        """Return the scores in [low, low + width), of which there are up to `inside` ones, on the device.

        These are the numbers of smaller scores of each target, the places of scores in the bracket from 1, 0 for none,
        and the numbers of their rows.
        """
        torch, done, below = self.ops.torch, 0, 0
        table: Array = None
        for rows in self.there.parts(self.members):
            y = self.there.patterns(rows)
            if table is None:  # the last place has no meaning
                table = torch.zeros((2, inside + 1), dtype=torch.int64, device=y.device)
            below = below + (y < low).sum(1)
            hits = (y >= low) & (y <= low + (width - 1))
            ends = hits.flatten().cumsum(0) + done
            done = ends[-1]
            places = torch.where(hits.flatten(), ends - 1, inside).clamp_(max=inside)
            table[0].scatter_(0, places, (y.to(torch.int64) - low + 1).flatten())
            if len(y) > 1:
                row = torch.arange(len(y), device=y.device)[:, None].expand(y.shape)
                table[1].scatter_(0, places, row.flatten())
        return torch.cat([below, table[:, :inside].flatten()])

    def equals(self, bits: int) -> Array:
        """Return how many scores of each target are smaller than `bits` and equal to it, shape (2, targets)."""
        y = self.there.patterns(self.there.rows(self.members))
        return self.ops.torch.stack([(y < bits).sum(1), (y == bits).sum(1)])
