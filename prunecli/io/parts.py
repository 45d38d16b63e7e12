"""A new file as parts: bytes of its own, and ranges that are copied from the file it is made of.

Knows nothing about formats.
"""

from __future__ import annotations

import errno
import mmap
import os
from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

from prunecli.checkpoint import Checksum, Span
from prunecli.io.files import COPY_RUN, Source, write_all

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Part = bytes | Span
"""Bytes to write, or a range of the old file to copy."""

_NO_KERNEL_COPY = {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF, errno.EPERM}
_WINDOW = 1 << 20


@dataclass(frozen=True, slots=True)
class FilePlan:
    """A new file: its `parts`, one behind the other, and the `checksums` that cover what may change in it.

    The spans of `checksums` are ranges of the old file, their values those of the old bytes, and their places in the
    new file.
    """

    parts: tuple[Part, ...]
    checksums: tuple[Checksum, ...] = ()

    @property
    def size(self) -> int:
        """Bytes of the new file."""
        return sum(length(part) for part in self.parts)

    def where(self) -> CopiedRanges:
        """Return where ranges of the old file are in the new one."""
        starts = accumulate(map(length, self.parts), initial=0)
        copied = [(part, at) for part, at in zip(self.parts, starts, strict=False) if isinstance(part, Span)]
        return CopiedRanges(tuple(sorted(copied, key=lambda pair: (pair[0].start, pair[0].end))))


class CopiedRanges:
    """Where the copied ranges of a file are in a new one."""

    def __init__(self, copied: Sequence[tuple[Span, int]]) -> None:
        """Take (range of the old file, its start in the new one), sorted by the former; no two ranges overlap."""
        self._copied = copied
        self._starts = [span.start for span, _ in copied]

    def __call__(self, start: int, end: int) -> int:
        """Return where the old bytes [start, end) begin in the new file; LookupError where they are not copied."""
        at = bisect_right(self._starts, start) - 1
        if at < 0 or self._copied[at][0].end < end:
            raise LookupError(f"the bytes from {start} to {end} are not copied")
        span, new = self._copied[at]
        return new + start - span.start


def length(part: Part) -> int:
    """Return how many bytes a part takes."""
    return part.length if isinstance(part, Span) else len(part)


def write_parts(
    source: Source, fd: int, parts: Sequence[Part], *, advance: Callable[[int], None] = lambda _: None
) -> None:
    """Write `parts` to `fd` from its start on; what is copied goes through the kernel where it can.

    `advance` is told the bytes that are there.
    """
    at = 0
    for part in parts:
        if isinstance(part, Span):
            _copy(source, fd, part, at, advance)
        else:
            write_all(fd, memoryview(part), at)
            advance(len(part))
        at += length(part)


def _copy(source: Source, fd: int, span: Span, at: int, advance: Callable[[int], None]) -> None:
    start = span.start
    while start < span.end:
        try:
            done = os.copy_file_range(source.fd, fd, min(COPY_RUN, span.end - start), start, at)
        except (OSError, AttributeError) as error:
            if isinstance(error, OSError) and error.errno not in _NO_KERNEL_COPY:
                raise
            done = 0
        if not done:
            _copy_by_hand(source, fd, Span(start, span.end - start), at, advance)
            return
        advance(done)
        start, at = start + done, at + done


def _copy_by_hand(source: Source, fd: int, span: Span, at: int, advance: Callable[[int], None]) -> None:
    memory = memoryview(mmap.mmap(-1, min(_WINDOW, max(span.length, 1))))
    for start in range(span.start, span.end, len(memory)):
        part = memory[: span.end - start]
        source.read(part, start)
        write_all(fd, part, at + start - span.start)
        advance(len(part))
