"""Lay out a new zip: headers without data descriptors, records in the given order, and a central directory.

zip64 fields are written where they are needed. The content of the records is not interpreted.
"""

from __future__ import annotations

from struct import pack
from typing import TYPE_CHECKING, Generic, TypeVar

from prunecli.formats.zip.structs import (
    CENTRAL,
    CENTRAL_SIGNATURE,
    END,
    END_SIGNATURE,
    LOCAL,
    LOCAL_SIGNATURE,
    MAX32,
    PADDING_FIELD,
    UTF8,
    ZIP64_FIELD,
    CentralHeader,
    LocalHeader,
    central_header,
    end_records,
    join_extra,
)
from prunecli.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prunecli.formats.zip.directory import Record

T = TypeVar("T")

STORED, DEFLATED = 0, 8
"""Methods of compression."""

_VERSION, _VERSION_ZIP64 = 20, 45
_PADDING_HEAD = 4  # bytes of the id and the length of an extra field


@dataclass(frozen=True, slots=True)
class Entry(Generic[T]):
    """A record of a new zip: the fields of its headers, and `data`, which stands for its `packed` bytes."""

    name: bytes
    method: int
    crc: int
    packed: int
    size: int
    data: T
    flags: int = 0
    time: int = 0
    date: int = 0


@dataclass(frozen=True, slots=True)
class ZipLayout(Generic[T]):
    """A new zip: the pieces in order, the offset of the data of each entry, and the size in bytes."""

    pieces: list[bytes | T]
    starts: list[int]
    size: int


def entry_like(record: Record, data: T, *, method: int, packed: int) -> Entry[T]:
    """Return an entry with the name, the time and the content of `record`, stored in another way."""
    header = central_header(record.central)
    name = record.central[CENTRAL.size : CENTRAL.size + header.name_length]
    flags = header.flags & UTF8
    return Entry(name, method, record.crc, packed, record.size, data, flags, header.time, header.date)


def lay_out(entries: Sequence[Entry[T]], alignment: int = 1) -> ZipLayout[T]:
    """Return the zip of `entries`; the data of stored ones begins at multiples of `alignment` bytes."""
    pieces: list[bytes | T] = []
    central: list[bytes] = []
    starts: list[int] = []
    offset = 0
    for entry in entries:
        local = _local(entry, offset, alignment if entry.method == STORED else 1)
        central.append(_central(entry, offset))
        starts.append(offset + len(local))
        pieces += [local, entry.data]
        offset += len(local) + entry.packed
    directory = b"".join(central)
    empty = END.pack(END_SIGNATURE, 0, 0, 0, 0, 0, 0, 0)
    pieces.append(directory + end_records(empty, len(entries), offset, len(directory)))
    return ZipLayout(pieces, starts, offset + len(pieces[-1]) if isinstance(pieces[-1], bytes) else offset)


def _local(entry: Entry[T], offset: int, alignment: int) -> bytes:
    large = max(entry.packed, entry.size) >= MAX32
    extra = join_extra([(ZIP64_FIELD, pack("<2Q", entry.size, entry.packed))]) if large else b""
    end = offset + LOCAL.size + len(entry.name) + len(extra)
    if end % alignment:
        extra += join_extra([(PADDING_FIELD, b"Z" * ((-end - _PADDING_HEAD) % alignment))])
    header = LocalHeader(
        signature=LOCAL_SIGNATURE,
        version=_VERSION_ZIP64 if large else _VERSION,
        flags=entry.flags,
        method=entry.method,
        time=entry.time,
        date=entry.date,
        crc=entry.crc,
        packed=MAX32 if large else entry.packed,
        size=MAX32 if large else entry.size,
        name_length=len(entry.name),
        extra_length=len(extra),
    )
    return LOCAL.pack(*header) + entry.name + extra


def _central(entry: Entry[T], offset: int) -> bytes:
    # APPNOTE 4.5.3: only the values that are MAX32 in the header, in the order size, stored size, offset.
    values = (entry.size, entry.packed, offset)
    large = [value for value in values if value >= MAX32]
    extra = join_extra([(ZIP64_FIELD, pack(f"<{len(large)}Q", *large))]) if large else b""
    version = _VERSION_ZIP64 if large else _VERSION
    header = CentralHeader(
        signature=CENTRAL_SIGNATURE,
        made_by=version,
        version=version,
        flags=entry.flags,
        method=entry.method,
        time=entry.time,
        date=entry.date,
        crc=entry.crc,
        packed=min(entry.packed, MAX32),
        size=min(entry.size, MAX32),
        name_length=len(entry.name),
        extra_length=len(extra),
        comment_length=0,
        disk=0,
        internal=0,
        external=0,
        offset=min(offset, MAX32),
    )
    return CENTRAL.pack(*header) + entry.name + extra
