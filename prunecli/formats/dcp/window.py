"""A file that is read from its start to its end through one buffer, in which the next bytes can be matched."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import BinaryIO

BLOCK = 1 << 20
"""Bytes that are read at once."""

AHEAD = 1 << 14
"""Bytes that can always be matched, unless the file ends before: more than one chunk takes."""

LONGEST = 1 << 24
"""The most bytes of a text."""

_LINE = 1 << 16  # bytes of one line of a GLOBAL


class Window:
    """The bytes of `file` from the current position on: `data` from the index `at`."""

    def __init__(self, file: BinaryIO) -> None:
        """Begin at the start of the file."""
        self.size = file.seek(0, os.SEEK_END)
        file.seek(0)
        self._file, self._start = file, 0
        self.data, self.at = b"", 0

    def tell(self) -> int:
        """Return the offset in the file of the next byte."""
        return self._start + self.at

    def look_ahead(self, count: int = AHEAD) -> None:
        """Read on until `count` bytes can be matched, or the file ends."""
        while len(self.data) - self.at < count and self._start + len(self.data) < self.size:
            block = self._file.read(BLOCK)
            if not block:
                return
            self._start += self.at
            self.data, self.at = self.data[self.at :] + block, 0

    def read(self, count: int) -> bytes:
        """Return the next `count` bytes; ValueError if fewer remain, so that a false length takes no memory."""
        if len(self.data) - self.at < count:
            if count > LONGEST:
                raise ValueError(f"a text of {count:,} bytes is too long")
            if (remaining := self.size - self.tell()) < count and count > 1:
                raise ValueError(f"{count:,} bytes are needed and {remaining:,} remain")
            self.look_ahead(count)
        found = self.data[self.at : self.at + count]
        self.at += len(found)
        return found

    def readline(self) -> bytes:
        """Return the next line."""
        self.look_ahead(_LINE)
        end = self.data.find(b"\n", self.at, self.at + _LINE) + 1 or len(self.data)
        return self.read(end - self.at)

    def seek(self, count: int, _: int) -> None:
        """Skip `count` bytes; ValueError if fewer remain."""
        while count:
            skipped = len(self.read(min(count, BLOCK)))
            if not skipped:
                raise ValueError("the end is missing")
            count -= skipped


def fetched_numbers(file: BinaryIO) -> set[int]:
    """Return the numbers in the memo that a pickle may fetch: all, and some that only look so.

    Only these values must be kept while the pickle is read.
    """
    file.seek(0)
    short, long_ = set[bytes](), set[bytes]()
    rest = b""
    while block := file.read(BLOCK):
        block = rest + block
        short.update(re.findall(rb"h(?=(.))", block, re.DOTALL))
        long_.update(re.findall(rb"j(?=(....))", block, re.DOTALL))
        rest = block[-4:]
    file.seek(0)
    return {int.from_bytes(raw, "little") for raw in (*short, *long_)}
