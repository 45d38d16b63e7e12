"""Tensors whose elements are not contiguous, or not in native byte order, as views of NumPy's."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from prunecli.kernels.arrays import INTS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from prunecli.checkpoint import TensorInfo
    from prunecli.kernels.ops import Array


def strided_view(data: memoryview, offset: int, tensor: TensorInfo, low: int, high: int) -> NDArray[Any]:
    """Return a view of the elements [low, high) of `tensor`, as `prunecli.io.reader.view_elements` does."""
    element_type = INTS[tensor.itemsize].newbyteorder(">" if tensor.big_endian else "<")
    if tensor.contiguous:
        return np.frombuffer(data, element_type, high - low, offset + low * tensor.itemsize)
    flat = np.frombuffer(data, element_type, tensor.extent, offset)
    return as_strided(flat, tensor.shape, [s * tensor.itemsize for s in tensor.strides])


def flattened(view: NDArray[Any], tensor: TensorInfo) -> NDArray[Any]:
    """Return a view of elements as a flat, native, row-major array: itself if it is one, else a copy."""
    if tensor.contiguous and view.dtype.isnative:
        return view
    return np.ascontiguousarray(view, INTS[tensor.itemsize]).reshape(-1)


def gather(view: NDArray[Any], first: int, stop: int) -> NDArray[Any]:
    """Return a copy of the row-major elements [first, stop) of a view of a tensor, as a flat native array."""
    flat = np.empty(stop - first, view.dtype.newbyteorder("="))
    for place, block in row_blocks(view, first, stop):
        np.copyto(flat[place : place + block.size].reshape(block.shape), block)
    return flat


def scatter(flat: NDArray[Any], view: NDArray[Any], first: int) -> None:
    """Store `flat` in the row-major elements from `first` of a view of a tensor."""
    for place, block in row_blocks(view, first, first + flat.size):
        np.copyto(block, flat[place : place + block.size].reshape(block.shape))


def row_blocks(view: Array, first: int, stop: int) -> Iterator[tuple[int, Array]]:
    """Yield the parts of a view that together are the row-major elements [first, stop): whole rows and parts of rows.

    Each comes with the number of elements before it.
    """
    if view.ndim == 1:
        yield 0, view[first:stop]
        return
    size, place = prod(view.shape[1:]), 0
    while first + place < stop:
        row, start = divmod(first + place, size)
        rows = (stop - first - place) // size
        if start or not rows:
            end = min(size, start + stop - first - place)
            yield from ((place + before, block) for before, block in row_blocks(view[row], start, end))
            place += end - start
        else:
            yield place, view[row : row + rows]
            place += rows * size
