"""The error of a file that cannot be read."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from prunecli.errors import CheckpointError
from prunecli.text.escape import printable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def read_errors(name: str | Path) -> Iterator[None]:
    """Raise CheckpointError where the block fails to read the file that messages call `name`."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"cannot read {printable(str(name))}: {error.strerror or error}") from error
