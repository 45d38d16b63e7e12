"""Open input and output files, and copies between them inside the kernel where it can."""

from __future__ import annotations

import errno
import mmap
import os
from typing import TYPE_CHECKING, TypeAlias

from prunecli.errors import CheckpointError, OutputError
from prunecli.text.escape import printable

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from prunecli.io.memory import Region

Input: TypeAlias = "Source | Region"
"""The bytes that a run reads: an open file, or tensors in memory."""

Output: TypeAlias = "Sink | Region"
"""The bytes that a run writes: an open file, or tensors in memory."""

PAGE = 4096
"""Bytes of a page: O_DIRECT needs memory and offsets in whole pages, and aligned copies are twice as fast."""

COPY_RUN = 1 << 25
"""Bytes the kernel copies in one step, so that progress advances and an interrupt takes effect."""

_COPY_BUFFER = 1 << 20  # bytes
_NO_KERNEL_COPY = {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF, errno.EPERM}


class Source:
    """An open input file. A read is complete or raises an error, and a change of the file is detected."""

    def __init__(self, path: Path, size: int, modified: int | None = None) -> None:
        """Open `path` and keep its size and its time of modification.

        Raises CheckpointError if its size is not `size` bytes, or if its time of modification (ns) is not `modified`,
        where that is known.
        """
        self.path, self.size = path, size
        self.fd = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        self._seen = self._state()
        if self._seen != (size, self._seen[1] if modified is None else modified):
            self.close()
            raise self._changed()

    def _state(self) -> tuple[int, int]:
        status = os.fstat(self.fd)
        return status.st_size, status.st_mtime_ns

    def _changed(self) -> CheckpointError:
        return CheckpointError(
            f"{printable(str(self.path))} changed while it was being read",
            hint="run again when no other program writes to it",
        )

    def check_unchanged(self) -> None:
        """Raise CheckpointError if the file was written to since it was opened."""
        if self._state() != self._seen:
            raise self._changed()

    def read(self, into: memoryview, offset: int) -> None:
        """Fill `into` from the byte `offset` on; CheckpointError if the file ends before."""
        done = 0
        while done < len(into):  # one call reads at most 2 GiB
            try:
                got = os.preadv(self.fd, [into[done:]], offset + done)
            except OSError as error:
                raise CheckpointError(f"cannot read {printable(str(self.path))}: {error.strerror}") from error
            if got <= 0:
                raise self._changed()
            done += got

    def close(self) -> None:
        """Close the file."""
        os.close(self.fd)


class Sink:
    """An open output file that is written at any offset, around the page cache where requested and possible."""

    def __init__(self, fd: int, *, direct: bool) -> None:
        """Write to `fd`; `direct` tries to open it a second time with O_DIRECT."""
        self.fd = fd
        self._direct = _open_direct(fd) if direct else None
        self._use_direct = self._direct is not None

    def write(self, data: memoryview, offset: int) -> None:
        """Write all of `data` at the byte `offset`: whole pages directly if memory and file offsets allow."""
        # O_DIRECT takes whole pages of the file only; the ends go through the cache.
        head = min(-offset % PAGE, len(data))
        body = (len(data) - head) // PAGE * PAGE
        if self._direct is None or not self._use_direct or not body:
            write_all(self.fd, data, offset)
            return
        if head:
            write_all(self.fd, data[:head], offset)
        try:
            write_all(self._direct, data[head : head + body], offset + head)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            # The filesystem accepted O_DIRECT at open and rejects it at write: continue through the cache.
            self._use_direct = False
            write_all(self.fd, data[head : head + body], offset + head)
        if head + body < len(data):
            write_all(self.fd, data[head + body :], offset + head + body)

    def copy(self, source: Input, start: int, end: int) -> None:
        """Copy the bytes [start, end) of `source` to the same offset of the output."""
        copy_range(source, self.fd, start, end, start)

    def close(self) -> None:
        """Close the second descriptor; the caller closes the first."""
        if self._direct is not None:
            os.close(self._direct)
            self._direct = None


def copy_range(
    source: Input, fd: int, start: int, end: int, offset: int, *, advance: Callable[[int], None] = lambda _: None
) -> None:
    """Copy the bytes [start, end) of `source` to `offset` of `fd`, inside the kernel where possible.

    `advance` receives the number of bytes after each step.
    """
    while start < end:
        copied = _kernel_copy(source, fd, start, end, offset)
        if not copied:
            _copy_in_memory(source, fd, start, end, offset, advance)
            return
        advance(copied)
        start, offset = start + copied, offset + copied


def _kernel_copy(source: Input, fd: int, start: int, end: int, offset: int) -> int:
    """Return how many bytes the kernel copied; 0 where it cannot copy between these files."""
    try:
        return os.copy_file_range(source.fd, fd, min(COPY_RUN, end - start), start, offset)
    except AttributeError:
        return 0
    except OSError as error:
        if error.errno not in _NO_KERNEL_COPY:
            raise
        return 0


def _copy_in_memory(source: Input, fd: int, start: int, end: int, offset: int, advance: Callable[[int], None]) -> None:
    # Memory from mmap starts at a page: copies to and from an unaligned buffer take twice as long.
    memory = memoryview(mmap.mmap(-1, min(_COPY_BUFFER, end - start)))
    while start < end:
        chunk = memory[: end - start]
        source.read(chunk, start)
        write_all(fd, chunk, offset)
        advance(len(chunk))
        start, offset = start + len(chunk), offset + len(chunk)


def write_all(fd: int, data: memoryview, offset: int) -> None:
    """Write all of `data` at `offset`, in as many calls as it takes; OutputError if a call writes nothing."""
    done = 0
    while done < len(data):
        written = os.pwrite(fd, data[done:], offset + done)
        if written <= 0:
            raise OutputError(f"cannot write to the output at offset {offset + done}: no bytes were written")
        done += written


def _open_direct(fd: int) -> int | None:
    """Open the file of `fd` a second time for writing around the page cache; None where that is not possible."""
    flag = getattr(os, "O_DIRECT", None)
    if flag is None:
        return None
    try:
        # By its descriptor, because the file has no name yet.
        return os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | flag | os.O_CLOEXEC)
    except OSError:
        return None
