"""Tensors of every layout, and what strategies prune of them, computed matrix by matrix with NumPy."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from prunecli import api
from prunecli.layout import TensorLayout
from prunecli.strategies.semi_structured import TopK
from prunecli.strategies.structured import Block, Structured
from prunecli.strategies.unstructured import L1

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from prunecli.checkpoint import Checkpoint
    from prunecli.strategies.strategy import Strategy


@dataclass(frozen=True)
class Geometry:
    """A kind of tensor: the letters of its dimensions, as in "eio", and its number of groups.

    The letters are e (experts), o (outputs), i (inputs), and k (any other).
    """

    letters: str
    groups: int = 1

    @property
    def layout(self) -> TensorLayout:
        """The layout."""
        place: dict[str, int | None] = dict.fromkeys("eoi")
        place |= {letter: self.letters.index(letter) for letter in "eoi" if letter in self.letters}
        return TensorLayout("matrix", place["o"], place["i"], place["e"], self.groups, evidence="test", proven=True)

    def matrices(self, tensor: NDArray[Any]) -> NDArray[Any]:
        """Return `tensor` as an array of shape (stacks, outputs, the other dimensions in their order)."""
        outputs = self.letters.index("o")
        if self.groups > 1:
            parts = tensor.reshape(self.groups, tensor.shape[0] // self.groups, *tensor.shape[1:])
            return np.moveaxis(parts, outputs + 1, 1)
        if "e" in self.letters:
            return np.moveaxis(tensor, outputs, 1)
        return np.moveaxis(tensor, outputs, 0)[None]

    @property
    def inputs(self) -> int:
        """The dimension of the inputs in the result of `matrices`."""
        return 2 + self.letters.replace("e", "").replace("o", "").index("i")


GEOMETRIES = {
    "linear": Geometry("oi"),
    "conv": Geometry("oik"),
    "conv1d-in-out": Geometry("io"),
    "transposed conv": Geometry("iok"),
    "grouped transposed conv": Geometry("iok", groups=2),
    "keras conv": Geometry("kkio"),
    "experts": Geometry("eoi"),
    "experts in-out": Geometry("eio"),
    "vector": Geometry("o"),
}


def kept(strategy: Strategy, geometry: Geometry, scores: NDArray[Any]) -> NDArray[np.bool_]:
    """Return where a tensor of `scores` survives."""
    places = geometry.matrices(np.arange(scores.size).reshape(scores.shape))
    matrices = np.abs(geometry.matrices(scores))
    keep = np.empty(scores.size, bool)
    keep[places.reshape(-1)] = np.stack([_kept_of_one(strategy, geometry, m) for m in matrices]).reshape(-1)
    return keep.reshape(scores.shape)


def _kept_of_one(strategy: Strategy, geometry: Geometry, matrix: NDArray[Any]) -> NDArray[np.bool_]:
    """Return where a matrix (outputs, the other dimensions) survives."""
    rows = matrix.reshape(len(matrix), -1)
    if isinstance(strategy, TopK):
        return _kept_groups(strategy, np.moveaxis(matrix, geometry.inputs - 1, -1), geometry.inputs - 1)
    if isinstance(strategy, L1):
        return np.stack([_without_lowest(row, strategy) for row in rows])
    if isinstance(strategy, Structured):
        norms = np.linalg.norm(rows.astype(float), strategy.n, axis=1)
        return np.repeat(_without_lowest(norms, strategy)[:, None], rows.shape[1], axis=1)
    assert isinstance(strategy, Block)
    high, wide = strategy.rows, strategy.cols
    tiles = [(r, c) for r in range(0, rows.shape[0], high) for c in range(0, rows.shape[1], wide)]
    means = np.array([np.sqrt(np.mean(np.square(rows[r : r + high, c : c + wide], dtype=float))) for r, c in tiles])
    keep = np.empty(rows.shape, bool)
    for (r, c), survives in zip(tiles, _without_lowest(means, strategy), strict=True):
        keep[r : r + high, c : c + wide] = survives
    return keep


def _kept_groups(strategy: TopK, lines: NDArray[Any], dim: int) -> NDArray[np.bool_]:
    keep = np.zeros(lines.shape, bool)
    for at in np.ndindex(lines.shape[:-1]):
        for low in range(0, lines.shape[-1], strategy.group):
            group = lines[at][low : low + strategy.group]
            if not (strategy.tail == "zero" and len(group) < strategy.group):
                keep[at][low + np.argsort(-group, kind="stable")[: strategy.keep]] = True
    return np.moveaxis(keep, -1, dim)


def _without_lowest(scores: NDArray[Any], strategy: L1 | Structured | Block) -> NDArray[np.bool_]:
    """Return True for all but the k lowest; of equals the first are pruned."""
    k = round((strategy.amount or 0) * len(scores)) if strategy.count is None else strategy.count
    keep = np.ones(len(scores), bool)
    keep[np.argsort(scores, kind="stable")[:k]] = False
    return keep


@contextmanager
def laid_out(layouts: Mapping[str, TensorLayout]) -> Iterator[None]:
    """Give the named tensors of every checkpoint that `prune` opens these layouts."""
    real = api.open_checkpoint

    def open_checkpoint(*args: Any, **options: Any) -> Checkpoint:  # noqa: ANN401 - those of the real one
        checkpoint = real(*args, **options)
        tensors = (replace(t, layout=layouts.get(t.name, t.layout)) for t in checkpoint.tensors)
        return replace(checkpoint, tensors=tuple(tensors))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(api, "open_checkpoint", open_checkpoint)
        yield


@contextmanager
def small_pieces() -> Iterator[None]:
    """Read, search and write in pieces that are smaller than small tensors."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("prunecli.engine.run.HOST_WINDOW", 4096)
        patch.setattr("prunecli.kernels.norms.RUN", 40)
        for name, value in {"RUN": 50, "TILE": 12, "FEW": 5, "COUNTERS": 64}.items():
            patch.setattr(f"prunecli.ranking.slice_cuts.{name}", value)
        yield


def sizes(geometry: Geometry, lengths: list[int]) -> tuple[int, ...]:
    """Return a shape with these lengths; the inputs of groups are a multiple of their number."""
    shape = lengths[: len(geometry.letters)]
    shape[0] *= geometry.groups
    assert prod(shape)
    return tuple(shape)
