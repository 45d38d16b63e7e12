"""Scales of FP8 tensors: which tensor scales which codes, and with which block, from names, shapes and dtypes.

A weight is a code times an entry of its scale. The scale of `x.weight` is named `x.weight_scale_inv` (DeepSeek, Qwen),
`x.weight_scale` (compressed-tensors, ModelOpt), `x.scale` (DeepSeek's own files) or `x.scale_weight` (ComfyUI), that of
`x.weight._data` is named `x.weight._scale` (quanto). `_inv` says that the scale is the inverse of the one that weights
were multiplied by.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from prunecli.checkpoint import OUTSIDE, ScaledBy
from prunecli.dtypes import FLOATS, SCALE_DTYPES
from prunecli.layout import CODE, SCALE, TensorLayout, slice_view
from prunecli.text.escape import printable
from prunecli.text.numbers import plural

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from prunecli.checkpoint import TensorInfo

    Shape = tuple[int, ...]

A_SCALE = "a scale, not a weight"
"""The reason why a scale is never pruned."""

STRIDED_LIMIT = 1 << 18
"""The most elements of a scale with gaps or other strides, which is read whole for every run of codes."""


def with_scales(tensors: Sequence[TensorInfo]) -> tuple[TensorInfo, ...]:
    """Return the tensors with the scales of FP8 codes filled in; a scale that does not fit makes a tensor unprunable.

    FP8 tensors without a scale are not changed. The layouts of the tensors must be decided before, because a scale with
    an entry per output is matched by them.
    """
    if not any(dtype.startswith("F8_") for dtype in {tensor.dtype for tensor in tensors}):
        return tuple(tensors)
    result = list(tensors)
    by_name = {tensor.name: i for i, tensor in enumerate(tensors) if tensor.unprunable_reason != OUTSIDE}
    for i, tensor in enumerate(tensors):
        scale = _scale_of(tensor, by_name)
        if scale is None:
            continue
        result[i] = _scaled(tensor, tensors[scale])
        layout = TensorLayout(SCALE, None, None, evidence="", not_a_weight=A_SCALE)
        result[scale] = replace(tensors[scale], unprunable_reason=A_SCALE, layout=layout)
    return tuple(result)


def scaled_sentence(tensors: Iterable[TensorInfo]) -> str | None:
    """Return a sentence about the tensors that hold codes with a scale; None without any."""
    count = sum(tensor.scale is not None for tensor in tensors)
    verb = plural(count, "tensor holds", "tensors hold")
    return f"{count:,} {verb} FP8 codes with a scale: weights and magnitudes are code x scale" if count else None


def _scale_of(tensor: TensorInfo, by_name: dict[str, int]) -> int | None:
    """Return the index of a tensor's scale; None without one, and for tensors that cannot be pruned anyway."""
    if not (tensor.dtype in FLOATS and tensor.dtype.startswith("F8_") and tensor.numel):
        return None
    if tensor.unprunable_reason is not None:
        return None
    return next((by_name[name] for name in _scale_names(tensor.name) if name in by_name), None)


def _scale_names(name: str) -> Iterator[str]:
    """Yield the possible names of the scale of a tensor, those that say more first."""
    yield f"{name}_scale_inv"
    yield f"{name}_scale"
    module, dot, last = name.rpartition(".")
    if last == "weight":
        yield f"{module}{dot}scale"
        yield f"{module}{dot}scale_weight"
    if last == "_data":
        yield f"{module}{dot}_scale"


def _scaled(tensor: TensorInfo, scale: TensorInfo) -> TensorInfo:
    reason, layout = _why_not_usable(scale), tensor.layout._replace(role=CODE)
    fit = None if reason else _fit(tensor, scale)
    if fit is not None:
        return replace(tensor, scale=fit, layout=layout)
    reason = reason or f"has the shape {list(scale.shape)}, which does not fit {list(tensor.shape)}"
    return replace(tensor, unprunable_reason=f"its scale {printable(repr(scale.name))} {reason}", layout=layout)


