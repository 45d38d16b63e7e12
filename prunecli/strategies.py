"""The pruning strategies a user can name: each is a frozen value that plans, for each tensor, which weights to keep.

`Threshold` and `TopK` need nothing but the tensor's dtype and shape. `Spread`, `Percentile` and `Global` need numbers
about the weights first: they say which, and turn them into one `Cut` per tensor. Nothing here knows about files,
patterns, devices or printing.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import floor, isfinite
from typing import TYPE_CHECKING, TypeAlias

from prunecli.dtypes import FLOATS, Float, cast
from prunecli.errors import SelectionError, UsageError
from prunecli.plans import Cut, Group, Grouped, Local, Order

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prunecli.tensors import TensorInfo

GROUP_MAX = 32_767
"""The longest group: positions in it are 16-bit numbers."""


@dataclass(frozen=True, slots=True)
class TopK:
    """Keep the `count` largest of every `group` consecutive weights along `dim`; equals: the lower index stays.

    A short last group of r weights keeps min(count, r) under tail="keep", nothing under tail="zero", and is refused
    under tail="error".
    """

    count: int
    group: int
    dim: int = 1
    tail: str = "keep"

    def __post_init__(self) -> None:
        """Refuse what no group can do."""
        if not 1 <= self.group <= GROUP_MAX:
            raise UsageError(f"a group has 1 to 32767 weights, not {self.group}", hint="--keep 2 --group 4")
        if not 0 <= self.count <= self.group:
            raise UsageError(
                f"cannot keep {self.count} of every {self.group}: keep 0 to {self.group}",
                hint=f"--keep {self.group // 2} --group {self.group}",
            )
        if self.tail not in ("keep", "zero", "error"):
            raise UsageError(f"--tail is keep, zero or error, not {self.tail!r}")

    def describe(self) -> dict[str, object]:
        """Return the strategy's name and parameters, for the report."""
        return {"name": "topk", "keep": self.count, "group": self.group, "dim": self.dim, "tail": self.tail}

    def rule(self, _: TensorInfo) -> str:
        """Say in words what happens to a tensor."""
        return f"keeps {self.count} of every {self.group} along dim {self.dim}"

    def plan(self, tensor: TensorInfo) -> Local:
        """Return the local strategy for `tensor`; raise SelectionError where `dim` or the tail does not fit it."""
        rank = len(tensor.shape)
        if not -rank <= self.dim < rank:
            raise SelectionError(
                f"{tensor.name!r} has {rank} dimension{'s' * (rank != 1)}, so it has no dim {self.dim}",
                hint=f"-x '{tensor.name}' leaves it out, --dim -1 takes its last dimension",
            )
        dim = self.dim % rank
        if self.tail == "error" and tensor.shape[dim] % self.group:
            raise SelectionError(
                f"{tensor.name!r} has {tensor.shape[dim]} weights along dim {dim}: no multiple of {self.group}",
                hint="--tail keep treats the short last group by the same rule, --tail zero zeroes it",
            )
        return Grouped(self.count, self.group, dim, zero_tail=self.tail == "zero")


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

    def plan(self, tensor: TensorInfo) -> Local:
        """Return the cut just above `thr` in the tensor's dtype; infinities and NaN stay."""
        return cut_above(self.thr, FLOATS[tensor.dtype])


