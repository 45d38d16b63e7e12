"""The first phase of a run: turn a strategy into one plan per tensor, and read weights only where it needs numbers.

Tensors are planned in batches, in the order of the files, and a batch is applied while the next one is read: the disk
is busy, and what was read for a plan is still in the page cache when it is applied.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from prunecli.plans import PruneSmallestOfRow
from prunecli.strategies.strategy import PlansFromMeasure, PlansFromRanks, PlansFromShape

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from prunecli.engine.scored_tensors import ScoredTensors
    from prunecli.engine.work import Job
    from prunecli.io.threads import Pool
    from prunecli.plans import TensorPlan


class Batch(Protocol):
    """Tensors that are planned together."""

    @property
    def size(self) -> int:
        """The bytes of weights that planning reads."""

    def start(self, pool: Pool) -> None:
        """Begin to read what the plans are computed from."""

    def finish(self, pool: Pool) -> None:
        """Wait until everything is read, store the plans, and free the rest."""


def plan_batches(
    job: Job,
    tensors: ScoredTensors,
    remaining: Sequence[int],
    plans: dict[int, TensorPlan],
    followers: Mapping[int, int],
) -> Sequence[Batch]:
    """Return the batches of a job, which store the plans of its members in `plans`.

    Plans that need the shape alone are stored at once, without a batch. `remaining` has the number of weights of each
    target that are not already pruned. `followers` maps a target to its bias.
    """
    strategy, members = job.strategy, job.members
    # No other module distinguishes the kinds of strategies.
    if isinstance(strategy, PlansFromMeasure):
        from prunecli.engine.measured_planner import MeasuredPlanner  # noqa: PLC0415 - most runs measure nothing

        own = [member for member in members if tensors.part.plans_for(member, followers)]
        return MeasuredPlanner(strategy, tensors, plans, followers).batches(own)
    if isinstance(strategy, PlansFromRanks) and strategy.needs_ranks:
        from prunecli.engine.rank_planner import RankPlanner  # noqa: PLC0415 - a threshold ranks nothing

        normalization = strategy.normalization([remaining[m] for m in members])
        planner = RankPlanner(strategy, tensors, remaining, plans)
        if normalization is None:
            return planner.batches(members)
        from prunecli.engine.normalized_planner import NormalizedBatch  # noqa: PLC0415 - most runs need no scores

        (group,) = planner.groups(members)
        return [NormalizedBatch(normalization, group, tensors, remaining, plans)]
    if isinstance(strategy, PlansFromShape):
        plans.update((index, strategy.plan(tensors.as_ranked(index))) for index in members)
        return _rows_in_pieces(tensors, members, plans)
    return []


def _rows_in_pieces(tensors: ScoredTensors, members: Sequence[int], plans: dict[int, TensorPlan]) -> Sequence[Batch]:
    """Take the plans for rows that do not lie in one piece out of `plans`, and return the batches that make others."""
    rows = {
        index: plan
        for index in filter(tensors.part.has, members)
        if isinstance(plan := plans[index], PruneSmallestOfRow) and not plan.rows_are_contiguous
    }
    there = {index: plan for index, plan in rows.items() if tensors.reader.on_device(tensors.targets[index])}
    if there:
        from prunecli.engine.device_row_planner import DeviceRowBatch  # noqa: PLC0415 - it needs torch

        rows = {index: plan for index, plan in rows.items() if index not in there}
        return [DeviceRowBatch(tensors, there, plans), *_searched_rows(tensors, rows, plans)]
    return _searched_rows(tensors, rows, plans)


def _searched_rows(
    tensors: ScoredTensors, rows: Mapping[int, PruneSmallestOfRow], plans: dict[int, TensorPlan]
) -> Sequence[Batch]:
    if not rows:
        return []
    from prunecli.engine.row_planner import row_batches  # noqa: PLC0415 - most runs do not need it

    for index in rows:
        del plans[index]
    return row_batches(tensors, rows, plans)
