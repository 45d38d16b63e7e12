"""Pairs of tensors of two checkpoints with the same name, in any container. No weight is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from prunecli.checkpoint import PathLike
from prunecli.formats.open import open_checkpoint
from prunecli.formats.safetensors.format import SAFETENSORS
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
    """A name, and the tensors with this name in the first and in the second checkpoint; at most one is None."""

    name: str
    a: TensorInfo | None
    b: TensorInfo | None

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


def open_with_key(path: PathLike, key: str | None, label: str | None = None) -> Checkpoint:
    """Open one of two checkpoints; `key` applies to a nested one and is ignored for a safetensors file.

    Raises CheckpointError as `open_checkpoint` does.
    """
    checkpoint = open_checkpoint(path, label=label)
    if not key or checkpoint.key == key or checkpoint.format == SAFETENSORS.name:
        return checkpoint
    return open_checkpoint(path, key=key, label=label)


def pair_up(
    a: Sequence[TensorInfo], b: Sequence[TensorInfo], include: Iterable[str] = (), exclude: Iterable[str] = ()
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
    return [
        Pair(tensor.name, first.get(tensor.name), second.get(tensor.name))
        for i, tensor in enumerate(tensors)
        if (not include or i in included) and i not in excluded
    ]
