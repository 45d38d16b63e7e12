"""Where the records of a zip lie, and which checksum fields cover each.

The central directory is read with `zipfile`; then every local header is checked against it, so that two
readers cannot see two different files. Knows nothing about what the records hold.
"""

from __future__ import annotations

import os
import shlex
import struct
import zipfile
from dataclasses import dataclass
from struct import Struct, unpack_from
from typing import BinaryIO

from prunecli.checkpoint import Span
from prunecli.errors import CheckpointError

_LOCAL = Struct("<4s5H3L2H")  # signature version flags method time date crc packed size name extra
_CENTRAL = Struct("<4s6H3L5H2L")  # signature made version flags method time date crc packed size name extra ...
_END = Struct("<4s4H2LH")  # signature disk disk records records size start comment
_ENCRYPTED = 0x2041  # flag bits 0, 6 and 13
_DESCRIPTOR = 0x0008  # flag bit 3: the CRC follows the data
_UTF8 = 0x0800
_IN_EXTRA = 0xFFFFFFFF  # a 32-bit size that stands in the zip64 extra field

# what zipfile and struct raise for the various lies a zip can tell
_UNREADABLE = (
    ArithmeticError,
    EOFError,
    NotImplementedError,
    OSError,
    ValueError,
    struct.error,
    zipfile.BadZipFile,
)


@dataclass(frozen=True, slots=True)
class Record:
    """One file inside a zip: the `span` of its bytes as they lie there, and the CRC-32 of its content.

    `places` are the offsets in the zip of every four-byte little-endian field that repeats `crc`.
    """

    name: str
    span: Span
    crc: int
    places: tuple[int, ...]
    compressed: bool


@dataclass(frozen=True, slots=True)
class _Entry:
    info: zipfile.ZipInfo
    raw_name: bytes
    place: int  # of the CRC in the central directory


def read_records(file: BinaryIO, label: str) -> dict[str, Record]:
    """Return the records of the zip `file` by name, in directory order.

    Raises CheckpointError, naming `label`, where the directory is missing or damaged, has duplicates, or does
    not agree with the local headers; where records overlap; and where bytes stand before or behind the zip.
    """
    try:
        entries, limit = _central_directory(file)
        records: dict[str, Record] = {}
        extents: list[tuple[int, int]] = []
        for entry in entries:
            record, end = _record(file, entry, limit)
            records[record.name] = record
            extents.append((entry.info.header_offset, end))
        _check_layout(sorted(extents), limit)
        _check_names(entries)
    except _UNREADABLE as problem:
        raise CheckpointError(
            f"{label} is a damaged or truncated zip: {problem}", hint=f"unzip -t {shlex.quote(label)}"
        ) from problem
    return records


def _central_directory(file: BinaryIO) -> tuple[list[_Entry], int]:
    """Return the entries, and where the directory starts."""
    size = file.seek(0, os.SEEK_END)
    with zipfile.ZipFile(file) as archive:
        infos, start = archive.infolist(), archive.start_dir
    file.seek(start)
    directory = file.read(size - start)
    entries = []
    position = 0
    for info in infos:
        entry, length = _entry(directory, position, start, info)
        entries.append(entry)
        position += length
    _check_end(directory, position, start, len(infos))
    return entries, start


def _entry(directory: bytes, position: int, start: int, info: zipfile.ZipInfo) -> tuple[_Entry, int]:
    fields = _CENTRAL.unpack_from(directory, position)
    crc, name, extra, comment = fields[7], fields[10], fields[11], fields[12]
    raw = directory[position + _CENTRAL.size : position + _CENTRAL.size + name]
    decoded = raw.decode("utf-8" if fields[3] & _UTF8 else "cp437")
    if fields[0] != b"PK\1\2" or crc != info.CRC or decoded != info.orig_filename:
        raise ValueError("its central directory cannot be followed")
    return _Entry(info, raw, start + position + 16), _CENTRAL.size + name + extra + comment


