"""The structured strategies: prune whole slices or blocks, ranked by one number each.

NumPy is imported when a strategy measures, because strategies are also made to print help.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf, isfinite
from typing import TYPE_CHECKING, ClassVar

from prunecli.errors import Argument, UsageError
from prunecli.plans import PruneBlocks, PruneSlices, TensorPlan
from prunecli.strategies.amounts import check_amount, front_dim, resolve_count
from prunecli.strategies.strategy import PlansFromMeasure

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from prunecli.checkpoint import TensorInfo
    from prunecli.strategies.strategy import TensorValues


@dataclass(frozen=True, slots=True)
class _Slices(PlansFromMeasure):
    """Prunes the slices along `dim` for which `measure` returns the smallest numbers."""

    amount: float | None = None
    count: int | None = None
    dim: int = 0

    def __post_init__(self) -> None:
        """Check the amount."""
        check_amount(self.amount, self.count)

    @property
    def _unit(self) -> str:
        return f"slices along dim {self.dim}"

    def check(self, tensors: Sequence[TensorInfo]) -> None:
        """Raise PruneError for a tensor without the dimension, or with fewer slices than `count`."""
        for tensor in tensors:
            resolve_count(self.amount, self.count, tensor.shape[front_dim(tensor, self.dim)], self._unit, tensor)

    def _alive(self, values: TensorValues) -> NDArray[np.bool_] | None:
        """Return which slices have a remaining weight; None if no weight is already pruned."""
        from prunecli.kernels.norms import slice_norms

        remaining = values.remaining()
        if remaining is None:
            return None
        return slice_norms(remaining, values.tensor.shape, front_dim(values.tensor, self.dim), inf) > 0

    def plan_from(
        self, tensor: TensorInfo, measured: NDArray[np.float64], alive: NDArray[np.bool_] | None
    ) -> PruneSlices:
        """Return the plan that prunes the slices with the smallest numbers."""
        return PruneSlices(front_dim(tensor, self.dim), *_smallest(self, self._unit, tensor, measured, alive))


@dataclass(frozen=True, slots=True)
class Structured(_Slices):
    """Prune the whole slices along `dim` with the smallest Ln norms, as torch.nn.utils.prune.ln_structured does.

    Norms are computed in float64. Of slices with equal norms the lower index is pruned first.

    Args:
        amount: The fraction of the slices of each tensor to prune, 0 to 1: round(amount * shape[dim]) slices.
        count: The number of slices of each tensor to prune, in place of `amount`.
        dim: The dimension that slices are taken along; negative counts from the end.
        n: The norm: 1, 2, inf or -inf.
        with_bias: Zero the entries of the tensor's bias that belong to the pruned slices; `dim` is 0 then.

    Raises:
        UsageError: An argument is out of range, or not exactly one of `amount` and `count` is set.
    """

    n: float = 2.0
    with_bias: bool = False

    def __post_init__(self) -> None:
        """Check the arguments."""
        _Slices.__post_init__(self)  # `super()` fails in a dataclass with slots, which is a copy of the class
        if self.with_bias and self.dim != 0:
            raise UsageError(
                f"a bias belongs to dim 0, not to dim {self.dim}",
                hint=(Argument("dim", 0), Argument("with_bias", True)),
            )
        if self.n not in {1, 2, inf, -inf}:
            raise UsageError(f"the norm n is 1, 2, inf or -inf, not {self.n:g}", hint=Argument("n", 2))

    @property
    def prunes_bias(self) -> bool:
        """Whether the bias of a tensor is pruned with it."""
        return self.with_bias

    def describe(self) -> dict[str, object]:
        """Return the strategy's name and parameters, for the report."""
        norm = self.n if isfinite(self.n) else str(self.n)
        result: dict[str, object] = {"name": "structured", "amount": self.amount, "count": self.count}
        result |= {"dim": self.dim, "n": norm}
        return {**result, "with_bias": True} if self.with_bias else result

    @property
    def rule(self) -> str:
        """The rule in words."""
        return f"slices along dim {self.dim} of smallest L{self.n:g} norm"

    def measure(self, values: TensorValues) -> tuple[NDArray[np.float64], NDArray[np.bool_] | None]:
        """Return the norm of each slice, and which slices have remaining weights."""
        from prunecli.kernels.norms import slice_norms

        dim = front_dim(values.tensor, self.dim)
        return slice_norms(values.ranked(), values.tensor.shape, dim, self.n), self._alive(values)


