"""What the processes of one run exchange: bytes and sums of integers."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from array import array
    from collections.abc import Mapping


class Group:
    """The processes of a run. This class is one process alone, which exchanges nothing; see `gloo.GlooGroup`.

    All processes call the same methods in the same order. Each method waits for all of them.

    Attributes:
        facts: What this process is about to do, for `agreement`.
        rank: The number of this process, from 0. Rank 0 makes and publishes files, and prints.
        size: The number of processes.
        agreed: Whether the processes have said what they are about to do; see `agreement`.
        exchanged: The bytes that this process has sent, each counted once however many processes get it.
    """

    facts: Mapping[str, str] = {}
    rank, size, exchanged, agreed = 0, 1, 0, False

    def gather(self, data: bytes) -> list[bytes]:
        """Return what each process passes, by rank."""
        return [data]

    def broadcast(self, data: bytes) -> bytes:
        """Return what rank 0 passes."""
        return data

    def add_up(self, numbers: array[int]) -> None:
        """Replace each of `numbers`, which have the code "q", by its sum over the processes. All pass as many."""

    def barrier(self) -> None:
        """Wait until every process is here."""

    def settle(self) -> None:
        """Note that what other processes do from now on cannot change the result."""

    def said(self) -> None:
        """Let the other processes end; rank 0 calls this when it has printed why the run failed."""

    def host(self, rank: int) -> str:  # noqa: ARG002 - for subclasses
        """Return the name of the machine of a process."""
        return "this machine"

    def name(self, rank: int) -> str:
        """Return words for a process, such as "rank 1 on node7"."""
        return f"rank {rank} on {self.host(rank)}"