def _check_end(directory: bytes, position: int, start: int, count: int) -> None:
    """Check that what follows the directory tells of this directory in each place, and is the last thing there."""
    actual = (count, position, start)
    claimed = actual
    if directory[position : position + 4] == b"PK\6\6":
        (length,) = unpack_from("<Q", directory, position + 4)
        claimed = unpack_from("<3Q", directory, position + 32)
        position += 12 + length + 20  # the zip64 record, and the locator behind it
    signature, _, _, _, *brief, comment = _END.unpack_from(directory, position)
    if signature != b"PK\5\6":
        raise ValueError("its central directory is cut short")
    agrees = all(c in {a, limit} for a, c, limit in zip(actual, brief, (0xFFFF, _IN_EXTRA, _IN_EXTRA), strict=True))
    if claimed != actual or not agrees:
        raise ValueError(f"its end does not tell of the {count} records in its directory")
    if behind := len(directory) - position - _END.size - comment:
        raise ValueError(f"{behind} bytes stand behind its end")


def _record(file: BinaryIO, entry: _Entry, limit: int) -> tuple[Record, int]:
    """Check one local header; return the record and one past the last byte that belongs to it."""
    info, what = entry.info, f"the record {entry.info.orig_filename!r}"
    file.seek(info.header_offset)
    head = file.read(_LOCAL.size + len(entry.raw_name))
    signature, _, flags, method, _, _, crc, packed, size, name, extra = _LOCAL.unpack_from(head)
    if signature != b"PK\3\4" or head[_LOCAL.size :] != entry.raw_name or name != len(entry.raw_name):
        raise ValueError(f"{what} does not start where the directory says")
    if (flags | info.flag_bits) & _ENCRYPTED:
        raise ValueError(f"{what} is encrypted")
    if method != info.compress_type or (flags ^ info.flag_bits) & _DESCRIPTOR:
        raise ValueError(f"{what} is described in two ways")
    span = Span(info.header_offset + _LOCAL.size + name + extra, info.compress_size)
    compressed = method != zipfile.ZIP_STORED
    if span.end > limit or (not compressed and info.file_size != info.compress_size):
        raise ValueError(f"{what} has an impossible size")
    place, end = _second_place(file, info, (flags, crc, packed, size), span.end, limit)
    return Record(info.orig_filename, span, info.CRC, (entry.place, *place), compressed), end


def _second_place(
    file: BinaryIO, info: zipfile.ZipInfo, local: tuple[int, int, int, int], end: int, limit: int
) -> tuple[tuple[int, ...], int]:
    """Return where the CRC stands beside the directory's, and where the record, whose data ends at `end`, ends."""
    flags, crc, packed, size = local
    in_header = info.header_offset + 14
    agrees = crc == info.CRC
    if flags & _DESCRIPTOR:
        place, end = _descriptor(file, info, end, limit)
        # a writer may fill the header in although the descriptor follows
        places = (place, in_header) if crc else (place,)
        agrees = agrees or not crc
    else:
        places = (in_header,)
        agrees = agrees and packed in {info.compress_size, _IN_EXTRA} and size in {info.file_size, _IN_EXTRA}
    if not agrees:
        raise ValueError(f"the record {info.orig_filename!r} is described in two ways")
    return places, end


def _descriptor(file: BinaryIO, info: zipfile.ZipInfo, start: int, limit: int) -> tuple[int, int]:
    """Return where the CRC stands in the data descriptor at `start`, and where the descriptor ends.

    The signature is optional, the sizes have 32 or 64 bits, and the zip does not say which: all must match.
    """
    file.seek(start)
    found = file.read(max(0, min(24, limit - start)))
    for sizes in ("LL", "QQ"):
        for signature in (b"PK\7\b", b""):
            layout = Struct(f"<{len(signature)}sL{sizes}")
            expected = (signature, info.CRC, info.compress_size, info.file_size)
            if len(found) >= layout.size and layout.unpack_from(found) == expected:
                return start + len(signature), start + layout.size
    raise ValueError(f"the data descriptor of the record {info.orig_filename!r} does not match the directory")


def _check_layout(extents: list[tuple[int, int]], limit: int) -> None:
    if extents and extents[0][0] != 0:
        raise ValueError(f"{extents[0][0]} bytes stand before its first record")
    for (_, end), (start, _) in zip(extents, [*extents[1:], (limit, limit)], strict=True):
        if end > start:
            raise ValueError(f"two records overlap at byte {start}")


def _check_names(entries: list[_Entry]) -> None:
    seen: set[str] = set()
    for name in (entry.info.orig_filename for entry in entries):
        if name in seen:
            raise ValueError(f"the record {name!r} is there twice")
        seen.add(name)
