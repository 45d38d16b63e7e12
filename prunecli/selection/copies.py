"""What a run leaves alone: other state_dicts in the file, EMA copies in the state_dict, fp32 copies of optimizers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prunecli.dtypes import FLOATS
from prunecli.layouts.copies import ema_prefixes, is_master
from prunecli.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from prunecli.checkpoint import Checkpoint, TensorInfo


@dataclass(frozen=True, slots=True)
class LeftAlone:
    """A state_dict that is not pruned: its key, and the numbers of its tensors and of its floating-point weights."""

    key: str
    tensors: int
    weights: int


def left_alone(checkpoint: Checkpoint, pruned: Collection[str] = ()) -> tuple[LeftAlone, ...]:
    """Return the other state_dicts of the file that hold weights.

    Those are left out whose matrices and kernels are all in `pruned`, because they are stored once with pruned ones.
    """
    groups: dict[str, list[TensorInfo]] = {}
    for tensor in checkpoint.outside:
        if tensor.key:
            groups.setdefault(tensor.key, []).append(tensor)
    return tuple(_counted(key, group) for key, group in groups.items() if not _is_pruned(group, pruned))


def _is_pruned(tensors: Collection[TensorInfo], pruned: Collection[str]) -> bool:
    """Return whether some of the tensors are in `pruned`, and none of two dimensions or more is not."""
    return any(t.name in pruned for t in tensors) and all(t.name in pruned for t in tensors if len(t.shape) > 1)


def unpruned_ema(checkpoint: Checkpoint, pruned: Collection[str]) -> tuple[LeftAlone, ...]:
    """Return the EMA copies that are a part of the state_dict, such as `model_ema.*`, of which no tensor is pruned."""
    tensors = [tensor for tensor in checkpoint.inside if len(tensor.shape) > 1]
    found = []
    for prefix in sorted(ema_prefixes([tensor.local_name for tensor in tensors])):
        group = [tensor for tensor in tensors if tensor.local_name.startswith(f"{prefix}.")]
        if not any(tensor.name in pruned for tensor in group):
            found.append(_counted(f"{prefix}.*", group))
    return tuple(found)


def masters(checkpoint: Checkpoint) -> tuple[str, ...]:
    """Return the names of the tensors outside the state_dict that an optimizer updates in place of the weights."""
    return tuple(t.name for t in checkpoint.outside if t.dtype in FLOATS and is_master(t.name))


def _counted(key: str, tensors: Collection[TensorInfo]) -> LeftAlone:
    return LeftAlone(key, len(tensors), _weights(tensors))


def _weights(tensors: Iterable[TensorInfo]) -> int:
    return sum(tensor.numel for tensor in tensors if tensor.dtype in FLOATS)
