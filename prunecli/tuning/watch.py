"""The protocol by which a search or a sweep says what it evaluates and what remains."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol


class Watch(Protocol):
    """Receives the course of a search or a sweep."""

    @property
    def wants_lines(self) -> bool:
        """Whether `line` does something: without it the output is not followed."""

    def upcoming(self, amount: float | None, left: int) -> None:
        """Report the amount that is tried next (None: the unpruned checkpoint), and how many may follow it at most."""

    def evaluating(self) -> AbstractContextManager[None]:
        """Return the block in which the candidate is written and evaluated; a remembered trial needs none."""

    def line(self, text: str) -> None:
        """Report a line that the evaluation printed."""


class NoWatch:
    """Discards the course."""

    wants_lines = False

    def upcoming(self, amount: float | None, left: int) -> None:
        """Do nothing."""

    def evaluating(self) -> AbstractContextManager[None]:
        """Do nothing around the block."""
        return nullcontext()

    def line(self, text: str) -> None:
        """Do nothing."""
