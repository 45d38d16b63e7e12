"""Standard input and output as files: a checkpoint is read from its end, so a pipe is spooled first."""

from __future__ import annotations

import os
import select
import stat
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from prunecli.errors import CheckpointError, OutputError, UsageError
from prunecli.io.temporary import DESCRIPTORS, no_space_error, temporary_file

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import IO

CHUNK = 1 << 20


@contextmanager
def spooled_input(folder: Path | None) -> Iterator[Path]:
    """Copy standard input to a temporary file in `folder` (None: the usual place) and give its path.

    A whole file, as `< CKPT` gives, is not copied. Raise UsageError where there is nothing to read,
    CheckpointError where reading fails, and OutputError where there is no room for the copy.
    """
    if sys.stdin is None or sys.stdin.isatty():
        raise UsageError("`-` reads a checkpoint from a pipe, and there is none", hint="cat CKPT | prune COMMAND -")
    source = sys.stdin.fileno()
    if _is_whole_file(source):
        yield DESCRIPTORS / str(source)
        return
    with temporary_file(folder) as file:
        while data := _read(source):
            _keep(file, data, folder)
        yield DESCRIPTORS / str(file.fileno()) if DESCRIPTORS.is_dir() else Path(file.name)


@contextmanager
def spooled_output() -> Iterator[int]:
    """Give a descriptor of a temporary file, and send it to standard output when the block ends well.

    Raise UsageError where standard output is no place for a checkpoint, and OutputError where there is no room.
    """
    if sys.stdout is None:
        raise UsageError("-o - needs standard output, which is closed", hint="-o PATH")
    if sys.stdout.isatty():
        raise UsageError("a checkpoint does not go to a terminal", hint="-o PATH, or -o - > PATH")
    with temporary_file(None) as file:
        try:
            yield file.fileno()
        except OSError as error:
            if error.errno is None or error.filename is not None:  # it tells of something else, or where itself
                raise
            raise no_space_error(None, error) from error
        _send(file.fileno(), sys.stdout.fileno())


def _is_whole_file(fd: int) -> bool:
    """Whether `fd` is a regular file that nobody has read from yet and that can be opened again."""
    path = DESCRIPTORS / str(fd)
    whole = stat.S_ISREG(os.fstat(fd).st_mode) and os.lseek(fd, 0, os.SEEK_CUR) == 0
    return whole and os.access(path, os.R_OK)


def _read(source: int) -> bytes:
    """Read what has arrived, or b"" at the end."""
    select.select([source], [], [])  # whoever made the pipe may have set it not to block
    try:
        return os.read(source, CHUNK)
    except OSError as error:
        raise CheckpointError(f"cannot read standard input: {error.strerror}") from error


def _keep(file: IO[bytes], data: bytes, folder: Path | None) -> None:
    left = memoryview(data)
    try:
        while left:
            left = left[file.write(left) :]
    except OSError as error:
        raise no_space_error(folder, error) from error


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
    except BlockingIOError:
        select.select([], [target], [])
        return 0
    except OSError as error:
        raise OutputError(
            f"standard output did not take the whole checkpoint: {error.strerror}",
            hint="-o PATH makes sure of the room first",
        ) from error
