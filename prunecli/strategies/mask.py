"""Strategies that rank nothing: prune by a mask from a file, or keep everything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from prunecli.plans import Cut, TensorPlan
from prunecli.strategies.strategy import PlansFromShape

if TYPE_CHECKING:
    from prunecli.checkpoint import TensorInfo


@dataclass(frozen=True, slots=True)
class Mask(PlansFromShape):
    """Prune the weights whose entry in a mask file is 0, as torch.nn.utils.prune.custom_from_mask does.

    Args:
        path: A checkpoint with a tensor of zeros and ones for each tensor to prune, of the same name or with `_mask`
            at its end, and of the same shape; or a file that a run wrote to `mask_out`.
        any_base: Whether the mask is also applied to other weights than those it was made of. A file of `mask_out`
            knows them by their SHA-256.
    """

    ranks_weights: ClassVar[bool] = False

    path: str
    any_base: bool = False

    @property
    def mask_file(self) -> str | None:
        """The mask file."""
        return self.path

    def describe(self) -> dict[str, object]:
        """Return the strategy's name and parameters, for the report."""
        return {"name": "mask", "mask": self.path, **({"any_base": True} if self.any_base else {})}

    @property
    def rule(self) -> str:
        """The rule in words."""
        return "where the mask is 0"

    def plan(self, tensor: TensorInfo) -> TensorPlan:  # noqa: ARG002 - the same for all
        """Return the cut between 0 and 1; the mask takes the place of the magnitudes."""
        return Cut(1)


@dataclass(frozen=True, slots=True)
class Keep(PlansFromShape):
    """Prune nothing, except weights that a mask already excludes. Used for tensors that no recipe rule matches."""

    ranks_weights: ClassVar[bool] = False

    def describe(self) -> dict[str, object]:
        """Return the strategy's name, for the report."""
        return {"name": "keep"}

    @property
    def rule(self) -> str:
        """The rule in words."""
        return "kept"

    def plan(self, tensor: TensorInfo) -> TensorPlan:  # noqa: ARG002 - the same for all
        """Return a cut below every magnitude."""
        return Cut(0)
