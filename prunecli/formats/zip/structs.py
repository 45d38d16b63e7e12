"""The structures of a zip file, and how they are read and written (APPNOTE.TXT 6.3.10, section 4.3)."""

from __future__ import annotations

from struct import Struct, pack, pack_into, unpack_from
from typing import NamedTuple

from prunecli.values import dataclass

ENCRYPTED = 0x2041
"""Bits 0, 6 and 13 of the flags: the record is encrypted."""

CRC_FOLLOWS = 0x0008
"""Bit 3 of the flags: CRC and sizes are in a data descriptor after the data."""

UTF8 = 0x0800
"""Bit 11 of the flags: the name is UTF-8, not CP437."""

MAX16, MAX32 = 0xFFFF, 0xFFFFFFFF
"""A field with this value does not hold the number: it is in the zip64 structures."""

ZIP64_FIELD, PADDING_FIELD = 0x0001, 0x4246
"""Ids of extra fields. torch fills up to its alignment with the second, "FB"."""

ZIP64_LOCATOR_SIZE = 20
"""Bytes of the locator that follows the zip64 end record."""

LOCAL = Struct("<4s5H3L2H")
"""The layout of LocalHeader."""

CENTRAL = Struct("<4s6H3L5H2L")
"""The layout of CentralHeader."""

END = Struct("<4s4H2LH")
"""The layout of the end record: signature, two disk numbers, two record counts, size and offset of the central
directory, length of the comment."""

LOCAL_SIGNATURE, CENTRAL_SIGNATURE, END_SIGNATURE, ZIP64_END_SIGNATURE = b"PK\3\4", b"PK\1\2", b"PK\5\6", b"PK\6\6"

LOCAL_CRC, CENTRAL_CRC, END_COUNTS = 14, 16, 8
"""Offsets of the CRC in both headers, and of the counts, the size and the offset in the end record."""


class LocalHeader(NamedTuple):
    """The header before the data of a record; its name and extra fields follow it."""

    signature: bytes
    version: int
    flags: int
    method: int
    time: int
    date: int
    crc: int
    packed: int
    size: int
    name_length: int
    extra_length: int


class CentralHeader(NamedTuple):
    """The header of a record in the central directory; its name, extra fields and comment follow it."""

    signature: bytes
    made_by: int
    version: int
    flags: int
    method: int
    time: int
    date: int
    crc: int
    packed: int
    size: int
    name_length: int
    extra_length: int
    comment_length: int
    disk: int
    internal: int
    external: int
    offset: int


def local_header(data: bytes) -> LocalHeader:
    """Return the local header at the start of `data`; struct.error if it is too short."""
    return LocalHeader._make(LOCAL.unpack_from(data))


def central_header(data: bytes, start: int = 0) -> CentralHeader:
    """Return the header at `start` of the central directory `data`; struct.error if it is too short."""
    return CentralHeader._make(CENTRAL.unpack_from(data, start))


@dataclass(frozen=True, slots=True)
class Descriptor:
    """The layout of a data descriptor: with or without a signature, with sizes of 32 ("LL") or 64 bits ("QQ")."""

    signature: bytes
    sizes: str

    @property
    def layout(self) -> Struct:
        """Signature, CRC, stored and uncompressed size."""
        return _LAYOUTS[len(self.signature), self.sizes]

    def pack(self, crc: int, packed: int, size: int) -> bytes:
        """Return the bytes of the descriptor."""
        return self.layout.pack(self.signature, crc, packed, size)


_LAYOUTS = {(length, sizes): Struct(f"<{length}sL{sizes}") for length in (0, 4) for sizes in ("LL", "QQ")}

DESCRIPTORS = tuple(Descriptor(signature, sizes) for sizes in ("LL", "QQ") for signature in (b"PK\7\b", b""))
"""All layouts of a data descriptor. A zip does not say which one it has."""


def split_end(tail: bytes) -> tuple[bytes, bytes]:
    """Split the bytes after the central directory into the zip64 end record, if there is one, and the end record."""
    if not tail.startswith(ZIP64_END_SIGNATURE):
        return b"", tail
    (remaining,) = unpack_from("<Q", tail, 4)
    length = 12 + remaining
    return tail[:length], tail[length + ZIP64_LOCATOR_SIZE :]


def split_extra(extra: bytes) -> list[tuple[int, bytes]]:
    """Return the (id, content) pairs of the extra fields; bytes that are no field are ignored, as all readers do."""
    fields = []
    while len(extra) >= 4:
        field_id, size = unpack_from("<2H", extra)
        if len(extra) < 4 + size:
            break
        fields.append((field_id, extra[4 : 4 + size]))
        extra = extra[4 + size :]
    return fields


def join_extra(fields: list[tuple[int, bytes]]) -> bytes:
    """Return the bytes of extra fields, given as (id, content) pairs."""
    return b"".join(pack("<2H", field_id, len(content)) + content for field_id, content in fields)


def end_records(tail: bytes, count: int, start: int, size: int) -> bytes:
    """Return the end records for a central directory of `count` records and `size` bytes at offset `start`.

    `tail` are the end records of the old zip; a zip64 record is added if it is needed.
    """
    zip64, end = split_end(tail)
    if not zip64 and (count >= MAX16 or max(start, size) >= MAX32):
        # 44 bytes follow the length. Version 4.5 is the first with zip64.
        zip64 = pack("<4sQ2H2L4Q", ZIP64_END_SIGNATURE, 44, 45, 45, 0, 0, 0, 0, 0, 0)
    new_end = bytearray(end)
    fields = (min(count, MAX16), min(count, MAX16), min(size, MAX32), min(start, MAX32))
    pack_into("<2H2L", new_end, END_COUNTS, *fields)
    if not zip64:
        return bytes(new_end)
    new_zip64 = bytearray(zip64)
    pack_into("<4Q", new_zip64, 24, count, count, size, start)
    return bytes(new_zip64) + pack("<4sLQL", b"PK\6\7", 0, start + size, 1) + bytes(new_end)
