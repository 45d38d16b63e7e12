"""Tensors on a device that are pruned and counted together: kernel calls for each of them would take longer.

Where kernels find tensors by their addresses, tensors of any size are; else small ones are copied into one buffer.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from prunecli.dtypes import FLOATS
from prunecli.engine.measure import statistics_of
from prunecli.engine.random_ranks import MOST, random_flags, random_together
from prunecli.kernels.rows import Rows
from prunecli.kernels.torch_folds import folding
from prunecli.kernels.torch_tables import takes_slices
from prunecli.plans import Chunk, Cut, KeepLargestOfGroup, PruneBlocks, PruneSlices
from prunecli.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence
    from typing import TypeGuard

    from prunecli.checkpoint import TensorInfo
    from prunecli.engine.pruner import Pruner
    from prunecli.engine.scorers import Scorer
    from prunecli.io.threads import Worker
    from prunecli.kernels.ops import Array
    from prunecli.plans import TensorPlan

SMALL = 1 << 20
"""The most bytes of a small tensor."""

BATCH_BYTES = 1 << 25
"""The bytes of tensors that are copied into one buffer and back."""

BATCH_WEIGHTS = 1 << 30
"""The weights that are pruned together where they lie; what is counted takes 40 bytes for each 1024 of them."""

SCORE_SHARE = 4
"""So many times fewer small tensors are computed together if they have scores, of 8 bytes for each weight."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What targets have in common that are pruned together. Those `in_place` are not copied."""

    common: Hashable
    in_place: bool


def kind_of(pruner: Pruner, target: int, x: Array, ops: Any, *, write: bool) -> Kind | None:  # noqa: ANN401 - TorchOps
    """Return what a target has in common with others that it can be pruned with; None if it is pruned alone.

    `x` are all its weights, on the device of `ops`.
    """
    context = pruner.context
    tensor, plan, scorer = context.targets[target], context.plans[target], context.scorers.get(target)
    alone = context.masks is not None or tensor.scale is not None or not _counted_together(pruner, tensor, ops)
    if alone or (scorer is not None and not tensor.contiguous):
        return None
    place = tensor.dtype, str(x.device)
    common: tuple[Hashable, ...] | None = None
    if scorer is None:
        common = _applied_in_place(ops, tensor, plan)
    elif _is_random(ops, scorer, tensor, plan):
        common = tensor.shape, id(scorer)
    fits = tensor.contiguous and tensor.numel <= BATCH_WEIGHTS
    if common is not None and write and fits and ops.fused is not None:
        return Kind((*place, *common), in_place=True)
    if tensor.nbytes > SMALL:
        return None
    if scorer is not None or common is None:
        kind: Any = Cut if scorer is not None and isinstance(plan, Cut) else plan.kind
        if kind is None:
            return None
        common = tensor.shape, id(scorer), kind
    return Kind((*place, *common), in_place=False)


def _is_random(ops: Any, scorer: Scorer, tensor: TensorInfo, plan: TensorPlan) -> bool:  # noqa: ANN401 - TorchOps
    """Return whether kernels make the flags of a tensor from random numbers."""
    return ops.fused is not None and random_together(scorer, tensor, plan, ops.device)


def _counted_together(pruner: Pruner, tensor: TensorInfo, ops: Any) -> bool:  # noqa: ANN401 - TorchOps
    """Return whether a tensor is counted with others."""
    from prunecli.kernels.torch_many import fits  # noqa: PLC0415 - for devices only

    if ops.fused is not None:
        return not pruner.context.histograms
    return fits(statistics_of(tensor, histogram=pruner.context.histograms))


def _applied_in_place(ops: Any, tensor: TensorInfo, plan: TensorPlan) -> tuple[Hashable, ...] | None:  # noqa: ANN401
    """Return what plans have in common that kernels apply without memory for each weight; None for other plans."""
    if isinstance(plan, Cut):
        return ()
    groups = _flat_groups(ops, tensor, plan)
    if groups is not None:
        return (groups,)
    if isinstance(plan, PruneSlices) and ops.fused is not None and takes_slices(plan.view):
        return PruneSlices, plan.view
    if _in_rows(plan, ops) and tensor.numel <= MOST:
        return PruneBlocks, tensor.shape, plan.view, plan.block
    return None


