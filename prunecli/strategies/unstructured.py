"""The unstructured strategies: each decides about single weights by their rank.

NumPy is imported when a strategy draws, because strategies are also made to print help.
"""

from __future__ import annotations

from math import ceil, floor, isfinite
from typing import TYPE_CHECKING, ClassVar

from prunecli.dtypes import FLOATS
from prunecli.errors import Argument, UsageError
from prunecli.plans import Cut, Normalization, OrderStatistic, PruneSmallestOfRow, RankGroup, TensorPlan
from prunecli.strategies.amounts import (
    Wanted,
    check_amount,
    check_counts,
    check_number,
    group_per_tensor,
    outputs_of,
    resolve_count,
    resolve_counts,
    rounds_to_none,
    to_float32,
)
from prunecli.strategies.depth import layer_depths
from prunecli.strategies.nearest import nearest_limits, nearest_of, nearest_percentile
from prunecli.strategies.strategy import PlansFromRanks, PlansFromShape
from prunecli.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prunecli.checkpoint import TensorInfo
    from prunecli.kernels.random_bits import RandomNumbers

NORMALIZE = ("none", "l2", "rms", "lamp")
"""The scores that `Global` can rank tensors by."""

SCOPES = ("tensor", "row")
"""The parts of a tensor that `L1` can take an amount of."""

_WHOLE = {"layer", "layers", "local", "module", "weight", "global"}
"""What people call the scope of a whole tensor."""


@dataclass(frozen=True, slots=True)
class Percentile(PlansFromRanks):
    """Prune, per tensor, every weight with |w| <= np.percentile(|w|, q), method "linear".

    The arithmetic is NumPy's: the rank in float64, the interpolation in the tensor's own precision. Weights of 16 and 8
    bits are first converted to float32, `w.astype(np.float32)`: np.percentile of a float16 array itself rounds the
    result to float16, and may prune more or fewer weights. Weights that are codes times a scale are float64.

    Args:
        q: The percentile, 0 to 100, as NumPy takes it: 0.9 is 0.9 %. (The command line asks which is meant.)

    Raises:
        UsageError: `q` is out of range.
    """

    q: float

    def __post_init__(self) -> None:
        """Check the percentile."""
        check_number(self.q, "the percentile", Argument("q", 60))
        if not 0 <= self.q <= 100:
            raise UsageError(f"the percentile is 0 to 100, not {self.q:g}", hint=nearest_percentile(self.q))

    def describe(self) -> dict[str, object]:
        """Return the strategy's name and parameters, for the report."""
        return {"name": "percentile", "q": self.q}

    @property
    def rule(self) -> str:
        """The rule in words."""
        return f"|w| <= percentile {self.q:g}"

    def _index(self, count: int) -> float:
        """Return the 0-based, fractional rank: NumPy's virtual index of the method "linear"."""
        return (count - 1) * (self.q / 100)

    def groups(self, tensors: Sequence[TensorInfo], remaining: Sequence[int]) -> list[RankGroup]:  # noqa: ARG002
        """Return each tensor as a group of its own, with the two ranks around the percentile."""
        groups = []
        for index, count in enumerate(remaining):
            low = min(floor(self._index(count)), count - 1)
            ranks = sorted({low + 1, min(low + 2, count)}) if count else ()
            groups.append(RankGroup((index,), tuple(ranks), ties=False))
        return groups

    def cuts(
        self, tensors: Sequence[TensorInfo], statistics: Sequence[OrderStatistic], remaining: Sequence[int]
    ) -> list[Cut]:
        """Return the cut just above the number interpolated between the two statistics."""
        if not statistics:
            return [Cut(0)]
        dtype = FLOATS[tensors[0].dtype]
        rounded = float if dtype.name == "F64" else to_float32
        low, high = statistics[0].value, statistics[-1].value
        part = self._index(remaining[0]) - (statistics[0].rank - 1)
        if part > 0 and isfinite(high):  # if it is infinite, `low` is the largest finite weight
            # NumPy's _lerp: from the upper end for the upper half, so that part = 1 gives exactly `high`.
            step = rounded(high - low)
            up, down = rounded(step * rounded(part)), rounded(step * rounded(1 - part))
            low = rounded(high - down) if part >= 0.5 else rounded(low + up)
        bits = dtype.floor(low)
        return [Cut(bits + 1, value=low if isfinite(low) else dtype.decode(bits))]


