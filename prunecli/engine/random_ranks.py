"""Weights that are pruned at random on devices: kernels compare the numbers where they compute them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prunecli.engine.scorers import GeneratedScorer
from prunecli.kernels.fused_random import LONGEST, capacity_of, drawing, holds
from prunecli.kernels.torch_tables import MOST_TOGETHER
from prunecli.kernels.torch_tally import fetch
from prunecli.plans import Cut

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prunecli.checkpoint import TensorInfo
    from prunecli.engine.rank_planner import RankPlanner
    from prunecli.engine.scorers import Scorer
    from prunecli.kernels.ops import Array
    from prunecli.plans import RankGroup, TensorPlan

AT_ONCE = 1 << 21
"""The most keys of candidates that are sorted together; each takes 8 bytes, and a sort several times as many."""

MOST = 1 << 28
"""The most weights of a tensor whose flags, of one byte each, are computed at once."""

HALF = 32
"""A key has the random number from this bit on, and below it the position of the weight."""


@dataclass(frozen=True, slots=True)
class _Queued:
    """Groups of one tensor each that are ranked together, and what is known about each on the device."""

    groups: Sequence[RankGroup]
    length: int
    found: Any


def rank_random(planner: RankPlanner, groups: Sequence[RankGroup]) -> list[RankGroup]:
    """Store the plans of groups that kernels rank by random numbers, and return the others."""
    if not isinstance(planner.tensors.scorer, GeneratedScorer):
        return list(groups)
    kinds: dict[tuple[str, int, int], list[RankGroup]] = {}
    rest = []
    for group in groups:
        kind = _kind(planner, group)
        if kind is None:
            rest.append(group)
        else:
            kinds.setdefault(kind, []).append(group)
    queued = [_queued(planner.tensors.scorer, part, *kind) for kind, own in kinds.items() for part in _parts(own, kind)]
    for each, numbers in zip(queued, fetch([each.found.flatten() for each in queued]), strict=True):
        rest += _store(planner, each, numbers)
    return rest


def _kind(planner: RankPlanner, group: RankGroup) -> tuple[str, int, int] | None:
    """Return the device, the number of weights and the rank of a group that kernels rank."""
    if len(group.members) != 1 or len(group.ranks) != 1:
        return None
    tensor = planner.tensors.targets[group.members[0]]
    device = planner.tensors.reader.device(tensor)
    return None if tensor.numel >= LONGEST or drawing(device) is None else (device, tensor.numel, group.ranks[0])


def _parts(groups: Sequence[RankGroup], kind: tuple[str, int, int]) -> list[Sequence[RankGroup]]:
    """Return the groups that are ranked together."""
    step = min(max(AT_ONCE // capacity_of(*kind[1:]), 1), MOST_TOGETHER)
    return [groups[first : first + step] for first in range(0, len(groups), step)]


def _queued(scorer: GeneratedScorer, groups: Sequence[RankGroup], device: str, length: int, rank: int) -> _Queued:
    kernels: Any = drawing(device)
    keys = [scorer.scores[group.members[0]].key for group in groups]
    return _Queued(groups, length, kernels.ranked(keys, length, rank, device))


def _store(planner: RankPlanner, queued: _Queued, numbers: Sequence[int]) -> list[RankGroup]:
    """Store the plans of groups, and return those whose rank was not in the bracket."""
    rest, size = [], len(numbers) // len(queued.groups)
    for index, group in enumerate(queued.groups):
        row, (rank,) = numbers[index * size : index * size + size], group.ranks
        if not holds(row, rank, queued.length):
            rest.append(group)
            continue
        below, _, key, less, equal = row
        ties, bits = rank - below - less, key >> HALF
        plan = Cut(bits + 1) if ties == equal else Cut(bits, ties, last=key & ((1 << HALF) - 1))
        planner.plans[group.members[0]] = plan
    return rest


def random_together(scorer: Scorer, tensor: TensorInfo, plan: TensorPlan, device: str) -> bool:
    """Return whether kernels make the flags of a tensor, with others of its shape, without scores in memory."""
    if not isinstance(scorer, GeneratedScorer) or not isinstance(plan, Cut):
        return False
    return (not plan.ties or plan.last is not None) and tensor.numel <= MOST and drawing(device) is not None


def random_flags(scorer: Any, targets: Sequence[int], plans: Sequence[TensorPlan], x: Array) -> Array:  # noqa: ANN401
    """Return what survives of tensors of as many weights as `x` by their cuts, one after the other."""
    keys = [scorer.scores[target].key for target in targets]
    cuts = [plan for plan in plans if isinstance(plan, Cut)]
    ends = [(cut.bits << HALF) + (-1 if cut.last is None else cut.last) for cut in cuts]
    kernels: Any = drawing(str(x.device))
    flags: Array = kernels.kept(keys, ends, (0, x.numel()), str(x.device))
    return flags
