"""The pruning strategies a user can name: each is a frozen value that plans, for each tensor, which weights to keep.

`Threshold` and `TopK` need nothing but the tensor's dtype and shape, and `plan` at once. Others need numbers about the
weights first: `Percentile`, `L1` and `Global` order statistics, which they name in `groups` and turn into `cuts`;
`Spread`, `Structured` and `Block` a deviation or norms, which make them `local`. Nothing here knows about files,
patterns, devices or printing.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import floor, inf, isfinite
from typing import TYPE_CHECKING, TypeAlias

from prunecli.dtypes import FLOATS
from prunecli.errors import SelectionError, UsageError
from prunecli.escape import shown
from prunecli.plans import Cut, Group, Grouped, Local, Order, Rows, Slices, Tiles
from prunecli.rules import check_amount, cut_above, exact_cuts, front_dim, how_many, single

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
        dim = front_dim(tensor, self.dim)
        if self.tail == "error" and tensor.shape[dim] % self.group:
            raise SelectionError(
                f"{shown(repr(tensor.name))} has {tensor.shape[dim]} weights along dim {dim}, "
                f"which is no multiple of {self.group}",
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

    def local(self, tensor: TensorInfo, deviation: float) -> Local:
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
        rounded = float if dtype.name == "F64" else single
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


@dataclass(frozen=True, slots=True)
class L1:
    """Prune, per tensor, the k smallest magnitudes; exactly k = round(amount * n), or `count`.

    scope="row" ranks within each output row (dim 0) instead, with k = round(amount * row length) for each. Among
    equals the lowest index goes first. torch.nn.utils.prune.l1_unstructured.
    """

    amount: float | None = None
    count: int | None = None
    scope: str = "tensor"

    def __post_init__(self) -> None:
        """Refuse two amounts, none, one out of range, and scopes there are not."""
        check_amount(self.amount, self.count)
        if self.scope not in {"tensor", "row"}:
            raise UsageError(f"--scope is tensor or row, not {shown(repr(self.scope))}", hint="--scope row")

    def describe(self) -> dict[str, object]:
        """Return the strategy's name and parameters, for the report."""
        return {"name": "l1", "amount": self.amount, "count": self.count, "scope": self.scope}

    def rule(self, _: TensorInfo) -> str:
        """Say in words what happens to a tensor."""
        return f"smallest of each {self.scope}"

    def plan(self, tensor: TensorInfo) -> Local:
        """Return the local strategy for scope="row"; the other needs ranks first."""
        return Rows(how_many(self.amount, self.count, tensor.numel // tensor.shape[0], "weights in a row", tensor))

    def groups(self, tensors: Sequence[TensorInfo]) -> list[Group]:
        """Each tensor by itself; no rank where nothing is to be pruned."""
        wanted = [how_many(self.amount, self.count, t.numel, "weights", t) for t in tensors]
        return [Group((at,), (k,) if k else ()) for at, k in enumerate(wanted)]

    def cuts(self, tensors: Sequence[TensorInfo], orders: Sequence[Order]) -> list[Cut]:
        """Cut at the k-th smallest of the tensor."""
        return exact_cuts(orders[0]) if orders else [Cut(0) for _ in tensors]


@dataclass(frozen=True, slots=True)
class Structured:
    """Prune whole slices along `dim`: the k = round(amount * shape[dim]), or `count`, with the smallest Ln norm.

    `n` is 1, 2, inf or -inf; norms are taken in float64. Among equals the lowest index goes first.
    torch.nn.utils.prune.ln_structured.
    """

    amount: float | None = None
    count: int | None = None
    dim: int = 0
    n: float = 2.0

    def __post_init__(self) -> None:
        """Refuse two amounts, none, one out of range, and norms there are not."""
        check_amount(self.amount, self.count)
        if self.n not in {1, 2, inf, -inf}:
            raise UsageError(f"--n is 1, 2, inf or -inf, not {self.n:g}", hint="--n 2")

    def describe(self) -> dict[str, object]:
        """Return the strategy's name and parameters, for the report."""
        norm = self.n if isfinite(self.n) else str(self.n)
        return {"name": "structured", "amount": self.amount, "count": self.count, "dim": self.dim, "n": norm}

    def rule(self, _: TensorInfo) -> str:
        """Say in words what happens to a tensor."""
        return f"slices along dim {self.dim} of smallest L{self.n:g} norm"

    def axis(self, tensor: TensorInfo) -> int:
        """Return `dim` counted from the front; SelectionError where the tensor has no such dimension."""
        return front_dim(tensor, self.dim)

    def wanted(self, tensor: TensorInfo, slices: int) -> int:
        """Return how many of the slices go; UsageError if there are not so many."""
        return how_many(self.amount, self.count, slices, f"slices along dim {self.dim}", tensor)

    def local(self, tensor: TensorInfo, alive: bytes, value: float | None) -> Local:
        """Return the local strategy: a byte per slice, 0 where it goes, and the largest norm that does."""
        return Slices(self.axis(tensor), alive, value)


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
        return how_many(self.amount, self.count, tiles, f"tiles of {self.rows}x{self.cols}", tensor)

    def local(self, _: TensorInfo, alive: bytes, value: float | None) -> Local:
        """Return the local strategy: a byte per tile, row by row, 0 where it goes, and the largest norm that does."""
        return Tiles((self.rows, self.cols), alive, value)


Strategy: TypeAlias = Threshold | Spread | Percentile | L1 | Global | TopK | Structured | Block
"""What a user can ask for."""
