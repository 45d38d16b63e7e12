"""The conditions of a check as a protocol, and the findings that they yield."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prunecli.errors import Argument
    from prunecli.inspection.checked import CheckedCheckpoint


class Condition(Protocol):
    """A property that a checkpoint must have."""

    @property
    def arguments(self) -> tuple[Argument, ...]:
        """The condition as arguments of a command, from which the output spells it."""

    @property
    def phase(self) -> str:
        """The pass over the weights that the condition needs: "counting", "grouping", "comparing", or "" for none."""

    def judge(self, checked: CheckedCheckpoint) -> Iterator[Finding]:
        """Yield one finding that holds, or a finding for each failure."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of a condition, for one tensor or for all tensors together (`tensor` None).

    `wanted` and `got` are short texts. A condition that holds has one finding; a condition that fails has a finding for
    each tensor that fails it.
    """

    condition: Condition
    holds: bool
    tensor: str | None
    wanted: str
    got: str
