"""Open input and output files, and copies between them inside the kernel where it can."""

from __future__ import annotations

import errno
import os
from struct import pack
from threading import Lock
from typing import TYPE_CHECKING, TypeAlias

from prunecli.errors import CheckpointError
from prunecli.io.descriptors import Descriptor
from prunecli.io.filesystems import is_in_memory
from prunecli.io.transfer import WriteError, kernel_copy, read_all, write_all
from prunecli.kernels.pages import pages
from prunecli.text.escape import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from prunecli.checkpoint import TensorInfo
    from prunecli.io.assembled import AssembledSink, AssembledSource
    from prunecli.io.memory import Region
    from prunecli.io.rearranged import Rearranged

Input: TypeAlias = "Source | Region | AssembledSource"
"""The bytes that a run reads: an open file, tensors in memory, or tensors in chunks of several files."""

Output: TypeAlias = "Sink | Region | AssembledSink | Rearranged"
"""What a run writes: a file, tensors in memory, tensors in chunks of several files, or files of another layout."""

PAGE = 4096
"""Bytes of a page: O_DIRECT needs memory and offsets in whole pages, and aligned copies are twice as fast."""

_COPY_BUFFER = 1 << 20  # bytes

_DIRECT_BUFFER = 1 << 21  # bytes

_CLONE_RANGE = 0x4020940D  # FICLONERANGE of Linux


class Source(Descriptor):
    """An input file. A read is complete or raises an error, and a change of the file is detected."""

    def __init__(self, path: Path, size: int, modified: int | None = None) -> None:
        """Open `path` and keep its identity, its size and its time of modification.

        Raises CheckpointError if its size is not `size` bytes, or if its time of modification (ns) is not `modified`,
        where that is known.
        """
        super().__init__(self._open_unchanged)
        self.path, self.size = path, size
        self._seen: tuple[int, ...] = ()
        with self.opened() as fd:
            status = os.fstat(fd)
            self.mode, self._seen = status.st_mode, _state(fd)
        if (status.st_size, status.st_mtime_ns if modified is None else modified) != (size, status.st_mtime_ns):
            self.close()
            raise self._changed()

    is_local = True
    """Whether it has a descriptor: a file that is elsewhere has none."""

    @property
    def stored(self) -> Source:
        """The file as it is stored: itself, unless this is an inflated copy of it."""
        return self

    def _open_unchanged(self) -> int:
        fd = os.open(self.path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        if self._seen and self._seen != _state(fd):
            os.close(fd)
            raise self._changed()
        return fd

    def _changed(self) -> CheckpointError:
        return CheckpointError(
            f"{printable(str(self.path))} changed while it was being read",
            hint="run again when no other program writes to it",
        )

    def check_unchanged(self) -> None:
        """Raise CheckpointError if the file was written to since it was opened, or if its name is another file's now.

        A file that was opened once is read to its end after another one took its name, which must not be overwritten.
        """
        with self.opened() as fd:
            if self._seen != _state(fd) or self._seen != self._named(fd):
                raise self._changed()

    def _named(self, fd: int) -> tuple[int, ...]:
        """Return the state of the file that has the name now; that of `fd` if there is none."""
        try:
            return _state(self.path)
        except OSError:
            return _state(fd)

    def read(self, into: memoryview, offset: int) -> None:
        """Fill `into` from the byte `offset` on; CheckpointError if the file ends before."""
        try:
            with self.opened() as fd:
                got = read_all(fd, into, offset)
        except OSError as error:
            raise CheckpointError(f"cannot read {printable(str(self.path))}: {error.strerror}") from error
        if got < len(into):
            raise self._changed()


def _state(file: int | Path) -> tuple[int, ...]:
    """Return what changes if the open or named `file` is written to, or replaced by another one."""
    status = os.stat(file)  # noqa: PTH116 - of a descriptor as well
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


class SameLayout:
    """An output in which all bytes are where they are in the input.

    `reads` and `wholes` are the bytes of the input that it needs in windows, or whole in one: none.
    """

    __slots__ = ()

    reads: Sequence[tuple[int, int]] = ()
    wholes: Sequence[tuple[int, int]] = ()

    def finish(self) -> None:
        """Do nothing: the output is complete when all of it is written."""

    def written(self, _: int) -> Iterator[tuple[Descriptor, int]]:
        """Yield each output file and its size in bytes, that of the input; memory and parts of files are none."""
        yield from ()

    def moved(self, _: Sequence[TensorInfo]) -> list[TensorInfo] | None:
        """Return None: tensors are where they are in the input."""
        return None


class Sink(SameLayout):
    """An output file that is written at any offset, around the page cache where requested and possible."""

    def __init__(self, file: int | Descriptor, *, direct: bool) -> None:
        """Write to `file`; `direct` tries to open it a second time with O_DIRECT.

        A tmpfs is a page cache, and grants O_DIRECT all the same.
        """
        self.file = Descriptor(fd=file) if isinstance(file, int) else file
        self._direct = Descriptor(self._open_direct)
        self._use_direct = direct and self._can_open_direct()
        self._shares_blocks: bool | None = None  # with the inputs, as far as is known
        # The system lets one thread at a time write to a file through its cache. The others would spin.
        self._through_cache = Lock()

    def _open_direct(self) -> int:
        # By its descriptor, because the file may have no name yet.
        with self.file.opened() as fd:
            return os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_DIRECT | os.O_CLOEXEC)

    def _can_open_direct(self) -> bool:
        try:
            with self.file.opened() as fd, self._direct.opened():
                return not is_in_memory(fd)
        except (OSError, AttributeError):
            return False

    def write(self, data: memoryview, offset: int) -> None:
        """Write all of `data` at the byte `offset`: whole pages directly if memory and file offsets allow."""
        # O_DIRECT takes whole pages of the file only; the ends go through the cache.
        head = min(-offset % PAGE, len(data))
        body = (len(data) - head) // PAGE * PAGE
        with self.file.opened() as fd:
            if not self._use_direct or not body:
                with self._through_cache:
                    write_all(fd, data, offset)
                return
            write_all(fd, data[:head], offset)
            self._write_direct(fd, data[head : head + body], offset + head)
            write_all(fd, data[head + body :], offset + head + body)

    def _write_direct(self, fd: int, data: memoryview, offset: int) -> None:
        try:
            with self._direct.opened() as direct:
                write_all(direct, data, offset)
        except WriteError as error:
            if error.errno not in {errno.EINVAL, errno.EFAULT}:
                raise WriteError(error, fd) from error
            # The filesystem accepted O_DIRECT at open and rejects it at write, or the memory of a device's driver:
            # continue through the cache.
            self._use_direct = False
            write_all(fd, data, offset)

    def copy(self, source: Input, start: int, end: int) -> None:
        """Copy the bytes [start, end) of `source` to the same offset of the output."""
        self.copy_to(start, source, start, end)

    def copy_to(self, offset: int, source: Input, start: int, end: int) -> None:
        """Copy the bytes [start, end) of `source` to `offset` of the output."""
        with self.file.opened() as fd:
            if not self._use_direct or (offset == start and self._shares(source, fd, start, end)):
                copy_range(source, fd, start, end, offset)
                return
        # The kernel would copy through the page cache, which takes twice the time and must be flushed at the end.
        memory = memoryview(pages(min(_DIRECT_BUFFER, offset % PAGE + end - start) or 1))
        while start < end:
            first = offset % PAGE  # what is written at the start of a page lies at the start of one in memory
            chunk = memory[first : first + end - start]
            source.read(chunk, start)
            self.write(chunk, offset)
            start, offset = start + len(chunk), offset + len(chunk)

    def _shares(self, source: Input, fd: int, start: int, end: int) -> bool:
        """Return whether the filesystem lets files share blocks, so that a copy in the kernel copies nothing."""
        page = start + -start % PAGE
        if self._shares_blocks is None and isinstance(source, Source) and source.is_local and page + PAGE <= end:
            with source.opened() as own:
                self._shares_blocks = _share_page(own, fd, page)
        return self._shares_blocks or False

    def written(self, size: int) -> Iterator[tuple[Descriptor, int]]:
        """Yield the output file and its size in bytes, that of the input."""
        yield self.file, size

    def close(self) -> None:
        """Close the second descriptor; the caller closes the first."""
        self._direct.close()


