"""Arrays as bytes for an exchange between processes: a line of JSON with names, types and shapes, and the numbers."""

from __future__ import annotations

import json
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def packed(arrays: dict[str, NDArray[Any]]) -> bytes:
    """Return named arrays as bytes."""
    header = {name: (array.dtype.str, array.shape) for name, array in arrays.items()}
    return b"".join([json.dumps(header).encode(), b"\n", *(array.tobytes() for array in arrays.values())])


def unpacked(payload: bytes) -> dict[str, NDArray[Any]]:
    """Return the arrays in a result of `packed`; they cannot be changed."""
    header, _, data = payload.partition(b"\n")
    arrays, at = {}, 0
    for name, (kind, shape) in json.loads(header).items():
        array = np.frombuffer(data, kind, prod(shape), at)
        arrays[name] = array.reshape(shape)
        at += array.nbytes
    return arrays
