"""The sums of squares of small tensors whose parts have many runs: their magnitudes are put together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from prunecli.checkpoint import row_major
from prunecli.dtypes import FLOATS
from prunecli.kernels.arrays import INTS
from prunecli.kernels.squares import block_sums
from prunecli.kernels.tally import BLOCK

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from prunecli.checkpoint import TensorInfo
    from prunecli.engine.sharded.parts import Part

SMALL = 1 << 20
"""The most weights of a small tensor."""


class Collector:
    """Collects the magnitudes of a part, before and after pruning."""

    def __init__(self, part: Part) -> None:
        """Start without a weight."""
        self._indices = part.indices
        itemsize = max(FLOATS[part.tensor.dtype].itemsize, 2)
        self._found = np.zeros((2, part.local.numel), INTS[itemsize])

    def add(self, first: int, before: NDArray[Any], after: NDArray[Any]) -> None:
        """Add the elements from `first` of the part."""
        self._found[:, first : first + len(before)] = before, after

    def result(self) -> dict[str, NDArray[Any]]:
        """Return what the other processes get."""
        return {"found": self._found, **{str(dim): index for dim, index in enumerate(self._indices)}}


def sums_of_squares(
    tensor: TensorInfo, parts: Sequence[dict[str, NDArray[Any]]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the sums of squares of the blocks of a tensor, before and after, from the results of all processes."""
    whole = np.zeros((2, -(-tensor.numel // BLOCK) * BLOCK), parts[0]["found"].dtype)
    for part in parts:
        places = np.zeros(1, np.int64)
        for dim, stride in enumerate(row_major(tensor.shape)):
            places = np.add.outer(places, part[str(dim)] * stride).reshape(-1)
        whole[:, places] = part["found"]
    before, after = (block_sums(half, FLOATS[tensor.dtype]) for half in whole)
    return before, after
