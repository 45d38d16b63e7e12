"""The lines of files that another process is still writing."""

from __future__ import annotations

import os
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_CHUNK, _LONGEST = 1 << 16, 1 << 12  # bytes that are read at once, and of a line


class Follower:
    """Passes on each line that a file gets; the writer's position in the file stays as it is."""

    def __init__(self, file: IO[bytes], on_line: Callable[[str], None]) -> None:
        """Start at the beginning of `file`."""
        self._fd, self._on_line = file.fileno(), on_line
        self._offset, self._rest = 0, b""

    def read(self, *, end: bool = False) -> None:
        """Pass on the complete lines since the last call, and at the `end` the rest."""
        while data := os.pread(self._fd, _CHUNK, self._offset):
            self._offset += len(data)
            # Progress bars of the evaluation end their lines with a carriage return.
            *lines, self._rest = (self._rest + data).replace(b"\r", b"\n").split(b"\n")
            for line in lines:
                self._pass(line)
            self._rest = self._rest[-_LONGEST:]
        if end:
            self._pass(self._rest)

    def _pass(self, line: bytes) -> None:
        if line.strip():
            self._on_line(line[:_LONGEST].decode("utf-8", "replace"))
