"""Packed and quantized weights: numbers that hold several weights each, or integers with a scale.

They are recognised by name, dtype and shape, with the tensors that belong to them. None of them can be pruned here,
because the codes of single weights are not elements of a tensor, or depend on zero points. They are counted, so that
shares of a model are shares of all its weights.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

from prunecli.checkpoint import OUTSIDE, PackedWeights
from prunecli.dtypes import BITS
from prunecli.layout import PACKED, SCALE, TensorLayout
from prunecli.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from prunecli.checkpoint import TensorInfo

    Named = Mapping[str, TensorInfo]

A_PART = "a part of packed weights, not a weight"
"""The reason why a scale, a zero point or an index of packed weights is never pruned."""

ADVICE = "prune before quantizing"

_HOLDERS = frozenset({"I32", "U32", "U8", "I8"})
"""The dtypes, besides those of less than a byte, whose numbers may hold packed weights."""

_NF4 = ("absmax", "quant_map", "nested_absmax", "nested_quant_map")
_SCALED = ("_scale", "_scale_2", "_zero_point", "_shape", "_g_idx", "_global_scale")


@dataclass(frozen=True, slots=True)
class _Found:
    """The weights of a packed tensor, and the names of the tensors that may belong to it."""

    packed: PackedWeights
    parts: tuple[str, ...]


def with_packed(tensors: Sequence[TensorInfo]) -> tuple[TensorInfo, ...]:
    """Return the tensors with `packed` filled in; packed tensors and their parts become unprunable."""
    if not any(dtype in _HOLDERS or BITS[dtype] < 8 for dtype in {tensor.dtype for tensor in tensors}):
        return tuple(tensors)
    result = list(tensors)
    places = {tensor.name: i for i, tensor in enumerate(tensors) if tensor.unprunable_reason != OUTSIDE}
    by_name = {name: tensors[i] for name, i in places.items()}
    parts: dict[str, None] = {}
    for name, i in places.items():
        found = None if tensors[i].packed is not None else _found(tensors[i], by_name)
        if found is None:
            continue
        result[i] = unprunable_as(found.packed, tensors[i])
        parts |= dict.fromkeys(part for part in found.parts if part in places and part != name)
    for name in parts:
        layout = TensorLayout(SCALE, None, None, evidence="", not_a_weight=A_PART)
        if result[places[name]].packed is None:
            result[places[name]] = replace(by_name[name], unprunable_reason=A_PART, layout=layout)
    return tuple(result)


def unprunable_as(packed: PackedWeights, tensor: TensorInfo) -> TensorInfo:
    """Return the tensor as one whose numbers hold packed weights."""
    reason = f"packed ({packed.format}): {ADVICE}"
    layout = TensorLayout(PACKED, None, None, evidence="", not_a_weight=reason)
    return replace(tensor, packed=packed, unprunable_reason=reason, layout=layout)


def packed_sentence(packed: Iterable[PackedWeights | None]) -> str | None:
    """Return a sentence about the packed weights of a checkpoint: their number and formats; None without any."""
    found = [one for one in packed if one is not None]
    count = sum(one.weights for one in found)
    return f"{count:,} weights are packed ({formats(found)}) and cannot be pruned here: {ADVICE}" if found else None


def formats(packed: Iterable[PackedWeights]) -> str:
    """Return the formats, those of the most weights first."""
    weights: Counter[str] = Counter()
    for one in packed:
        weights[one.format] += one.weights
    return ", ".join(name for name, _ in weights.most_common())


def _found(tensor: TensorInfo, by_name: Named) -> _Found | None:
    if tensor.dtype in {"I32", "U32"}:
        finders = (_gptq_or_awq, _packed_integers, _mlx, _exllama)
        return next((found for find in finders if (found := find(tensor, by_name)) is not None), None)
    if tensor.dtype == "U8":
        return _bitsandbytes(tensor, by_name) or _blocks(tensor, by_name) or _bytes(tensor, by_name)
    if tensor.dtype == "I8":
        return _integers(tensor, by_name)
    if BITS[tensor.dtype] < 8 and any(name in by_name for name in _scales_of(tensor.name)):
        return _found_as(tensor.dtype, tensor.numel, *_scales_of(tensor.name))
    return None


def _found_as(name: str, weights: int, *parts: str) -> _Found:
    return _Found(PackedWeights(name, weights), parts)


def _scales_of(name: str) -> tuple[str, ...]:
    """Return the names that the scales and zero points of a tensor have in most formats."""
    module, dot, last = name.rpartition(".")
    own = tuple(name + suffix for suffix in _SCALED)
    if last != "weight":
        return own
    return (*own, *(f"{module}{dot}{part}" for part in ("scale", "scales", "zero_point", "SCB", "weight_format")))


def _gptq_or_awq(tensor: TensorInfo, by_name: Named) -> _Found | None:
    """Find `qweight` with `scales` (groups, outputs), and mostly `qzeros` (groups, outputs * bits / 32)."""
    module, dot, last = tensor.name.rpartition(".")
    scales = by_name.get(f"{module}{dot}scales")
    if last != "qweight" or scales is None or not scales.shape or not tensor.shape:
        return None
    outputs, zeros = scales.shape[-1], by_name.get(f"{module}{dot}qzeros")
    index = by_name.get(f"{module}{dot}g_idx")
    if zeros is not None and zeros.shape:
        bits = _bits(zeros.shape[-1], outputs)
    else:
        bits = _bits(tensor.shape[0], index.numel if index is not None else 0)
    # GPTQ packs along the inputs, so that the outputs keep their number; AWQ packs along the outputs.
    name = "GPTQ" if tensor.shape[-1] == outputs else "AWQ"
    parts = (f"{module}{dot}{part}" for part in ("scales", "qzeros", "g_idx"))
    return _found_as(f"{name}, {bits} bits", tensor.numel * 32 // bits, *parts)


def _bits(words: int, values: int) -> int:
    """Return the bits of each of `values` numbers in so many words of 32 bits; 4, the usual ones, if that cannot be."""
    bits = words * 32 // values if values else 0
    return bits if bits in {2, 3, 4, 6, 8} else 4


def _packed_integers(tensor: TensorInfo, by_name: Named) -> _Found | None:
    """Find `weight_packed` of compressed-tensors, whose numbers are known to have 4 bits by default."""
    stem = tensor.name.removesuffix("_packed")
    if stem == tensor.name or f"{stem}_scale" not in by_name:
        return None
    index = by_name.get(f"{stem}_g_idx")
    bits = _bits(tensor.shape[-1] if tensor.shape else 0, index.numel if index is not None else 0)
    return _found_as(f"compressed-tensors, {bits} bits", tensor.numel * 32 // bits, *_scales_of(stem))


def _mlx(tensor: TensorInfo, by_name: Named) -> _Found | None:
    """Find `weight` of MLX with `scales` and `biases` (outputs, groups), whose groups have 64 weights by default."""
    module, dot, last = tensor.name.rpartition(".")
    scales = by_name.get(f"{module}{dot}scales")
    if last != "weight" or scales is None or f"{module}{dot}biases" not in by_name:
        return None
    if not tensor.shape or not scales.shape:
        return None
    bits = _bits(tensor.shape[-1], 64 * scales.shape[-1])
    return _found_as(f"MLX, {bits} bits", tensor.numel * 32 // bits, f"{module}{dot}scales", f"{module}{dot}biases")


def _exllama(tensor: TensorInfo, by_name: Named) -> _Found | None:
    """Find `q_weight` of ExLlamaV2, whose groups have 2 to 8 bits; they are counted as 4."""
    module, dot, last = tensor.name.rpartition(".")
    if last != "q_weight" or f"{module}{dot}q_scale" not in by_name:
        return None
    parts = (f"{module}{dot}{part}" for part in ("q_scale", "q_scale_max", "q_groups", "q_group_map", "q_perm"))
    return _found_as("ExLlamaV2", tensor.numel * 8, *parts)


def _bitsandbytes(tensor: TensorInfo, by_name: Named) -> _Found | None:
    """Find bytes of two 4-bit codes with `.absmax`, `.quant_map` and a `.quant_state`."""
    if not any(f"{tensor.name}.{part}" in by_name for part in _NF4[:2]):
        return None
    states = {kind: f"{tensor.name}.quant_state.bitsandbytes__{kind}" for kind in ("nf4", "fp4")}
    kind = next((kind for kind, name in states.items() if name in by_name), "nf4")
    parts = (f"{tensor.name}.{part}" for part in _NF4)
    return _found_as(f"bitsandbytes {kind.upper()}", 2 * tensor.numel, *parts, *states.values())


def _blocks(tensor: TensorInfo, by_name: Named) -> _Found | None:
    """Find `x_blocks` with `x_scales`, in which gpt-oss stores MXFP4: two codes in a byte."""
    stem = tensor.name.removesuffix("_blocks")
    if stem == tensor.name or f"{stem}_scales" not in by_name:
        return None
    return _found_as("MXFP4", 2 * tensor.numel, f"{stem}_scales")


def _bytes(tensor: TensorInfo, by_name: Named) -> _Found | None:
    """Find bytes with a scale: of ModelOpt or compressed-tensors, with 8 bytes (NVFP4) or 16 (MXFP4) per entry."""
    stem = tensor.name.removesuffix("_packed")
    scale = by_name.get(f"{stem}_scale")
    if scale is None:
        return None
    second = stem != tensor.name or f"{stem}_scale_2" in by_name
    per_entry = tensor.shape[-1] / scale.shape[-1] if tensor.shape and scale.shape and scale.shape[-1] else 0
    if per_entry == 16 and scale.dtype in {"U8", "F8_E8M0"}:
        return _found_as("MXFP4", 2 * tensor.numel, *_scales_of(stem))
    if second or (per_entry == 8 and scale.dtype == "F8_E4M3"):
        return _found_as("NVFP4", 2 * tensor.numel, *_scales_of(stem))
    return _found_as("8-bit integers", tensor.numel, *_scales_of(stem))


def _integers(tensor: TensorInfo, by_name: Named) -> _Found | None:
    """Find 8-bit integers with a scale next to them."""
    module, dot, last = tensor.name.rpartition(".")
    scales = [f"{tensor.name}_scale"]
    if last == "weight":
        scales += [f"{module}{dot}{name}" for name in ("SCB", "scale", "scales")]
    if last == "_data":  # of quanto
        scales = [f"{module}{dot}_scale"]
    if not any(name in by_name for name in scales):
        return None
    return _found_as("8-bit integers", tensor.numel, *scales, *_scales_of(tensor.name))
