"""Lay out a zip of stored records as torch's writer does: aligned data, and the checksums after it.

The zip is that of torch's miniz, byte for byte: no times, no attributes, and 64-bit fields from 4 GiB on.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import pack
from typing import TYPE_CHECKING

from prunecli.formats.zip.structs import (
    CENTRAL,
    CENTRAL_SIGNATURE,
    CRC_FOLLOWS,
    DESCRIPTORS,
    END,
    END_SIGNATURE,
    LOCAL,
    LOCAL_SIGNATURE,
    MAX16,
    MAX32,
    PADDING_FIELD,
    UTF8,
    ZIP64_END_SIGNATURE,
    ZIP64_FIELD,
    join_extra,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from prunecli.formats.zip.structs import Descriptor
    from prunecli.io.arrangement import Literal

_SHORT, _LONG = DESCRIPTORS[0], DESCRIPTORS[2]  # with a signature, and sizes of 32 or 64 bits


@dataclass(frozen=True, slots=True)
class PlacedRecord:
    """A record: its encoded name, the offset of its header, and the offset and length of its data in bytes."""

    name: bytes
    start: int
    data: int
    length: int

    @property
    def large(self) -> tuple[int, ...]:
        """The values that need a zip64 field, in its order: the size twice, and the offset."""
        sizes = (self.length, self.length) if self.length >= MAX32 else ()
        return (*sizes, self.start) if self.start >= MAX32 else sizes

    @property
    def flags(self) -> int:
        """Names in UTF-8, and a descriptor after the data unless it is empty."""
        return UTF8 | CRC_FOLLOWS if self.length else UTF8

    @property
    def _zip64(self) -> list[tuple[int, bytes]]:
        return [(ZIP64_FIELD, pack(f"<{len(self.large)}Q", *self.large))] if self.large else []

    def header(self) -> bytes:
        """Return the bytes before the data: the local header, the name, and padding up to the data."""
        zip64 = join_extra(self._zip64)
        missing = self.data - self.start - LOCAL.size - len(self.name) - len(zip64) - 4
        extra = zip64 + join_extra([(PADDING_FIELD, b"Z" * missing)])
        fields = (LOCAL_SIGNATURE, 0, self.flags, 0, 0, 0, 0, 0, 0, len(self.name), len(extra))
        return LOCAL.pack(*fields) + self.name + extra

    @property
    def _descriptor(self) -> Descriptor:
        return _LONG if self.large else _SHORT

    @property
    def end(self) -> int:
        """The offset of the first byte after the record."""
        return self.data + self.length + (self._descriptor.layout.size if self.length else 0)

    def descriptor(self, crc: int) -> bytes:
        """Return the bytes after the data, with the CRC-32 of the data; none if the record is empty."""
        return self._descriptor.pack(crc, self.length, self.length) if self.length else b""

    def central(self, crc: int) -> bytes:
        """Return the entry of the central directory."""
        extra = join_extra(self._zip64)
        size = min(self.length, MAX32)
        lengths = (len(self.name), len(extra), 0, 0, 0, 0)
        sizes = (crc, size, size, *lengths, min(self.start, MAX32))
        return CENTRAL.pack(CENTRAL_SIGNATURE, 0, 0, self.flags, 0, 0, 0, *sizes) + self.name + extra


def placed(records: Sequence[tuple[str, int]], alignment: int) -> list[PlacedRecord]:
    """Return the records, given as pairs of name and length, one after the other; data starts at the alignment."""
    laid_out = []
    offset = 0
    for text, length in records:
        name = text.encode()
        # The size and the offset of a zip64 field are 8 bytes each, after 4 bytes for its id and length.
        wide = 8 * (2 * (length >= MAX32) + (offset >= MAX32))
        data = offset + LOCAL.size + len(name) + 4 + (wide + 4 if wide else 0)
        laid_out.append(PlacedRecord(name, offset, data + -data % alignment, length))
        offset = laid_out[-1].end
    return laid_out


def total_size(records: Sequence[PlacedRecord]) -> int:
    """Return the size of the zip in bytes."""
    central = sum(len(record.central(0)) for record in records)
    return records[-1].end + central + len(_end(records, central))


def trailing(records: Sequence[PlacedRecord], crcs: Sequence[int]) -> Iterator[Literal]:
    """Yield the bytes that depend on the CRC-32 of each record: descriptors, central directory and its end."""
    for record, crc in zip(records, crcs, strict=True):
        yield record.data + record.length, record.descriptor(crc)
    central = b"".join(record.central(crc) for record, crc in zip(records, crcs, strict=True))
    yield records[-1].end, central + _end(records, len(central))


def _end(records: Sequence[PlacedRecord], size: int) -> bytes:
    """Return the end records for a central directory of `size` bytes; torch writes the 64-bit one into every file."""
    count, start = len(records), records[-1].end
    fields = (min(count, MAX16), min(count, MAX16), min(size, MAX32), min(start, MAX32))
    end = END.pack(END_SIGNATURE, 0, 0, *fields, 0)
    made_by, needed = 0x031E, 0x002D  # as miniz writes them
    zip64 = pack("<4sQ2H2L4Q", ZIP64_END_SIGNATURE, 44, made_by, needed, 0, 0, count, count, size, start)
    return zip64 + pack("<4sLQL", b"PK\6\7", 0, start + size, 1) + end
