"""The part of a run that this process does, of all processes that do it together."""

from __future__ import annotations

from array import array
from dataclasses import field
from typing import TYPE_CHECKING

from prunecli.distributed.group import Group
from prunecli.distributed.ownership import shares
from prunecli.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from prunecli.checkpoint import Checkpoint, TensorInfo
    from prunecli.distributed.ownership import Share


@dataclass(frozen=True, slots=True)
class Part:
    """The targets that this process reads and writes, of all targets of a run; `own` is None where it has all.

    `shares` are the bytes of each process, and `share` those of this one.
    """

    group: Group = field(default_factory=Group)
    own: Collection[int] | None = None
    shares: Sequence[Share] = ()

    def has(self, index: int) -> bool:
        """Return whether a target is one of this process."""
        return self.own is None or index in self.own

    def plans_for(self, index: int, followers: Mapping[int, int]) -> bool:
        """Return whether this process needs the plan of a target: for the target itself, or for its bias."""
        return self.has(index) or self.has(followers.get(index, index))

    def summed(self, counts: Mapping[int, int], length: int) -> list[int]:
        """Return `length` numbers, each the sum of what the processes have counted for its position."""
        numbers = array("q", bytes(8 * length))
        for index, count in counts.items():
            numbers[index] = count
        self.group.add_up(numbers)
        return numbers.tolist()

    @property
    def share(self) -> Share:
        """The bytes of this process."""
        return self.shares[self.group.rank]


def divided(group: Group, checkpoint: Checkpoint, targets: Sequence[TensorInfo]) -> Part:
    """Return the part of this process in pruning `targets`."""
    every = shares(checkpoint.files, checkpoint.tensors, targets, group.size)
    own = every[group.rank]
    if group.size == 1:
        return Part(group, None, every)
    return Part(group, {index for index, tensor in enumerate(targets) if own.owns(tensor)}, every)
