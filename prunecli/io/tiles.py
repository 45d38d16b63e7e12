"""From bytes in a buffer to a tensor's weights as integers in row-major order, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from prunecli.kernels.ops import INTS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from prunecli.checkpoint import TensorInfo


def look(data: memoryview, offset: int, tensor: TensorInfo, low: int, high: int) -> NDArray[Any]:
    """Return a view of the elements [low, high) of `tensor` in `data`, where element 0 is `offset` bytes in.

    Integers of the tensor's width in the file's byte order. A tensor that is not contiguous is always looked at
    whole, in its own shape and strides.
    """
    kind = INTS[tensor.itemsize].newbyteorder(">" if tensor.big_endian else "<")
    if tensor.contiguous:
        return np.frombuffer(data, kind, high - low, offset + low * tensor.itemsize)
    flat = np.frombuffer(data, kind, tensor.extent, offset)
    return as_strided(flat, tensor.shape, [s * tensor.itemsize for s in tensor.strides])


def flatten(view: NDArray[Any], tensor: TensorInfo) -> NDArray[Any]:
    """Return what `look` gave as a flat, native, row-major array: the view itself where that is what it is."""
    if tensor.contiguous and view.dtype.isnative:
        return view
    return np.ascontiguousarray(view, INTS[tensor.itemsize]).reshape(-1)


def put_back(flat: NDArray[Any], view: NDArray[Any]) -> None:
    """Store what `flatten` returned where it came from; nothing to do where it is the same memory."""
    if flat is not view:
        view[...] = flat.reshape(view.shape)
