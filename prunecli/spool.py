"""Standard input and output as files: a checkpoint is read from its end, so a pipe is spooled first."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from prunecli.errors import OutputError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import IO

CHUNK = 1 << 20

_DESCRIPTORS = Path("/proc/self/fd")


@contextmanager
def spooled_input(folder: Path | None) -> Iterator[Path]:
    """Copy standard input to a temporary file in `folder` (None: the usual place) and give its path."""
    if sys.stdin is None or sys.stdin.isatty():
        raise UsageError("`-` reads a checkpoint from a pipe, and there is none", hint="cat CKPT | prune COMMAND -")
    with _temporary(folder) as file:
        try:
            shutil.copyfileobj(sys.stdin.buffer, file, CHUNK)
            file.flush()
        except OSError as error:
            raise _no_room(folder, error) from error
        yield _DESCRIPTORS / str(file.fileno()) if _DESCRIPTORS.is_dir() else Path(file.name)


@contextmanager
def spooled_output() -> Iterator[int]:
    """Give a descriptor of a temporary file, and send it to standard output when the block ends well."""
    if sys.stdout is None:
        raise UsageError("-o - needs standard output, which is closed", hint="-o PATH")
    if sys.stdout.isatty():
        raise UsageError("a checkpoint does not go to a terminal", hint="-o PATH, or -o - > PATH")
    with _temporary(None) as file:
        yield file.fileno()
        _send(file.fileno(), sys.stdout.fileno())


def _temporary(folder: Path | None) -> IO[bytes]:
    """Open a temporary file, nameless where descriptors have paths: then even a killed process leaves nothing."""
    try:
        if _DESCRIPTORS.is_dir():
            return tempfile.TemporaryFile(dir=folder)
        return tempfile.NamedTemporaryFile(prefix=".prune-", dir=folder)
    except OSError as error:
        raise _no_room(folder, error) from error


def _send(source: int, target: int) -> None:
    size, at = os.fstat(source).st_size, 0
    while at < size:
        data = memoryview(os.pread(source, CHUNK, at))
        at += len(data)
        while data:
            data = data[_write(target, data) :]


def _write(target: int, data: memoryview) -> int:
    try:
        return os.write(target, data)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(
            f"standard output did not take the whole checkpoint: {error.strerror}",
            hint="-o PATH makes sure of the room first",
        ) from error


def _no_room(folder: Path | None, error: OSError) -> OutputError:
    place = folder or Path(tempfile.gettempdir())
    hint = "-o PATH on another filesystem" if folder else "TMPDIR=/path/with/room prune COMMAND ..."
    return OutputError(f"cannot keep a temporary copy in {place}: {error.strerror}", hint=hint)
