"""The layout of every tensor of a checkpoint: its role, outputs, inputs and experts, with the evidence.

Names, shapes and the architecture that `config.json` names decide; no weight is read.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

from prunecli.checkpoint import OUTSIDE
from prunecli.layout import (
    CONSTANT,
    EMBEDDING,
    EXPERTS,
    GAIN,
    KERNEL,
    MATRIX,
    REPARAMETRIZED,
    TensorLayout,
    assumed_layout,
)
from prunecli.layouts.conventions import by_convention
from prunecli.layouts.evidence import is_confirmed_by_norm, norm_lengths, out_in, own_evidence
from prunecli.layouts.experts import (
    LONGEST_KERNEL,
    expert_evidence,
    flat_stack_evidence,
    is_expert_stack,
    model_width,
)
from prunecli.layouts.foreign_names import dotted_names
from prunecli.layouts.names import (
    bias_of,
    is_embedding,
    is_fixed_transform,
    is_loss_weight,
    is_norm,
    is_scale_module,
    other_half,
    split_name,
    words,
)
from prunecli.layouts.packed import with_packed
from prunecli.layouts.reparametrized import NOT_BY_NAME, why_not_a_weight
from prunecli.layouts.scales import with_scales
from prunecli.layouts.siblings import by_siblings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from prunecli.checkpoint import Checkpoint, TensorInfo
    from prunecli.layouts.evidence import Orientation

_ORIENTED = frozenset({MATRIX, KERNEL, EXPERTS})

HALF_OF_LORA = "half of a LoRA product: it is pruned only if a pattern names it"
"""The reason to skip `lora_A` and `lora_B`, whose product is the change of a weight."""


def with_layouts(checkpoint: Checkpoint) -> Checkpoint:
    """Return the checkpoint with the layout of every tensor decided, and its scale or packed weights."""
    tensors = checkpoint.tensors
    open_tensors = [t for t in tensors if t.unprunable_reason != OUTSIDE and not _is_decided(t)]
    names = dotted_names(open_tensors)
    layouts = decide([_renamed(t, names[t.name]) for t in open_tensors], checkpoint.model_type)
    dims = {names[t.name]: len(t.shape) for t in open_tensors}
    layouts = {name: by_convention(own, name, dims[name], checkpoint.format) for name, own in layouts.items()}
    tensors = tuple(t.with_layout(layouts[names[t.name]]) if t.name in names else t for t in tensors)
    return replace(checkpoint, tensors=with_packed(with_scales(tensors)))


def _renamed(tensor: TensorInfo, name: str) -> TensorInfo:
    return tensor if tensor.name == name else replace(tensor, name=name)


def _is_decided(tensor: TensorInfo) -> bool:
    """Return whether the reader of the format has decided the layout: the file itself says what the tensor is."""
    return tensor.layout.proven or tensor.packed is not None


def decide(tensors: Sequence[TensorInfo], model_type: str = "") -> dict[str, TensorLayout]:
    """Return the layout of each tensor of one state_dict by its name.

    `model_type` is the architecture as `config.json` names it.
    """
    by_name = {tensor.name: tensor for tensor in tensors}
    layouts = {tensor.name: _by_role(tensor, by_name) for tensor in tensors}
    oriented = [t for t in tensors if layouts[t.name].role in _ORIENTED and not layouts[t.name].proven]
    orientations = _orientations(oriented, layouts, by_name, model_type)
    for name, orientation in orientations.items():
        outputs, inputs, groups, evidence = orientation
        layouts[name] = replace(
            layouts[name], outputs=outputs, inputs=inputs, groups=groups, evidence=evidence, proven=True
        )
    return layouts


def _orientations(
    tensors: Sequence[TensorInfo],
    layouts: Mapping[str, TensorLayout],
    by_name: Mapping[str, TensorInfo],
    model_type: str,
) -> dict[str, Orientation]:
    """Return the orientation of every tensor for which there is evidence."""
    width, lengths = model_width(by_name), norm_lengths(by_name)
    proven: dict[str, Orientation] = {}
    for tensor in tensors:
        if layouts[tensor.name].role == EXPERTS:
            own = expert_evidence(tensor, by_name, model_type, width)
        else:
            own = flat_stack_evidence(tensor, by_name) or own_evidence(tensor, by_name, model_type)
            if own is None and len(tensor.shape) > 2 and is_confirmed_by_norm(tensor, lengths):
                own = out_in("a batch norm next to it has the length of dim 0")
        if own is not None:
            proven[tensor.name] = own
    for stacks in (True, False):
        members = [t for t in tensors if (layouts[t.name].role == EXPERTS) is stacks]
        known = [(t, proven[t.name]) for t in members if t.name in proven]
        proven |= by_siblings([t for t in members if t.name not in proven], known)
    return proven


def _by_role(tensor: TensorInfo, by_name: Mapping[str, TensorInfo]) -> TensorLayout:
    """Return the layout with the tensor's role, and outputs and inputs as far as the role decides them."""
    usual, dims = assumed_layout(len(tensor.shape)), len(tensor.shape)
    reason = why_not_a_weight(tensor.name, by_name)
    if reason == NOT_BY_NAME and flat_stack_evidence(tensor, by_name):
        reason = None
    elif is_expert_stack(tensor, by_name):
        usual, reason = TensorLayout(EXPERTS, 1, 2, 0), None if reason == NOT_BY_NAME else reason
    elif dims >= 2 and reason not in {None, NOT_BY_NAME}:
        usual = replace(usual, role=REPARAMETRIZED)
    elif dims >= 2 and _is_gain(tensor, by_name):
        usual, reason = TensorLayout(GAIN, None, None, evidence=""), "a gain of a normalization, not a weight"
    elif dims >= 2 and is_fixed_transform(tensor.name):
        usual, reason = replace(usual, role=CONSTANT), "a fixed transform, not a weight"
    elif reason is None and dims >= 2 and is_loss_weight(tensor.name):
        usual, reason = replace(usual, role=CONSTANT), "a factor of a loss, not a weight of the model"
    elif reason is None and other_half(tensor.name) in by_name:
        reason = HALF_OF_LORA
    elif _is_modulated(tensor.shape):
        usual = replace(
            usual, outputs=1, inputs=2, evidence="dim 0 is 1: outputs and inputs are dim 1 and 2", proven=True
        )
    elif dims == 2 and is_embedding(tensor.name) and bias_of(tensor.name, by_name) is None:
        usual = replace(usual, role=EMBEDDING, evidence="named as an embedding", proven=True)
    return usual if reason is None and usual.not_a_weight is None else _with_reason(usual, reason)


@lru_cache(maxsize=1024)
def _with_reason(layout: TensorLayout, reason: str | None) -> TensorLayout:
    return replace(layout, not_a_weight=reason)


def _is_modulated(shape: tuple[int, ...]) -> bool:
    """Return whether this is the shape of a modulated convolution of StyleGAN2: [1, out, in, k, k].

    A kernel of three dimensions is not as long as there are inputs.
    """
    return len(shape) == 5 and shape[0] == 1 and shape[2] > LONGEST_KERNEL >= max(shape[3:])


def _is_gain(tensor: TensorInfo, by_name: Mapping[str, TensorInfo]) -> bool:
    """Return whether the tensor scales each element for itself: its bias has its shape, or its module is a norm.

    A tensor with one dimension longer than 1 is also a gain if its module is named so.
    """
    last = split_name(tensor.name)[1]
    if last != "weight" and not words(last) & {"weight", "weights"}:
        return False
    bias = bias_of(tensor.name, by_name)
    if bias is not None:
        return bias.shape == tensor.shape
    return is_norm(tensor.name) or (is_scale_module(tensor.name) and max(tensor.shape) == tensor.numel)