@dataclass(frozen=True, slots=True)
class RandomStructured(_Slices):
    """Prune whole slices along `dim` at random, as torch.nn.utils.prune.random_structured does.

    The choice depends on `seed` and on the tensor's name and shape alone. The generator is not torch's.

    Args:
        amount: The fraction of the slices of each tensor to prune, 0 to 1: round(amount * shape[dim]) slices.
        count: The number of slices of each tensor to prune, in place of `amount`.
        dim: The dimension that slices are taken along; negative counts from the end.
        seed: The random seed.

    Raises:
        UsageError: An argument is out of range, or not exactly one of `amount` and `count` is set.
    """

    ranks_weights: ClassVar[bool] = False

    seed: int = 0

    def describe(self) -> dict[str, object]:
        """Return the strategy's name and parameters, for the report."""
        amounts = {"amount": self.amount, "count": self.count}
        return {"name": "random", **amounts, "seed": self.seed, "structured": True, "dim": self.dim}

    @property
    def rule(self) -> str:
        """The rule in words."""
        return f"slices along dim {self.dim} at random, seed {self.seed}"

    def measure(self, values: TensorValues) -> tuple[NDArray[np.float64], NDArray[np.bool_] | None]:
        """Return a random number for each slice, and which slices have remaining weights."""
        from prunecli.kernels.random_bits import draw, random_key

        slices = values.tensor.shape[front_dim(values.tensor, self.dim)]
        return draw(random_key(self.seed, values.tensor), 0, slices).astype("f8"), self._alive(values)

    def plan_from(
        self, tensor: TensorInfo, measured: NDArray[np.float64], alive: NDArray[np.bool_] | None
    ) -> PruneSlices:
        """Return the plan that prunes the slices with the smallest random numbers; the report has no cut."""
        return replace(_Slices.plan_from(self, tensor, measured, alive), value=None)


@dataclass(frozen=True, slots=True)
class Block(PlansFromMeasure):
    """Prune whole blocks of the matrix (shape[0], all other dims) with the smallest root mean squares.

    Blocks at the edges may be smaller; their mean is over the weights they have. Norms are computed in float64. Of
    blocks with equal norms the first in row-major order is pruned first.

    Args:
        rows: The height of a block, at least 1.
        cols: The width of a block, at least 1.
        amount: The fraction of the blocks of each tensor to prune, 0 to 1.
        count: The number of blocks of each tensor to prune, in place of `amount`.

    Raises:
        UsageError: An argument is out of range, or not exactly one of `amount` and `count` is set.
    """

    rows: int
    cols: int
    amount: float | None = None
    count: int | None = None

    def __post_init__(self) -> None:
        """Check the arguments."""
        check_amount(self.amount, self.count)
        if self.rows < 1 or self.cols < 1:
            raise UsageError(
                f"a block has at least one row and one column, not {self.rows}x{self.cols}",
                hint="4x4 has four rows and four columns",
            )

    def describe(self) -> dict[str, object]:
        """Return the strategy's name and parameters, for the report."""
        return {"name": "block", "shape": f"{self.rows}x{self.cols}", "amount": self.amount, "count": self.count}

    @property
    def rule(self) -> str:
        """The rule in words."""
        return f"{self.rows}x{self.cols} tiles of smallest root mean square"

    def check(self, tensors: Sequence[TensorInfo]) -> None:
        """Raise SelectionError for a tensor without dimensions."""
        for tensor in tensors:
            front_dim(tensor, 0)

    def measure(self, values: TensorValues) -> tuple[NDArray[np.float64], NDArray[np.bool_] | None]:
        """Return the root mean square of each block in row-major order, and which blocks have remaining weights."""
        from prunecli.kernels.norms import block_norms

        shape, block = values.tensor.shape, (self.rows, self.cols)
        norms = block_norms(values.ranked(), shape, block).reshape(-1)
        remaining = values.remaining()
        return norms, None if remaining is None else block_norms(remaining, shape, block).reshape(-1) > 0

    def plan_from(
        self, tensor: TensorInfo, measured: NDArray[np.float64], alive: NDArray[np.bool_] | None
    ) -> TensorPlan:
        """Return the plan that prunes the blocks with the smallest norms."""
        unit = f"blocks of {self.rows}x{self.cols}"
        return PruneBlocks((self.rows, self.cols), *_smallest(self, unit, tensor, measured, alive))


def _smallest(
    strategy: _Slices | Block,
    unit: str,
    tensor: TensorInfo,
    measured: NDArray[np.float64],
    alive: NDArray[np.bool_] | None,
) -> tuple[bytes, float | None]:
    """Return one byte per slice or block, 0 for the pruned ones, and the largest number of a pruned one."""
    from prunecli.kernels.norms import smallest_norms

    remaining = measured.size if alive is None else int(alive.sum())
    return smallest_norms(measured, resolve_count(strategy.amount, strategy.count, remaining, unit, tensor), alive)
