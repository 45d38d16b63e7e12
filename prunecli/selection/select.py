"""Which tensors a run prunes, decided from names, types, shapes and places alone.

Nothing here reads a weight. Every tensor of the state_dict ends as a target, as an alias of one, or as
skipped with the reason.
"""

from __future__ import annotations

import shlex
from collections import Counter
from dataclasses import dataclass
from glob import escape
from typing import TYPE_CHECKING

from prunecli.checkpoint import OUTSIDE
from prunecli.dtypes import why_not_prunable
from prunecli.errors import SelectionError
from prunecli.selection.aliases import overlapping, tied
from prunecli.selection.patterns import matching, matching_any
from prunecli.text.escape import printable

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

    from prunecli.checkpoint import Checkpoint, TensorInfo
    from prunecli.selection.aliases import RankGroup


_LEFTOVERS = (
    ("_g", "a magnitude of weight_norm, not a weight"),
    ("_u", "a vector of spectral_norm, not a weight"),
    ("_v", "a direction of weight_norm or a vector of spectral_norm, not a weight"),
    ("_zero_point", "a zero point, not a weight"),
)
HALF = "half of a weight under torch.nn.utils.prune (weight_orig * weight_mask): `prune bake CKPT` folds it"
"""Why a tensor that torch keeps beside its mask is left as it is."""