def _why_not_usable(scale: TensorInfo) -> str | None:
    if scale.dtype not in SCALE_DTYPES:
        return f"is {scale.dtype}, and {', '.join(sorted(SCALE_DTYPES))} are known"
    if not scale.numel:
        return "is empty"
    if scale.unprunable_reason not in {None, A_SCALE}:
        return f"cannot be read: {scale.unprunable_reason}"
    if not scale.contiguous and max(scale.numel, scale.extent) > STRIDED_LIMIT:
        return "is not contiguous"
    return None


def _fit(tensor: TensorInfo, scale: TensorInfo) -> ScaledBy | None:
    """Return which element has which entry of the scale; None where the shapes do not fit."""
    if scale.numel == 1:
        return ScaledBy(scale, 1, tensor.numel, (1, tensor.numel))
    for grid in _grids(tensor, scale.shape):
        if (fit := _by_slice(tensor, scale, grid) or _by_block(tensor, scale, grid)) is not None:
            return fit
    return None


def _grids(tensor: TensorInfo, shape: Shape) -> Iterator[Shape]:
    """Yield the scale's shape with as many dimensions as the tensor has, in the ways that it can be meant."""
    dims, axes = len(tensor.shape), [tensor.layout.outputs, *range(len(tensor.shape))]
    if len(shape) == dims:
        yield shape
    vector = shape
    while vector and vector[-1] == 1:
        vector = vector[:-1]
    stacks = 1
    if len(vector) == 2 and dims == 3 and vector[0] == tensor.shape[0]:  # an entry per output of each expert
        axes, stacks, vector = [axis for axis in axes if axis], vector[0], vector[1:]
    if len(vector) != 1:
        return
    fitting = [axis for axis in axes if axis is not None and tensor.shape[axis] == vector[0]]
    if fitting and (fitting[0] == tensor.layout.outputs or len(fitting) == 1):
        grid = [stacks, *[1] * (dims - 1)]
        grid[fitting[0]] = vector[0]
        yield tuple(grid)


def _by_slice(tensor: TensorInfo, scale: TensorInfo, grid: Shape) -> ScaledBy | None:
    """Return the fit of a scale with an entry for each index of one dimension."""
    axes = [axis for axis, count in enumerate(grid) if count != 1]
    if len(axes) != 1 or grid[axes[0]] != tensor.shape[axes[0]]:
        return None
    view = slice_view(tensor.shape, axes[0])
    return ScaledBy(scale, view.before, view.slices * view.after, (view.before, view.after))


def _by_block(tensor: TensorInfo, scale: TensorInfo, grid: Shape) -> ScaledBy | None:
    """Return the fit of a scale with an entry for each block of a matrix, or of each matrix of a stack."""
    if len(grid) not in {2, 3} or grid[:-2] != tensor.shape[:-2]:
        return None
    rows, cols = tensor.shape[-2:]
    block = _block((rows, cols), (grid[-2], grid[-1]))
    return None if block is None else ScaledBy(scale, rows, cols, block)


def _block(sizes: tuple[int, int], counts: tuple[int, int]) -> tuple[int, int] | None:
    """Return the size of a block if there are `counts` of them in `sizes`, None where no block has them.

    A dimension can be whole, or have a block for each index. Otherwise a block is a power of two, the same in both
    dimensions, and the last block may be cut off; or all blocks are whole. 128 is such a power, and the usual block.
    """
    whole = [n if count == 1 else 1 if count == n else 0 for n, count in zip(sizes, counts, strict=True)]
    powers = {_power_of_two(n, count) for n, count, size in zip(sizes, counts, whole, strict=True) if not size}
    if len(powers) == 1 and None not in powers:
        (power,) = powers
        return whole[0] or power or 0, whole[1] or power or 0
    if all(size or (count and n % count == 0) for n, count, size in zip(sizes, counts, whole, strict=True)):
        return whole[0] or sizes[0] // counts[0], whole[1] or sizes[1] // counts[1]
    return None


def _power_of_two(n: int, count: int) -> int | None:
    """Return the power of two that cuts `n` into `count` >= 2 parts, of which there is at most one."""
    size = 1
    while -(-n // size) > count:
        size *= 2
    return size if -(-n // size) == count else None
