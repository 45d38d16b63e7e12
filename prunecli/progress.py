"""Passes over many bytes, and who watches them: a command draws a bar, a call from Python is left alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager


Advance: TypeAlias = "Callable[[int], None]"
"""Is told how many bytes more are done; may be called by several threads at once."""

ProgressFactory: TypeAlias = "Callable[[str, int], AbstractContextManager[Advance]]"
"""Is told what begins, in a word, and how many bytes it takes; ends with the block it is used in."""


@contextmanager
def no_progress(_phase: str, _size: int) -> Iterator[Advance]:
    """Let a pass go by without a word."""
    yield lambda _: None


class Progress(Protocol):
    """Somebody who wants to know how far the work is, from any thread."""

    def begin(self, phases: Mapping[str, int]) -> None:
        """`phases` are going to be worked through, each of so many bytes to read or copy."""

    def advance(self, phase: str, count: int) -> None:
        """`count` bytes more of a phase are done."""

    def note(self, text: str) -> None:
        """Something is worth telling to those who want details."""


class NoProgress:
    """Nobody wants to know."""

    def begin(self, phases: Mapping[str, int]) -> None:
        """Ignore it."""

    def advance(self, phase: str, count: int) -> None:
        """Ignore it."""

    def note(self, text: str) -> None:
        """Ignore it."""
