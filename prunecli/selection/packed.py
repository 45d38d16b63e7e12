"""The refusal of a checkpoint whose weights are packed, where no pattern names others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prunecli.dtypes import FLOATS
from prunecli.errors import Argument, SelectionError
from prunecli.layouts.packed import ADVICE, formats
from prunecli.selection.patterns import exact_pattern

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prunecli.checkpoint import TensorInfo
    from prunecli.errors import Hint

QUANTIZE_LATER = "prune the model from before quantization, then quantize it again"
"""What to do about quantized weights."""

_DEQUANTIZE = "`llama-quantize --allow-requantize IN.gguf OUT.gguf F16` makes numbers that can be pruned"

MOST_NAMED = 3
"""The most tensors that the hint names."""


def refuse_packed(tensors: Sequence[TensorInfo]) -> None:
    """Raise SelectionError if most weights of the state_dict are packed; the hint names matrices that are not."""
    packed = [tensor.packed for tensor in tensors if tensor.packed is not None]
    if not packed:
        return
    count = sum(one.weights for one in packed)
    every = count + sum(tensor.numel for tensor in tensors if is_floating(tensor))
    if 2 * count <= every:
        return
    raise SelectionError(
        f"{count:,} of {every:,} weights ({100 * count // every}%) are packed ({formats(packed)}) and cannot be pruned "
        f"here: {ADVICE}",
        hint=_hint(tensors),
    )


def is_floating(tensor: TensorInfo) -> bool:
    """Return whether the tensor holds prunable numbers."""
    return tensor.dtype in FLOATS and bool(tensor.numel) and tensor.unprunable_reason is None


def _hint(tensors: Sequence[TensorInfo]) -> Hint:
    later: Hint = QUANTIZE_LATER
    if any(tensor.packed is not None and tensor.packed.format.startswith("GGUF ") for tensor in tensors):
        later = f"{QUANTIZE_LATER}; {_DEQUANTIZE}"
    others = [t for t in tensors if is_floating(t) and t.layout.not_a_weight is None and len(t.shape) >= 2]
    if not others:
        return later
    largest = sorted(others, key=lambda tensor: -tensor.numel)[:MOST_NAMED]
    include = Argument("include", [exact_pattern(tensor.name) for tensor in largest])
    return (f"{later}; ", include, " prunes weights that are not packed")
