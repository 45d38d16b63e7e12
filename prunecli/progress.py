"""Passes over many bytes, and who watches them: a command draws a bar, a call from Python is left alone."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from contextlib import AbstractContextManager

    from prunecli.checkpoint import TensorInfo

Advance: TypeAlias = "Callable[[int], None]"
"""Is told how many bytes more are done; may be called by several threads at once."""

Watch: TypeAlias = "Callable[[str, int], AbstractContextManager[Advance]]"
"""Is told what begins, in a word, and how many bytes it takes; ends with the block it is used in."""


@contextmanager
def unwatched(_phase: str, _size: int) -> Iterator[Advance]:
    """Let a pass go by without a word."""
    yield lambda _: None


def bytes_of(tensors: Iterable[TensorInfo]) -> int:
    """Return how many bytes one pass over `tensors` reads: of a strided tensor also those between its numbers."""
    return sum(tensor.end - tensor.start for tensor in tensors)
