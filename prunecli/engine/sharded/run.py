"""The run over tensors of which every process has a part: plans are made together, and each process applies them."""

from __future__ import annotations

import json
import zlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from prunecli.engine.rank_planner import RankPlanner
from prunecli.engine.run import Run
from prunecli.engine.scored_tensors import count_remaining
from prunecli.engine.sharded.apply import Appearance, MaskOfParts, PartPruner, PartsInPlace
from prunecli.engine.sharded.measured import MeasuredInParts, view_of_part
from prunecli.engine.sharded.memory import check_exact
from prunecli.engine.sharded.normalized import NormalizedInParts
from prunecli.engine.sharded.plans import check_groups, fits_runs, plan_of_part, with_own_ties
from prunecli.engine.sharded.ranks import GroupsInParts
from prunecli.engine.sharded.rows import RowsInParts
from prunecli.engine.sharded.small import SMALL, Collector
from prunecli.engine.sharded.stats import JoinedStats
from prunecli.engine.sharded.ties import own_ties
from prunecli.engine.sharded.two_four import GroupCounter, has_cut_groups
from prunecli.engine.sharded.values import PartScorer, Values, in_pool
from prunecli.errors import CheckpointError, UsageError
from prunecli.io.memory_reader import MemoryReader, copied, on_host
from prunecli.io.threads import InlinePool, Pool, Tasks, results
from prunecli.plans import Cut, PruneSmallestOfRow, without_masks
from prunecli.strategies.strategy import PlansFromMeasure, PlansFromRanks, PlansFromShape
from prunecli.text.escape import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import ExitStack

    from numpy.typing import NDArray

    from prunecli.engine.measure import TensorStats
    from prunecli.engine.options import RunOptions
    from prunecli.engine.planner import Batch
    from prunecli.engine.pruner import ApplyContext
    from prunecli.engine.recipe_run import RecipeRun
    from prunecli.engine.scorers import Scorer
    from prunecli.engine.sharded.memory import ShardedTensors
    from prunecli.engine.work import Job, Work
    from prunecli.formats.safetensors.mask_writer import MaskSink
    from prunecli.io.files import Input, Output
    from prunecli.plans import TensorPlan

LARGE_MODEL = 1 << 23
"""The bytes of a process's parts on the host for which threads are worth their start."""

DIGEST_RUN = 1 << 22
"""The elements of a part that are digested at once."""


def plan_together(memory: ShardedTensors, make: Callable[[], RecipeRun | Work]) -> RecipeRun | Work:
    """Return the work that `make` returns; UsageError where processes are asked for different work."""
    made: list[RecipeRun | Work] = []

    def describe() -> bytes:
        plan = make()
        made.append(plan)
        what = [(strategy.describe(), members) for strategy, members in plan.pruned_by]
        check_exact(memory, [target.tensor for target in plan.selection.targets])
        return json.dumps([what, [t.tensor.name for t in plan.selection.targets]], default=str).encode()

    texts = memory.group.gather(describe)
    for rank, text in zip(memory.group.ranks, texts, strict=True):
        if text != texts[0]:
            raise UsageError(
                f"ranks {memory.group.ranks[0]} and {rank} are asked for different work",
                hint="call it with the same arguments on every rank",
            )
    return made[0]


