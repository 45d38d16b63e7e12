"""Walk through the fields of a protobuf without its schema (protobuf.dev, "Encoding")."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO, TypeAlias

from prunecli.checkpoint import Span

if TYPE_CHECKING:
    from collections.abc import Iterator

Field: TypeAlias = "tuple[int, int | Span]"
"""The number of a field, and its value: a number of variable length, or the bytes of anything else."""

MOST_FIELDS = 1 << 22
"""The most fields of a file that are read."""

LONGEST_TEXT = 1 << 16  # bytes
_LONGEST_HEAD = 20  # bytes of a tag and a number


class Wire:
    """Reads the messages of one file."""

    def __init__(self, file: BinaryIO) -> None:
        """Read from `file`."""
        self._file, self._count = file, 0

    def fields(self, message: Span) -> Iterator[Field]:
        """Yield the fields of a message in order; ValueError for one that ends outside of it."""
        place = message.start
        while place < message.end:
            self._count += 1
            if self._count > MOST_FIELDS:
                raise ValueError(f"it has more than {MOST_FIELDS:,} fields")
            self._file.seek(place)
            head = self._file.read(min(_LONGEST_HEAD, message.end - place))
            number, value, length = _field(head, place)
            place += length
            if place > message.end:
                raise ValueError("one of its fields is cut short")
            yield number, value

    def text(self, value: int | Span) -> str:
        """Return a text of at most LONGEST_TEXT bytes."""
        if isinstance(value, int) or value.length > LONGEST_TEXT:
            raise ValueError("one of its names is too long, or no text")
        try:
            return self._bytes(value).decode("utf-8")
        except UnicodeDecodeError:
            raise ValueError("one of its names is not UTF-8 text") from None

    def numbers(self, value: int | Span) -> list[int]:
        """Return the numbers of a repeated field: one of them, or all packed together."""
        if isinstance(value, int):
            return [value]
        if value.length > LONGEST_TEXT:
            raise ValueError("one of its lists of numbers is too long")
        data, place, numbers = self._bytes(value), 0, []
        while place < len(data):
            number, place = _varint(data, place)
            numbers.append(number)
        return numbers

    def _bytes(self, span: Span) -> bytes:
        self._file.seek(span.start)
        return self._file.read(span.length)


def _field(head: bytes, place: int) -> tuple[int, int | Span, int]:
    """Return the number, the value and the length of the field that begins with `head` at `place` of the file."""
    key, used = _varint(head, 0)
    number, kind = key >> 3, key & 7
    if not number or kind not in {0, 1, 2, 5}:
        raise ValueError(f"it has a field of the unknown kind {kind}")
    if kind == 0:
        value, used = _varint(head, used)
        return number, value, used
    length = {1: 8, 5: 4}.get(kind, 0)
    if kind == 2:
        length, used = _varint(head, used)
    return number, Span(place + used, length), used + length


def _varint(data: bytes, place: int) -> tuple[int, int]:
    """Return the number of variable length at `place`, and the place after it."""
    value = 0
    for index in range(place, min(place + 10, len(data))):
        value |= (data[index] & 127) << 7 * (index - place)
        if data[index] < 128:
            return value, index + 1
    raise ValueError("one of its fields is cut short")
