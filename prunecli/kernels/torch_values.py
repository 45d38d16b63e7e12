"""Numbers of float64 computed on a device, with the bits that NumPy gives: values, and products with norms and scales.

torch is imported when a function is called.
"""

from __future__ import annotations

import importlib
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from prunecli.dtypes import FLOATS
from prunecli.kernels.bit_patterns import float8_table
from prunecli.kernels.random_bits import halves
from prunecli.kernels.torch_views import of_elements, slice_numbers
from prunecli.kernels.transfers import to_device

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from prunecli.dtypes import Float
    from prunecli.kernels.ops import Array
    from prunecli.kernels.rows import Rows
    from prunecli.kernels.torch_ops import TorchOps
    from prunecli.layout import SliceView

_TORCH_NAMES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float64"}
_MASK = FLOATS["F64"].mask


def values(patterns: Array, dtype: Float) -> Array:
    """Return the numbers that integers of `dtype` encode, as float64; those of 8 bits may be in wider integers."""
    torch = importlib.import_module("torch")
    if dtype.itemsize > 1:
        return patterns.view(getattr(torch, _TORCH_NAMES[dtype.name])).to(torch.float64)
    return _table(dtype, str(patterns.device))[(patterns.to(torch.int16) & 255).to(torch.int32)]


@lru_cache(maxsize=64)
def _table(dtype: Float, device: str) -> Array:
    torch = importlib.import_module("torch")
    return torch.from_numpy(float8_table(dtype).astype(np.float64)).to(device)


def magnitudes(numbers: Array) -> Array:
    """Return the patterns of the magnitudes of float64 numbers."""
    return numbers.view(importlib.import_module("torch").int64) & _MASK


def patterns(numbers: Array) -> Array:
    """Return float64 numbers as integers."""
    integers: Array = numbers.view(importlib.import_module("torch").int64)
    return integers


def stacked(parts: Sequence[Array]) -> Array:
    """Return flat tensors as rows."""
    stack: Array = importlib.import_module("torch").stack(list(parts))
    return stack


def random_numbers(ops: TorchOps, keys: Sequence[int], rows: Rows) -> Array:
    """Return the random numbers of rows: of the stream of one key, or of those of the keys from their start."""
    count, length = rows.weights.shape
    # Eight numbers are made at once, so rows start at a multiple of that, or skip some.
    skip, torch = rows.first % 8, ops.torch
    if rows.step % 8:
        raise AssertionError
    if len(keys) > 1:
        firsts = torch.zeros(count, dtype=torch.int64, device=rows.weights.device)
    else:
        firsts = (torch.arange(count, device=rows.weights.device) * rows.step + rows.first) >> 3
    numbers = ops.random_rows(to_device(halves(keys), rows.weights.device), firsts, -(-(skip + length) // 8))
    return numbers[:, skip : skip + length].contiguous()


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


def times_slices_of_rows(numbers: Array, first: int, step: int, view: SliceView, factors: Array) -> Array:
    """Return the same for `numbers` in rows, of which row r starts at element first + r * step."""
    torch = importlib.import_module("torch")
    rows, length = numbers.shape
    starts = torch.arange(rows, device=numbers.device)[:, None] * step + first
    index = starts + torch.arange(length, device=numbers.device)
    return numbers.mul_(factors[slice_numbers(torch, index, view)[0]])


def multiply_blocks(numbers: Array, shape: Sequence[int], offset: int, wide: int, entries: NDArray[np.float64]) -> None:
    """Multiply flat `numbers` of `shape` (rows, count) in place, as `prunecli.kernels.scales.multiply_blocks` does."""
    torch = importlib.import_module("torch")
    columns = torch.arange(offset, offset + shape[1], device=numbers.device)
    blocks = columns.div_(wide, rounding_mode="floor")
    factors = to_device(entries, numbers.device)
    numbers.view(*shape).mul_(factors[:, blocks])
