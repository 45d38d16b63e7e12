"""Which tensors of two checkpoints belong together: by name alone, whatever container each is in.

Metadata only: nothing here reads a weight.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from prunecli.checkpoint import PathLike
from prunecli.formats.open import open_checkpoint
from prunecli.formats.safetensors.format import SAFETENSORS
from prunecli.selection.patterns import matching
from prunecli.text.numbers import format_shape

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from prunecli.checkpoint import Checkpoint, TensorInfo

_VIEWS = {"conjugate view", "negative view"}  # their bits mean something else than they say


@dataclass(frozen=True, slots=True)
class Kind:
    """What a tensor is, beside its name and its entries; `view` says whether it is to be read negated or conjugated."""

    dtype: str
    shape: tuple[int, ...]
    view: str = ""

    def __str__(self) -> str:
        """Read as "F32 64x512"."""
        return " ".join(part for part in (self.dtype, format_shape(self.shape), self.view) if part)


@dataclass(frozen=True, slots=True)
class Pair:
    """A tensor's name, and what has it in the first and in the second checkpoint: at least one."""

    name: str
    a: TensorInfo | None
    b: TensorInfo | None

    @property
    def kinds(self) -> tuple[Kind | None, Kind | None]:
        """What the tensor is in each."""
        return kind(self.a), kind(self.b)


def kind(tensor: TensorInfo | None) -> Kind | None:
    """Return what `tensor` is, None for none."""
    if tensor is None:
        return None
    view = tensor.unprunable_reason if tensor.unprunable_reason in _VIEWS else ""
    return Kind(tensor.dtype, tensor.shape, view or "")


def open_at(path: PathLike, key: str | None, label: str | None = None) -> Checkpoint:
    """Open one of two checkpoints; `key` is for a nested one, and a safetensors file beside it has none.

    Raises CheckpointError as `open_checkpoint` does.
    """
    checkpoint = open_checkpoint(path, label=label)
    if not key or checkpoint.key == key or checkpoint.format == SAFETENSORS.name:
        return checkpoint
    return open_checkpoint(path, key=key, label=label)


def pair_up(
    a: Sequence[TensorInfo], b: Sequence[TensorInfo], include: Iterable[str] = (), exclude: Iterable[str] = ()
) -> list[Pair]:
    """Return the tensors by name, in the order of `a`, and behind them those that only `b` has.

    `include` and `exclude` are patterns over the names, see `selection.Rules`. SelectionError for one that is malformed
    or matches nothing in either.
    """
    first, second = {t.name: t for t in a}, {t.name: t for t in b}
    named = {**second, **first}
    order = [*first, *(name for name in second if name not in first)]
    every = [named[name] for name in order]
    kept = _any("include", include, every)
    dropped = _any("exclude", exclude, every) or set()
    return [
        Pair(name, first.get(name), second.get(name))
        for at, name in enumerate(order)
        if (kept is None or at in kept) and at not in dropped
    ]


def _any(option: str, patterns: Iterable[str], tensors: Sequence[TensorInfo]) -> set[int] | None:
    """Return the places of the tensors that a pattern matches, None where there is no pattern."""
    found = [set(matching(option, pattern, tensors)) for pattern in patterns]
    return set().union(*found) if found else None
