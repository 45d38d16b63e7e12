"""The base classes of the pruning strategies.

A strategy is a frozen dataclass that derives from one of three classes, which say what its plan is made from: the
shape and dtype of a tensor (`PlansFromShape`), order statistics (`PlansFromRanks`), or numbers measured on each
tensor (`PlansFromMeasure`). All other facts that a run needs are members with defaults, so no module outside this
package names a strategy class.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, Protocol

from prunecli.plans import Cut
from prunecli.strategies.amounts import exact_cuts

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from prunecli.checkpoint import TensorInfo
    from prunecli.kernels.folds import Numbers
    from prunecli.kernels.later import Measured
    from prunecli.kernels.random_bits import RandomNumbers
    from prunecli.plans import Normalization, OrderStatistic, RankGroup, Smallest, TensorPlan


class Strategy(ABC):
    """Decides which weights of each tensor become zero."""

    __slots__ = ()

    ranks_weights: ClassVar[bool] = True
    """False if the strategy ignores importance, so that scores and activation norms would have no effect."""

    @property
    def mask_file(self) -> str | None:
        """The checkpoint of masks that decides which weights are pruned, and by default which tensors."""
        return None

    @property
    def any_base(self) -> bool:
        """Whether the mask file may be applied to other weights than those it was made of."""
        return False

    @property
    def input_files(self) -> tuple[str, ...]:
        """The files that the strategy reads, which no output may overwrite."""
        return () if self.mask_file is None else (self.mask_file,)

    @property
    def prunes_bias(self) -> bool:
        """Whether the bias of a tensor is pruned with its outputs."""
        return False

    @property
    def follows_layout(self) -> bool:
        """Whether the result depends on which dimensions of a tensor count outputs and inputs."""
        return False

    @property
    def ranks_within_rows(self) -> bool:
        """Whether weights are ranked within rows or long groups, which takes several times the usual arithmetic."""
        return False

    @abstractmethod
    def describe(self) -> dict[str, object]:
        """Return the strategy's name (`name`) and parameters, for the report."""

    @property
    @abstractmethod
    def rule(self) -> str:
        """A few words for the report about the rule that tensors are pruned by."""

    def check(self, tensors: Sequence[TensorInfo]) -> None:  # noqa: B027 - most strategies fit every tensor
        """Raise PruneError if the shape of one of `tensors` does not fit. No weight has been read yet."""

    def warnings(self, tensors: Sequence[TensorInfo]) -> tuple[str, ...]:  # noqa: ARG002 - for subclasses
        """Return sentences about tensors of which less is pruned than the request lets expect."""
        return ()

    def asked(self, tensors: Sequence[TensorInfo]) -> list[tuple[tuple[int, ...], int]]:  # noqa: ARG002
        """Return how many weights the request asks to be zero: the positions of tensors ranked together, and a number.

        Empty if the request has no number of weights.
        """
        return []

    def own_scores(self, tensor: TensorInfo) -> RandomNumbers | None:  # noqa: ARG002 - for subclasses
        """Return what makes the scores of `tensor`, integers of 0 or more, or None if its weights are ranked."""
        return None


class PlansFromShape(Strategy):
    """A strategy whose plan needs the tensor's shape and dtype alone."""

    __slots__ = ()

    def asked(self, tensors: Sequence[TensorInfo]) -> list[tuple[tuple[int, ...], int]]:
        """Return the number of each plan that has one."""
        numbers = [self.plan(tensor).asked for tensor in tensors]
        return [((index,), number) for index, number in enumerate(numbers) if number is not None]

    @abstractmethod
    def plan(self, tensor: TensorInfo) -> TensorPlan:
        """Return the plan for `tensor`; SelectionError where its shape does not fit."""


class PlansFromRanks(Strategy):
    """A strategy that cuts at order statistics of magnitudes or scores.

    Tensors have the dtype of the values that are ranked. `remaining` has the number of weights of each tensor that
    are not already pruned; ranks count those alone.
    """

    __slots__ = ()

    @property
    def needs_ranks(self) -> bool:
        """Whether this instance needs order statistics; if not, it is planned as `PlansFromShape`."""
        return True

    def normalization(self, remaining: Sequence[int]) -> Normalization | None:  # noqa: ARG002 - for subclasses
        """Return how the scores of several tensors are made comparable, or None to rank plain magnitudes."""
        return None

    def asked(self, tensors: Sequence[TensorInfo]) -> list[tuple[tuple[int, ...], int]]:
        """Return the first rank of each group of tensors."""
        if not self.needs_ranks:
            return super().asked(tensors)
        groups = self.groups(tensors, [tensor.numel for tensor in tensors])
        return [(group.members, group.ranks[0] if group.ranks else 0) for group in groups]

    @abstractmethod
    def groups(self, tensors: Sequence[TensorInfo], remaining: Sequence[int]) -> list[RankGroup]:
        """Return which tensors are ranked together and which ranks are needed; no rank if nothing is pruned."""

    def cuts(
        self,
        tensors: Sequence[TensorInfo],
        statistics: Sequence[OrderStatistic],
        remaining: Sequence[int],  # noqa: ARG002 - for subclasses
    ) -> list[Cut]:
        """Return the cut of each of `tensors`, the members of one group, from the statistics at its ranks.

        By default exactly as many weights are pruned as the first rank says.
        """
        return exact_cuts(statistics[0]) if statistics else [Cut(0) for _ in tensors]


class TensorValues(Protocol):
    """Access to the values of one tensor, in runs of elements in row-major order."""

    @property
    def tensor(self) -> TensorInfo:
        """The tensor."""

    def ranked(self) -> Numbers:
        """Return the numbers that are ranked, of any sign; 0 where a weight is already pruned."""

    def signed(self) -> Numbers:
        """Return the weights with their signs; NaN where a weight is already pruned."""

    def remaining(self) -> Numbers | None:
        """Return a positive number for remaining and 0 for already pruned weights; None if all remain."""


class PlansFromMeasure(Strategy):
    """A strategy that measures numbers on each tensor: a deviation, or one norm per slice or block."""

    __slots__ = ()

    @abstractmethod
    def measure(self, values: TensorValues) -> tuple[Measured, NDArray[np.bool_] | None]:
        """Return the numbers, and which of them stand for remaining weights (None: all of them)."""

    @abstractmethod
    def plan_from(
        self, tensor: TensorInfo, measured: NDArray[np.float64], alive: NDArray[np.bool_] | None
    ) -> TensorPlan:
        """Return the plan for `tensor` from the result of `measure`."""

    def smallest(self, tensor: TensorInfo) -> Smallest | None:  # noqa: ARG002 - for subclasses
        """Return what of `tensor`, of which no weight is already pruned, has the smallest norms of its weights.

        None if other numbers are measured, or norms of blocks that do not lie in rows of the file.
        """
        return None