def _share_page(source: int, fd: int, page: int) -> bool:
    """Let `fd` share the page of `source` at `page`, which is copied anyway; return whether that was possible."""
    import fcntl  # noqa: PLC0415 - systems without it can import this module

    try:
        fcntl.ioctl(fd, _CLONE_RANGE, pack("=qQQQ", source, page, PAGE, page))
    except OSError:
        return False
    return True


def copy_range(
    source: Input, fd: int, start: int, end: int, offset: int, *, advance: Callable[[int], None] = lambda _: None
) -> None:
    """Copy the bytes [start, end) of `source` to `offset` of `fd`, inside the kernel where possible.

    `advance` receives the number of bytes after each step.
    """
    while start < end:
        copied = _copy_in_kernel(source, fd, start, end, offset)
        if not copied:
            _copy_in_memory(source, fd, start, end, offset, advance)
            return
        advance(copied)
        start, offset = start + copied, offset + copied


def _copy_in_kernel(source: Input, fd: int, start: int, end: int, offset: int) -> int:
    """Return how many bytes the kernel copied; 0 where it cannot copy between these files."""
    if not isinstance(source, Source) or not source.is_local:
        return 0
    with source.opened() as own:
        return kernel_copy(own, fd, start, end, offset)


def _copy_in_memory(source: Input, fd: int, start: int, end: int, offset: int, advance: Callable[[int], None]) -> None:
    # Memory from mmap starts at a page: copies to and from an unaligned buffer take twice as long.
    memory = memoryview(pages(min(_COPY_BUFFER, end - start)))
    while start < end:
        chunk = memory[: end - start]
        source.read(chunk, start)
        write_all(fd, chunk, offset)
        advance(len(chunk))
        start, offset = start + len(chunk), offset + len(chunk)
