"""Tensors that lie whole in a window: the compiled kernels prune and measure all of them with one call."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from prunecli.engine.measure import statistics_of
from prunecli.plans import Cut, KeepLargestOfGroup, PruneSlices, without_masks

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from prunecli.checkpoint import TensorInfo
    from prunecli.engine.pruner import Pruner
    from prunecli.io.layout import Piece, Window
    from prunecli.io.threads import Worker
    from prunecli.kernels.native_many import Item, Kind
    from prunecli.plans import TensorPlan


class WholeTensors:
    """Prunes the tensors that lie whole in windows. Several threads may do so at the same time."""

    def __init__(self, pruner: Pruner) -> None:
        """Prune targets of `pruner`, which collects the measurements."""
        self._pruner, self._context = pruner, pruner.context
        self._kinds: dict[Hashable, Kind | None] = {}
        context = pruner.context
        self._are_plain = not (context.scorers or context.masks or context.base or context.histograms)
        """Whether nothing but the weights is read, and nothing else is written or counted."""

    def prune(self, worker: Worker, view: memoryview, window: Window) -> Sequence[Piece]:
        """Prune what lies whole in `view`, the bytes of a window, and return the pieces of other tensors."""
        if not self._are_plain or not hasattr(worker.ops, "prune_each"):
            return window.pieces
        from prunecli.kernels.native.library import address  # noqa: PLC0415 - the compiled kernels

        context, place = self._context, address(view) - window.read_start
        others, targets, items = [], [], []
        for piece in window.pieces:
            tensor, plan = context.targets[piece.target], context.plans[piece.target]
            item = self._item(tensor, plan, place) if piece.stop - piece.first == tensor.numel else None
            if item is None:
                others.append(piece)
            else:
                targets.append(piece.target)
                items.append(item)
        ops: Any = worker.ops
        for target, counts in zip(targets, ops.prune_each(items) if items else (), strict=True):
            self._pruner.store(target, counts)
            context.plans[target] = without_masks(context.plans[target])
        return others

    def _item(self, tensor: TensorInfo, plan: TensorPlan, place: int) -> Item | None:
        """Return what the kernels need; None if they do not prune such a tensor by such a plan in one step."""
        from prunecli.kernels.native_many import Item  # noqa: PLC0415 - the compiled kernels

        kind = self._kind(tensor)
        if kind is None:
            return None
        x = place + tensor.start
        if isinstance(plan, Cut):
            return Item(kind, x, plan.bits, plan.ties)
        if isinstance(plan, KeepLargestOfGroup):
            length, inner = plan.view(tensor.shape)
            end = length - length % plan.group if plan.zero_tail else length
            return Item(kind, x, groups=(length, inner, min(plan.group, length), plan.count, end))
        if isinstance(plan, PruneSlices):
            view = plan.view.before, plan.view.slices, plan.view.after
            return Item(kind, x, view=view, alive=plan.alive)
        return None

    def _kind(self, tensor: TensorInfo) -> Kind | None:
        """Return the kind of a tensor; None if the kernels cannot prune it where it lies."""
        key = tensor.dtype, tensor.shape, tensor.strides, tensor.layout, tensor.big_endian, tensor.scale is None
        if key not in self._kinds:
            from prunecli.kernels.native_many import Kind  # noqa: PLC0415 - the compiled kernels

            plain = tensor.contiguous and tensor.scale is None and tensor.big_endian == (sys.byteorder == "big")
            self._kinds[key] = Kind(statistics_of(tensor)) if plain else None
        return self._kinds[key]
