"""mask."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from prunecli.plans import Cut, TensorPlan

if TYPE_CHECKING:
    from prunecli.checkpoint import TensorInfo


@dataclass(frozen=True, slots=True)
class Mask:
    """Prune where a mask from a file is 0: torch.nn.utils.prune.custom_from_mask. `path` is for the report."""

    path: str

    def describe(self) -> dict[str, object]:
        """Return the strategy's name and parameters, for the report."""
        return {"name": "mask", "mask": self.path}

    def rule(self, _: TensorInfo) -> str:
        """Say in words what happens to a tensor."""
        return "where the mask is 0"

    def plan(self, _: TensorInfo) -> TensorPlan:
        """Cut between zeros and ones: the mask is what is ranked."""
        return Cut(1)


@dataclass(frozen=True, slots=True)
class Keep:
    """Prune nothing but what is gone already: for tensors that no rule of a layer is for."""

    def describe(self) -> dict[str, object]:
        """Return the strategy's name, for the report."""
        return {"name": "keep"}

    def rule(self, _: TensorInfo) -> str:
        """Say in words what happens to a tensor."""
        return "kept"

    def plan(self, _: TensorInfo) -> TensorPlan:
        """Return a cut below everything."""
        return Cut(0)
