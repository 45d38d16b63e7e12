"""The files that a block of code published: an interrupted run says which are there."""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_record: ContextVar[list[Path | str] | None] = ContextVar("published", default=None)


@contextmanager
def recording() -> Iterator[list[Path | str]]:
    """Return the list to which the block adds what it publishes: paths, and the names of streams."""
    published: list[Path | str] = []
    token = _record.set(published)
    try:
        yield published
    finally:
        _record.reset(token)


def record(place: Path | str) -> None:
    """Note that `place` has a new file, or that a stream of this name gets one."""
    published = _record.get()
    if published is not None:
        published.append(place)
