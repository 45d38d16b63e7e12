"""Pairs of tensors of two checkpoints with the same name, in any container. No weight is read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from prunecli.checkpoint import OUTSIDE, Keys, PathLike, key_patterns
from prunecli.formats.open import open_checkpoint
from prunecli.formats.registry import format_of
from prunecli.selection.aliases import tied
from prunecli.selection.patterns import matching_any
from prunecli.text.numbers import format_shape

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from prunecli.checkpoint import Checkpoint, TensorInfo

_VIEWS = {"conjugate view", "negative view"}  # their values differ from their bits


@dataclass(frozen=True, slots=True)
class TensorForm:
    """A tensor's dtype and shape; `view` is not empty if its values are negated or conjugated when it is loaded."""

    dtype: str
    shape: tuple[int, ...]
    view: str = ""

    def __str__(self) -> str:
        """Return the form as "F32 64x512"."""
        return " ".join(part for part in (self.dtype, format_shape(self.shape), self.view) if part)


@dataclass(frozen=True, slots=True)
class Pair:
    """A name, and the tensors with this name in the first and in the second checkpoint; at most one is None.

    `tied_to` is the name of an earlier pair of the same elements in both checkpoints, or None.
    """

    name: str
    a: TensorInfo | None
    b: TensorInfo | None
    tied_to: str | None = None

    @property
    def forms(self) -> tuple[TensorForm | None, TensorForm | None]:
        """The forms of both tensors."""
        return form_of(self.a), form_of(self.b)

    @property
    def alike(self) -> tuple[TensorInfo, TensorInfo] | None:
        """Both tensors if they have the same form, so that their entries can be compared."""
        if self.a is None or self.b is None or form_of(self.a) != form_of(self.b):
            return None
        return self.a, self.b


def form_of(tensor: TensorInfo | None) -> TensorForm | None:
    """Return the form of `tensor`, or None for None."""
    if tensor is None:
        return None
    view = tensor.unprunable_reason or ""
    return TensorForm(tensor.dtype, tensor.shape, view if view in _VIEWS else "")


def open_with_key(path: PathLike, key: Keys, label: str | None = None) -> Checkpoint:
    """Open one of two checkpoints; `key` applies to a nested one and is ignored for one of a format without keys.

    Raises CheckpointError as `open_checkpoint` does.
    """
    checkpoint, keys = open_checkpoint(path, label=label, remote=True), key_patterns(key)
    if not keys or checkpoint.keys == keys or not format_of(checkpoint.files[0]).nested:
        return checkpoint
    return open_checkpoint(path, key=keys, label=label, remote=True)


def with_alike_names(a: Checkpoint, b: Checkpoint) -> tuple[Checkpoint, Checkpoint]:
    """Return two checkpoints whose names can be compared.

    If several state_dicts of one are taken, names of both start with the key. A name that the metadata of one calls
    another name of a tensor is a tensor if the other checkpoint has it.
    """
    if (len(a.keys) > 1) != (len(b.keys) > 1):
        a, b = _with_key(a), _with_key(b)
    return _with_other_names(a, b), _with_other_names(b, a)


def _with_other_names(checkpoint: Checkpoint, other: Checkpoint) -> Checkpoint:
    """Add the tied names that `save_model` of safetensors writes as metadata: removed name = stored name."""
    if not checkpoint.metadata:
        return checkpoint
    own, wanted = {tensor.name: tensor for tensor in checkpoint.tensors}, {tensor.name for tensor in other.tensors}
    more = [
        replace(own[stored], name=name)
        for name, stored in checkpoint.metadata.items()
        if stored in own and name in wanted and name not in own
    ]
    return replace(checkpoint, tensors=(*checkpoint.tensors, *more)) if more else checkpoint


def _with_key(checkpoint: Checkpoint) -> Checkpoint:
    if not checkpoint.key:
        return checkpoint
    tensors = (
        t if t.unprunable_reason == OUTSIDE else replace(t, name=f"{checkpoint.key}.{t.name}", key=checkpoint.key)
        for t in checkpoint.tensors
    )
    return replace(checkpoint, tensors=tuple(tensors))


def pair_up(
    a: Sequence[TensorInfo], b: Sequence[TensorInfo], include: Iterable[str], exclude: Iterable[str]
) -> list[Pair]:
    """Return a pair for each name, in the order of `a`, followed by the names that only `b` has.

    `include` and `exclude` are patterns over the names. Raises SelectionError for a pattern that is malformed or
    matches no name of either side.
    """
    first, second = {tensor.name: tensor for tensor in a}, {tensor.name: tensor for tensor in b}
    tensors = list({**first, **{name: tensor for name, tensor in second.items() if name not in first}}.values())
    include = tuple(include)
    included = matching_any("include", include, tensors)
    excluded = matching_any("exclude", exclude, tensors)
    pairs = (
        Pair(tensor.name, first.get(tensor.name), second.get(tensor.name))
        for i, tensor in enumerate(tensors)
        if (not include or i in included) and i not in excluded
    )
    return _with_ties(list(pairs))


def _with_ties(pairs: Sequence[Pair]) -> list[Pair]:
    groups = _group_numbers([pair.a for pair in pairs]), _group_numbers([pair.b for pair in pairs])
    first: dict[tuple[int, int], str] = {}
    result = []
    for pair in pairs:
        key = groups[0].get(pair.name), groups[1].get(pair.name)
        name = pair.name if key[0] is None or key[1] is None else first.setdefault((key[0], key[1]), pair.name)
        result.append(pair if name == pair.name else replace(pair, tied_to=name))
    return result


def _group_numbers(tensors: Iterable[TensorInfo | None]) -> dict[str, int]:
    """Return a number for each name of a tensor that is not empty; tied tensors have the same number."""
    some = [tensor for tensor in tensors if tensor is not None]
    return {some[i].name: number for number, group in enumerate(tied(some)) for i in group}