@dataclass(frozen=True, slots=True)
class Global(PlansFromRanks):
    """Prune the smallest weights of all tensors together, exactly k = round(amount * all weights), or `count`.

    Without normalisation this is torch.nn.utils.prune.global_unstructured with L1Unstructured. Ties at the cut are
    broken by position: tensors in checkpoint order, then row-major order.

    Args:
        amount: The fraction of all selected weights to prune, 0 to 1.
        count: The number of weights to prune, in place of `amount`.
        normalize: The score that tensors are compared by: "none" |w|, "l2" |w| / ||W||, "rms" |w| / rms(W), "lamp"
            w^2 / (the sum of squares of all weights of the tensor that are not smaller), Lee et al. 2021,
            https://arxiv.org/abs/2010.07611.
        min_per_tensor: The smallest fraction of each tensor to prune, 0 to 1.
        max_per_tensor: The largest fraction of each tensor to prune, `min_per_tensor` to 1.

    Raises:
        UsageError: An argument is out of range, or not exactly one of `amount` and `count` is set.
    """

    amount: float | None = None
    count: int | None = None
    normalize: str = "none"
    min_per_tensor: float = 0.0
    max_per_tensor: float = 1.0

    def __post_init__(self) -> None:
        """Check the arguments."""
        check_amount(self.amount, self.count)
        if self.normalize not in NORMALIZE:
            raise UsageError(
                f"the normalization is none, l2, rms or lamp, not {self.normalize!r}",
                hint=nearest_of("normalize", self.normalize, NORMALIZE, "rms"),
            )
        check_number(self.min_per_tensor, "the minimum per tensor", Argument("min_per_tensor", 0.1))
        check_number(self.max_per_tensor, "the maximum per tensor", Argument("max_per_tensor", 0.9))
        if not 0 <= self.min_per_tensor <= self.max_per_tensor <= 1:
            raise UsageError(
                "the minimum and the maximum per tensor are 0 to 1 and in this order, "
                f"not {self.min_per_tensor:g} and {self.max_per_tensor:g}",
                hint=nearest_limits(self.min_per_tensor, self.max_per_tensor),
            )

    @property
    def _is_plain(self) -> bool:
        return self.normalize == "none" and self.min_per_tensor == 0 and self.max_per_tensor == 1

    def normalization(self, remaining: Sequence[int]) -> Normalization | None:
        """Return the score and each tensor's limits; None where plain magnitudes without limits are ranked."""
        if self._is_plain:
            return None
        fewest = [ceil(self.min_per_tensor * n) for n in remaining]
        # With equal fractions, ceil and floor would leave no count between them.
        limits = [(low, max(low, floor(self.max_per_tensor * n))) for low, n in zip(fewest, remaining, strict=True)]
        return Normalization(self.normalize, tuple(limits))

    def describe(self) -> dict[str, object]:
        """Return the strategy's name and parameters, for the report."""
        result: dict[str, object] = {"name": "global", "amount": self.amount, "count": self.count}
        if not self._is_plain:
            result |= {"normalize": self.normalize}
            result |= {"min_per_tensor": self.min_per_tensor, "max_per_tensor": self.max_per_tensor}
        return result

    @property
    def rule(self) -> str:
        """The rule in words."""
        return "smallest of all selected" + ("" if self.normalize == "none" else f", by {self.normalize}")

    def groups(self, tensors: Sequence[TensorInfo], remaining: Sequence[int]) -> list[RankGroup]:
        """Return one group of all tensors."""
        k = resolve_count(self.amount, self.count, sum(remaining))
        return [RankGroup(tuple(range(len(tensors))), (k,) if k else ())]


