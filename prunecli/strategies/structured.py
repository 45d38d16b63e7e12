"""The structured strategies: prune whole slices or blocks, ranked by one number each.

NumPy is imported when a strategy measures, because strategies are also made to print help.
"""

from __future__ import annotations

from dataclasses import dataclass
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
class Structured(PlansFromMeasure):
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

    amount: float | None = None
    count: int | None = None
    dim: int = 0
    n: float = 2.0
    with_bias: bool = False

    def __post_init__(self) -> None:
        """Check the arguments."""
        check_amount(self.amount, self.count)
        if self.with_bias and self.dim != 0:
            raise UsageError(
                f"a bias belongs to dim 0, not to dim {self.dim}",
                hint=(Argument("dim", 0), " and ", Argument("with_bias", True)),
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

    def describe_for(self, tensor: TensorInfo) -> str:  # noqa: ARG002 - the same for all
        """Return the rule in words."""
        return f"slices along dim {self.dim} of smallest L{self.n:g} norm"

    def check(self, tensors: Sequence[TensorInfo]) -> None:
        """Raise PruneError for a tensor without the dimension, or with fewer slices than `count`."""
        for tensor in tensors:
            _slice_count(self, tensor, tensor.shape[front_dim(tensor, self.dim)])

    def measure(self, values: TensorValues) -> tuple[NDArray[np.float64], NDArray[np.bool_] | None]:
        """Return the norm of each slice, and which slices have remaining weights."""
        from prunecli.kernels.norms import slice_norms

        dim = front_dim(values.tensor, self.dim)
        return slice_norms(values.ranked(), values.tensor.shape, dim, self.n), _slices_alive(values, dim)

    def plan_from(
        self, tensor: TensorInfo, measured: NDArray[np.float64], alive: NDArray[np.bool_] | None
    ) -> TensorPlan:
        """Return the plan that prunes the slices with the smallest norms."""
        return PruneSlices(front_dim(tensor, self.dim), *_smallest_slices(self, tensor, measured, alive))


@dataclass(frozen=True, slots=True)
class RandomStructured(PlansFromMeasure):
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

    amount: float | None = None
    count: int | None = None
    dim: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the arguments."""
        check_amount(self.amount, self.count)

    def describe(self) -> dict[str, object]:
        """Return the strategy's name and parameters, for the report."""
        amounts = {"amount": self.amount, "count": self.count}
        return {"name": "random", **amounts, "seed": self.seed, "structured": True, "dim": self.dim}

    def describe_for(self, tensor: TensorInfo) -> str:  # noqa: ARG002 - the same for all
        """Return the rule in words."""
        return f"slices along dim {self.dim} at random, seed {self.seed}"

    def check(self, tensors: Sequence[TensorInfo]) -> None:
        """Raise PruneError for a tensor without the dimension, or with fewer slices than `count`."""
        for tensor in tensors:
            _slice_count(self, tensor, tensor.shape[front_dim(tensor, self.dim)])

    def measure(self, values: TensorValues) -> tuple[NDArray[np.float64], NDArray[np.bool_] | None]:
        """Return a random number for each slice, and which slices have remaining weights."""
        from prunecli.kernels.random_bits import draw, random_key

        dim = front_dim(values.tensor, self.dim)
        drawn = draw(random_key(self.seed, values.tensor), 0, values.tensor.shape[dim])
        return drawn.astype("f8"), _slices_alive(values, dim)

    def plan_from(
        self, tensor: TensorInfo, measured: NDArray[np.float64], alive: NDArray[np.bool_] | None
    ) -> TensorPlan:
        """Return the plan that prunes the slices with the smallest random numbers; the report has no cut."""
        keep, _ = _smallest_slices(self, tensor, measured, alive)
        return PruneSlices(front_dim(tensor, self.dim), keep)


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

    def describe_for(self, tensor: TensorInfo) -> str:  # noqa: ARG002 - the same for all
        """Return the rule in words."""
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
        from prunecli.kernels.norms import smallest_norms

        blocks = measured.size if alive is None else int(alive.sum())
        k = resolve_count(self.amount, self.count, blocks, f"blocks of {self.rows}x{self.cols}", tensor)
        return PruneBlocks((self.rows, self.cols), *smallest_norms(measured, k, alive))


def _slice_count(strategy: Structured | RandomStructured, tensor: TensorInfo, slices: int) -> int:
    """Return how many of `slices` are pruned; UsageError if `count` is more."""
    return resolve_count(strategy.amount, strategy.count, slices, f"slices along dim {strategy.dim}", tensor)


def _slices_alive(values: TensorValues, dim: int) -> NDArray[np.bool_] | None:
    """Return which slices along `dim` have a remaining weight; None if no weight is already pruned."""
    from prunecli.kernels.norms import slice_norms

    remaining = values.remaining()
    return None if remaining is None else slice_norms(remaining, values.tensor.shape, dim, inf) > 0


def _smallest_slices(
    strategy: Structured | RandomStructured,
    tensor: TensorInfo,
    measured: NDArray[np.float64],
    alive: NDArray[np.bool_] | None,
) -> tuple[bytes, float | None]:
    """Return one byte per slice, 0 for the pruned ones, and the largest number of a pruned slice."""
    from prunecli.kernels.norms import smallest_norms

    slices = measured.size if alive is None else int(alive.sum())
    return smallest_norms(measured, _slice_count(strategy, tensor, slices), alive)