def _in_rows(plan: TensorPlan, ops: Any) -> TypeGuard[PruneBlocks]:  # noqa: ANN401 - TorchOps
    """Return whether kernels make the flags of weights from those of blocks, which are parts of rows."""
    in_rows = isinstance(plan, PruneBlocks) and plan.view.before == 1
    return in_rows and ops.fused is not None and folding(ops.device, "blocks") is not None


def _flat_groups(ops: Any, tensor: TensorInfo, plan: TensorPlan) -> Any:  # noqa: ANN401 - TorchOps, and Groups or None
    """Return the groups of a plan as a rule that does not depend on the shape, if there is one."""
    if not isinstance(plan, KeepLargestOfGroup):
        return None
    return ops.groups(0, tensor.numel, plan.view(tensor.shape), plan.group, plan.count)


def needs_no_memory(ops: Any, tensor: TensorInfo, plan: TensorPlan) -> bool:  # noqa: ANN401 - TorchOps
    """Return whether one kernel prunes a tensor by a plan, without memory for each weight."""
    if ops.fused is None:
        return False
    return isinstance(plan, Cut) or _flat_groups(ops, tensor, plan) is not None


def prune_together(
    pruner: Pruner, targets: Sequence[int], arrays: Sequence[Array], worker: Worker, *, write: bool
) -> None:
    """Prune targets of one kind, whose weights are `arrays`; what is counted about them is fetched later."""
    from prunecli.kernels.torch_many import many_tensors  # noqa: PLC0415 - for devices only

    context = pruner.context
    ops: Any = worker.ops_of(arrays[0])
    tensors, plans = [context.targets[target] for target in targets], [context.plans[target] for target in targets]
    statistics = [statistics_of(tensor) for tensor in tensors]
    many = many_tensors(ops, arrays, FLOATS[tensors[0].dtype], statistics, copy=not write)
    scorer = context.scorers.get(targets[0])
    if scorer is not None and all(map(partial(_is_random, ops, scorer), tensors, plans)):
        many.prune_flags(random_flags(scorer, targets, plans, arrays[0]))
    elif scorer is not None:
        y = scorer.on_device(worker, Rows(tuple(targets), many.rows()))
        many.prune_flags(_kept_by_scores(ops, y, plans, tensors[0].shape))
    else:
        _prune_by_magnitudes(ops, many, tensors, plans)
    if write:
        many.store()
    pruner.keep_many(targets, many.counted())


def _prune_by_magnitudes(ops: Any, many: Any, tensors: Sequence[TensorInfo], plans: Sequence[TensorPlan]) -> None:  # noqa: ANN401
    """Prune `ManyTensors` with `TorchOps` by what their weights are."""
    cuts, groups = [plan for plan in plans if isinstance(plan, Cut)], _flat_groups(ops, tensors[0], plans[0])
    slices = [plan for plan in plans if isinstance(plan, PruneSlices)]
    if cuts:
        many.prune([cut.bits for cut in cuts], [cut.ties for cut in cuts])
    elif groups is not None:
        many.prune_groups(groups)
    elif slices and ops.fused is not None and takes_slices(slices[0].view):
        many.prune_slices([plan.alive for plan in slices], slices[0].view)
    elif _in_rows(plans[0], ops):
        alive = [plan.alive for plan in plans if isinstance(plan, PruneBlocks)]
        many.prune_blocks(alive, plans[0].view, plans[0].block)
    else:
        many.prune_flags(_kept(ops, many.magnitudes(), plans, tensors[0].shape))


def _kept(ops: Any, y: Array, plans: Sequence[TensorPlan], shape: tuple[int, ...]) -> Array:  # noqa: ANN401 - TorchOps
    """Return what survives of tensors of one shape by plans of one kind; `y` has the ranked numbers of all of them."""
    return plans[0].stacked(plans).keep(ops, y, Chunk((len(plans), *shape), 0, len(y), lambda equal: equal))


def _kept_by_scores(ops: Any, y: Array, plans: Sequence[TensorPlan], shape: tuple[int, ...]) -> Array:  # noqa: ANN401 - TorchOps
    """Return the same for patterns `y` in rows, of which -1 is already pruned."""
    cuts = [plan for plan in plans if isinstance(plan, Cut)]
    if not cuts:
        kept = _kept(ops, y.flatten(), plans, shape) != 0
    else:
        kept = ops.above(y, [cut.bits for cut in cuts], [cut.ties for cut in cuts]).flatten()
    return kept & (y.flatten() >= 0)
