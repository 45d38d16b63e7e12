"""Small tensors on a device, which are pruned and counted together: a kernel call for each would take longer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prunecli.engine.measure import statistics_of
from prunecli.plans import Cut, KeepLargestOfGroup

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from prunecli.engine.pruner import Pruner
    from prunecli.kernels.ops import Array

SMALL = 1 << 20
"""The most bytes of a small tensor."""

BATCH_BYTES = 1 << 25
"""The bytes of tensors that are copied into one buffer and back."""


def kind_of(pruner: Pruner, target: int, x: Array, ops: Any) -> Hashable | None:  # noqa: ANN401 - TorchOps
    """Return what a target has in common with others that it can be pruned with; None if it is pruned alone.

    `x` are all its weights, on the device of `ops`.
    """
    from prunecli.kernels.torch_many import fits  # noqa: PLC0415 - for devices only

    context = pruner.context
    tensor, plan = context.targets[target], context.plans[target]
    alone = target in context.scorers or context.masks is not None or tensor.scale is not None
    if alone or not tensor.contiguous or tensor.nbytes > SMALL:
        return None
    if not fits(statistics_of(tensor, histogram=context.histograms)):
        return None
    if isinstance(plan, Cut):
        return tensor.dtype, str(x.device)
    if isinstance(plan, KeepLargestOfGroup):
        groups: Hashable = ops.groups(0, len(x), plan.view(tensor.shape), plan.group, plan.count)
        return None if groups is None else (tensor.dtype, str(x.device), groups)
    return None


def prune_together(pruner: Pruner, targets: Sequence[int], arrays: Sequence[Array], ops: Any, *, write: bool) -> None:  # noqa: ANN401 - TorchOps
    """Prune targets of one kind, whose weights are `arrays`, and store what is counted about them."""
    from prunecli.kernels.torch_many import ManyTensors  # noqa: PLC0415 - for devices only

    context = pruner.context
    tensors, plans = [context.targets[target] for target in targets], [context.plans[target] for target in targets]
    many = ManyTensors(ops, arrays, [statistics_of(tensor) for tensor in tensors])
    cuts = [plan for plan in plans if isinstance(plan, Cut)]
    first, tensor = plans[0], tensors[0]
    if isinstance(first, KeepLargestOfGroup):
        many.prune_groups(ops.groups(0, tensor.numel, first.view(tensor.shape), first.group, first.count))
    else:
        many.prune([cut.bits for cut in cuts], [cut.ties for cut in cuts])
    if write:
        many.store()
    for target, counts in zip(targets, many.counts(), strict=True):
        pruner.store(target, counts)