@dataclass(frozen=True, slots=True)
class L1(PlansFromRanks, PlansFromShape):
    """Prune the smallest weights of each tensor, as torch.nn.utils.prune.l1_unstructured does.

    Exactly k = round(amount * n) of the n weights of a tensor or row are pruned, or `count`. Ties at the cut are
    broken by position: the lowest index is pruned first.

    Args:
        amount: The fraction to prune, 0 to 1.
        count: The number of weights to prune in each tensor or row, in place of `amount`.
        scope: "tensor" ranks the weights of a tensor, "row" those of each output (of each expert).
        allocate: The distribution of `amount` over the tensors: "uniform", "erk", "uniform+" or "ramp", see
            `prunecli.strategies.allocation`. None prunes the same fraction of each.
        slope: For the ramp: how much larger the pruned fraction of a layer is than that of the layer before, -1 to 1.

    Raises:
        UsageError: An argument is out of range, not exactly one of `amount` and `count` is set, `allocate` is
            combined with a count or with rows, or a ramp has no slope or a slope no ramp.
    """

    amount: float | None = None
    count: int | None = None
    scope: str = "tensor"
    allocate: str | None = None
    slope: float | None = None

    def __post_init__(self) -> None:
        """Check the arguments."""
        check_amount(self.amount, self.count)
        if self.allocate is not None or self.slope is not None:
            self._check_allocation()
        if self.scope not in SCOPES:
            raise UsageError(
                f"the scope is tensor or row, not {self.scope!r}",
                hint=nearest_of("scope", self.scope, SCOPES, "tensor" if str(self.scope) in _WHOLE else "row"),
            )

    def _check_allocation(self) -> None:
        from prunecli.strategies.allocation import check_allocation, check_slope

        if self.allocate is not None:
            check_allocation(self.allocate)
            if self.amount is None or self.scope == "row":
                raise UsageError(
                    "an allocation distributes an amount over whole tensors",
                    hint=Argument("amount", 0.5) if self.amount is None else Argument("scope", "tensor"),
                )
        check_slope(self.allocate, self.slope)

    @property
    def needs_ranks(self) -> bool:
        """Whether whole tensors are ranked; rows are ranked when they are pruned."""
        return self.scope == "tensor"

    @property
    def ranks_within_rows(self) -> bool:
        """Whether outputs are ranked for themselves."""
        return self.scope == "row"

    @property
    def follows_layout(self) -> bool:
        """Whether outputs are ranked for themselves."""
        return self.scope == "row"

    def describe(self) -> dict[str, object]:
        """Return the strategy's name and parameters, for the report."""
        result: dict[str, object] = {"name": "l1", "amount": self.amount, "count": self.count, "scope": self.scope}
        result |= {} if self.allocate is None else {"allocate": self.allocate}
        return result if self.slope is None else {**result, "slope": self.slope}

    @property
    def rule(self) -> str:
        """The rule in words."""
        slope = "" if self.slope is None else f", {self.slope:+g} a layer"
        shares = "" if self.allocate is None else f", shares by {self.allocate}{slope}"
        return f"smallest of each {self.scope}{shares}"

    def check(self, tensors: Sequence[TensorInfo]) -> None:
        """Raise PruneError for a tensor or row with fewer weights than `count`, or a tensor without rows."""
        check_counts(self.count if self.needs_ranks else None, tensors)
        for tensor in () if self.needs_ranks else tensors:
            self.plan(tensor)

    def warnings(self, tensors: Sequence[TensorInfo]) -> tuple[str, ...]:
        """Return a sentence about tensors of which no weight of a row is pruned."""
        rows = () if self.needs_ranks else [(tensor, outputs_of(tensor).size) for tensor in tensors]
        return rounds_to_none(self.amount, rows, "weights in a row")

    def plan(self, tensor: TensorInfo) -> TensorPlan:
        """Return the plan for scope="row"; UsageError if a row has fewer weights than `count`."""
        view = outputs_of(tensor)
        resolve_count(self.amount, self.count, view.size, "weights in a row", tensor)
        unit = "remaining weights in a row"
        return PruneSmallestOfRow(view, Wanted(self.amount, self.count, unit, tensor))

    def groups(self, tensors: Sequence[TensorInfo], remaining: Sequence[int]) -> list[RankGroup]:
        """Return each tensor as a group of its own."""
        if self.allocate is not None and self.amount is not None:
            return group_per_tensor(self._allocated(tensors, remaining, self.allocate, self.amount))
        return group_per_tensor(resolve_counts(self.amount, self.count, tensors, remaining))

    def _allocated(
        self, tensors: Sequence[TensorInfo], remaining: Sequence[int], how: str, amount: float
    ) -> Sequence[int]:
        """Return the number of weights to prune of each tensor."""
        from prunecli.strategies.allocation import allocate, allocate_ramp, matrix_shape

        if self.slope is not None:
            depths = layer_depths([tensor.name for tensor in tensors])
            return allocate_ramp(depths, remaining, amount, self.slope)
        return allocate(how, [matrix_shape(tensor) for tensor in tensors], remaining, amount)


@dataclass(frozen=True, slots=True)
class Random(PlansFromRanks):
    """Prune weights of each tensor at random, as torch.nn.utils.prune.random_unstructured does.

    Exactly k = round(amount * n) of the n weights are pruned, or `count`. The choice depends on `seed` and on the
    tensor's name and shape alone, not on other tensors or the device. The generator is not torch's.

    Args:
        amount: The fraction to prune, 0 to 1.
        count: The number of weights to prune in each tensor, in place of `amount`.
        seed: The random seed.

    Raises:
        UsageError: `amount` is out of range, or not exactly one of `amount` and `count` is set.
    """

    ranks_weights: ClassVar[bool] = False

    amount: float | None = None
    count: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the arguments."""
        check_amount(self.amount, self.count)
        check_number(self.seed, "the seed", Argument("seed", 0), whole=True)

    def describe(self) -> dict[str, object]:
        """Return the strategy's name and parameters, for the report."""
        return {"name": "random", "amount": self.amount, "count": self.count, "seed": self.seed}

    @property
    def rule(self) -> str:
        """The rule in words."""
        return f"at random, seed {self.seed}"

    def check(self, tensors: Sequence[TensorInfo]) -> None:
        """Raise UsageError for a tensor with fewer weights than `count`."""
        check_counts(self.count, tensors)

    def own_scores(self, tensor: TensorInfo) -> RandomNumbers:
        """Return the function that makes the random numbers of `tensor`."""
        from prunecli.kernels.random_bits import RandomNumbers, random_key

        return RandomNumbers(random_key(self.seed, tensor))

    def groups(self, tensors: Sequence[TensorInfo], remaining: Sequence[int]) -> list[RankGroup]:
        """Return each tensor as a group of its own; ranks are those of random numbers."""
        return group_per_tensor(resolve_counts(self.amount, self.count, tensors, remaining))

    def cuts(
        self, tensors: Sequence[TensorInfo], statistics: Sequence[OrderStatistic], remaining: Sequence[int]
    ) -> list[Cut]:
        """Return the cut at the k-th smallest random number. The report does not show it."""
        # `super()` fails in a dataclass with slots, which is a copy of the class.
        return [Cut(cut.bits, cut.ties) for cut in PlansFromRanks.cuts(self, tensors, statistics, remaining)]
