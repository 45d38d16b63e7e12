"""The layout of every tensor of a checkpoint: its role, outputs, inputs and experts, with the evidence.

Names, shapes and the architecture that `config.json` names decide; no weight is read.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property, lru_cache
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
from prunecli.layouts.foreign_names import with_dotted_names
from prunecli.layouts.names import (
    bias_of,
    is_embedding,
    is_fixed_transform,
    is_loss_weight,
    is_norm,
    is_scale_module,
    other_half,
    words,
)
from prunecli.layouts.packed import with_packed
from prunecli.layouts.reparametrized import NOT_BY_NAME, why_not_a_weight
from prunecli.layouts.scales import with_scales
from prunecli.layouts.siblings import by_siblings

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator, Mapping, Sequence

    from prunecli.checkpoint import Checkpoint, TensorInfo
    from prunecli.layouts.evidence import Orientation

_DIGITS = str.maketrans("123456789", "0" * 9)

_ORIENTED = frozenset({MATRIX, KERNEL, EXPERTS})

HALF_OF_LORA = "half of a LoRA product: it is pruned only if a pattern names it"
"""The reason to skip `lora_A` and `lora_B`, whose product is the change of a weight."""


def with_layouts(checkpoint: Checkpoint) -> Checkpoint:
    """Return the checkpoint with the layout of every tensor decided, and its scale or packed weights."""
    tensors = list(checkpoint.tensors)
    places = [i for i, t in enumerate(tensors) if t.unprunable_reason != OUTSIDE and not _is_decided(t)]
    named = with_dotted_names([tensors[i] for i in places])
    layouts = decide(named, checkpoint.model_type)
    for i, tensor in zip(places, named, strict=True):
        layout = by_convention(layouts[tensor.name], tensor.name, len(tensor.shape), checkpoint.format)
        tensors[i] = tensors[i].with_layout(layout)
    return replace(checkpoint, tensors=with_packed(with_scales(tensors)))


def _is_decided(tensor: TensorInfo) -> bool:
    """Return whether the reader of the format has decided the layout: the file itself says what the tensor is."""
    return tensor.layout.proven or tensor.packed is not None


def decide(tensors: Sequence[TensorInfo], model_type: str = "") -> dict[str, TensorLayout]:
    """Return the layout of each tensor of one state_dict by its name.

    `model_type` is the architecture as `config.json` names it.
    """
    evidence, layouts = Evidence(tensors, model_type), {}
    proven: list[tuple[TensorInfo, Orientation]] = []
    unproven: list[TensorInfo] = []
    decided: dict[Hashable, tuple[TensorLayout, Orientation | None]] = {}
    for tensor in tensors:
        alike = evidence.alike(tensor)
        found = decided.get(alike) or evidence.of(tensor)
        if alike is not None:
            decided[alike] = found
        layout, own = found
        layouts[tensor.name] = layout
        if own is not None:
            proven.append((tensor, own))
        elif layout.role in _ORIENTED and not layout.proven:
            unproven.append(tensor)
    for name, orientation in [*((t.name, own) for t, own in proven), *_by_siblings(unproven, proven, layouts)]:
        layouts[name] = _oriented(layouts[name], orientation)
    return layouts


@lru_cache(maxsize=1024)  # most tensors of a large model share their layout
def _oriented(layout: TensorLayout, orientation: Orientation) -> TensorLayout:
    outputs, inputs, groups, evidence = orientation
    return layout._replace(outputs=outputs, inputs=inputs, groups=groups, evidence=evidence, proven=True)


class Evidence:
    """What the tensors of one state_dict say about each other."""

    def __init__(self, tensors: Sequence[TensorInfo], model_type: str) -> None:
        """Look for batch norms."""
        self.tensors, self._model_type = {tensor.name: tensor for tensor in tensors}, model_type
        self._lengths = norm_lengths(self.tensors)

    @cached_property
    def _width(self) -> int | None:
        return model_width(self.tensors)

    def of(self, tensor: TensorInfo) -> tuple[TensorLayout, Orientation | None]:
        """Return the layout of a tensor by its role, and its orientation if it is open and proven."""
        layout = _by_role(tensor, self.tensors)
        is_open = layout.role in _ORIENTED and not layout.proven
        return layout, self._about(tensor, layout) if is_open else None

    def _about(self, tensor: TensorInfo, layout: TensorLayout) -> Orientation | None:
        if layout.role == EXPERTS:
            return expert_evidence(tensor, self.tensors, self._model_type, self._width)
        own = flat_stack_evidence(tensor, self.tensors) or own_evidence(tensor, self.tensors, self._model_type)
        if own is None and len(tensor.shape) > 2 and is_confirmed_by_norm(tensor, self._lengths):
            own = out_in("a batch norm next to it has the length of dim 0")
        return own

    def alike(self, tensor: TensorInfo) -> Hashable | None:
        """Return what decides about a matrix with a usual name: that but for numbers, its shape, and that of its bias.

        None for another tensor, about which more of its siblings may decide, such as the batch norm after it.
        """
        module, _, last = tensor.name.rpartition(".")
        if len(tensor.shape) != 2 or last != "weight" or "lora" in module:
            return None
        if self._lengths and module.rpartition(".")[2].isdigit():
            return None
        bias = bias_of(tensor.name, self.tensors)
        return module.translate(_DIGITS), tensor.shape, None if bias is None else bias.shape


def _by_siblings(
    unproven: Sequence[TensorInfo],
    proven: Sequence[tuple[TensorInfo, Orientation]],
    layouts: Mapping[str, TensorLayout],
) -> Iterator[tuple[str, Orientation]]:
    """Yield the orientation of tensors whose siblings, all stacks of experts or none of them, have one."""
    for stacks in (True, False):
        known = [(tensor, own) for tensor, own in proven if (layouts[tensor.name].role == EXPERTS) is stacks]
        if known:
            members = [tensor for tensor in unproven if (layouts[tensor.name].role == EXPERTS) is stacks]
            yield from by_siblings(members, known).items()


def _by_role(tensor: TensorInfo, by_name: Mapping[str, TensorInfo]) -> TensorLayout:
    """Return the layout with the tensor's role, and outputs and inputs as far as the role decides them."""
    usual, dims = assumed_layout(len(tensor.shape)), len(tensor.shape)
    reason = why_not_a_weight(tensor.name, by_name)
    if reason == NOT_BY_NAME and flat_stack_evidence(tensor, by_name):
        reason = None
    elif is_expert_stack(tensor, by_name):
        usual, reason = TensorLayout(EXPERTS, 1, 2, 0), None if reason == NOT_BY_NAME else reason
    elif dims >= 2 and reason not in {None, NOT_BY_NAME}:
        usual = usual._replace(role=REPARAMETRIZED)
    elif dims >= 2 and _is_gain(tensor, by_name):
        usual, reason = TensorLayout(GAIN, None, None, evidence=""), "a gain of a normalization, not a weight"
    elif dims >= 2 and is_fixed_transform(tensor.name):
        usual, reason = usual._replace(role=CONSTANT), "a fixed transform, not a weight"
    elif reason is None and dims >= 2 and is_loss_weight(tensor.name):
        usual, reason = usual._replace(role=CONSTANT), "a factor of a loss, not a weight of the model"
    elif reason is None and other_half(tensor.name) in by_name:
        reason = HALF_OF_LORA
    elif _is_modulated(tensor.shape):
        usual = usual._replace(
            outputs=1, inputs=2, evidence="dim 0 is 1: outputs and inputs are dim 1 and 2", proven=True
        )
    elif dims == 2 and is_embedding(tensor.name) and bias_of(tensor.name, by_name) is None:
        usual = usual._replace(role=EMBEDDING, evidence="named as an embedding", proven=True)
    return usual if reason is None and usual.not_a_weight is None else _with_reason(usual, reason)


@lru_cache(maxsize=1024)
def _with_reason(layout: TensorLayout, reason: str | None) -> TensorLayout:
    return layout._replace(not_a_weight=reason)


def _is_modulated(shape: tuple[int, ...]) -> bool:
    """Return whether this is the shape of a modulated convolution of StyleGAN2: [1, out, in, k, k].

    A kernel of three dimensions is not as long as there are inputs.
    """
    return len(shape) == 5 and shape[0] == 1 and shape[2] > LONGEST_KERNEL >= max(shape[3:])


def _is_gain(tensor: TensorInfo, by_name: Mapping[str, TensorInfo]) -> bool:
    """Return whether the tensor scales each element for itself: its bias has its shape, or its module is a norm.

    A tensor with one dimension longer than 1 is also a gain if its module is named so.
    """
    last = tensor.name.rpartition(".")[2]
    if last != "weight" and not words(last) & {"weight", "weights"}:
        return False
    bias = bias_of(tensor.name, by_name)
    if bias is not None:
        return bias.shape == tensor.shape
    return is_norm(tensor.name) or (is_scale_module(tensor.name) and max(tensor.shape) == tensor.numel)
