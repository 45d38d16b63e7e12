"""What processes say to each other before a run."""

from __future__ import annotations

import json

import pytest

from prunecli.distributed.agreement import agree
from prunecli.distributed.group import Group
from prunecli.errors import UsageError


class Pair(Group):
    """Rank 0 of two processes, of which the other one says `other`."""

    size = 2

    def __init__(self, other: dict[str, str]) -> None:
        """Take what the other process says."""
        self.other = other

    def gather(self, data: bytes) -> list[bytes]:
        """Return the own data and that of the other process."""
        return [data, json.dumps({"facts": self.other}).encode()]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"the options": "l1 b"}, "the options of rank 1 on this machine .* differ: l1 b and l1 a"),
        ({"the options": "l1 a", "the file x": "8 bytes"}, "the file x .* differ: 8 bytes and nothing"),
        ({}, "the options .* differ: nothing and l1 a"),
    ],
)
def test_each_difference_ends_the_run(other: dict[str, str], message: str) -> None:
    """A fact that one of two processes lacks is a difference as well, whichever of them it is."""
    with pytest.raises(UsageError, match=message):
        agree(Pair(other), {"the options": "l1 a"})


def test_equal_facts_are_agreed() -> None:
    """Two processes that say the same may begin."""
    group = Pair({"the options": "l1 a"})

    agree(group, {"the options": "l1 a"})

    assert group.agreed
