"""The strategies that prune whole slices and tiles: each ranks them by a number for each, largest kept.

Like the others they are frozen values that plan, and know nothing about files, patterns, devices or printing.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, isfinite
from typing import TYPE_CHECKING

from prunecli.errors import UsageError
from prunecli.plans import PruneBlocks, PruneSlices, TensorPlan
from prunecli.strategies.amounts import check_amount, front_dim, resolve_count

if TYPE_CHECKING:
    from prunecli.checkpoint import TensorInfo


@dataclass(frozen=True, slots=True)
class Structured:
    """Prune whole slices along `dim`: the k = round(amount * shape[dim]), or `count`, with the smallest Ln norm.

    `n` is 1, 2, inf or -inf; norms are taken in float64. Among equals the lowest index goes first. `with_bias` zeroes
    the entries of a tensor's bias that belong to the slices, along dim 0. torch.nn.utils.prune.ln_structured.
    """

    amount: float | None = None
    count: int | None = None
    dim: int = 0
    n: float = 2.0
    with_bias: bool = False

    def __post_init__(self) -> None:
        """Refuse two amounts, none, one out of range, norms there are not, and biases along other dimensions."""
        check_amount(self.amount, self.count)
        if self.with_bias and self.dim != 0:
            raise UsageError(f"a bias belongs to dim 0, not to dim {self.dim}", hint="--dim 0 --with-bias")
        if self.n not in {1, 2, inf, -inf}:
            raise UsageError(f"--n is 1, 2, inf or -inf, not {self.n:g}", hint="--n 2")

    def describe(self) -> dict[str, object]:
        """Return the strategy's name and parameters, for the report."""
        norm = self.n if isfinite(self.n) else str(self.n)
        told: dict[str, object] = {"name": "structured", "amount": self.amount, "count": self.count}
        told |= {"dim": self.dim, "n": norm}
        return {**told, "with_bias": True} if self.with_bias else told

    def rule(self, _: TensorInfo) -> str:
        """Say in words what happens to a tensor."""
        return f"slices along dim {self.dim} of smallest L{self.n:g} norm"

    def axis(self, tensor: TensorInfo) -> int:
        """Return `dim` counted from the front; SelectionError where the tensor has no such dimension."""
        return front_dim(tensor, self.dim)

    def wanted(self, tensor: TensorInfo, slices: int) -> int:
        """Return how many of the slices go; UsageError if there are not so many."""
        return resolve_count(self.amount, self.count, slices, f"slices along dim {self.dim}", tensor)

    def local(self, tensor: TensorInfo, alive: bytes, value: float | None) -> TensorPlan:
        """Return the local strategy: a byte per slice, 0 where it goes, and the largest norm that does."""
        return PruneSlices(self.axis(tensor), alive, value)


@dataclass(frozen=True, slots=True)
class Block:
    """Prune whole tiles of `rows` x `cols` of the matrix (shape[0], the rest): those of smallest root mean square.

    k = round(amount * tiles), or `count`. Tiles at the edge count by the weights they have. Norms are taken in
    float64; among equals the first tile, row by row, goes first.
    """

    rows: int
    cols: int
    amount: float | None = None
    count: int | None = None

    def __post_init__(self) -> None:
        """Refuse empty tiles, two amounts, none, or one out of range."""
        check_amount(self.amount, self.count)
        if self.rows < 1 or self.cols < 1:
            raise UsageError(
                f"a tile has at least one row and one column, not {self.rows}x{self.cols}", hint="--shape 4x4"
            )

    def describe(self) -> dict[str, object]:
        """Return the strategy's name and parameters, for the report."""
        shape = f"{self.rows}x{self.cols}"
        return {"name": "block", "shape": shape, "amount": self.amount, "count": self.count}

    def rule(self, _: TensorInfo) -> str:
        """Say in words what happens to a tensor."""
        return f"{self.rows}x{self.cols} tiles of smallest root mean square"

    def wanted(self, tensor: TensorInfo, tiles: int) -> int:
        """Return how many of the tiles go; UsageError if there are not so many."""
        return resolve_count(self.amount, self.count, tiles, f"tiles of {self.rows}x{self.cols}", tensor)

    def local(self, _: TensorInfo, alive: bytes, value: float | None) -> TensorPlan:
        """Return the local strategy: a byte per tile, row by row, 0 where it goes, and the largest norm that does."""
        return PruneBlocks((self.rows, self.cols), alive, value)


@dataclass(frozen=True, slots=True)
class RandomStructured:
    """Prune whole slices along `dim` at random: k = round(amount * shape[dim]), or `count`.

    Which ones depends on `seed` and on the tensor's name and shape alone. torch.nn.utils.prune.random_structured, with
    another generator.
    """

    amount: float | None = None
    count: int | None = None
    dim: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse two amounts, none, or one out of range."""
        check_amount(self.amount, self.count)

    def describe(self) -> dict[str, object]:
        """Return the strategy's name and parameters, for the report."""
        asked = {"amount": self.amount, "count": self.count}
        return {"name": "random", **asked, "seed": self.seed, "structured": True, "dim": self.dim}

    def rule(self, _: TensorInfo) -> str:
        """Say in words what happens to a tensor."""
        return f"slices along dim {self.dim} at random, seed {self.seed}"

    def axis(self, tensor: TensorInfo) -> int:
        """Return `dim` counted from the front; SelectionError where the tensor has no such dimension."""
        return front_dim(tensor, self.dim)

    def wanted(self, tensor: TensorInfo, slices: int) -> int:
        """Return how many of the slices go; UsageError if there are not so many."""
        return resolve_count(self.amount, self.count, slices, f"slices along dim {self.dim}", tensor)

    def local(self, tensor: TensorInfo, alive: bytes, _: float | None) -> TensorPlan:
        """Return the local strategy: a byte per slice, 0 where it goes."""
        return PruneSlices(self.axis(tensor), alive)
