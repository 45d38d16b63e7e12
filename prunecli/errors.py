"""The errors a user can cause: each says what, where and got, and hints at what to type next."""

from __future__ import annotations


class PruneError(Exception):
    """Something about the request or its input is wrong; the command line exits with 2.

    `hint`, where there is one, is something to type or to look at.
    """

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        """Keep the one-sentence `message` and the `hint` apart: they are printed on lines of their own."""
        super().__init__(message)
        self.hint = hint


class UsageError(PruneError):
    """The options contradict each other or are out of range."""


class CheckpointError(PruneError):
    """The input is no checkpoint, is damaged, or is of a kind that cannot be pruned in place."""


class SelectionError(PruneError):
    """The patterns select nothing, or something that cannot be pruned."""


class DeviceError(PruneError):
    """The device asked for is not here."""


class OutputError(PruneError):
    """The result cannot be written where it was asked for."""
