"""A new file as a sequence of parts: bytes to write, and ranges to copy from an input file.

No function here knows a file format.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate
from typing import TYPE_CHECKING

from prunecli.checkpoint import Checksum, Span
from prunecli.io.files import Source, copy_range
from prunecli.io.transfer import write_all
from prunecli.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Part = bytes | Span
"""Bytes to write, or a range of the input file to copy."""


@dataclass(frozen=True, slots=True)
class FilePlan:
    """A new file: its `parts` in order, and the `checksums` over the ranges that may be changed afterwards.

    The spans of `checksums` are ranges of the input file, their values are those of the input's bytes, and their
    places are offsets in the new file.
    """

    parts: tuple[Part, ...]
    checksums: tuple[Checksum, ...] = ()

    @property
    def size(self) -> int:
        """The size of the new file in bytes."""
        return sum(length(part) for part in self.parts)

    def copied_ranges(self) -> CopiedRanges:
        """Return the offsets in the new file of the ranges that are copied from the input file."""
        offsets = accumulate(map(length, self.parts), initial=0)
        copied = [(part, offset) for part, offset in zip(self.parts, offsets, strict=False) if isinstance(part, Span)]
        return CopiedRanges(sorted(copied, key=lambda pair: (pair[0].start, pair[0].end)))


class CopiedRanges:
    """Maps byte ranges of an input file to their offsets in a new file."""

    def __init__(self, copied: Sequence[tuple[Span, int]]) -> None:
        """Take pairs (range of the input, offset in the new file), sorted by range; no two ranges overlap."""
        self._copied = copied
        self._starts = [span.start for span, _ in copied]

    def __call__(self, start: int, end: int) -> int:
        """Return the offset in the new file of the input's bytes [start, end); LookupError if they are not copied."""
        index = bisect_right(self._starts, start) - 1
        if index < 0 or self._copied[index][0].end < end:
            raise LookupError(f"the bytes from {start} to {end} are not copied")
        span, offset = self._copied[index]
        return offset + start - span.start


def length(part: Part) -> int:
    """Return the length of a part in bytes."""
    return part.length if isinstance(part, Span) else len(part)


def write_parts(
    source: Source, fd: int, parts: Sequence[Part], *, advance: Callable[[int], None] = lambda _: None
) -> None:
    """Write `parts` to `fd` from offset 0, with the ranges copied from `source`.

    `advance` receives the number of bytes after each step.
    """
    offset = 0
    for part in parts:
        if isinstance(part, Span):
            copy_range(source, fd, part.start, part.end, offset, advance=advance)
        else:
            write_all(fd, memoryview(part), offset)
            advance(len(part))
        offset += length(part)
