"""Numbers of float64 computed on a device, with the bits that NumPy gives: values, and products with norms and scales.

torch is imported when a function is called.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

import numpy as np

from prunecli.dtypes import FLOATS
from prunecli.kernels.bit_patterns import float8_table
from prunecli.kernels.torch_views import of_elements

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


def copied(numbers: NDArray[np.float64], like: Array) -> Array:
    """Return numbers of the host on the device of `like`."""
    return importlib.import_module("torch").from_numpy(np.ascontiguousarray(numbers)).to(like.device)


def times_slices(numbers: Array, start: int, view: SliceView, factors: Array) -> Array:
    """Return `numbers`, from row-major element `start`, times the factor of their slice of `view`.

    The factors lie where the numbers do.
    """
    cycle = view.slices * view.after
    if view.stacks == 1 and start % cycle == 0 and len(numbers) % cycle == 0:  # no factor is repeated in memory
        numbers.view(-1, view.slices, view.after).mul_(factors[:, None])
        return numbers
    torch = importlib.import_module("torch")
    return numbers.mul_(of_elements(torch, factors, start, len(numbers), view))


def multiply_blocks(numbers: Array, shape: Sequence[int], offset: int, wide: int, entries: NDArray[np.float64]) -> None:
    """Multiply flat `numbers` of `shape` (rows, count) in place, as `prunecli.kernels.scales.multiply_blocks` does."""
    torch = importlib.import_module("torch")
    columns = torch.arange(offset, offset + shape[1], device=numbers.device)
    blocks = columns.div_(wide, rounding_mode="floor")
    factors = torch.from_numpy(np.ascontiguousarray(entries)).to(numbers.device)
    numbers.view(*shape).mul_(factors[:, blocks])
