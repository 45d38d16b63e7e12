"""The choice of the tensors that a run prunes.

Every tensor of the state_dict becomes a target, an alias of a target, or a skipped tensor with its reason. Names,
dtypes, shapes and positions decide; no weight is read.
"""

from __future__ import annotations

from dataclasses import field, replace
from glob import escape
from typing import TYPE_CHECKING

from prunecli.checkpoint import OUTSIDE
from prunecli.dtypes import why_not_prunable
from prunecli.errors import Argument, SelectionError, UsageError
from prunecli.layouts.overrides import check_order, has_dimensions_for, stated_layout
from prunecli.layouts.scales import with_scales
from prunecli.selection.aliases import are_apart, overlapping, tied
from prunecli.selection.packed import refuse_packed
from prunecli.selection.patterns import exact_pattern, matching, matching_any
from prunecli.text.escape import printable
from prunecli.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from prunecli.checkpoint import Checkpoint, TensorInfo
    from prunecli.selection.aliases import AliasGroup


@dataclass(frozen=True, slots=True)
class Selector:
    """Chooses tensors by name, shape and size. The default chooses matrices and kernels named `weight`.

    Args:
        include: Patterns of the names to prune, in place of the rule that a name has `weight` in it. A pattern is a
            shell glob over the whole dotted name (`*` matches dots too), or after `re:` a regular expression that is
            searched in it.
        exclude: Patterns of the names to skip; they win over `include`.
        min_dim: The smallest number of dimensions. None means 2, except for tensors that a pattern of `include` names
            in full.
        min_numel: The smallest number of elements.
        layout: The layouts of tensors by pattern, in place of the decided ones: "out-in", "in-out", "experts" or
            "experts-in-out". Of several patterns that match a tensor, the last one counts.
    """

    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    min_dim: int | None = None
    min_numel: int = 0
    layout: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Keep the patterns as tuples; UsageError for one text, whose characters would be patterns."""
        for pattern, order in self.layout.items():
            check_order(pattern, order)
        for name in ("include", "exclude"):
            patterns = getattr(self, name)
            if isinstance(patterns, str):
                raise UsageError(f"{name} is a list of patterns, not one text", hint=Argument(name, [patterns]))
            object.__setattr__(self, name, tuple(patterns))

    @property
    def fewest_dims(self) -> int:
        """The smallest number of dimensions, with the default filled in."""
        return 2 if self.min_dim is None else self.min_dim


@dataclass(frozen=True, slots=True)
class Target:
    """A tensor to prune; `aliases` are the names of other tensors that are the same elements."""

    tensor: TensorInfo
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Skipped:
    """A tensor that is not pruned, and the reason; `tied_to` names another skipped one with the same elements."""

    tensor: TensorInfo
    reason: str
    tied_to: str | None = None


@dataclass(frozen=True, slots=True)
class Selection:
    """The tensors to prune and the skipped ones, both in checkpoint order; aliases are in neither."""

    targets: tuple[Target, ...]
    skipped: tuple[Skipped, ...]


def select(checkpoint: Checkpoint, selector: Selector) -> Selection:
    """Return the targets and the skipped tensors of `checkpoint`.

    Tied tensors are one target, named by the first selected one. If one of them is excluded, all are skipped.

    Raises SelectionError if a pattern is malformed, matches nothing or only tensors that cannot be pruned, if no
    tensor is left to prune, if most weights are packed and no pattern names others, and if a target shares some but
    not all of its elements with another tensor.
    """
    tensors = laid_out(checkpoint.tensors, selector.layout)
    if selector.layout:
        checkpoint = replace(checkpoint, tensors=tuple(tensors))
    excluded = matching_any("exclude", selector.exclude, tensors)
    if not selector.include:
        refuse_packed(tensors)
    reasons = _reasons(checkpoint, selector, excluded)
    filled = [i for i, tensor in enumerate(tensors) if tensor.numel]
    apart = are_apart([tensors[i] for i in filled])
    groups = [(i,) for i in filled] if apart else tied(tensors)
    several = [group for group in groups if len(group) > 1]
    for group in several:
        _protect(group, tensors, reasons, excluded)
    if not apart:
        refuse_overlaps(groups, tensors, reasons)
    targets = {group[0]: Target(tensors[group[0]]) for group in groups if reasons[group[0]] is None}
    targets |= _tied_targets(several, tensors, reasons)
    if not targets:
        from prunecli.selection.hints import nothing_selected  # noqa: PLC0415 - for a refusal only

        raise nothing_selected(checkpoint, selector, reasons)
    written = {i for group in several if any(j in targets for j in group) for i in group}
    leaders = _leaders(several, tensors)
    left_out = ((i, why) for i, why in enumerate(reasons) if why is not None and i not in written)
    skipped = tuple(Skipped(tensors[i], why, leaders.get(i)) for i, why in left_out)
    return Selection(tuple(targets[i] for i in sorted(targets)), skipped)


def _leaders(groups: Iterable[AliasGroup], tensors: Sequence[TensorInfo]) -> dict[int, str]:
    """Return the name of the first tensor of a group, of the state_dict if it has one, for each of the others."""
    leaders: dict[int, str] = {}
    for group in groups:
        first = min(group, key=lambda i: (tensors[i].unprunable_reason == OUTSIDE, i))
        leaders |= {i: tensors[first].name for i in group if i != first}
    return leaders


def laid_out(tensors: Sequence[TensorInfo], layout: Mapping[str, str]) -> Sequence[TensorInfo]:
    """Return the tensors with the layouts that the user states by pattern.

    Scales with an entry per output are matched again. Raises SelectionError if a pattern matches nothing, or only
    tensors with too few dimensions.
    """
    changed = list(tensors)
    for pattern, order in layout.items():
        matched = matching("layout", pattern, tensors)
        for index in [i for i in matched if has_dimensions_for(order, tensors[i])] or matched[:1]:
            changed[index] = replace(tensors[index], layout=stated_layout(tensors[index], order))
    return with_scales(changed) if layout else tensors


def _tied_targets(
    groups: Iterable[AliasGroup], tensors: Sequence[TensorInfo], reasons: Sequence[str | None]
) -> Iterator[tuple[int, Target]]:
    """Yield the first selected tensor of each group with the names of the others."""
    for group in groups:
        first = next((i for i in group if reasons[i] is None), None)
        if first is not None:
            # The scale may be stored for one of the names alone.
            scale = next((tensors[i].scale for i in (first, *group) if tensors[i].scale is not None), None)
            tensor = tensors[first] if scale is None else replace(tensors[first], scale=scale)
            yield first, Target(tensor, tuple(tensors[i].name for i in group if i != first))


def _reasons(checkpoint: Checkpoint, selector: Selector, excluded: dict[int, str]) -> list[str | None]:
    """Return the reason to skip each tensor, None where it is selected; ties are not considered yet."""
    tensors = checkpoint.tensors
    never = [_why_never(t) for t in tensors]
    included = _included(checkpoint, selector, never)
    return [
        why
        or (f"excluded by {excluded[i]!r}" if i in excluded else None)
        or _why_not_included(i, tensor, included)
        or _why_too_small(tensor, selector)
        for i, (tensor, why) in enumerate(zip(tensors, never, strict=True))
    ]


def _included(checkpoint: Checkpoint, selector: Selector, never: Sequence[str | None]) -> set[int] | None:
    """Return the indices that include patterns match, or None without such patterns."""
    if not selector.include:
        return None
    included: set[int] = set()
    for pattern in selector.include:
        indices = matching("include", pattern, checkpoint.tensors)
        if all(never[i] for i in indices):
            from prunecli.selection.hints import only_unprunable  # noqa: PLC0415 - for a refusal only

            raise only_unprunable(checkpoint, pattern, [(checkpoint.tensors[i], never[i]) for i in indices])
        included.update(indices)
    return included


def _why_never(tensor: TensorInfo) -> str | None:
    """Return the reason why no pattern can select the tensor."""
    if tensor.unprunable_reason is not None:
        return tensor.unprunable_reason
    if (why := why_not_prunable(tensor.dtype)) is not None:
        return why
    if not tensor.numel:
        return "it is empty"
    if tensor.overlaps_itself:
        return "several of its positions are one element in the file (an expanded view)"
    return None


def _why_not_included(index: int, tensor: TensorInfo, included: set[int] | None) -> str | None:
    if included is None:
        return tensor.layout.not_a_weight
    return None if index in included else "no include pattern matches it"


def _why_too_small(tensor: TensorInfo, selector: Selector) -> str | None:
    if len(tensor.shape) < selector.fewest_dims and not _is_named_in_full(tensor, selector):
        return f"fewer than {selector.fewest_dims} dimensions"
    if tensor.numel < selector.min_numel:
        return f"fewer than {selector.min_numel} weights"
    return None


def _is_named_in_full(tensor: TensorInfo, selector: Selector) -> bool:
    names = {tensor.name, tensor.local_name}
    return selector.min_dim is None and not {*names, *map(escape, names)}.isdisjoint(selector.include)


def _protect(
    group: AliasGroup, tensors: Sequence[TensorInfo], reasons: list[str | None], excluded: Collection[int]
) -> None:
    """Skip the selected tensors of `group` if another name of theirs is excluded or cannot be pruned."""
    barred = next((i for i in group if i in excluded or tensors[i].unprunable_reason not in {None, OUTSIDE}), None)
    if barred is None:
        return
    why = "which is excluded" if barred in excluded else f"which cannot be pruned: {tensors[barred].unprunable_reason}"
    for i in group:
        if reasons[i] is None:
            reasons[i] = f"tied to {tensors[barred].name}, {why}"


def refuse_overlaps(groups: Iterable[AliasGroup], tensors: Sequence[TensorInfo], reasons: Sequence[str | None]) -> None:
    """Raise SelectionError if a selected tensor shares some of its elements with a tensor of another group."""
    chosen = {i for i, why in enumerate(reasons) if why is None}
    pair = overlapping(groups, tensors, chosen)
    if pair is None:
        return
    names = {tensors[i].name for i in chosen}
    exclude = [exact_pattern(t.name) for t in pair if t.name in names]
    raise SelectionError(
        f"`{printable(pair[0].name)}` and `{printable(pair[1].name)}` are different views that overlap or interleave"
        " in one storage: pruning one could change the other",
        hint=("leave them out: ", Argument("exclude", exclude)),
    )
