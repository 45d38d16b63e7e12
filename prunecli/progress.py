"""The progress protocol: a run announces its phases in bytes and reports the bytes that are done."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


Advance: TypeAlias = "Callable[[int], None]"
"""Reports a number of bytes that are done since the last call. Threads may call it at the same time."""


class Progress(Protocol):
    """Receives the progress of a run. Methods may be called from any thread."""

    def begin(self, phases: Mapping[str, int]) -> None:
        """Announce phases that run at the same time: the name of each and its size in bytes."""

    def expect(self, phases: Mapping[str, int]) -> None:
        """Announce phases that begin later, so that the total has their bytes from the start."""

    def advance(self, phase: str, count: int) -> None:
        """Report that `count` more bytes of `phase` are done."""

    def note(self, text: str) -> None:
        """Report a detail of the run, such as a selected tensor.

        An object with an attribute `wants_notes` that is false gets no notes about single tensors.
        """


class NoProgress:
    """Discards progress."""

    wants_notes = False

    def begin(self, phases: Mapping[str, int]) -> None:
        """Do nothing."""

    def expect(self, phases: Mapping[str, int]) -> None:
        """Do nothing."""

    def advance(self, phase: str, count: int) -> None:
        """Do nothing."""

    def note(self, text: str) -> None:
        """Do nothing."""


def start(progress: Progress | None, phase: str, size: int) -> Advance:
    """Begin one phase of `size` bytes and return the function that reports its bytes (None: discard them)."""
    if progress is None:
        progress = NoProgress()
    progress.begin({phase: size})
    return partial(progress.advance, phase)