class ShardedRun(Run):
    """A run over parts in the memory of several processes."""

    def __init__(self, memory: ShardedTensors, work: Work, options: RunOptions, *, write: bool) -> None:
        """Prepare the run; the tensors are changed only with `write`."""
        super().__init__(memory.checkpoint, work, options)
        self._memory, self._write, self._group = memory, write, memory.group
        self._parts = {i: part for i, t in enumerate(self.targets) if (part := memory.parts.get(t.name))}
        self._parts = {i: replace(part, tensor=self.targets[i]) for i, part in self._parts.items()}
        self._values: dict[int, Values] = {}
        self.pruning = False
        """Whether weights may have been changed."""

    def _pool(self) -> Pool:
        sizes = (p.local.nbytes for p in self._parts.values() if on_host(self._memory.local.tensors[p.local.name]))
        return super()._pool() if sum(sizes) > LARGE_MODEL else InlinePool(self.options.device)

    def _reader(self, sources: Sequence[Input], advance: Callable[[int], None] = lambda _: None) -> MemoryReader:  # noqa: ARG002 - as the base
        return MemoryReader(self._memory.local, advance)

    def _scorer(self, job: Job, sources: Sequence[Input], stack: ExitStack) -> Scorer | None:
        scorer = super()._scorer
        return self._group.together(lambda: scorer(job, sources, stack))

    def _plan_and_apply(
        self,
        pool: Pool,
        scorers: Sequence[Scorer | None],
        sources: Sequence[Input],
        sinks: Sequence[Output | None],
        masks: MaskSink | None,
    ) -> Mapping[int, TensorStats]:
        self._check_copies()
        return super()._plan_and_apply(pool, scorers, sources, sinks, masks)

    def _check_copies(self) -> None:
        """Raise CheckpointError for a part that several processes have, and that is not the same in all of them."""
        copied = [(i, self._memory.copied[t.name]) for i, t in enumerate(self.targets) if t.name in self._memory.copied]
        if not copied:
            return
        reader = self._reader(())

        def digests() -> NDArray[np.int64]:
            found = np.zeros((len(copied), len(self._group.ranks)), np.int64)
            for row, (index, _) in enumerate(copied):
                if index in self._parts:
                    found[row, self._group.index] = _digest(reader, self._parts[index].local)
            return found.reshape(-1)

        found = self._group.sum(len(copied) * len(self._group.ranks), digests).reshape(len(copied), -1)
        for (index, parts), own in zip(copied, found, strict=True):
            for ranks in parts:
                first, *others = (self._group.ranks.index(rank) for rank in ranks)
                different = next((other for other in others if own[other] != own[first]), None)
                if different is not None:
                    raise CheckpointError(
                        f"{printable(repr(self.targets[index].name))} is not the same on ranks {ranks[0]} and "
                        f"{self._group.ranks[different]}, which both have it or the same part of it",
                        hint="broadcast it from one rank first",
                    )

    def _batches(self, pool: Pool, job: Job, scorer: Scorer | None, sources: Sequence[Input]) -> Sequence[Batch]:
        values = Values(self._group, self.targets, self._parts, self._reader(sources), scorer)
        self._values |= dict.fromkeys(job.members, values)
        remaining = [target.numel for target in self.targets]
        if scorer is not None and job.sources.has_pruned:
            remaining = self._count_remaining(pool, job, values)
        strategy, members, plans = job.strategy, job.members, self._plans
        if isinstance(strategy, PlansFromMeasure):
            return [MeasuredInParts(strategy, values, members, plans, self.work.followers)]
        if isinstance(strategy, PlansFromRanks) and strategy.needs_ranks:
            normalization = strategy.normalization([remaining[m] for m in members])
            planner = RankPlanner(strategy, values.whole, remaining, plans)
            groups = planner.groups(members)
            if normalization is None:
                return [GroupsInParts(planner, values, groups)]
            return [NormalizedInParts(normalization, groups[0], values, remaining, plans)]
        if isinstance(strategy, PlansFromShape):
            plans.update((index, strategy.plan(values.whole.as_ranked(index))) for index in members)
        return self._rows_in_parts(values, members)

    def _count_remaining(self, pool: Pool, job: Job, values: Values) -> list[int]:
        """Return the number of weights of each target that are not already pruned, in all parts."""
        scorer = values.own.scorer

        def compute() -> NDArray[np.int64]:
            counts = np.zeros(len(self.targets), np.int64)
            mine = [member for member in job.members if values.counted(member)]
            tasks = [pool.submit(count_remaining, values.own, scorer, member) for member in mine]
            counts[mine] = results(tasks)
            return counts

        counts = self._group.sum(len(self.targets), lambda: in_pool(pool, compute)).tolist()
        return [counts[i] if i in job.members else target.numel for i, target in enumerate(self.targets)]

    def _rows_in_parts(self, values: Values, members: Sequence[int]) -> Sequence[Batch]:
        """Return the batch for targets whose rows do not lie in one piece of one part; their plans are made anew."""
        rows = {index: plan for index in members if isinstance(plan := self._plans.get(index), PruneSmallestOfRow)}
        if not rows:
            return []

        def cut() -> NDArray[np.int64]:
            found = np.zeros(len(self.targets), np.int64)
            for index, plan in rows.items():
                found[index] = not plan.rows_are_contiguous
                if index in self._parts:
                    found[index] |= not view_of_part(self._parts[index], plan.view).has_whole_slices
            return found

        found = self._group.largest(len(self.targets), cut)
        return [RowsInParts(values, {i: plan for i, plan in rows.items() if found[i]}, self._plans)]

    def _apply(
        self,
        pool: Pool,
        batches: Sequence[Batch],
        context: ApplyContext,
        sinks: Sequence[Output | None],  # noqa: ARG002 - as the base
    ) -> Mapping[int, TensorStats]:
        """Make all plans together, and then apply them: an error while planning leaves all tensors as they are."""
        for batch in batches:
            batch.start(pool)
            batch.finish(pool)
        seen = self._appearance()
        cuts = {index: plan for index, plan in self._plans.items() if isinstance(plan, Cut)}
        ties = own_ties(pool, self._values, cuts)
        own = self._group.together(lambda: self._own_context(context, seen, ties))
        self._plans.update((index, without_masks(plan)) for index, plan in self._plans.items())
        pruner = PartPruner(own, seen)

        def work() -> None:
            self.pruning = self._write
            in_place = PartsInPlace(pruner, self._reader(()), seen, write=self._write)
            tasks = Tasks(pool)
            tasks.each(in_place.prune, in_place.parts())
            tasks.wait()

        return JoinedStats(self._group, self.targets, seen, pruner).join(lambda: in_pool(pool, work))

    def _appearance(self) -> Appearance:
        """Decide how parts are seen: in the same way in all processes. Raises UsageError if a part cuts a group."""
        size = len(self.targets)

        def unfit() -> NDArray[np.int64]:
            found = np.zeros(size, np.int64)
            for index, part in self._parts.items():
                check_groups(self._plans[index], part)
                found[index] = not fits_runs(self._plans[index], part)
            return found

        in_runs = {index for index, whole in enumerate(self._group.largest(size, unfit).tolist()) if not whole}

        def cut() -> NDArray[np.int64]:
            found = np.zeros(size, np.int64)
            for index, part in self._parts.items():
                found[index] = has_cut_groups(part, in_runs=index in in_runs)
            return found

        cut_groups = {index for index, flag in enumerate(self._group.largest(size, cut).tolist()) if flag}
        counters = {index: GroupCounter(part) for index, part in self._parts.items() if index in cut_groups}
        collected = {i for i, tensor in enumerate(self.targets) if i not in in_runs and tensor.numel <= SMALL}
        collectors = {index: Collector(part) for index, part in self._parts.items() if index in collected}
        return Appearance(self._parts, in_runs, counters, cut_groups, collectors, collected)

    def _own_context(self, context: ApplyContext, seen: Appearance, ties: Mapping[int, int]) -> ApplyContext:
        """Return what this process applies: the targets as they are seen, with plans and scorers for them."""
        targets, plans, scorers = list(self.targets), dict(self._plans), dict(context.scorers)
        for index, part in self._parts.items():
            plan: TensorPlan = with_own_ties(self._plans[index], ties.get(index))
            if index not in seen.in_runs:
                plan = plan_of_part(plan, part)
                targets[index] = replace(part.local, layout=part.tensor.layout, file=part.tensor.file)
                if index in scorers:
                    scorers[index] = PartScorer(scorers[index], self._parts)
            plans[index] = plan
        masks: Any = None if context.masks is None else MaskOfParts(context.masks, seen)
        return replace(context, targets=targets, plans=plans, scorers=scorers, masks=masks)


def _digest(reader: MemoryReader, tensor: Any) -> int:  # noqa: ANN401 - TensorInfo
    """Return a number that differs if a bit of a part does, almost surely."""
    array, digest = reader.array(tensor), 0
    for first in range(0, tensor.numel, DIGEST_RUN):
        x = copied(array, first, min(first + DIGEST_RUN, tensor.numel))
        if isinstance(x, np.ndarray):
            digest = zlib.crc32(x.data, digest)
        else:
            wide = x.to(x.new_empty(0).long().dtype)
            factors = 2 * wide.new_ones(len(wide)).cumsum(0) + 1
            digest = (digest * 31 + int((wide * factors).sum())) % (1 << 62)
    return digest
