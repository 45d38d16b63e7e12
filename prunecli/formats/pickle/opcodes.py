"""How a pickle is spelled: its opcodes, and how the argument of each is read from a file.

Bytes are not read but noted by their place, so that a pickle of arrays costs no memory. Knows nothing of what the
opcodes do.
"""

from __future__ import annotations

import os
import pickletools
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import BinaryIO

SHORT = 255
"""Bytes objects up to this length are read; of longer ones only the place is noted."""

STOP = b"."
"""The opcode that ends a pickle."""


@dataclass(eq=False, slots=True)
class Blob:
    """A bytes object: `length` bytes from byte `start` of the stream on; `content` only up to SHORT bytes.

    `reused` says that the pickle comes back to it, so that it may be part of more than one object.
    """

    start: int
    length: int
    content: bytes | None
    reused: bool = False


class _Bounded:
    def __init__(self, file: BinaryIO, left: int) -> None:
        self._file = file
        self._left = left
        self.tell = file.tell
        self._size = file.seek(0, os.SEEK_END)
        file.seek(0)

    def read(self, count: int) -> bytes:
        if count > self._left:
            raise ValueError(f"{count:,} bytes are wanted where {self._left:,} are left")
        self._left -= count
        return self._file.read(count)

    def seek(self, count: int, whence: int) -> None:
        if (left := self._size - self.tell()) < count:  # a far place is an error of the system on some filesystems
            raise ValueError(f"{count:,} bytes are wanted where {left:,} are left")
        self._file.seek(count, whence)

    def readline(self) -> bytes:
        line = self._file.readline(min(self._left, 1 << 16))
        self._left -= len(line)
        return line


def bounded(file: BinaryIO, limit: int) -> IO[bytes]:
    """Return `file`, from its start, as a stream that reads `limit` bytes at most: a lie about a length costs nothing.

    Reading more raises ValueError, as does skipping past the end; what is skipped does not count.
    """
    return cast("IO[bytes]", _Bounded(file, limit))


def why_not(code: bytes) -> str:
    """Say what is wrong with the opcode `code` (one byte, or none at the end of the file)."""
    if not code:
        return "the end is missing"
    if code not in ARGUMENTS:
        return f"there is no opcode {code.hex()}"
    return f"the opcode {ARGUMENTS[code][0]} is not allowed"


def _blob(width: int) -> Callable[[IO[bytes]], Blob]:
    """Return a reader of bytes that follow their length, which is a number of `width` bytes."""

    def argument(stream: IO[bytes]) -> Blob:
        head = stream.read(width)
        length = int.from_bytes(head, "little")
        if len(head) < width or length >= 1 << 62:
            raise ValueError("a length is missing or impossible")
        start = stream.tell()
        content = stream.read(length) if length <= SHORT else None
        if content is None:
            stream.seek(length, 1)
        return Blob(start, length, content)

    return argument


def _pair(stream: IO[bytes]) -> str:
    """Read two lines as "module name"; backslashes mean themselves, as they do to pickle but not to pickletools."""
    lines = stream.readline(), stream.readline()
    if not all(line.endswith(b"\n") for line in lines):
        raise ValueError("the name of a global has no end")
    return " ".join(line[:-1].decode("utf-8") for line in lines)


_BLOBS = {"SHORT_BINBYTES": _blob(1), "BINBYTES": _blob(4), "BINBYTES8": _blob(8), "BYTEARRAY8": _blob(8)}

ARGUMENTS: dict[bytes, tuple[str, Callable[[IO[bytes]], Any] | None]] = {
    opcode.code.encode("latin-1"): (
        opcode.name,
        _pair if opcode.name == "GLOBAL" else _BLOBS.get(opcode.name, opcode.arg.reader if opcode.arg else None),
    )
    for opcode in pickletools.opcodes
}
"""Opcode -> its name, and what reads its argument from a stream; None where it has none."""
