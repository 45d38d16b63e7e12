"""semi structured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from prunecli.errors import SelectionError, UsageError
from prunecli.plans import KeepLargestOfGroup, TensorPlan
from prunecli.strategies.amounts import front_dim
from prunecli.text.escape import printable

if TYPE_CHECKING:
    from prunecli.checkpoint import TensorInfo


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

    def plan(self, tensor: TensorInfo) -> TensorPlan:
        """Return the local strategy for `tensor`; raise SelectionError where `dim` or the tail does not fit it."""
        dim = front_dim(tensor, self.dim)
        if self.tail == "error" and tensor.shape[dim] % self.group:
            raise SelectionError(
                f"{printable(repr(tensor.name))} has {tensor.shape[dim]} weights along dim {dim}, "
                f"which is no multiple of {self.group}",
                hint="--tail keep treats the short last group by the same rule, --tail zero zeroes it",
            )
        return KeepLargestOfGroup(self.count, self.group, dim, zero_tail=self.tail == "zero")
