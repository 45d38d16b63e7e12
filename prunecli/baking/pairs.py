"""Which tensors of a checkpoint are one weight under torch.nn.utils.prune, told by names, shapes and places.

Nothing is read. What looks like such a weight and is none is refused or told of, with the reason.
"""

from __future__ import annotations

import shlex
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prunecli.checkpoint import OUTSIDE
from prunecli.dtypes import BITS, MASK_DTYPES
from prunecli.errors import CheckpointError
from prunecli.selection.aliases import overlapping, tied
from prunecli.selection.reparametrized import PRUNE, leftovers
from prunecli.text.escape import printable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from prunecli.checkpoint import Checkpoint, TensorInfo

_READABLE_MASKS = {None, "expanded view"}  # reasons that do not matter for a mask, which is only read
REMOVE = "torch.nn.utils.prune.remove(module, name) in Python, then save again"
"""What to do with a checkpoint that cannot be folded as a file."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A pruned weight `name`, stored as `orig` and a `mask` of its shape."""

    name: str
    orig: TensorInfo
    mask: TensorInfo


@dataclass(frozen=True, slots=True)
class Folded:
    """A weight that was folded: `masked` of its `numel` entries were zero in the mask, and `zeros` are zero now."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    numel: int
    masked: int
    zeros: int

    @property
    def sparsity(self) -> float:
        """The fraction of entries that are zero, 0 for an empty weight."""
        return self.zeros / self.numel if self.numel else 0.0


@dataclass(frozen=True, slots=True)
class Pairs:
    """The pruned weights of a checkpoint, in its order, and `notes`: sentences about what looks like them and stays."""

    pairs: tuple[Pair, ...]
    notes: tuple[str, ...]


def find_pairs(checkpoint: Checkpoint, label: str) -> Pairs:
    """Return the weights in the state_dict of `checkpoint`, called `label`, that can be folded.

    Raises CheckpointError where there is none, and where one of them cannot be folded.
    """
    inside = {tensor.name: tensor for tensor in checkpoint.tensors if tensor.unprunable_reason != OUTSIDE}
    notes = _notes(checkpoint, inside)
    found = [leftover for leftover in leftovers(list(inside)) if leftover.kind == PRUNE]
    pairs = tuple(Pair(one.name, *(inside[part] for part in one.parts)) for one in found)
    if not pairs:
        more = f"; {'; '.join(notes)}" if notes else ""
        raise CheckpointError(
            f"nothing to fold: {label} holds no x_orig with an x_mask beside it{more}",
            hint=f"prune inspect {shlex.quote(label)}",
        )
    taken = inside.keys() | {name for name, _ in checkpoint.unprunable_entries}
    for pair in pairs:
        _check(pair, taken)
    _check_sharing(checkpoint.tensors, {pair.orig.name: pair for pair in pairs})
    return Pairs(pairs, notes)


def _notes(checkpoint: Checkpoint, inside: Mapping[str, TensorInfo]) -> tuple[str, ...]:
    """Say what is reparametrised in another way, and what is only half of a pruned weight."""
    others = dict(checkpoint.unprunable_entries)
    notes = []
    found = [leftover for leftover in leftovers(list(inside)) if leftover.kind != PRUNE]
    for kind, count in Counter(leftover.kind for leftover in found).items():
        first = next(leftover.name for leftover in found if leftover.kind == kind)
        notes.append(f"left as it is: {_some(count, first)} under {kind}, which bake does not fold")
    explained = {part for leftover in leftovers(list(inside)) for part in leftover.parts}
    halves = [name for name in inside if name.endswith("_orig") and name not in explained]
    for name in halves[:3]:
        mask = name.removesuffix("_orig") + "_mask"
        why = f"its mask is a {others[mask]}" if mask in others else f"there is no {printable(mask)}"
        notes.append(f"left as it is: {printable(name)}, as {why}")
    if halves[3:]:
        notes.append(f"left as they are: {len(halves) - 3:,} more *_orig without a mask")
    outside = [tensor.name for tensor in checkpoint.tensors if tensor.unprunable_reason == OUTSIDE]
    if elsewhere := [leftover.name for leftover in leftovers(outside) if leftover.kind == PRUNE]:
        notes.append(
            f"left as it is: {_some(len(elsewhere), elsewhere[0])} outside the state_dict: --key names another"
        )
    return tuple(notes)


def _some(count: int, first: str) -> str:
    return printable(first) if count == 1 else f"{count:,} weights, first {printable(first)},"


def _check(pair: Pair, names: set[str]) -> None:
    name, orig, mask = printable(pair.name), pair.orig, pair.mask
    if pair.name in names:
        raise CheckpointError(
            f"{name} is there already, beside {name}_orig and {name}_mask: which of them counts is not clear",
            hint=REMOVE,
        )
    if f"{pair.name}_u" in names:
        raise CheckpointError(
            f"{name}_orig has both a {name}_mask and a {name}_u: it is under spectral_norm too", hint=REMOVE
        )
    if orig.shape != mask.shape:
        raise CheckpointError(
            f"{name}_mask is {list(mask.shape)} and {name}_orig is {list(orig.shape)}: a mask has its weight's shape",
            hint=REMOVE,
        )
    if orig.unprunable_reason is not None or BITS[orig.dtype] not in {8, 16, 32, 64}:
        raise CheckpointError(
            f"{name}_orig cannot be folded: {orig.unprunable_reason or f'it is {orig.dtype}'}", hint=REMOVE
        )
    if mask.unprunable_reason not in _READABLE_MASKS or mask.dtype not in MASK_DTYPES:
        raise CheckpointError(
            f"{name}_mask is no mask to fold: {mask.unprunable_reason or f'it is {mask.dtype}'}", hint=REMOVE
        )


def _check_sharing(tensors: Sequence[TensorInfo], pairs: Mapping[str, Pair]) -> None:
    """Refuse weights whose numbers are another tensor's too, unless that is folded with the same mask."""
    chosen = {i for i, tensor in enumerate(tensors) if tensor.name in pairs}
    groups = tied(tensors)
    places = {tensor.name: i for i, tensor in enumerate(tensors)}
    group_of = {i: at for at, group in enumerate(groups) for i in group}
    for group in groups:
        origs = [tensors[i].name for i in group if i in chosen]
        rest = [tensors[i].name for i in group if i not in chosen]
        if origs and rest:
            raise _shared(origs[0], rest[0], "and is not pruned")
        masks = {group_of[places[pairs[name].mask.name]] for name in origs}
        if len(masks) > 1:
            raise _shared(origs[0], origs[1], "which has another mask")
    if meeting := overlapping(groups, tensors, chosen):
        first, second = sorted(meeting, key=lambda tensor: tensor.name not in pairs)
        raise _shared(first.name, second.name, "or some of them")


def _shared(name: str, other: str, what: str) -> CheckpointError:
    return CheckpointError(
        f"{printable(name)} cannot be folded: its numbers are those of {printable(other)} too, {what}", hint=REMOVE
    )
