"""The structured strategies: prune whole slices or blocks, ranked by one number each.

NumPy is imported when a strategy measures, because strategies are also made to print help.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf, isfinite
from typing import TYPE_CHECKING, Any, ClassVar

from prunecli.errors import Argument, UsageError
from prunecli.layout import slice_view
from prunecli.plans import PruneBlocks, PruneSlices, Smallest, TensorPlan
from prunecli.strategies.amounts import (
    check_amount,
    check_number,
    front_dim,
    one_of_each,
    outputs_of,
    resolve_count,
    rounds_to_none,
)
from prunecli.strategies.strategy import PlansFromMeasure
from prunecli.text.escape import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from prunecli.checkpoint import TensorInfo
    from prunecli.kernels.later import Measured
    from prunecli.layout import SliceView
    from prunecli.strategies.strategy import TensorValues


@dataclass(frozen=True, slots=True)
class _Slices(PlansFromMeasure):
    """Prunes the outputs, or the slices along `dim`, for which `measure` returns the smallest numbers."""

    amount: float | None = None
    count: int | None = None
    dim: int | None = None

    def __post_init__(self) -> None:
        """Check the amount and the dimension."""
        check_amount(self.amount, self.count)
        if self.dim is not None:
            check_number(self.dim, "the dimension", Argument("dim", 0), whole=True)

    @property
    def _slices(self) -> str:
        return "outputs" if self.dim is None else f"slices along dim {self.dim}"

    def _view(self, tensor: TensorInfo) -> SliceView:
        """Return the view of the slices; SelectionError for a tensor without them."""
        return outputs_of(tensor) if self.dim is None else slice_view(tensor.shape, front_dim(tensor, self.dim))

    def _unit(self, tensor: TensorInfo) -> str:
        """Return the words for the slices of which a part is pruned."""
        layout = tensor.layout
        if self.dim is not None or layout.outputs is None:
            return self._slices
        each = "an expert" if layout.experts is not None else "a group" if layout.groups > 1 else ""
        return layout.dim_words(layout.outputs) + (f" of {each}" if each else "")

    def check(self, tensors: Sequence[TensorInfo]) -> None:
        """Raise PruneError for a tensor without the slices, or with fewer of them than `count`."""
        for tensor in one_of_each(tensors):
            resolve_count(self.amount, self.count, self._view(tensor).slices, self._unit(tensor), tensor)

    @property
    def follows_layout(self) -> bool:
        """Whether slices are outputs, or biases belong to them."""
        return self.dim is None or self.prunes_bias

    def warnings(self, tensors: Sequence[TensorInfo]) -> tuple[str, ...]:
        """Return a sentence about tensors of which no slice is pruned."""
        if not rounds_to_none(self.amount, self._totals(one_of_each(tensors)), self._slices):
            return ()
        return rounds_to_none(self.amount, self._totals(tensors), self._slices)

    def _totals(self, tensors: Iterable[TensorInfo]) -> list[tuple[TensorInfo, int]]:
        return [(tensor, self._view(tensor).slices) for tensor in tensors]

    def _alive(self, values: TensorValues) -> NDArray[np.bool_] | None:
        """Return which slices have a remaining weight; None if no weight is already pruned."""
        from prunecli.kernels.later import fetched
        from prunecli.kernels.norms import slice_norms

        remaining = values.remaining()
        if remaining is None:
            return None
        (norms,) = fetched([slice_norms(remaining, self._view(values.tensor), inf)])
        alive: NDArray[np.bool_] = norms > 0
        return alive

    def plan_from(
        self, tensor: TensorInfo, measured: NDArray[np.float64], alive: NDArray[np.bool_] | None
    ) -> PruneSlices:
        """Return the plan that prunes the slices with the smallest numbers."""
        view = self._view(tensor)
        return PruneSlices(view, *_smallest(self, self._unit(tensor), tensor, _Parts(measured, alive, view.stacks)))


@dataclass(frozen=True, slots=True)
class Structured(_Slices):
    """Prune the whole outputs with the smallest Ln norms, as torch.nn.utils.prune.ln_structured does along `dim`.

    Norms are computed in float64. Of slices with equal norms the lower index is pruned first.

    Args:
        amount: The fraction of the slices of each tensor to prune, 0 to 1: round(amount * slices). Of stacked experts
            it is the fraction of each expert's outputs.
        count: The number of slices of each tensor or expert to prune, in place of `amount`.
        dim: The dimension that slices are taken along; negative counts from the end. None means each tensor's outputs.
        n: The norm: 1, 2, inf or -inf.
        with_bias: Zero the entries of the tensor's bias that belong to the pruned outputs.

    Raises:
        UsageError: An argument is out of range, or not exactly one of `amount` and `count` is set.
    """

    n: float = 2.0
    with_bias: bool = False

    def __post_init__(self) -> None:
        """Check the arguments."""
        _Slices.__post_init__(self)  # `super()` fails in a dataclass with slots, which is a copy of the class
        check_number(self.n, "the norm n", Argument("n", 2))
        if self.n not in {1, 2, inf, -inf}:
            near = min((2, 1, inf, -inf), key=lambda n: abs(n - self.n))
            raise UsageError(f"the norm n is 1, 2, inf or -inf, not {self.n:g}", hint=Argument("n", near))

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
        return f"{self._slices} of smallest L{self.n:g} norm"

    def check(self, tensors: Sequence[TensorInfo]) -> None:
        """Raise PruneError as for other slices, and where a bias belongs to another dimension than `dim`."""
        _Slices.check(self, tensors)
        if not self.with_bias or self.dim is None:
            return
        for tensor in tensors:
            layout, dim = tensor.layout, front_dim(tensor, self.dim)
            if dim != layout.outputs or layout.experts is not None or layout.groups > 1:
                raise UsageError(
                    f"the bias of {printable(repr(tensor.name))} belongs to its outputs, not to slices along dim {dim}",
                    hint=("leave out ", Argument("dim", self.dim), " to prune outputs"),
                )

    def measure(self, values: TensorValues) -> tuple[Measured, NDArray[np.bool_] | None]:
        """Return the norm of each slice, and which slices have remaining weights."""
        from prunecli.kernels.norms import slice_norms

        return slice_norms(values.ranked(), self._view(values.tensor), self.n), self._alive(values)

    def smallest(self, tensor: TensorInfo) -> Smallest:
        """Return the slices of smallest norm."""
        view = self._view(tensor)
        count = resolve_count(self.amount, self.count, view.slices, self._unit(tensor), tensor)
        return Smallest(view, count, self.n)


@dataclass(frozen=True, slots=True)
class RandomStructured(_Slices):
    """Prune whole outputs at random, as torch.nn.utils.prune.random_structured does along `dim`.

    The choice depends on `seed` and on the tensor's name and shape alone. The generator is not torch's.

    Args:
        amount: The fraction of the slices of each tensor or expert to prune, 0 to 1: round(amount * slices).
        count: The number of slices of each tensor or expert to prune, in place of `amount`.
        dim: The dimension that slices are taken along; negative counts from the end. None means each tensor's outputs.
        seed: The random seed.

    Raises:
        UsageError: An argument is out of range, or not exactly one of `amount` and `count` is set.
    """

    ranks_weights: ClassVar[bool] = False

    seed: int = 0

    def __post_init__(self) -> None:
        """Check the arguments."""
        _Slices.__post_init__(self)
        check_number(self.seed, "the seed", Argument("seed", 0), whole=True)

    def describe(self) -> dict[str, object]:
        """Return the strategy's name and parameters, for the report."""
        amounts = {"amount": self.amount, "count": self.count}
        return {"name": "random", **amounts, "seed": self.seed, "structured": True, "dim": self.dim}

    @property
    def rule(self) -> str:
        """The rule in words."""
        return f"{self._slices} at random, seed {self.seed}"

    def measure(self, values: TensorValues) -> tuple[Measured, NDArray[np.bool_] | None]:
        """Return a random number for each slice, and which slices have remaining weights."""
        from prunecli.kernels.random_bits import draw, random_key

        numbers = draw(random_key(self.seed, values.tensor), 0, self._view(values.tensor).total)
        return numbers.astype("f8"), self._alive(values)

    def plan_from(
        self, tensor: TensorInfo, measured: NDArray[np.float64], alive: NDArray[np.bool_] | None
    ) -> PruneSlices:
        """Return the plan that prunes the slices with the smallest random numbers; the report has no cut."""
        return replace(_Slices.plan_from(self, tensor, measured, alive), value=None)


