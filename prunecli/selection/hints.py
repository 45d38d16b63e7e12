"""The errors of a selection that selects nothing, with hints that name only weights.

A hint never names a scale, a zero point, a bias, a statistic or a part of a reparametrised weight as something to
prune: pruning them would ruin the model.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from prunecli.checkpoint import IN_MEMORY
from prunecli.errors import Argument, Call, SameCallWith, SelectionError
from prunecli.layout import CONSTANT, GAIN, PACKED, REPARAMETRIZED, SCALE, VECTOR
from prunecli.layouts.other_names import is_other_by_name
from prunecli.layouts.reparametrized import NAMELESS, PRUNED_HALF, REMOVE, how_to_fold, leftovers, why_not_a_weight
from prunecli.selection.copies import left_alone
from prunecli.selection.packed import QUANTIZE_LATER, is_floating
from prunecli.selection.patterns import exact_pattern, matching
from prunecli.text.escape import printable

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from prunecli.checkpoint import Checkpoint, TensorInfo
    from prunecli.errors import Hint
    from prunecli.selection.select import Selector

MOST_GLOBS = 3
"""The most globs that a hint proposes."""

_LISTED = 4  # reasons that an error lists
_OTHER_ROLES = {GAIN, CONSTANT, SCALE, PACKED, REPARAMETRIZED, VECTOR}
_TRIED = 8  # globs that are matched with all names

FOLD_IN_MEMORY = "call torch.nn.utils.prune.remove(module, 'weight') for each module that has weight_orig, then prune"
"""What to do about the masks of a model in memory."""

REPACK = "h5repack -l CONTI -f NONE IN.h5 OUT.h5"
"""The command that stores the datasets of an HDF5 file as they can be pruned."""

_KIND_HINTS = {
    "sparse tensor": "replace each by tensor.to_dense() in Python, then save again",
    "DTensor": "replace each by tensor.full_tensor() where the model is trained, then save again",
    "ShardedTensor": "save a full state_dict where the model is trained: StateDictType.FULL_STATE_DICT of FSDP",
    "quantized tensor": QUANTIZE_LATER,
    "NumPy array": "replace each by torch.from_numpy(array) in Python, then save again",
    "meta tensor": "save the model with its weights: a meta tensor has none",
    "nested tensor": "replace each by its parts, tensor.unbind(), in Python, then save again",
    "compressed HDF5 dataset": REPACK,
    "chunked HDF5 dataset": REPACK,
    "compact HDF5 dataset": REPACK,
    "bare storage": "save tensors instead of their storages",
}
"""What to do about entries that are no plain tensors, by their kind."""


def nothing_selected(checkpoint: Checkpoint, selector: Selector, reasons: Sequence[str | None]) -> SelectionError:
    """Return the error for a selection without a target; `reasons` say why each tensor is skipped."""
    kinds = Counter(kind for _, kind in checkpoint.unprunable_entries)
    if not checkpoint.tensors and not kinds:
        return SelectionError("no tensor to prune: the checkpoint holds none", hint=_inspect(checkpoint))
    texts = [_counted(Counter(why for why in reasons if why is not None))] if checkpoint.tensors else []
    if kinds:
        held = "holds" if checkpoint.tensors else "holds only"
        texts.append(f"the checkpoint {held} {_counted(kinds)}")
    total = len(checkpoint.tensors)
    skipped = f"{'it is' if total == 1 else f'all {total} are'} skipped ({texts[0]})" if total else texts[0]
    more = f"; {texts[1]}" if texts[1:] else ""
    return SelectionError(f"no tensor to prune: {skipped}{more}", hint=_hint(checkpoint, selector, reasons))


def only_unprunable(
    checkpoint: Checkpoint, pattern: str, matched: Sequence[tuple[TensorInfo, str | None]]
) -> SelectionError:
    """Return the error for an include pattern that matches only tensors that cannot be pruned, with their reasons."""
    tensor, why = matched[0]
    more = f", and {len(matched) - 1} more" if len(matched) > 1 else ""
    if keys := dict.fromkeys(t.key for t, _ in matched if t.key and t.key.isprintable()):
        include: Hint = SameCallWith(Argument("key", [*(checkpoint.keys or checkpoint.parts), *keys]))
    elif any(_is_weight(t) for t in checkpoint.tensors):
        include = ("drop the pattern, or choose floating-point tensors with ", Argument("include", ["*.weight"]))
    else:
        include = _weights_hint(checkpoint) or _inspect(checkpoint)
    return SelectionError(
        f"the include pattern {pattern!r} matches only tensors that cannot be pruned: "
        f"`{printable(tensor.name)}` ({why}){more}",
        hint=include,
    )


def _counted(counts: Counter[str]) -> str:
    return "; ".join(f"{count} x {printable(text)}" for text, count in counts.most_common(_LISTED))


def _inspect(checkpoint: Checkpoint) -> Call | str:
    if checkpoint.format == IN_MEMORY:
        return "list(state_dict) has the names of all tensors"
    return Call("inspect", (printable(str(checkpoint.path)),))


def _hint(checkpoint: Checkpoint, selector: Selector, reasons: Sequence[str | None]) -> Hint:
    """Return what to do about a selection of nothing."""
    if PRUNED_HALF in reasons:
        return fold_pruned(checkpoint)
    if _are_vectors_wanted(checkpoint, selector, reasons):
        return (Argument("min_dim", 1), " takes vectors as well")
    tensors = checkpoint.tensors
    names = [t.name for t in tensors]
    return (
        how_to_fold(leftovers(names))
        or _left_out_hint(checkpoint, selector, reasons)
        or _entries_hint(checkpoint)
        or (QUANTIZE_LATER if _is_mostly_packed(tensors) else None)
        or _weights_hint(checkpoint)
        or _keys_hint(checkpoint)
        or _inspect(checkpoint)
    )


def _are_vectors_wanted(checkpoint: Checkpoint, selector: Selector, reasons: Sequence[str | None]) -> bool:
    """Return whether the user named vectors, or saved nothing else, and none is a bias, a gain or a statistic."""
    too_few = f"fewer than {selector.fewest_dims} dimensions"
    vectors = [tensor.name for tensor, why in zip(checkpoint.tensors, reasons, strict=True) if why == too_few]
    bare = [name for name in vectors if NAMELESS.fullmatch(name)]
    unknown = [name for name in vectors if not is_other_by_name(name) and why_not_a_weight(name, ()) is not None]
    wanted = [*bare, *unknown] if selector.include else bare
    return selector.min_dim is None and bool(wanted) and len(wanted) == len(vectors)


def fold_pruned(checkpoint: Checkpoint) -> Hint:
    """Return what folds the weights that torch.nn.utils.prune stores with masks, in the state_dicts that are taken."""
    if checkpoint.format == IN_MEMORY:
        return FOLD_IN_MEMORY
    if checkpoint.is_module:  # hooks of the module apply the masks, so they cannot be folded in the file
        return REMOVE
    keys = checkpoint.keys if len(checkpoint.keys) > 1 or left_alone(checkpoint) else ()
    arguments = (Argument("key", [*map(printable, keys)]),) if keys else ()
    return Call("bake", (printable(str(checkpoint.path)),), arguments)


def _keys_hint(checkpoint: Checkpoint) -> Hint | None:
    """Return the key of another state_dict that holds weights."""
    keys = [one.key for one in left_alone(checkpoint) if one.key.isprintable()]
    more = f" (other keys: {', '.join(keys[1:_LISTED])})" if keys[1:] else ""
    return (Argument("key", keys[0]), more) if keys else None


def _left_out_hint(checkpoint: Checkpoint, selector: Selector, reasons: Sequence[str | None]) -> Hint | None:
    """Return the argument that leaves out all weights, if the checkpoint has matrices that are weights by name."""
    weights = [(t, why) for t, why in zip(checkpoint.tensors, reasons, strict=True) if _is_weight(t)]
    if not weights:
        return None
    if selector.exclude and any((why or "").startswith("excluded by ") for _, why in weights):
        return ("leave out ", Argument("exclude", [printable(pattern) for pattern in selector.exclude]))
    largest = max(tensor.numel for tensor, _ in weights)
    if largest < selector.min_numel:
        return Argument("min_numel", largest)
    dims = max(len(tensor.shape) for tensor, _ in weights)
    return Argument("min_dim", dims) if dims < selector.fewest_dims else None


def _entries_hint(checkpoint: Checkpoint) -> Hint | None:
    """Return what to do about the entries that are no plain tensors, if they are the weights of the checkpoint."""
    entries = checkpoint.unprunable_entries
    alone = not any(map(_is_matrix, checkpoint.tensors))
    weights = [kind for name, kind in entries if alone or why_not_a_weight(name, ()) is None]
    return next((_KIND_HINTS[kind] for kind, _ in Counter(weights).most_common() if kind in _KIND_HINTS), None)


def _is_mostly_packed(tensors: Sequence[TensorInfo]) -> bool:
    """Return whether most bytes are integer matrices, as those of quantized weights are."""
    packed = sum(t.nbytes for t in tensors if t.dtype[0] in "IU" and len(t.shape) >= 2)
    return 2 * packed > sum(t.nbytes for t in tensors)


# --- globs of weights


def _weights_hint(checkpoint: Checkpoint) -> Hint | None:
    """Return globs that match matrices and kernels with names that could be those of weights, and nothing else."""
    tensors = checkpoint.tensors
    parts = {part for one in leftovers([t.name for t in tensors]) for part in one.parts}
    likely = [t for t in tensors if _could_be_a_weight(t) and t.name not in parts]
    chosen = {id(t) for t in likely}
    globs = [
        glob
        for glob in _globs(likely)
        if all(id(tensors[i]) in chosen for i in matching("include", glob, tensors) if _is_matrix(tensors[i]))
    ]
    # The glob of a common word, which is the first one, makes the others superfluous.
    count = 1 if globs and globs[0].startswith("*") and not globs[0].startswith("*.") else MOST_GLOBS
    return ("choose by name, for instance ", Argument("include", globs[:count])) if globs else None


def _is_weight(tensor: TensorInfo) -> bool:
    return _is_matrix(tensor) and tensor.layout.not_a_weight is None


def _is_matrix(tensor: TensorInfo) -> bool:
    return is_floating(tensor) and len(tensor.shape) >= 2


def _could_be_a_weight(tensor: TensorInfo) -> bool:
    name = tensor.name
    # A glob cannot spell an unprintable name for a terminal.
    other = tensor.layout.role in _OTHER_ROLES or is_other_by_name(name)
    return _is_matrix(tensor) and not other and name == printable(name)


def _globs(tensors: Iterable[TensorInfo]) -> list[str]:
    """Return globs for the last parts of the names, those with the most elements first."""
    sizes: Counter[str] = Counter()
    for tensor in tensors:
        sizes[tensor.name.rpartition(".")[2]] += tensor.numel
    if not sizes:
        return []
    lasts = [last for last, _ in sizes.most_common()]
    common = _common_part(lasts)
    return [*([common] if common else []), *(_glob(last, tensors) for last in lasts[:_TRIED])]


def _common_part(lasts: Collection[str]) -> str | None:
    """Return a glob of the first or the last word that all of several names share, or None."""
    if len(lasts) < 2:
        return None
    first, *others = lasts
    for word, glob in ((first.split("_")[0] + "_", "*{}*"), ("_" + first.split("_")[-1], "*{}")):
        ends = str.startswith if glob.endswith("*") else str.endswith
        if word.strip("_") and "_" in first and all(ends(other, word) for other in others):
            return glob.format(exact_pattern(word))
    return None


def _glob(last: str, tensors: Iterable[TensorInfo]) -> str:
    dotted = any(tensor.name.endswith(f".{last}") for tensor in tensors)
    return f"*.{exact_pattern(last)}" if dotted else exact_pattern(last)
