"""Numbers of float64 computed on a device, with the bits that NumPy gives: values, and products with norms and scales.

torch is imported when a function is called.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

import numpy as np

from prunecli.dtypes import FLOATS
from prunecli.kernels.bit_patterns import float8_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from prunecli.dtypes import Float
    from prunecli.kernels.ops import Array
    from prunecli.layout import SliceView

_TORCH_NAMES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float64"}
_MASK = FLOATS["F64"].mask


def values(patterns: Array, dtype: Float) -> Array:
    """Return the numbers that integers of `dtype` encode, as float64; those of 8 bits may be in wider integers."""
    torch = importlib.import_module("torch")
    if dtype.itemsize > 1:
        return patterns.view(getattr(torch, _TORCH_NAMES[dtype.name])).to(torch.float64)
    table = torch.from_numpy(float8_table(dtype).astype(np.float64)).to(patterns.device)
    return table[(patterns.to(torch.int16) & 255).to(torch.int32)]


def magnitudes(numbers: Array) -> Array:
    """Return the patterns of the magnitudes of float64 numbers."""
    return numbers.view(importlib.import_module("torch").int64) & _MASK


def times_slices(numbers: Array, start: int, view: SliceView, factors: NDArray[np.float64]) -> Array:
    """Return `numbers`, from row-major element `start`, times the factor of their slice of `view`."""
    torch = importlib.import_module("torch")
    elements = torch.arange(start, start + len(numbers), device=numbers.device)
    rows = elements.div_(view.after, rounding_mode="floor")
    slices = rows % view.slices
    if view.stacks > 1:
        slices += rows.div_(view.slices * view.before, rounding_mode="floor").mul_(view.slices)
    return numbers.mul_(torch.from_numpy(np.ascontiguousarray(factors)).to(numbers.device)[slices])


def multiply_blocks(numbers: Array, shape: Sequence[int], offset: int, wide: int, entries: NDArray[np.float64]) -> None:
    """Multiply flat `numbers` of `shape` (rows, count) in place, as `prunecli.kernels.scales.multiply_blocks` does."""
    torch = importlib.import_module("torch")
    columns = torch.arange(offset, offset + shape[1], device=numbers.device)
    blocks = columns.div_(wide, rounding_mode="floor")
    factors = torch.from_numpy(np.ascontiguousarray(entries)).to(numbers.device)
    numbers.view(*shape).mul_(factors[:, blocks])
