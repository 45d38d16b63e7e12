"""Small tensors on a device, which are pruned and counted together: a kernel call for each would take longer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prunecli.dtypes import FLOATS
from prunecli.engine.measure import statistics_of
from prunecli.kernels.rows import Rows
from prunecli.plans import Chunk, Cut, KeepLargestOfGroup

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from prunecli.checkpoint import TensorInfo
    from prunecli.engine.pruner import Pruner
    from prunecli.io.threads import Worker
    from prunecli.kernels.ops import Array
    from prunecli.plans import TensorPlan

SMALL = 1 << 20
"""The most bytes of a small tensor."""

BATCH_BYTES = 1 << 25
"""The bytes of tensors that are copied into one buffer and back."""


SCORE_SHARE = 4
"""So many times fewer small tensors are computed together if they have scores, of 8 bytes for each weight."""


def kind_of(pruner: Pruner, target: int, x: Array, ops: Any) -> Hashable | None:  # noqa: ANN401 - TorchOps
    """Return what a target has in common with others that it can be pruned with; None if it is pruned alone.

    `x` are all its weights, on the device of `ops`.
    """
    from prunecli.kernels.torch_many import fits  # noqa: PLC0415 - for devices only

    context = pruner.context
    tensor, plan = context.targets[target], context.plans[target]
    alone = context.masks is not None or tensor.scale is not None
    alone = alone or (target in context.scorers and not tensor.contiguous)
    if alone or tensor.nbytes > SMALL:
        return None
    if not fits(statistics_of(tensor, histogram=context.histograms)):
        return None
    place = tensor.dtype, str(x.device)
    scorer = context.scorers.get(target)
    if scorer is not None:
        kind = Cut if isinstance(plan, Cut) else plan.kind
        return None if kind is None else (*place, tensor.shape, id(scorer), kind)
    if isinstance(plan, Cut):
        return place
    groups = _flat_groups(ops, tensor, plan)
    if groups is not None:
        return (*place, groups)
    return None if plan.kind is None else (*place, tensor.shape, plan.kind)


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
    """Prune targets of one kind, whose weights are `arrays`, and store what is counted about them."""
    from prunecli.kernels.torch_many import ManyTensors  # noqa: PLC0415 - for devices only

    context = pruner.context
    ops: Any = worker.ops_of(arrays[0])
    tensors, plans = [context.targets[target] for target in targets], [context.plans[target] for target in targets]
    many = ManyTensors(ops, arrays, FLOATS[tensors[0].dtype], [statistics_of(tensor) for tensor in tensors])
    cuts, groups = [plan for plan in plans if isinstance(plan, Cut)], _flat_groups(ops, tensors[0], plans[0])
    scorer = context.scorers.get(targets[0])
    if scorer is not None:
        y = scorer.on_device(worker, Rows(tuple(targets), many.rows()))
        many.prune_flags(_kept_by_scores(ops, y, plans, tensors[0].shape))
    elif cuts:
        many.prune([cut.bits for cut in cuts], [cut.ties for cut in cuts])
    elif groups is not None:
        many.prune_groups(groups)
    else:
        many.prune_flags(_kept(ops, many.magnitudes(), plans, tensors[0].shape))
    if write:
        many.store()
    for target, counts in zip(targets, many.counts(), strict=True):
        pruner.store(target, counts)


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
