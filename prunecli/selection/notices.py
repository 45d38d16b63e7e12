"""Warnings about a selection: what it leaves out, and the layouts that it relies on without evidence."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prunecli.dtypes import why_not_prunable
from prunecli.errors import Argument, Notice
from prunecli.layout import CODE, CONSTANT, EXPERTS, KERNEL
from prunecli.layouts.reparametrized import PRUNED_HALF, how_to_fold, leftovers
from prunecli.selection.patterns import exact_pattern
from prunecli.text.escape import printable
from prunecli.text.numbers import counted, plural

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from prunecli.checkpoint import Checkpoint, TensorInfo
    from prunecli.selection.select import Selection

MOST_NAMED = 3
"""The most tensors that a warning names."""


def unfolded_notice(checkpoint: Checkpoint, selection: Selection) -> Notice | None:
    """Return a warning about weights that are left out because torch.nn.utils.prune stores them with masks."""
    halves = [s.tensor for s in selection.skipped if s.reason == PRUNED_HALF and s.tensor.name.endswith("_orig")]
    if not halves:
        return None
    from prunecli.selection.hints import fold_pruned  # noqa: PLC0415 - most checkpoints have no such weights

    largest = max(halves, key=lambda tensor: tensor.numel)
    return Notice(
        f"{counted(len(halves), 'weight tensor')} under torch.nn.utils.prune (weight_orig * weight_mask) "
        f"{plural(len(halves), 'is', 'are')} left out; the largest is {printable(repr(largest.name))}",
        hint=fold_pruned(checkpoint),
    )


def left_out_notice(selection: Selection) -> Notice | None:
    """Return a warning if more weights are skipped for their names than selected; None if not.

    Vectors, constants, weights with masks and tensors of other dtypes are not counted.
    """
    named = [s for s in selection.skipped if s.reason == s.tensor.layout.not_a_weight and _may_be_weight(s.tensor)]
    skipped = [s for s in named if s.reason != PRUNED_HALF]
    count = sum(s.tensor.numel for s in skipped)
    taken = sum(target.tensor.numel for target in selection.targets)
    if count <= taken:
        return None
    largest = max(skipped, key=lambda s: s.tensor.numel)
    return Notice(
        f"more weights are left out for their names ({count:,}) than selected ({taken:,}); the largest is "
        f"{printable(repr(largest.tensor.name))} ({largest.tensor.numel:,}): {largest.reason}",
        hint=how_to_fold(
            one for one in leftovers([s.tensor.name for s in selection.skipped]) if largest.tensor.name in one.parts
        ),
    )


def unscaled_notice(selection: Selection) -> Notice | None:
    """Return a warning about FP8 codes that are left out because their scales cannot be used; None without any."""
    skipped = [s for s in selection.skipped if s.tensor.layout.role == CODE and s.tensor.unprunable_reason == s.reason]
    if not skipped:
        return None
    largest = max(skipped, key=lambda s: s.tensor.numel)
    count = sum(s.tensor.numel for s in skipped)
    return Notice(
        f"{counted(len(skipped), 'tensor')} of FP8 codes ({count:,} weights) cannot be pruned, as the scale cannot "
        f"be used; the largest is {printable(repr(largest.tensor.name))}: {largest.reason}"
    )


def _may_be_weight(tensor: TensorInfo) -> bool:
    prunable = why_not_prunable(tensor.dtype) is None and tensor.unprunable_reason is None
    return prunable and len(tensor.shape) >= 2 and tensor.layout.role != CONSTANT


def is_assumed(tensor: TensorInfo) -> bool:
    """Return whether nothing proves the outputs and inputs of a kernel or a stack."""
    return tensor.layout.role in {KERNEL, EXPERTS, CODE} and len(tensor.shape) > 2 and not tensor.layout.proven


def assumed_notices(tensors: Iterable[TensorInfo]) -> tuple[Notice, ...]:
    """Return a warning about the kernels, and one about the stacks, whose outputs and inputs nothing proves.

    A matrix without evidence is not named: [out, in] is the order of nearly all of them.
    """
    assumed = [tensor for tensor in tensors if is_assumed(tensor)]
    kernels = [t for t in assumed if t.layout.experts is None]
    stacks = [t for t in assumed if t.layout.experts is not None]
    return tuple(_assumed_notice(group) for group in (kernels, stacks) if group)


def _assumed_notice(assumed: Sequence[TensorInfo]) -> Notice:
    names = [printable(t.name) for t in assumed]
    listed = ", ".join(names[:MOST_NAMED]) + (f" and {len(names) - MOST_NAMED} more" if names[MOST_NAMED:] else "")
    dims = assumed[0].layout
    return Notice(
        f"nothing in the file proves which dimension of {listed} counts outputs: assumed are outputs in dim "
        f"{dims.outputs} and inputs in dim {dims.inputs}, {_kind(assumed)}",
        hint=("for the other order: ", other_order(assumed[0])),
    )


def other_order(tensor: TensorInfo) -> Argument:
    """Return the argument that states the other order for a tensor whose outputs are assumed to be first."""
    order = "in-out" if tensor.layout.experts is None else "experts-in-out"
    return Argument("layout", {exact_pattern(tensor.name): order})


def _kind(tensors: Sequence[TensorInfo]) -> str:
    if tensors[0].layout.experts is not None:
        return "as most experts have them"
    return "as in Conv; transposed convolutions have them the other way round"


def stacks_fact(tensors: Iterable[TensorInfo]) -> str | None:
    """Return a sentence about the stacks of experts among `tensors`; None without any."""
    stacks = [tensor for tensor in tensors if tensor.layout.experts is not None]
    if not stacks:
        return None
    first = f"{printable(repr(stacks[0].name))} ({stacks[0].shape[0]} experts)"
    if len(stacks) == 1:
        return f"{first} is a stack of expert matrices"
    return f"{len(stacks)} tensors are stacks of expert matrices, such as {first}"
