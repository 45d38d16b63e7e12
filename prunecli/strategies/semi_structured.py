"""The semi-structured strategy: N:M and other top-k patterns within groups of consecutive weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from prunecli.errors import Argument, SelectionError, UsageError
from prunecli.plans import KeepLargestOfGroup, TensorPlan
from prunecli.strategies.amounts import front_dim
from prunecli.strategies.strategy import PlansFromShape
from prunecli.text.escape import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prunecli.checkpoint import TensorInfo

MAX_GROUP = 32_767
"""The longest group: positions in a group are 16-bit integers."""


@dataclass(frozen=True, slots=True)
class TopK(PlansFromShape):
    """Keep the `keep` largest of every `group` consecutive weights along `dim`; of equals the lower index is kept.

    `TopK(2, 4)` is 2:4 sparsity.

    Args:
        keep: The number of weights to keep in each group, 0 to `group`.
        group: The length of a group, 1 to 32767.
        dim: The dimension along which groups run; negative counts from the end.
        tail: The treatment of a short last group of r weights: "keep" keeps min(keep, r) of them, "zero" prunes them
            all, "error" raises SelectionError.

    Raises:
        UsageError: An argument is out of range.
    """

    keep: int
    group: int
    dim: int = 1
    tail: str = "keep"

    def __post_init__(self) -> None:
        """Check the arguments."""
        if not 1 <= self.group <= MAX_GROUP:
            raise UsageError(
                f"a group has 1 to {MAX_GROUP} weights, not {self.group}",
                hint=(Argument("keep", 2), Argument("group", 4)),
            )
        if not 0 <= self.keep <= self.group:
            raise UsageError(
                f"cannot keep {self.keep} of every {self.group}: keep 0 to {self.group}",
                hint=(Argument("keep", self.group // 2), Argument("group", self.group)),
            )
        if self.tail not in ("keep", "zero", "error"):
            raise UsageError(
                f"the tail is keep, zero or error, not {printable(repr(self.tail))}", hint=Argument("tail", "keep")
            )

    def describe(self) -> dict[str, object]:
        """Return the strategy's name and parameters, for the report."""
        return {"name": "topk", "keep": self.keep, "group": self.group, "dim": self.dim, "tail": self.tail}

    @property
    def rule(self) -> str:
        """The rule in words."""
        return f"keeps {self.keep} of every {self.group} along dim {self.dim}"

    def check(self, tensors: Sequence[TensorInfo]) -> None:
        """Raise SelectionError for a tensor without the dimension, or with a tail under tail="error"."""
        for tensor in tensors:
            self.plan(tensor)

    def plan(self, tensor: TensorInfo) -> TensorPlan:
        """Return the plan for `tensor`; SelectionError where `dim` or the tail does not fit its shape."""
        dim = front_dim(tensor, self.dim)
        if self.tail == "error" and tensor.shape[dim] % self.group:
            raise SelectionError(
                f"{printable(repr(tensor.name))} has {tensor.shape[dim]} weights along dim {dim}, "
                f"which is not a multiple of {self.group}",
                hint=(
                    Argument("tail", "keep"),
                    " treats the short last group by the same rule, ",
                    Argument("tail", "zero"),
                    " zeroes it",
                ),
            )
        return KeepLargestOfGroup(self.keep, self.group, dim, zero_tail=self.tail == "zero")
