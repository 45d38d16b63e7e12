"""Weights in the formats of other libraries than torch, read with these libraries."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from support.weights import Weights


def native(array: NDArray[np.generic]) -> torch.Tensor:
    """Return an array of any byte order as a tensor with the same strides."""
    return torch.from_numpy(array.astype(array.dtype.newbyteorder("=")))


def read_npz(path: Path) -> Weights:
    """Read the arrays of an archive with NumPy."""
    with np.load(path) as arrays:
        return {name: native(arrays[name]) for name in arrays.files}


READERS: dict[str, Callable[[Path], Weights]] = {".npz": read_npz}
"""The readers of files by suffix."""
