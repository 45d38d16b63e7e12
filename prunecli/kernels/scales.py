"""Weights that are codes times a scale, as float64, which has the product of an 8-bit code and a float32 exactly."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from prunecli.kernels.arrays import UINTS
from prunecli.kernels.bit_patterns import float8_table

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from prunecli.dtypes import Float
    from prunecli.kernels.numpy_ops import NumpyOps


@dataclass(frozen=True, slots=True)
class ScaledRows:
    """Rows of the codes [low, high) of a run, with the entries of their scale.

    The codes are seen as rows of `cols` columns in blocks of `wide` columns. The first column is the one at `offset` in
    its block, and the last block may be cut off. Row r has the `entries[lines[r]]`, one for each block.
    """

    low: int
    high: int
    cols: int
    offset: int
    wide: int
    lines: NDArray[np.int64]
    entries: NDArray[np.float64]


E8M0_NAN, E8M0_BIAS = 255, 127  # Open Compute Project, Microscaling Formats 1.0, section 5.4


def code_values(ops: NumpyOps, codes: NDArray[Any], dtype: Float, slot: str) -> NDArray[np.float64]:
    """Return the numbers that 8-bit codes of `dtype` encode, in the scratch memory `slot` of `ops`."""
    numbers: NDArray[np.float64] = ops.scratch(slot, codes.size, np.float64)
    # Every index is in the table. With another mode than "clip", NumPy would fill a buffer first.
    np.take(code_table(dtype), codes.view(np.uint8), out=numbers, mode="clip")
    return numbers


@lru_cache(maxsize=8)
def code_table(dtype: Float) -> NDArray[np.float64]:
    """Return the number of each of the 256 codes of a format."""
    return float8_table(dtype).astype(np.float64)


def scale_values(raw: NDArray[Any], dtype: str) -> NDArray[np.float64]:
    """Return the entries of a scale, read as integers of the width of `dtype`, as float64."""
    bits = raw.view(UINTS[raw.itemsize])
    if dtype == "F8_E8M0":
        exponents = bits.astype(np.float64)
        return np.where(exponents == E8M0_NAN, np.nan, np.exp2(exponents - E8M0_BIAS))
    with np.errstate(invalid="ignore"):  # NumPy warns when it converts a signalling NaN
        if dtype == "BF16":  # the upper half of a float32; NumPy has no such type
            return (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
        return bits.view(f"<f{bits.itemsize}").astype(np.float64)


def multiply_blocks(numbers: NDArray[np.float64], offset: int, wide: int, entries: NDArray[np.float64]) -> None:
    """Multiply each row of `numbers` (rows, count), in place, block by block with its row of `entries` (rows, blocks).

    Blocks are `wide` columns. The first column is the one at `offset` in its block, and the last block may be cut off.
    """
    rows, count = numbers.shape
    head = min(-offset % wide, count)
    first = 1 if head else 0
    whole = (count - head) // wide
    body = numbers[:, head : head + whole * wide].reshape(rows, whole, wide)  # a view, as one axis is split
    tail = numbers[:, head + whole * wide :]
    with np.errstate(over="ignore", invalid="ignore"):
        numbers[:, :head] *= entries[:, :1]
        body *= entries[:, first : first + whole, None]
        if tail.size:
            tail *= entries[:, first + whole, None]
