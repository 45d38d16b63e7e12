"""Find the weights of a checkpoint that torch.nn.utils.prune stores as `x_orig` and `x_mask`.

They are found by the names, shapes and storages of the tensors; no tensor data is read.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prunecli.dtypes import BITS, MASK_DTYPES
from prunecli.errors import Argument, Call, CheckpointError, SameCallWith
from prunecli.layouts.reparametrized import PRUNE, REMOVE, how_to_fold, leftovers
from prunecli.selection.aliases import overlapping, tied
from prunecli.text.escape import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from prunecli.checkpoint import Checkpoint, TensorInfo
    from prunecli.errors import Hint
    from prunecli.layouts.reparametrized import Leftover

MOST_NAMED = 3
"""The most weights without a mask that get a note each."""

_READABLE_MASKS = {None, "expanded view"}  # reasons that do not matter for a mask, which is only read


@dataclass(frozen=True, slots=True)
class Pair:
    """The pruned weight `name`: its unpruned values `orig` and its `mask`."""

    name: str
    orig: TensorInfo
    mask: TensorInfo


@dataclass(frozen=True, slots=True)
class Pairs:
    """The pruned weights of a checkpoint, in its order, and sentences about similar tensors that are not folded."""

    pairs: tuple[Pair, ...]
    notes: tuple[str, ...]


def find_pairs(checkpoint: Checkpoint, label: str) -> Pairs:
    """Return the weights of the state_dict that can be folded.

    Raises CheckpointError, naming `label`, if there are none, and if one of them cannot be folded.
    """
    inside = {tensor.name: tensor for tensor in checkpoint.inside}
    reparametrized = leftovers(list(inside))
    pairs = tuple(Pair(one.name, *(inside[part] for part in one.parts)) for one in reparametrized if one.kind == PRUNE)
    halves = _notes_without_mask(checkpoint, inside, reparametrized)
    notes = (*_other_notes(reparametrized), *halves, *_notes_outside(checkpoint))
    if not pairs:
        raise CheckpointError(
            "; ".join((f"nothing to fold: {label} has no tensor x_orig with a mask x_mask", *notes)),
            hint=how_to_fold(reparametrized)
            or _other_keys(checkpoint)
            or Call("inspect", (printable(str(checkpoint.path)),)),
        )
    names = inside.keys() | {name for name, _ in checkpoint.unprunable_entries}
    for pair in pairs:
        _check_pair(pair, names)
    _check_sharing(checkpoint.tensors, {pair.orig.name: pair for pair in pairs})
    return Pairs(pairs, notes)


def _other_notes(reparametrized: Sequence[Leftover]) -> list[str]:
    """Return a note for each other kind of reparametrization."""
    others = [one for one in reparametrized if one.kind != PRUNE]
    first = {one.kind: one.name for one in reversed(others)}
    return [
        f"not folded: {_some(count, first[kind])} under {kind}"
        for kind, count in Counter(one.kind for one in others).items()
    ]


def _notes_without_mask(checkpoint: Checkpoint, inside: Iterable[str], reparametrized: Sequence[Leftover]) -> list[str]:
    """Return notes for the tensors `x_orig` without a mask."""
    entries = dict(checkpoint.unprunable_entries)
    explained = {part for one in reparametrized for part in one.parts}
    names = [name for name in inside if name.endswith("_orig") and name not in explained]
    notes = []
    for name in names[:MOST_NAMED]:
        mask = name.removesuffix("_orig") + "_mask"
        why = f"its mask is a {entries[mask]}" if mask in entries else f"there is no {printable(mask)}"
        notes.append(f"not folded: {printable(name)}, because {why}")
    if names[MOST_NAMED:]:
        notes.append(f"not folded: {len(names) - MOST_NAMED:,} more *_orig without a mask")
    return notes


def _notes_outside(checkpoint: Checkpoint) -> list[str]:
    """Return a note for the pruned weights outside the state_dict."""
    names = [one.name for one in leftovers([tensor.name for tensor in checkpoint.outside]) if one.kind == PRUNE]
    if not names:
        return []
    return [f"not folded: {_some(len(names), names[0])} outside the state_dict; another key chooses another dict"]


def _other_keys(checkpoint: Checkpoint) -> Hint | None:
    """Return the keys of the other state_dicts that have pruned weights."""
    names = [tensor.name for tensor in checkpoint.outside]
    pruned = {part for one in leftovers(names) if one.kind == PRUNE for part in one.parts}
    keys = dict.fromkeys(printable(tensor.key) for tensor in checkpoint.tensors if tensor.name in pruned and tensor.key)
    return SameCallWith(Argument("key", list(keys))) if keys else None


def _some(count: int, first: str) -> str:
    return printable(first) if count == 1 else f"{count:,} weights, first {printable(first)},"


def _check_pair(pair: Pair, names: set[str]) -> None:
    name, orig, mask = printable(pair.name), pair.orig, pair.mask
    if pair.name in names:
        raise CheckpointError(
            f"{name} exists as well as {name}_orig and {name}_mask, so it is not clear which of them is the weight",
            hint=REMOVE,
        )
    if f"{pair.name}_u" in names:
        raise CheckpointError(f"{name}_orig is under spectral_norm too: it has a mask and a {name}_u", hint=REMOVE)
    if orig.shape != mask.shape:
        raise CheckpointError(
            f"{name}_mask has the shape {list(mask.shape)}, but {name}_orig has the shape {list(orig.shape)}",
            hint=REMOVE,
        )
    if orig.unprunable_reason is not None or BITS[orig.dtype] not in {8, 16, 32, 64}:
        raise CheckpointError(f"{name}_orig cannot be folded: {orig.unprunable_reason or orig.dtype}", hint=REMOVE)
    if mask.unprunable_reason not in _READABLE_MASKS or mask.dtype not in MASK_DTYPES:
        reason = mask.unprunable_reason or mask.dtype
        raise CheckpointError(f"{name}_mask cannot be read as a mask: {reason}", hint=REMOVE)


def _check_sharing(tensors: Sequence[TensorInfo], pairs: Mapping[str, Pair]) -> None:
    """Raise CheckpointError if a pruned weight shares values with a tensor that is not folded with the same mask."""
    chosen = {i for i, tensor in enumerate(tensors) if tensor.name in pairs}
    groups = tied(tensors)
    index_of = {tensor.name: i for i, tensor in enumerate(tensors)}
    group_of = {i: number for number, group in enumerate(groups) for i in group}
    for group in groups:
        origs = [tensors[i].name for i in group if i in chosen]
        rest = [tensors[i].name for i in group if i not in chosen]
        if origs and rest:
            raise _shared(origs[0], f"its values with {printable(rest[0])}, which is not pruned")
        masks = {group_of[index_of[pairs[name].mask.name]] for name in origs}
        if len(masks) > 1:
            raise _shared(origs[0], f"its values with {printable(origs[1])}, which has another mask")
    if shared := overlapping(groups, tensors, chosen):
        first, second = sorted(shared, key=lambda tensor: tensor.name not in pairs)
        raise _shared(first.name, f"some of its values with {printable(second.name)}")


def _shared(name: str, what: str) -> CheckpointError:
    return CheckpointError(f"{printable(name)} cannot be folded: it shares {what}", hint=REMOVE)