@dataclass(frozen=True, slots=True)
class Selector:
    """What the user asked for; the empty rules choose matrices and kernels named `weight`.

    `include` and `exclude` are shell globs over the whole dotted name (`*` crosses dots), or, after `re:`,
    regular expressions searched in it. `include` replaces the rule on names. `min_dim` None means 2, or 0
    under `include`; `min_numel` counts weights.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    min_dim: int | None = None
    min_numel: int = 0

    @property
    def fewest_dims(self) -> int:
        """The least number of dimensions a tensor must have."""
        if self.min_dim is not None:
            return self.min_dim
        return 0 if self.include else 2


@dataclass(frozen=True, slots=True)
class Target:
    """A tensor to prune; `aliases` name the other tensors that are the same numbers in the same place."""

    tensor: TensorInfo
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Skipped:
    """A tensor that is left as it is, and why."""

    tensor: TensorInfo
    reason: str


@dataclass(frozen=True, slots=True)
class Selection:
    """What to prune and what to leave, both in checkpoint order; an alias is in neither."""

    targets: tuple[Target, ...]
    skipped: tuple[Skipped, ...]


def select(checkpoint: Checkpoint, rules: Selector) -> Selection:
    """Sort the tensors of `checkpoint` into targets and skipped.

    Tied tensors make one target, the first selected one; excluding one of them protects them all.
    SelectionError where a pattern is malformed, matches nothing or only what cannot be pruned, where nothing
    is left to prune, and where a target shares some but not all of its numbers with another tensor.
    """
    tensors = checkpoint.tensors
    excluded = matching_any("exclude", rules.exclude, tensors)
    reasons = _reasons(tensors, rules, excluded)
    groups = tied(tensors)
    for group in groups:
        _protect(group, tensors, reasons, excluded)
    _refuse_overlaps(groups, tensors, reasons)
    targets = dict(_targets(groups, tensors, reasons))
    if not targets:
        raise _nothing_left(tensors, reasons)
    written = {i for group in groups if any(j in targets for j in group) for i in group}
    skipped = (Skipped(tensors[i], why) for i, why in enumerate(reasons) if why is not None and i not in written)
    return Selection(tuple(targets[i] for i in sorted(targets)), tuple(skipped))


def _targets(
    groups: Iterable[RankGroup], tensors: Sequence[TensorInfo], reasons: Sequence[str | None]
) -> Iterator[tuple[int, Target]]:
    for group in groups:
        first = next((i for i in group if reasons[i] is None), None)
        if first is not None:
            yield first, Target(tensors[first], tuple(tensors[i].name for i in group if i != first))


# --- patterns


# --- reasons to skip


def _reasons(tensors: Sequence[TensorInfo], rules: Selector, excluded: dict[int, str]) -> list[str | None]:
    """Say for each tensor why it is skipped, None where it is selected; ties are not looked at yet."""
    never = [_why_never(t) for t in tensors]
    included = _included(tensors, rules, never)
    names = {t.name for t in tensors}
    return [
        why
        or (f"excluded by {excluded[i]!r}" if i in excluded else None)
        or _why_not_chosen(tensor.name, included=None if included is None else i in included, names=names)
        or _why_too_small(tensor, rules)
        for i, (tensor, why) in enumerate(zip(tensors, never, strict=True))
    ]


def _included(tensors: Sequence[TensorInfo], rules: Selector, never: Sequence[str | None]) -> set[int] | None:
    if not rules.include:
        return None
    included: set[int] = set()
    for pattern in rules.include:
        found = matching("include", pattern, tensors)
        if all(never[i] for i in found):
            raise _only_unprunable(pattern, [(tensors[i].name, never[i]) for i in found])
        included.update(found)
    return included


def _only_unprunable(pattern: str, found: Sequence[tuple[str, str | None]]) -> SelectionError:
    name, why = found[0]
    more = f", and {len(found) - 1} more" if len(found) > 1 else ""
    return SelectionError(
        f"--include {pattern!r} matches only what cannot be pruned: `{printable(name)}` ({why}){more}",
        hint="drop the pattern, or choose floating-point tensors with -i",
    )


def _why_never(tensor: TensorInfo) -> str | None:
    if tensor.unprunable_reason is not None:
        return tensor.unprunable_reason
    if (why := why_not_prunable(tensor.dtype)) is not None:
        return why
    if not tensor.numel:
        return "it is empty"
    if tensor.overlaps_itself:
        return "several of its positions are one number in the file (an expanded view)"
    return None


def _why_not_chosen(name: str, *, included: bool | None, names: Collection[str]) -> str | None:
    if included is None:
        return _why_no_weight(name, names)
    return None if included else "no include pattern matches it"


def _why_no_weight(name: str, names: Collection[str]) -> str | None:
    *path, last = name.split(".")
    if "parametrizations" in path and last.startswith("original"):
        return "part of a parametrization, not the weight itself: fold it first"
    if last.endswith(("_orig", "_mask")):
        return _why_leftover(name, names)
    if not {"weight", "weights"} & set(last.split("_")):
        return "its name does not end in a weight"
    if "_scale" in last:
        return "a scale, not a weight"
    return next((why for suffix, why in _LEFTOVERS if last.endswith(suffix)), None)


def _why_leftover(name: str, names: Collection[str]) -> str:
    stem = name[:-5]
    if f"{stem}_orig" in names and f"{stem}_mask" in names:
        return HALF
    if f"{stem}_orig" in names and f"{stem}_u" in names:
        return "a weight under spectral_norm (weight_orig, weight_u, weight_v): fold it first"
    return "a mask, not a weight" if name.endswith("_mask") else "a reparametrised weight: fold it first"


def _why_too_small(tensor: TensorInfo, rules: Selector) -> str | None:
    if len(tensor.shape) < rules.fewest_dims:
        return f"fewer than {rules.fewest_dims} dimensions"
    if tensor.numel < rules.min_numel:
        return f"fewer than {rules.min_numel} weights"
    return None


def _nothing_left(tensors: Sequence[TensorInfo], reasons: Sequence[str | None]) -> SelectionError:
    if not tensors:
        return SelectionError("no tensor to prune: the checkpoint holds none")
    counts = Counter(why for why in reasons if why is not None).most_common(4)
    listed = "; ".join(f"{count} x {printable(why)}" for why, count in counts)
    largest = sorted((t for t in tensors if _why_never(t) is None), key=lambda t: (-len(t.shape), -t.numel))
    names = " ".join(_option("-i", t.name) for t in largest[:3])
    if HALF in reasons:
        hint: str | None = "prune bake CKPT"
    else:
        hint = f"choose by name, for instance {names}" if names else None
    return SelectionError(f"no tensor to prune: all {len(tensors)} are skipped ({listed})", hint=hint)


def _option(option: str, name: str) -> str:
    return f"{option} {shlex.quote(printable(escape(name)))}"


# --- tensors that share numbers


def _protect(
    group: RankGroup, tensors: Sequence[TensorInfo], reasons: list[str | None], excluded: Collection[int]
) -> None:
    """Skip the selected tensors of `group` where another name of theirs is excluded or cannot be pruned."""
    barred = next((i for i in group if i in excluded or tensors[i].unprunable_reason not in {None, OUTSIDE}), None)
    if barred is None:
        return
    why = "which is excluded" if barred in excluded else f"which stays as it is: {tensors[barred].unprunable_reason}"
    for i in group:
        if reasons[i] is None:
            reasons[i] = f"tied to {tensors[barred].name}, {why}"


def _refuse_overlaps(groups: Iterable[RankGroup], tensors: Sequence[TensorInfo], reasons: Sequence[str | None]) -> None:
    chosen = {i for i, why in enumerate(reasons) if why is None}
    pair = overlapping(groups, tensors, chosen)
    if pair is None:
        return
    names = {tensors[i].name for i in chosen}
    leave = " ".join(_option("-x", t.name) for t in pair if t.name in names)
    raise SelectionError(
        f"`{printable(pair[0].name)}` and `{printable(pair[1].name)}` are different views that overlap or interleave"
        " in one storage: pruning one could change the other",
        hint=f"leave them out: {leave}",
    )
