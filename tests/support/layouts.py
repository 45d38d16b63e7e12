"""Layouts drawn for tests, and tensors as arrays of experts, outputs and inputs."""

from __future__ import annotations

from itertools import pairwise, permutations
from typing import TYPE_CHECKING, Any

import numpy as np
from hypothesis import strategies as st

from prunecli.checkpoint import Span, TensorInfo, row_major
from prunecli.layout import TensorLayout, assumed_layout

if TYPE_CHECKING:
    from numpy.typing import NDArray


def described(shape: tuple[int, ...], layout: TensorLayout | None = None, dtype: str = "F32") -> TensorInfo:
    """Return the description of a tensor, at the start of a file."""
    numel = int(np.prod(shape, dtype=np.int64))
    tensor = TensorInfo("w", dtype, shape, row_major(shape), 0, Span(0, 8 * numel))
    return tensor if layout is None else TensorInfo("w", dtype, shape, tensor.strides, 0, tensor.span, layout=layout)


def layouts_of(shape: tuple[int, ...]) -> list[TensorLayout]:
    """Return every layout that a tensor of `shape` can have."""
    dims = len(shape)
    if dims < 2:
        return [assumed_layout(dims)]
    plain = [TensorLayout("kernel", outputs, inputs) for outputs, inputs in permutations(range(dims), 2)]
    stacks = [TensorLayout("experts", outputs, inputs, 0) for outputs, inputs in permutations(range(1, dims), 2)]
    grouped = [TensorLayout("kernel", 1, 0, groups=n) for n in range(2, shape[0] + 1) if shape[0] % n == 0]
    return [*plain, *stacks, *grouped, TensorLayout("gain", None, None)]


@st.composite
def tensors(draw: st.DrawFn, *, most: int = 2000, longest: int = 9, fewest: int = 0) -> TensorInfo:
    """Draw a tensor of at most `most` elements, with a layout that its shape can have."""
    lengths = st.lists(st.integers(1, longest), min_size=fewest, max_size=5)
    shape = tuple(draw(lengths.filter(lambda one: int(np.prod(one, dtype=np.int64)) <= most)))
    return described(shape, draw(st.sampled_from(layouts_of(shape))))


def pieces(draw: st.DrawFn, size: int, most: int = 6) -> list[tuple[int, int]]:
    """Draw pieces (start, stop) that together have `size` elements, in any order."""
    edges = sorted({0, size, *draw(st.sets(st.integers(0, size), max_size=most))})
    return list(draw(st.permutations(list(pairwise(edges)))))


def canonical(array: NDArray[Any], layout: TensorLayout) -> NDArray[Any]:
    """Return the array with its dimensions as (experts or groups, outputs, inputs, others)."""
    if layout.groups > 1:
        array = array.reshape(layout.groups, -1, *array.shape[1:])
        front = [0, 2, 1]
    elif layout.outputs is None or layout.inputs is None:
        raise ValueError(layout)
    elif layout.experts is None:
        array, front = array[None], [0, 1 + layout.outputs, 1 + layout.inputs]
    else:
        front = [layout.experts, layout.outputs, layout.inputs]
    array = array.transpose([*front, *(dim for dim in range(array.ndim) if dim not in front)])
    return array.reshape(*array.shape[:3], -1)


def zero_outputs(array: NDArray[Any], layout: TensorLayout) -> int | None:
    """Return how many outputs, of each expert for itself, are all zero; None for a tensor without rows."""
    if array.ndim < 2 or layout.outputs is None:
        return None
    return int((~canonical(array, layout).any(axis=(2, 3))).sum())


def zero_inputs(array: NDArray[Any], layout: TensorLayout) -> int | None:
    """Return how many inputs, of each expert for itself, are all zero; None for a tensor without columns."""
    if array.ndim < 2 or layout.inputs is None:
        return None
    alive = canonical(array, layout).any(axis=(1, 3))
    return int((~alive).sum())


def most_of_four(array: NDArray[Any], layout: TensorLayout) -> int | None:
    """Return the most non-zeros in a group of 4 along the inputs of an output; None with fewer than 4 inputs."""
    if array.ndim < 2 or layout.inputs is None:
        return None
    cube = canonical(array, layout)
    inputs = cube.shape[2]
    if inputs < 4:
        return None
    lines = np.moveaxis(cube, 2, -1).reshape(-1, inputs)
    starts = range(0, inputs, 4)
    return max(int(np.count_nonzero(line[start : start + 4])) for line in lines for start in starts)
