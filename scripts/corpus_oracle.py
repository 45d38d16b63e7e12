"""The strategies that the corpus runner tries, and the weights that NumPy keeps for each.

A function `keep` gets the selected tensors, in checkpoint order, and returns an array of bool for each: True where the
weight survives. It is written from the README, not from the package. A strategy
without such a function is checked byte by byte only.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from byte_oracle import elements
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Callable

    from prunecli.checkpoint import TensorInfo
    from prunecli.layout import SliceView

Keep: TypeAlias = NDArray[np.bool_]
Numbers: TypeAlias = NDArray[Any]

THRESHOLD = 3 / 64
"""A threshold that every dtype holds exactly."""

DTYPES = {"F64": "f8", "F32": "f4", "F16": "f2", "BF16": "u2"}
"""The dtypes whose values are computed, and how NumPy reads them."""


def numbers(data: NDArray[np.uint8], tensor: TensorInfo) -> Numbers | None:
    """Return the weights as float64, or float32 if that is exact; None for values that are not computed here."""
    if tensor.dtype not in DTYPES or tensor.scale is not None:
        return None
    order = ">" if tensor.big_endian else "<"
    raw = np.ascontiguousarray(elements(data, tensor)).view(order + DTYPES[tensor.dtype])[..., 0]
    if tensor.dtype == "BF16":
        raw = (raw.astype(np.uint32) << np.uint32(16)).view(np.float32)
    weights: Numbers = raw.astype(np.float64 if tensor.dtype == "F64" else np.float32)
    return weights if np.isfinite(weights).all() else None


@dataclass(frozen=True)
class Weights:
    """One selected tensor, with its finite weights."""

    tensor: TensorInfo
    signed: Numbers

    @cached_property
    def values(self) -> Numbers:
        """The magnitudes."""
        return np.abs(self.signed)

    def rounded(self, value: float) -> float:
        """Return `value` in the precision of the tensor."""
        if self.tensor.dtype == "BF16":
            bits = int(np.float32(value).view(np.uint32))
            return float(np.uint32((bits + 0x7FFF + (bits >> 16 & 1)) >> 16 << 16).view(np.float32))
        return float(np.dtype(DTYPES[self.tensor.dtype]).type(value))

    @property
    def outputs(self) -> SliceView:
        """The view (stacks, before, slices, after) whose slices are the outputs."""
        view = self.tensor.layout.output_view(self.tensor.shape)
        if view is None:
            raise ValueError(self.tensor.name)
        return view

    @property
    def matrices(self) -> Numbers:
        """The values as matrices, one per expert: shape (stacks, outputs, the rest)."""
        view = self.outputs
        cube = self.values.reshape(view.stacks, view.before, view.slices, view.after)
        return cube.swapaxes(1, 2).reshape(view.stacks, view.slices, view.size)

    def from_matrices(self, keep: Keep) -> Keep:
        """Return `keep` of the form of `matrices` in the shape of the tensor."""
        view = self.outputs
        cube = keep.reshape(view.stacks, view.slices, view.before, view.after)
        return cube.swapaxes(1, 2).reshape(self.tensor.shape)


def without_lowest(scores: Numbers, amount: float) -> Keep:
    """Return False for the lowest `amount` of a row of scores; of equals the first go first."""
    keep = np.ones(scores.size, bool)
    keep[np.argsort(scores, axis=None, kind="stable")[: round(amount * scores.size)]] = False
    return keep.reshape(scores.shape)


def each(function: Callable[[Weights], Keep]) -> Callable[[list[Weights]], list[Keep]]:
    """Return a function of several tensors from one of a single tensor."""
    return lambda tensors: [function(one) for one in tensors]


def std_threshold(one: Weights) -> Keep:
    """Keep the magnitudes above half the standard deviation of the signed weights."""
    return one.values > one.rounded(0.5 * float(one.signed.astype(np.float64).std(ddof=1)))


def global_half(tensors: list[Weights]) -> list[Keep]:
    """Keep the larger half of the weights of all tensors together."""
    keep = without_lowest(np.concatenate([one.values.ravel().astype(np.float64) for one in tensors]), 0.5)
    parts = np.split(keep, np.cumsum([one.values.size for one in tensors])[:-1])
    return [part.reshape(one.values.shape) for part, one in zip(parts, tensors, strict=True)]


def rows(one: Weights) -> Keep:
    """Keep the larger 70 % of each output."""
    matrices = one.matrices
    flat = matrices.reshape(-1, matrices.shape[-1])
    return one.from_matrices(np.array([without_lowest(row, 0.3) for row in flat]).reshape(matrices.shape))


def two_of_four(one: Weights) -> Keep:
    """Keep the 2 largest of every 4 consecutive inputs of an output; of equals the first."""
    layout, shape = one.tensor.layout, one.tensor.shape
    if layout.inputs is None:
        raise ValueError(one.tensor.name)
    after = int(np.prod(shape[layout.inputs + 1 :], dtype=int))
    runs = one.values.reshape(-1, shape[layout.inputs] // layout.groups, after)
    keep = np.zeros(runs.shape, bool)
    for first in range(0, runs.shape[1], 4):
        best = np.argsort(-runs[:, first : first + 4], axis=1, kind="stable")[:, :2]
        np.put_along_axis(keep[:, first : first + 4], best, values=True, axis=1)
    return keep.reshape(shape)


def slices(one: Weights) -> Keep:
    """Keep the three quarters of the outputs, of each expert, with the larger L2 norm."""
    matrices = one.matrices
    norms = np.sqrt(np.square(matrices, dtype=np.float64).sum(-1))
    keep = np.array([without_lowest(stack, 0.25) for stack in norms])
    return one.from_matrices(np.broadcast_to(keep[..., None], matrices.shape))


def blocks(one: Weights) -> Keep:
    """Keep the half of the 4x4 blocks, of each expert, with the larger root mean square."""
    return one.from_matrices(np.array([_blocks_of(matrix) for matrix in one.matrices]))


def _blocks_of(matrix: Numbers) -> Keep:
    high, wide = (range(0, size, 4) for size in matrix.shape)
    squares = np.square(matrix, dtype=np.float64)
    sums = np.add.reduceat(np.add.reduceat(squares, high, axis=0), wide, axis=1)
    counts = [np.minimum(size - np.arange(0, size, 4), 4) for size in matrix.shape]
    keep = without_lowest(np.sqrt(sums / np.outer(*counts)), 0.5)
    return keep.repeat(4, 0).repeat(4, 1)[: matrix.shape[0], : matrix.shape[1]]


@dataclass(frozen=True)
class Strategy:
    """The words of a command line, and the weights that must survive; {mask} and {recipe} stand for files.

    `before` is the command that writes the mask that `words` use.
    """

    words: str
    keep: Callable[[list[Weights]], list[Keep]] | None = None
    before: str = ""


STRATEGIES = {
    "threshold": Strategy(f"threshold --thr {THRESHOLD}", each(lambda one: one.values > THRESHOLD)),
    "threshold-std": Strategy("threshold --thr-std 0.5", each(std_threshold)),
    "percentile": Strategy("percentile --q 60", each(lambda one: one.values > np.percentile(one.values, 60))),
    "l1": Strategy("l1 --amount 0.3", each(lambda one: without_lowest(one.values, 0.3))),
    "l1-row": Strategy("l1 --amount 0.3 --scope row", each(rows)),
    "l1-erk": Strategy("l1 --amount 0.3 --allocate erk"),
    "global": Strategy("global --amount 0.5", global_half),
    "global-lamp": Strategy("global --amount 0.5 --normalize lamp"),
    "topk": Strategy("topk --pattern 2:4", each(two_of_four)),
    "structured": Strategy("structured --amount 0.25", each(slices)),
    "block": Strategy("block --shape 4x4 --amount 0.5", each(blocks)),
    "random": Strategy("random --amount 0.5 --seed 3"),
    "mask": Strategy("mask --mask {mask}", global_half, before="global --amount 0.5 -n --mask-out {mask}"),
    "run": Strategy("run {recipe}"),
}
"""The strategies by the names that `--strategy` takes."""
