"""The pickle opcodes and the readers of their arguments.

Long byte strings are skipped and only their position is kept, so a pickle of arrays costs no memory.
The effect of an opcode on the stack is defined in `machine`.
"""

from __future__ import annotations

import os
import pickletools
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, TypeAlias, cast

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import BinaryIO

ArgumentReader: TypeAlias = "Callable[[IO[bytes]], Any] | None"
"""Reads the argument of an opcode from a stream; None for an opcode without an argument."""

SHORT = 255
"""Byte strings of at most this length are read; of longer ones only the position is kept."""

STOP = b"."
"""The opcode that ends a pickle."""

_READLINE_LIMIT = 1 << 16  # bytes of one line of a GLOBAL


@dataclass(eq=False, slots=True)
class Blob:
    """A byte string: `length` bytes from offset `start` of the stream; `content` is None if it is longer than SHORT.

    `reused` is set when the pickle refers to it again, because it may then be part of more than one object.
    """

    start: int
    length: int
    content: bytes | None
    reused: bool = False


class _Bounded:
    def __init__(self, file: BinaryIO, limit: int) -> None:
        self._file = file
        self._limit = self._remaining = limit
        self.tell = file.tell
        self._size = file.seek(0, os.SEEK_END)
        file.seek(0)

    def taken(self) -> int:
        """Return the number of bytes that were read, without those that were skipped."""
        return self._limit - self._remaining

    def read(self, count: int) -> bytes:
        if count > self._remaining:
            raise ValueError(f"{count:,} bytes are needed and {self._remaining:,} remain")
        self._remaining -= count
        return self._file.read(count)

    def seek(self, count: int, whence: int) -> None:
        if (remaining := self._size - self.tell()) < count:  # some filesystems fail to seek far past the end
            raise ValueError(f"{count:,} bytes are needed and {remaining:,} remain")
        self._file.seek(count, whence)

    def readline(self) -> bytes:
        line = self._file.readline(min(self._remaining, _READLINE_LIMIT))
        self._remaining -= len(line)
        return line


def bounded(file: BinaryIO, limit: int) -> IO[bytes]:
    """Return `file`, rewound to its start, as a stream that reads at most `limit` bytes.

    A false length in the pickle therefore cannot exhaust memory. Reading more raises ValueError, as does skipping
    past the end of the file; skipped bytes do not count.
    """
    return cast("IO[bytes]", _Bounded(file, limit))


def opcode_error(code: bytes) -> str:
    """Return the reason why the opcode `code` is rejected; `code` is one byte, or empty at the end of the file."""
    if not code:
        return "the end is missing"
    if code not in ARGUMENTS:
        return f"there is no opcode {code.hex()}"
    return f"the opcode {ARGUMENTS[code][0]} is not allowed"


def _blob(width: int) -> Callable[[IO[bytes]], Blob]:
    """Return a reader of a byte string that follows its length, a number of `width` bytes."""

    def argument(stream: IO[bytes]) -> Blob:
        head = stream.read(width)
        length = int.from_bytes(head, "little")
        # A position of 2^63 or more does not fit the offset of a file.
        if len(head) < width or length >= 1 << 62:
            raise ValueError("a length is missing or impossible")
        start = stream.tell()
        content = stream.read(length) if length <= SHORT else None
        if content is None:
            stream.seek(length, os.SEEK_CUR)
        return Blob(start, length, content)

    return argument


def _module_and_name(stream: IO[bytes]) -> str:
    """Read two lines and return them as "module name".

    Unlike the reader of pickletools, it does not decode backslash escapes: pickle does not either.
    """
    lines = stream.readline(), stream.readline()
    if not all(line.endswith(b"\n") for line in lines):
        raise ValueError("the name of a global has no end")
    return " ".join(line[:-1].decode("utf-8") for line in lines)


def _number(width: int) -> Callable[[IO[bytes]], int]:
    """Return a reader of a number of `width` bytes, in half of the time of that of pickletools."""

    def argument(stream: IO[bytes]) -> int:
        data = stream.read(width)
        if len(data) < width:
            raise ValueError(f"not enough data in stream to read uint{width}")
        return int.from_bytes(data, "little")

    return argument


_OWN_READERS = {
    **dict.fromkeys(("BININT1", "BINGET", "BINPUT"), _number(1)),
    "BININT2": _number(2),
    **dict.fromkeys(("LONG_BINGET", "LONG_BINPUT"), _number(4)),
    "SHORT_BINBYTES": _blob(1),
    "BINBYTES": _blob(4),
    "BINBYTES8": _blob(8),
    "BYTEARRAY8": _blob(8),
    "GLOBAL": _module_and_name,
}

ARGUMENTS: dict[bytes, tuple[str, ArgumentReader]] = {
    opcode.code.encode("latin-1"): (
        opcode.name,
        _OWN_READERS.get(opcode.name, opcode.arg.reader if opcode.arg else None),
    )
    for opcode in pickletools.opcodes
}
"""Maps each opcode to its name and to the reader of its argument."""
