"""The strategies that prune every weight below a threshold, in absolute terms or in standard deviations.

NumPy is imported when a strategy measures, because strategies are also made to print help.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from prunecli.dtypes import FLOATS
from prunecli.errors import Argument
from prunecli.plans import TensorPlan
from prunecli.strategies.amounts import (
    check_finite,
    cut_above,
)
from prunecli.strategies.strategy import PlansFromMeasure, PlansFromShape
from prunecli.values import dataclass

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from prunecli.checkpoint import TensorInfo
    from prunecli.kernels.later import Measured
    from prunecli.strategies.strategy import TensorValues


@dataclass(frozen=True, slots=True)
class Threshold(PlansFromShape):
    """Prune every weight whose magnitude is `thr` or less. Infinities and NaN are kept.

    Args:
        thr: The threshold in the tensor's own units, finite and 0 or more. It is rounded to the tensor's dtype first,
            as `tensor.abs() > thr` does in torch.

    Raises:
        UsageError: `thr` is negative or not finite.
    """

    thr: float

    def __post_init__(self) -> None:
        """Check the threshold."""
        check_finite(self.thr, "the threshold", Argument("thr", 0.1))

    def describe(self) -> dict[str, object]:
        """Return the strategy's name and parameters, for the report."""
        return {"name": "threshold", "thr": self.thr}

    @property
    def rule(self) -> str:
        """The rule in words."""
        return f"|w| <= {self.thr:g}"

    def plan(self, tensor: TensorInfo) -> TensorPlan:
        """Return the cut just above `thr` in the tensor's dtype."""
        return cut_above(self.thr, FLOATS[tensor.dtype])


@dataclass(frozen=True, slots=True)
class StdThreshold(PlansFromMeasure):
    """Prune, per tensor, every weight whose magnitude is `deviations` standard deviations of its weights or less.

    The deviation is torch's `Tensor.std` (n - 1 in the denominator), computed in float64 over the finite weights.

    Args:
        deviations: The multiple of the standard deviation, finite and 0 or more.

    Raises:
        UsageError: `deviations` is negative or not finite.
    """

    ranks_weights: ClassVar[bool] = False

    deviations: float

    def __post_init__(self) -> None:
        """Check the multiple."""
        check_finite(self.deviations, "the multiple of the standard deviation", Argument("deviations", 0.5))

    def describe(self) -> dict[str, object]:
        """Return the strategy's name and parameters, for the report."""
        return {"name": "threshold", "thr_std": self.deviations}

    @property
    def rule(self) -> str:
        """The rule in words."""
        return f"|w| <= {self.deviations:g} std"

    def measure(self, values: TensorValues) -> tuple[Measured, NDArray[np.bool_] | None]:
        """Return the standard deviation of the remaining weights, as an array of one number."""
        from prunecli.kernels.deviations import deviation

        return deviation(values.signed(), values.tensor.numel), None

    def plan_from(
        self,
        tensor: TensorInfo,
        measured: NDArray[np.float64],
        alive: NDArray[np.bool_] | None,  # noqa: ARG002 - one number for all weights
    ) -> TensorPlan:
        """Return the cut just above `deviations` times the measured deviation."""
        return cut_above(self.deviations * float(measured[0]), FLOATS[tensor.dtype])
