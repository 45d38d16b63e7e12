"""Bytes that a function reads at an offset, as a file to read and seek in."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Buffer


class FileView(io.RawIOBase):
    """A file of `size` bytes; `read(offset, count)` returns those at an offset, at least one and at most `count`."""

    def __init__(self, read: Callable[[int, int], bytes], size: int) -> None:
        """Start at the first byte."""
        self._read, self._size, self._position = read, size, 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move, and return the new position."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise OSError(f"there is no byte {base + offset}")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: Buffer) -> int:
        """Read at the position; the buffer may get fewer bytes than it has."""
        view = memoryview(buffer).cast("B")
        count = min(len(view), self._size - self._position)
        data = self._read(self._position, count) if count > 0 else b""
        view[: len(data)] = data
        self._position += len(data)
        return len(data)