@dataclass(frozen=True, slots=True)
class Spread:
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

    def cut(self, std: float, dtype: Float) -> Cut:
        """Return the cut for a tensor whose weights have the standard deviation `std`."""
        return cut_above(self.deviations * std, dtype)


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

    def _index(self, numel: int) -> float:
        """Return the 0-based, fractional rank: NumPy's virtual index of the method "linear"."""
        return (numel - 1) * (self.q / 100)

    def groups(self, tensors: Sequence[TensorInfo]) -> list[Group]:
        """Each tensor by itself, with the two ranks around the percentile."""
        groups = []
        for at, tensor in enumerate(tensors):
            low = min(floor(self._index(tensor.numel)), tensor.numel - 1)
            groups.append(Group((at,), tuple(sorted({low + 1, min(low + 2, tensor.numel)})), ties=False))
        return groups

    def cuts(self, tensors: Sequence[TensorInfo], orders: Sequence[Order]) -> list[Cut]:
        """Interpolate between the two statistics and cut just above."""
        (tensor,), dtype = tensors, FLOATS[tensors[0].dtype]
        rounded = _identity if dtype.name == "F64" else _single
        low, high = orders[0].value, orders[-1].value
        part = self._index(tensor.numel) - (orders[0].rank - 1)
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
    """

    amount: float | None = None
    count: int | None = None

    def __post_init__(self) -> None:
        """Refuse two amounts, none, or one out of range."""
        check_amount(self.amount, self.count)

    def describe(self) -> dict[str, object]:
        """Return the strategy's name and parameters, for the report."""
        return {"name": "global", "amount": self.amount, "count": self.count}

    def rule(self, _: TensorInfo) -> str:
        """Say in words what happens to a tensor."""
        return "smallest of all selected"

    def groups(self, tensors: Sequence[TensorInfo]) -> list[Group]:
        """All tensors in one group; no rank where nothing is to be pruned."""
        k = how_many(self.amount, self.count, sum(t.numel for t in tensors))
        return [Group(tuple(range(len(tensors))), (k,) if k else ())]

    def cuts(self, tensors: Sequence[TensorInfo], orders: Sequence[Order]) -> list[Cut]:
        """Cut at the k-th smallest; equals there go first come, first pruned, until the count is reached."""
        if not orders:
            return [Cut(0) for _ in tensors]
        return exact_cuts(orders[0])


Strategy: TypeAlias = Threshold | Spread | Percentile | Global | TopK
"""What a user can ask for."""


def cut_above(value: float, dtype: Float) -> Cut:
    """Return the cut that prunes magnitudes up to and including `value` rounded to `dtype`, and only finite ones."""
    bits = min(cast(value, dtype), dtype.finite_max)
    return Cut(bits + 1, value=dtype.decode(bits))


def exact_cuts(order: Order) -> list[Cut]:
    """Return the cuts that prune exactly `order.rank` weights of the group."""
    left = order.rank - order.less
    if left == order.equal:
        return [
            Cut(bits + hit, equal=equal, equal_pruned=equal, value=order.value)
            for bits, hit, equal in zip(order.cuts, order.hits, order.equals, strict=True)
        ]
    cuts = []
    for bits, equal in zip(order.cuts, order.equals, strict=True):
        ties = min(left, equal or 0)
        left -= ties
        cuts.append(Cut(bits, ties, equal, ties, order.value))
    return cuts


def check_amount(amount: float | None, count: int | None) -> None:
    """Raise UsageError unless exactly one of the two is given and it is in range."""
    if (amount is None) == (count is None):
        raise UsageError("give either an amount or a count", hint="--amount 0.5 or --count 1000")
    if amount is not None and not 0 <= amount <= 1:
        raise UsageError(f"an amount is 0 to 1 (or 0% to 100%), not {amount:g}", hint="--amount 0.5")
    if count is not None and count < 0:
        raise UsageError(f"a count is 0 or more, not {count}", hint="--count 1000")


def how_many(amount: float | None, count: int | None, numel: int) -> int:
    """Return k of `numel` weights: round(amount * numel), half to even as torch does; UsageError if count > numel."""
    if count is None:
        return round((amount or 0.0) * numel)
    if count > numel:
        raise UsageError(f"--count {count} is more than the {numel} selected weights", hint=f"--count {numel}")
    return count


def _identity(value: float) -> float:
    return value


def _single(value: float) -> float:
    """Round `value` (>= 0) to float32; one operation on float32 numbers, done in float64 and rounded, is float32's."""
    single = FLOATS["F32"]
    return single.decode(single.encode(value))