@dataclass(frozen=True, slots=True)
class Block(PlansFromMeasure):
    """Prune whole blocks of the matrix (outputs, all other dimensions) with the smallest root mean squares.

    Blocks at the edges may be smaller; their mean is over the weights they have. Norms are computed in float64. Of
    blocks with equal norms the first in row-major order of the matrix is pruned first. No block crosses experts.

    Args:
        rows: The height of a block in outputs, at least 1.
        cols: The width of a block in inputs, at least 1.
        amount: The fraction of the blocks of each tensor or expert to prune, 0 to 1.
        count: The number of blocks of each tensor or expert to prune, in place of `amount`.

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
        check_number(self.rows, "the number of rows", Argument("rows", 4), whole=True)
        check_number(self.cols, "the number of columns", Argument("cols", 4), whole=True)
        if self.rows < 1 or self.cols < 1:
            raise UsageError(
                f"a block has at least one row and one column, not {self.rows}x{self.cols}",
                hint=(Argument("rows", abs(self.rows) or 1), Argument("cols", abs(self.cols) or 1)),
            )

    @property
    def follows_layout(self) -> bool:
        """Whether the rows of a block are outputs."""
        return True

    def describe(self) -> dict[str, object]:
        """Return the strategy's name and parameters, for the report."""
        return {"name": "block", "shape": f"{self.rows}x{self.cols}", "amount": self.amount, "count": self.count}

    @property
    def rule(self) -> str:
        """The rule in words."""
        return f"{self.rows}x{self.cols} tiles of smallest root mean square"

    def check(self, tensors: Sequence[TensorInfo]) -> None:
        """Raise PruneError for a tensor without outputs, or with fewer blocks than `count`."""
        for tensor in tensors:
            resolve_count(self.amount, self.count, self._blocks(tensor), self._unit, tensor)

    def _blocks(self, tensor: TensorInfo) -> int:
        """Return the number of blocks of a tensor or expert."""
        view = outputs_of(tensor)
        return -(-view.slices // self.rows) * -(-view.size // self.cols)

    @property
    def _unit(self) -> str:
        return f"blocks of {self.rows}x{self.cols}"

    def warnings(self, tensors: Sequence[TensorInfo]) -> tuple[str, ...]:
        """Return a sentence about tensors of which no block is pruned."""
        return rounds_to_none(self.amount, [(tensor, self._blocks(tensor)) for tensor in tensors], self._unit)

    def measure(self, values: TensorValues) -> tuple[Measured, NDArray[np.bool_] | None]:
        """Return the root mean square of each block in row-major order, and which blocks have remaining weights."""
        import numpy as np

        from prunecli.kernels.arrays import on_host
        from prunecli.kernels.norms import block_norms
        from prunecli.kernels.ops import is_tensor

        view, block = outputs_of(values.tensor), (self.rows, self.cols)
        norms = block_norms(values.ranked(), view, block).reshape(-1)
        remaining = values.remaining()
        if remaining is None:
            return norms, None
        alive = block_norms(remaining, view, block).reshape(-1) > 0
        return (np.sqrt(on_host(norms)), on_host(alive)) if is_tensor(norms) else (norms, alive)

    def smallest(self, tensor: TensorInfo) -> Smallest | None:
        """Return the blocks of smallest norm, if the outputs lie in rows."""
        view = outputs_of(tensor)
        if view.before > 1:
            return None
        count = resolve_count(self.amount, self.count, self._blocks(tensor), self._unit, tensor)
        return Smallest(view, count, block=(self.rows, self.cols))

    def plan_from(
        self, tensor: TensorInfo, measured: NDArray[np.float64], alive: NDArray[np.bool_] | None
    ) -> TensorPlan:
        """Return the plan that prunes the blocks with the smallest norms."""
        view = outputs_of(tensor)
        parts = _Parts(measured, alive, view.stacks)
        return PruneBlocks(view, (self.rows, self.cols), *_smallest(self, self._unit, tensor, parts))


@dataclass(frozen=True, slots=True)
class _Parts:
    """Numbers of slices or blocks, and which of them are alive, in so many stacks that are ranked for themselves."""

    measured: NDArray[np.float64]
    alive: NDArray[np.bool_] | None
    stacks: int

    def __iter__(self) -> Iterator[tuple[NDArray[np.float64], NDArray[np.bool_] | None]]:
        """Yield the numbers of each stack."""
        size = len(self.measured) // self.stacks
        for first in range(0, len(self.measured), size):
            alive = None if self.alive is None else self.alive[first : first + size]
            yield self.measured[first : first + size], alive


def _smallest(strategy: _Slices | Block, unit: str, tensor: TensorInfo, parts: _Parts) -> tuple[Any, float | None]:
    """Return one byte per slice or block, 0 for the pruned ones, and the largest number of a pruned one.

    The bytes of numbers on a device lie there.
    """
    from prunecli.kernels.norms import joined_flags, smallest_norms

    flags, largest = [], []
    for measured, alive in parts:
        remaining = len(measured) if alive is None else int(alive.sum())
        count = resolve_count(strategy.amount, strategy.count, remaining, unit, tensor)
        kept, value = smallest_norms(measured, count, alive)
        flags.append(kept)
        largest += [] if value is None else [value]
    return (flags[0] if len(flags) == 1 else joined_flags(flags)), max(largest, default=None)
