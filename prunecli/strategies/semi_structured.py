"""The semi-structured strategy: N:M and other top-k patterns within groups of consecutive weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prunecli.errors import Argument, SelectionError, UsageError
from prunecli.plans import KeepLargestOfGroup, TensorPlan
from prunecli.strategies.amounts import check_number, front_dim, inputs_dim, one_of_each
from prunecli.strategies.strategy import PlansFromShape
from prunecli.text.escape import printable
from prunecli.text.nearest import nearest_choice
from prunecli.text.numbers import plural
from prunecli.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prunecli.checkpoint import TensorInfo

MAX_GROUP = 32_767
"""The longest group: positions in a group are 16-bit integers."""

LONG_GROUP = 16
"""Groups from this length on take much more time to rank than to read."""


@dataclass(frozen=True, slots=True)
class TopK(PlansFromShape):
    """Keep the `keep` largest of every `group` consecutive weights along `dim`; of equals the lower index is kept.

    `TopK(2, 4)` is 2:4 sparsity.

    Args:
        keep: The number of weights to keep in each group, 0 to `group`.
        group: The length of a group, 1 to 32767.
        dim: The dimension along which groups run; negative counts from the end. None means the inputs of each tensor,
            and groups that lie within one expert.
        tail: The treatment of a short last group of r weights: "keep" keeps min(keep, r) of them, "zero" prunes them
            all, "error" raises SelectionError.

    Raises:
        UsageError: An argument is out of range.
    """

    keep: int
    group: int
    dim: int | None = None
    tail: str = "keep"

    def __post_init__(self) -> None:
        """Check the arguments."""
        check_number(self.group, "the group", Argument("group", 4), whole=True)
        check_number(self.keep, "the number to keep", Argument("keep", 2), whole=True)
        if self.dim is not None:
            check_number(self.dim, "the dimension", Argument("dim", 0), whole=True)
        if not 1 <= self.group <= MAX_GROUP:
            raise UsageError(
                f"a group has 1 to {MAX_GROUP} weights, not {self.group}",
                hint=self._nearest_group(),
            )
        if not 0 <= self.keep <= self.group:
            raise UsageError(
                f"cannot keep {self.keep} of every {self.group}: keep 0 to {self.group}",
                hint=(Argument("keep", self.group), Argument("group", self.keep))
                if self.keep > 0
                else Argument("keep", min(-self.keep, self.group)),
            )
        if self.tail not in ("keep", "zero", "error"):
            raise UsageError(
                f"the tail is keep, zero or error, not {printable(repr(self.tail))}",
                hint=Argument("tail", nearest_choice(self.tail, ("keep", "zero", "error"), "keep")),
            )

    @property
    def ranks_within_rows(self) -> bool:
        """Whether groups are long."""
        return self.group >= LONG_GROUP

    @property
    def follows_layout(self) -> bool:
        """Whether groups run along inputs."""
        return self.dim is None

    def _nearest_group(self) -> tuple[Argument, Argument]:
        group = min(abs(self.group), MAX_GROUP) or 4
        return Argument("keep", min(abs(self.keep), group) if self.group else 2), Argument("group", group)

    def describe(self) -> dict[str, object]:
        """Return the strategy's name and parameters, for the report."""
        return {"name": "topk", "keep": self.keep, "group": self.group, "dim": self.dim, "tail": self.tail}

    @property
    def rule(self) -> str:
        """The rule in words."""
        along = "inputs" if self.dim is None else f"along dim {self.dim}"
        return f"keeps {self.keep} of every {self.group} {along}"

    def check(self, tensors: Sequence[TensorInfo]) -> None:
        """Raise SelectionError for a tensor without the dimension, or with a tail under tail="error"."""
        for tensor in one_of_each(tensors):
            self.plan(tensor)

    def warnings(self, tensors: Sequence[TensorInfo]) -> tuple[str, ...]:
        """Return a sentence about tensors that are shorter than a group."""
        if all(self._place(tensor)[2] >= self.group for tensor in one_of_each(tensors)):
            return ()
        places = [(tensor, self._place(tensor)[2]) for tensor in tensors]
        short = [(tensor, length) for tensor, length in places if length < self.group]
        tensor, length = max(short, key=lambda pair: pair[0].numel)
        along = "" if self.dim is None else f" along dim {self.dim}"
        one, several = ("input", "inputs") if self.dim is None else (f"weight{along}", f"weights{along}")
        name, fewer = printable(tensor.name), f"than the {self.group} of a group"
        where = f"{name}, which has {length} {plural(length, one, several)}: fewer {fewer}"
        if len(short) > 1:
            where = f"{len(short):,} tensors with fewer {several} {fewer}; the largest is {name} with {length}"
        return (f"{self.keep}:{self.group} does not apply to {where}",)

    def _place(self, tensor: TensorInfo) -> tuple[int, int, int]:
        """Return the dimension, the number of parts with groups of their own, and the length of a part."""
        if self.dim is not None:
            dim = front_dim(tensor, self.dim)
            return dim, 1, tensor.shape[dim]
        dim, parts = inputs_dim(tensor), tensor.layout.groups
        return dim, parts, tensor.shape[dim] // parts

    def plan(self, tensor: TensorInfo) -> TensorPlan:
        """Return the plan for `tensor`; SelectionError where `dim` or the tail does not fit its shape."""
        dim, parts, length = self._place(tensor)
        if self.tail == "error" and length % self.group:
            raise SelectionError(
                f"{printable(repr(tensor.name))} has {length} weights along dim {dim}, "
                f"which is not a multiple of {self.group}",
                hint=(
                    Argument("tail", "keep"),
                    " treats the short last group by the same rule, ",
                    Argument("tail", "zero"),
                    " zeroes it",
                ),
            )
        return KeepLargestOfGroup(self.keep, self.group, dim, zero_tail=self.tail == "zero", parts=parts)
