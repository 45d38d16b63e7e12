"""Standard input and output as files: a checkpoint is read from its end, so a pipe is spooled first."""

from __future__ import annotations

import errno
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

CHUNK = 1 << 20


@contextmanager
def spooled_input(folder: Path | None) -> Iterator[Path]:
    """Copy standard input to a temporary file in `folder` (None: the usual place) and give its path."""
    if sys.stdin is None or sys.stdin.isatty():
        raise UsageError("`-` reads a checkpoint from a pipe, and there is none", hint="cat ckpt.pth | prune ... -")
    try:
        with tempfile.NamedTemporaryFile(prefix=".prune-", dir=folder) as file:
            shutil.copyfileobj(sys.stdin.buffer, file, CHUNK)
            file.flush()
            yield Path(file.name)
    except OSError as error:
        raise _no_room(error) from error


@contextmanager
def spooled_output() -> Iterator[int]:
    """Give a descriptor of a temporary file, and send it to standard output when the block ends well."""
    if sys.stdout.isatty():
        raise UsageError("a checkpoint does not go to a terminal", hint="prune ... -o - | other-command, or -o FILE")
    try:
        with tempfile.TemporaryFile() as file:
            yield file.fileno()
            _send(file.fileno(), sys.stdout.fileno())
    except OSError as error:
        if error.errno == errno.EPIPE:
            raise BrokenPipeError from error
        raise _no_room(error) from error


def _send(source: int, target: int) -> None:
    size, at = os.fstat(source).st_size, 0
    while at < size:
        data = os.pread(source, CHUNK, at)
        done = 0
        while done < len(data):
            done += os.write(target, data[done:])
        at += len(data)


def _no_room(error: OSError) -> OutputError:
    return OutputError(f"cannot spool: {error.strerror}", hint="TMPDIR=/path/with/room prune ...")
