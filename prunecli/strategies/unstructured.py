"""The pruning strategies a user can name: each is a frozen value that plans, for each tensor, which weights to keep.

`Threshold` and `TopK` need nothing but the tensor's dtype and shape, and `plan` at once. Others need numbers about the
weights first: `Percentile`, `L1` and `Global` order statistics, which they name in `groups` and turn into `cuts`;
`Spread`, `Structured` and `Block` a deviation or norms, which make them `local`. Nothing here knows about files,
patterns, devices or printing.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, floor, isfinite
from typing import TYPE_CHECKING, TypeAlias

from prunecli.dtypes import FLOATS
from prunecli.errors import UsageError
from prunecli.plans import Cut, OrderStatistic, PruneSmallestOfRow, RankGroup, TensorPlan
from prunecli.strategies.allocation import allocate
from prunecli.strategies.amounts import (
    check_amount,
    cut_above,
    exact_cuts,
    front_dim,
    group_per_tensor,
    resolve_count,
    resolve_counts,
    to_float32,
)
from prunecli.strategies.mask import Keep, Mask
from prunecli.strategies.semi_structured import TopK
from prunecli.strategies.structured import Block, RandomStructured, Structured
from prunecli.text.escape import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prunecli.checkpoint import TensorInfo

NORMALIZE = ("none", "l2", "rms", "lamp")
"""What `Global` can rank across tensors."""

ALLOCATE = ("uniform", "erk", "uniform+")
"""How `L1` can share an amount out among tensors."""


@dataclass(frozen=True, slots=True)
class Threshold:
    """Prune every weight whose magnitude is `thr` (in the tensor's own units, >= 0) or less.

    `thr` is rounded to the tensor's dtype first, as `tensor.abs() > thr` does in torch.
    """

    thr: float

    def __post_init__(self) -> None:
        """Refuse thresholds that mean nothing."""
        if not (isfinite(self.thr) and self.thr >= 0):
            raise UsageError(f"a threshold is a finite number of 0 or more, not {self.thr}", hint="--thr 0.1")

    def describe(self) -> dict[str, object]:
        """Return the strategy's name and parameters, for the report."""
        return {"name": "threshold", "thr": self.thr}

    def rule(self, _: TensorInfo) -> str:
        """Say in words what happens to a tensor."""
        return f"|w| <= {self.thr:g}"

    def plan(self, tensor: TensorInfo) -> TensorPlan:
        """Return the cut just above `thr` in the tensor's dtype; infinities and NaN stay."""
        return cut_above(self.thr, FLOATS[tensor.dtype])


@dataclass(frozen=True, slots=True)
class StdThreshold:
    """Prune, per tensor, every weight whose magnitude is `deviations` standard deviations of its weights or less.

    The deviation is torch's `Tensor.std` (n - 1 in the denominator), summed in float64 over the finite weights.
    """

    deviations: float

    def __post_init__(self) -> None:
        """Refuse multiples that mean nothing."""
        if not (isfinite(self.deviations) and self.deviations >= 0):
            raise UsageError(f"--thr-std is a finite number of 0 or more, not {self.deviations}", hint="--thr-std 0.5")

    def describe(self) -> dict[str, object]:
        """Return the strategy's name and parameters, for the report."""
        return {"name": "threshold", "thr_std": self.deviations}

    def rule(self, _: TensorInfo) -> str:
        """Say in words what happens to a tensor."""
        return f"|w| <= {self.deviations:g} std"

    def local(self, tensor: TensorInfo, deviation: float) -> TensorPlan:
        """Return the cut for a tensor whose weights have this standard deviation."""
        return cut_above(self.deviations * deviation, FLOATS[tensor.dtype])


@dataclass(frozen=True, slots=True)
class Percentile:
    """Prune, per tensor, every weight with |w| <= np.percentile(|w|, q); `q` is 0 to 100, method "linear".

    NumPy's arithmetic is followed: the rank in float64, the interpolation in the tensor's own precision, and in
    float32 for the 16- and 8-bit types, which NumPy would be handed as float32.
    """

    q: float

    def __post_init__(self) -> None:
        """Refuse what is no percentile."""
        if not 0 <= self.q <= 100:
            raise UsageError(f"a percentile is 0 to 100, not {self.q:g}", hint="--q 60")

    def describe(self) -> dict[str, object]:
        """Return the strategy's name and parameters, for the report."""
        return {"name": "percentile", "q": self.q}

    def rule(self, _: TensorInfo) -> str:
        """Say in words what happens to a tensor."""
        return f"|w| <= percentile {self.q:g}"

    def _index(self, count: int) -> float:
        """Return the 0-based, fractional rank: NumPy's virtual index of the method "linear"."""
        return (count - 1) * (self.q / 100)

    def groups(self, _: Sequence[TensorInfo], left: Sequence[int]) -> list[RankGroup]:
        """Each tensor by itself, with the two ranks around the percentile."""
        groups = []
        for at, count in enumerate(left):
            low = min(floor(self._index(count)), count - 1)
            ranks = sorted({low + 1, min(low + 2, count)}) if count else ()
            groups.append(RankGroup((at,), tuple(ranks), ties=False))
        return groups

    def cuts(self, tensors: Sequence[TensorInfo], orders: Sequence[OrderStatistic], left: Sequence[int]) -> list[Cut]:
        """Interpolate between the two statistics and cut just above."""
        if not orders:
            return [Cut(0)]
        dtype = FLOATS[tensors[0].dtype]
        rounded = float if dtype.name == "F64" else to_float32
        low, high = orders[0].value, orders[-1].value
        part = self._index(left[0]) - (orders[0].rank - 1)
        if part > 0 and isfinite(high):
            step = rounded(high - low)
            up, down = rounded(step * rounded(part)), rounded(step * rounded(1 - part))
            low = rounded(high - down) if part >= 0.5 else rounded(low + up)
        bits = dtype.floor(low)
        return [Cut(bits + 1, value=low if isfinite(low) else dtype.decode(bits))]


@dataclass(frozen=True, slots=True)
class Global:
    """Prune the k smallest magnitudes of all tensors together; exactly k = round(amount * n), or `count`.

    One of `amount` (0 to 1) and `count` is set. Among equals at the cut, tensors in checkpoint order and then
    row-major order decide. torch.nn.utils.prune.global_unstructured with L1Unstructured.

    `normalize` ranks something else across tensors: "l2" |w| / ||W||, "rms" |w| / rms(W), "lamp" the LAMP score
    w^2 / (sum of squares of all that are not smaller; https://arxiv.org/abs/2010.07611). No tensor loses less than the
    fraction `min_per_tensor` of its weights, nor more than `max_per_tensor`.
    """

    amount: float | None = None
    count: int | None = None
    normalize: str = "none"
    min_per_tensor: float = 0.0
    max_per_tensor: float = 1.0

    def __post_init__(self) -> None:
        """Refuse two amounts, none, one out of range, bounds that cross, and scores there are not."""
        check_amount(self.amount, self.count)
        if self.normalize not in NORMALIZE:
            kinds = "none, l2, rms or lamp"
            raise UsageError(f"--normalize is {kinds}, not {printable(repr(self.normalize))}", hint="--normalize rms")
        if not 0 <= self.min_per_tensor <= self.max_per_tensor <= 1:
            raise UsageError(
                "0 <= --min-per-tensor <= --max-per-tensor <= 1 is needed, "
                f"not {self.min_per_tensor:g} and {self.max_per_tensor:g}",
                hint="--min-per-tensor 0.1 --max-per-tensor 0.9",
            )

    @property
    def curved(self) -> bool:
        """Whether tensors are ranked together by more than their magnitudes."""
        return self.normalize != "none" or self.min_per_tensor > 0 or self.max_per_tensor < 1

    def bounds(self, left: Sequence[int]) -> list[tuple[int, int]]:
        """Return the fewest and the most weights that each tensor loses of what is `left` of it."""
        fewest = [ceil(self.min_per_tensor * n) for n in left]
        return [(low, max(low, floor(self.max_per_tensor * n))) for low, n in zip(fewest, left, strict=True)]

    def describe(self) -> dict[str, object]:
        """Return the strategy's name and parameters, for the report."""
        told: dict[str, object] = {"name": "global", "amount": self.amount, "count": self.count}
        if self.curved:
            told |= {"normalize": self.normalize}
            told |= {"min_per_tensor": self.min_per_tensor, "max_per_tensor": self.max_per_tensor}
        return told

    def rule(self, _: TensorInfo) -> str:
        """Say in words what happens to a tensor."""
        return "smallest of all selected" + ("" if self.normalize == "none" else f", by {self.normalize}")

    def groups(self, tensors: Sequence[TensorInfo], left: Sequence[int]) -> list[RankGroup]:
        """All tensors in one group; no rank where nothing is to be pruned."""
        k = resolve_count(self.amount, self.count, sum(left))
        return [RankGroup(tuple(range(len(tensors))), (k,) if k else ())]

    def cuts(self, tensors: Sequence[TensorInfo], orders: Sequence[OrderStatistic], _: Sequence[int]) -> list[Cut]:
        """Cut at the k-th smallest; equals there go first come, first pruned, until the count is reached."""
        if not orders:
            return [Cut(0) for _ in tensors]
        return exact_cuts(orders[0])


@dataclass(frozen=True, slots=True)
class L1:
    """Prune, per tensor, the k smallest magnitudes; exactly k = round(amount * n), or `count`.

    scope="row" ranks within each output row (dim 0) instead, with k = round(amount * row length) for each. Among
    equals the lowest index goes first. torch.nn.utils.prune.l1_unstructured.

    `allocate` shares round(amount * all weights) out among the tensors, by their shapes alone: "uniform", "erk" or
    "uniform+" (see `prunecli.strategies.allocation`).
    """

    amount: float | None = None
    count: int | None = None
    scope: str = "tensor"
    allocate: str | None = None

    def __post_init__(self) -> None:
        """Refuse two amounts, none, one out of range, and scopes and allocations there are not."""
        check_amount(self.amount, self.count)
        if self.allocate not in {None, *ALLOCATE}:
            kinds = "uniform, erk or uniform+"
            raise UsageError(f"--allocate is {kinds}, not {printable(repr(self.allocate))}", hint="--allocate erk")
        if self.allocate is not None and (self.amount is None or self.scope == "row"):
            raise UsageError(
                "--allocate shares out an --amount among whole tensors", hint="--allocate erk --amount 0.5"
            )
        if self.scope not in {"tensor", "row"}:
            raise UsageError(f"--scope is tensor or row, not {printable(repr(self.scope))}", hint="--scope row")

    def describe(self) -> dict[str, object]:
        """Return the strategy's name and parameters, for the report."""
        told: dict[str, object] = {"name": "l1", "amount": self.amount, "count": self.count, "scope": self.scope}
        return told if self.allocate is None else {**told, "allocate": self.allocate}

    def rule(self, _: TensorInfo) -> str:
        """Say in words what happens to a tensor."""
        return f"smallest of each {self.scope}" + ("" if self.allocate is None else f", shares by {self.allocate}")

    def plan(self, tensor: TensorInfo) -> TensorPlan:
        """Return the local strategy for scope="row"; the other needs ranks first."""
        resolve_count(
            self.amount, self.count, tensor.numel // tensor.shape[front_dim(tensor, 0)], "weights in a row", tensor
        )
        return PruneSmallestOfRow(
            lambda left: resolve_count(self.amount, self.count, left, "weights left in a row", tensor)
        )

    def groups(self, tensors: Sequence[TensorInfo], left: Sequence[int]) -> list[RankGroup]:
        """Each tensor by itself; no rank where nothing is to be pruned."""
        if self.allocate is not None and self.amount is not None:
            return group_per_tensor(allocate(self.allocate, [t.shape for t in tensors], left, self.amount))
        return group_per_tensor(resolve_counts(self.amount, self.count, tensors, left))

    def cuts(self, tensors: Sequence[TensorInfo], orders: Sequence[OrderStatistic], _: Sequence[int]) -> list[Cut]:
        """Cut at the k-th smallest of the tensor."""
        return exact_cuts(orders[0]) if orders else [Cut(0) for _ in tensors]


@dataclass(frozen=True, slots=True)
class Random:
    """Prune, per tensor, k weights at random; exactly k = round(amount * n), or `count`.

    Which ones depends on `seed` and on the tensor's name and shape alone: neither on the other tensors nor on the
    device. torch.nn.utils.prune.random_unstructured, with another generator.
    """

    amount: float | None = None
    count: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse two amounts, none, or one out of range."""
        check_amount(self.amount, self.count)

    def describe(self) -> dict[str, object]:
        """Return the strategy's name and parameters, for the report."""
        return {"name": "random", "amount": self.amount, "count": self.count, "seed": self.seed}

    def rule(self, _: TensorInfo) -> str:
        """Say in words what happens to a tensor."""
        return f"at random, seed {self.seed}"

    def groups(self, tensors: Sequence[TensorInfo], left: Sequence[int]) -> list[RankGroup]:
        """Each tensor by itself; the ranks are those of random numbers."""
        return group_per_tensor(resolve_counts(self.amount, self.count, tensors, left))

    def cuts(self, tensors: Sequence[TensorInfo], orders: Sequence[OrderStatistic], _: Sequence[int]) -> list[Cut]:
        """Cut at the k-th smallest random number; what that is tells nobody anything."""
        if not orders:
            return [Cut(0) for _ in tensors]
        return [Cut(cut.bits, cut.ties) for cut in exact_cuts(orders[0])]


Strategy: TypeAlias = (
    Threshold
    | StdThreshold
    | Percentile
    | L1
    | Global
    | TopK
    | Structured
    | Block
    | Random
    | RandomStructured
    | Mask
    | Keep
)
"""What a run can be asked for."""

__all__ = [
    "L1",
    "Block",
    "Global",
    "Keep",
    "Mask",
    "Percentile",
    "Random",
    "RandomStructured",
    "StdThreshold",
    "Strategy",
    "Structured",
    "Threshold",
    "TopK",
]
