"""The biases of weights: paired by name, and only where they have one entry per output."""

from __future__ import annotations

from dataclasses import field, replace
from typing import TYPE_CHECKING

from prunecli.errors import Argument, SelectionError
from prunecli.layouts.names import bias_names
from prunecli.selection.select import Selection, select
from prunecli.text.escape import printable
from prunecli.text.numbers import plural
from prunecli.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from prunecli.checkpoint import Checkpoint, TensorInfo
    from prunecli.selection.select import Selector, Target


@dataclass(frozen=True, slots=True)
class PairedBiases:
    """Targets with their biases.

    Attributes:
        selection: The targets and the biases, as targets of their own.
        followers: The position of the bias of each target that has one.
        warnings: Sentences about biases that do not fit their weight.
        facts: Sentences about weights without a bias.
    """

    selection: Selection
    followers: Mapping[int, int] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    facts: tuple[str, ...] = ()


def pair_biases(checkpoint: Checkpoint, selection: Selection, selector: Selector) -> PairedBiases:
    """Return the targets of `selection` with their biases; SelectionError if none has a bias with an entry per output.

    A bias that the selector excludes stays as it is.
    """
    pairs, existing = _Pairs(selection), {tensor.name for tensor in checkpoint.tensors}
    everything = replace(selector, include=("*",), min_dim=1, min_numel=0)
    prunable = {target.tensor.name: target for target in select(checkpoint, everything).targets}
    for index, target in enumerate(selection.targets):
        own = (target.tensor.name, *target.aliases)
        names = [bias for name in own for bias in bias_names(name) if bias in existing]
        pairs.add(index, [prunable[name] for name in names if name in prunable], exists=bool(names))
    if not pairs.followers:
        raise SelectionError(
            "no selected tensor has a bias with one entry per output", hint=("leave out ", Argument("with_bias", True))
        )
    return pairs.result()


class _Pairs:
    """The targets of a selection and their biases, while they are paired."""

    def __init__(self, selection: Selection) -> None:
        self.skipped, self.targets = selection.skipped, list(selection.targets)
        self.position = {target.tensor.name: index for index, target in enumerate(self.targets)}
        self.followers: dict[int, int] = {}
        self.missing: list[int] = []
        self.unfit: list[tuple[TensorInfo, TensorInfo]] = []

    def add(self, index: int, named: Sequence[Target], *, exists: bool) -> None:
        """Pair a target with the first of the biases `named` after it that fits; `exists` counts excluded ones, too."""
        tensor = self.targets[index].tensor
        fitting = next((bias for bias in named if bias.tensor.shape == _bias_shape(tensor)), None)
        if fitting is not None:
            name = fitting.tensor.name
            if name not in self.position:
                self.position[name] = len(self.targets)
                self.targets.append(fitting)
            self.followers[index] = self.position[name]
        elif named:
            self.unfit.append((tensor, named[0].tensor))
        elif not exists:
            self.missing.append(index)

    def result(self) -> PairedBiases:
        """Return the pairs; a bias that is a target itself misses no bias."""
        biases = set(self.followers.values())
        missing = [self.targets[index].tensor for index in self.missing if index not in biases]
        skipped = tuple(s for s in self.skipped if s.tensor.name not in self.position)
        selection = Selection(tuple(self.targets), skipped)
        return PairedBiases(selection, self.followers, _about_unfit(self.unfit), _about_missing(missing))


def _bias_shape(tensor: TensorInfo) -> tuple[int, ...] | None:
    """Return the shape of a bias with one entry per output; None for a tensor without outputs."""
    view = tensor.layout.output_view(tensor.shape)
    if view is None or len(tensor.shape) < 2:  # a vector is a bias itself
        return None
    return (view.total,) if tensor.layout.experts is None else (view.stacks, view.slices)


def _about_unfit(unfit: Sequence[tuple[TensorInfo, TensorInfo]]) -> tuple[str, ...]:
    if not unfit:
        return ()
    weight, bias = max(unfit, key=lambda pair: pair[0].numel)
    wanted = _bias_shape(weight)
    outputs = "has no outputs" if wanted is None else f"has {' x '.join(map(str, wanted))} outputs"
    others = plural(len(unfit) - 1, "other bias does", "other biases do")
    more = f"; {len(unfit) - 1:,} {others} not fit either" if len(unfit) > 1 else ""
    sentence = (
        f"the bias {printable(bias.name)} stays as it is: it has the shape {list(bias.shape)}, and "
        f"{printable(weight.name)} {outputs}{more}"
    )
    return (sentence,)


def _about_missing(missing: Sequence[TensorInfo]) -> tuple[str, ...]:
    if not missing:
        return ()
    tensor = max(missing, key=lambda tensor: tensor.numel)
    if len(missing) == 1:
        return (f"{printable(tensor.name)} has no bias",)
    return (f"{len(missing):,} selected tensors have no bias; the largest is {printable(tensor.name)}",)
