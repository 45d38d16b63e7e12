"""Rows of weights on a device, as scorers take them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prunecli.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prunecli.kernels.ops import Array


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of one length, `weights` (rows, length): whole targets of one shape, or runs of one target.

    `members` are the positions of the targets of the rows; if there is one, row r starts at its row-major element
    first + r * step.
    """

    members: tuple[int, ...]
    weights: Array
    first: int = 0
    step: int = 0

    @property
    def is_run(self) -> bool:
        """Whether there is one row."""
        return len(self.weights) == 1

    def each(self) -> Iterator[tuple[int, Array, int]]:
        """Yield the target, the weights and the first element of each row."""
        alone = len(self.members) == 1
        for row, weights in enumerate(self.weights):
            yield self.members[0 if alone else row], weights, self.first + row * self.step
