"""The records of a zip: the position of their data, and of all fields that hold their checksums.

The central directory is read with `zipfile`. Every local header is then compared with it, so that two readers cannot
see two different files. The content of the records is not read.
"""

from __future__ import annotations

import os
import shlex
import struct
import zipfile
from struct import unpack_from
from typing import BinaryIO

from prunecli.checkpoint import Span
from prunecli.errors import CheckpointError
from prunecli.formats.zip.structs import (
    CENTRAL,
    CENTRAL_CRC,
    CENTRAL_SIGNATURE,
    CRC_FOLLOWS,
    DESCRIPTORS,
    ENCRYPTED,
    END,
    END_SIGNATURE,
    LOCAL,
    LOCAL_CRC,
    LOCAL_SIGNATURE,
    MAX16,
    MAX32,
    UTF8,
    Descriptor,
    LocalHeader,
    central_header,
    local_header,
    split_end,
)
from prunecli.remote.path import expect_reads
from prunecli.values import dataclass

# the exceptions that zipfile and struct raise for damaged zips
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
    """One record of a zip, with its headers.

    Attributes:
        name: The name.
        span: The bytes as they are stored.
        crc: The CRC-32 of the content.
        places: The offsets in the zip of all four-byte little-endian fields that hold `crc`.
        compressed: Whether the stored bytes are compressed.
        size: The length of the content in bytes.
        offset: The offset of the local header, where the record begins.
        end: One past the last byte of the record, its data descriptor included.
        central: The bytes of its entry in the central directory.
        descriptor: The layout of its data descriptor, None if it has none.
    """

    name: str
    span: Span
    crc: int
    places: tuple[int, ...]
    compressed: bool
    size: int
    offset: int
    end: int
    central: bytes
    descriptor: Descriptor | None


@dataclass(frozen=True, slots=True)
class Directory:
    """The records of a zip, in the order of its central directory, and the bytes after the central directory."""

    records: tuple[Record, ...]
    tail: bytes


@dataclass(frozen=True, slots=True)
class _Central:
    info: zipfile.ZipInfo
    raw: bytes  # the entry in the central directory
    name: bytes  # the name as it is encoded there
    start: int  # the offset of the entry in the zip


def read_records(file: BinaryIO, label: str) -> dict[str, Record]:
    """Return the records of the zip `file` by name, in the order of its central directory.

    Raises CheckpointError as `read_directory` does.
    """
    return {record.name: record for record in read_directory(file, label).records}


def read_directory(file: BinaryIO, label: str) -> Directory:
    """Return the records of the zip `file` after checking its structure.

    Raises CheckpointError, naming `label`, if the central directory is missing or damaged, names a record twice or
    disagrees with a local header, if records overlap, and if there are bytes before or after the zip.
    """
    try:
        central, tail, limit = _central_directory(file)
        expect_reads(file, (one.info.header_offset for one in central))
        records = tuple(_record(file, one, limit) for one in central)
        _check_layout(sorted((record.offset, record.end) for record in records), limit)
        _check_names(records)
    except _UNREADABLE as problem:
        raise CheckpointError(
            f"{label} is a damaged or truncated zip: {problem}", hint=f"unzip -t {shlex.quote(label)}"
        ) from problem
    return Directory(records, tail)


def _central_directory(file: BinaryIO) -> tuple[list[_Central], bytes, int]:
    """Return the entries of the central directory, the bytes after it, and its offset in the file."""
    size = file.seek(0, os.SEEK_END)
    with zipfile.ZipFile(file) as archive:
        infos, start = archive.infolist(), archive.start_dir
    file.seek(start)
    directory = file.read(size - start)
    entries = []
    position = 0
    for info in infos:
        header = central_header(directory, position)
        length = CENTRAL.size + header.name_length + header.extra_length + header.comment_length
        raw = directory[position : position + length]
        name = raw[CENTRAL.size : CENTRAL.size + header.name_length]
        decoded = name.decode("utf-8" if header.flags & UTF8 else "cp437")
        # The entries are walked a second time for their bytes. Each must be the one that zipfile has returned.
        if (header.signature, header.crc, decoded) != (CENTRAL_SIGNATURE, info.CRC, info.orig_filename):
            raise ValueError("its central directory is damaged")
        entries.append(_Central(info, raw, name, start + position))
        position += length
    tail = directory[position:]
    _check_end(tail, (len(infos), position, start))
    return entries, tail, start


def _check_end(tail: bytes, actual: tuple[int, int, int]) -> None:
    """Check the end records against the central directory's (number of records, bytes, offset).

    Raises ValueError if they disagree, or if bytes follow them.
    """
    zip64, tail = split_end(tail)
    if zip64:
        _check_claim(unpack_from("<3Q", zip64, 32), actual)
    signature, _, _, _, *fields, comment = END.unpack_from(tail)
    if signature != END_SIGNATURE:
        raise ValueError("its central directory is cut short")
    # A field at its limit refers to the zip64 end record, which is compared above.
    limits = (MAX16, MAX32, MAX32)
    claimed = (a if field == limit else field for field, limit, a in zip(fields, limits, actual, strict=True))
    _check_claim(tuple(claimed), actual)
    if extra := len(tail) - END.size - comment:
        raise ValueError(f"it has {extra} bytes after its end")


def _check_claim(claimed: tuple[int, ...], actual: tuple[int, int, int]) -> None:
    if claimed[0] != actual[0]:
        raise ValueError(f"its end record says {claimed[0]} records and its central directory has {actual[0]}")
    if claimed != actual:
        raise ValueError(
            f"its end record says {claimed[1]} bytes at offset {claimed[2]} for its central directory, "
            f"which has {actual[1]} bytes at offset {actual[2]}"
        )


def _record(file: BinaryIO, central: _Central, limit: int) -> Record:
    """Check a local header against the central directory, which starts at `limit`, and return the record."""
    info = central.info
    header = _local_header(file, info, central.name)
    start = info.header_offset + LOCAL.size + header.name_length + header.extra_length
    span = Span(start, info.compress_size)
    compressed = header.method != zipfile.ZIP_STORED
    if span.end > limit or (not compressed and info.file_size != info.compress_size):
        raise ValueError(f"the record {info.orig_filename!r} has an impossible size")
    descriptor = _descriptor(file, info, span.end, limit) if header.flags & CRC_FOLLOWS else None
    places = (central.start + CENTRAL_CRC, *_places(header, info, span.end, descriptor))
    return Record(
        name=info.orig_filename,
        span=span,
        crc=info.CRC,
        places=places,
        compressed=compressed,
        size=info.file_size,
        offset=info.header_offset,
        end=span.end + (0 if descriptor is None else descriptor.layout.size),
        central=central.raw,
        descriptor=descriptor,
    )


def _local_header(file: BinaryIO, info: zipfile.ZipInfo, name: bytes) -> LocalHeader:
    what = f"the record {info.orig_filename!r}"
    file.seek(info.header_offset)
    data = file.read(LOCAL.size + len(name))
    header = local_header(data)
    is_header = header.signature == LOCAL_SIGNATURE and header.name_length == len(name)
    if not is_header or data[LOCAL.size :] != name:
        raise ValueError(f"{what} does not start at the offset in the central directory")
    if (header.flags | info.flag_bits) & ENCRYPTED:
        raise ValueError(f"{what} is encrypted")
    if header.method != info.compress_type or (header.flags ^ info.flag_bits) & CRC_FOLLOWS:
        raise _disagreement(info)
    return header


def _places(header: LocalHeader, info: zipfile.ZipInfo, end: int, descriptor: Descriptor | None) -> tuple[int, ...]:
    """Return the offsets of the CRC in the data descriptor at `end` and in the local header, after checking the latter.

    A writer may fill in the CRC of the header although a descriptor follows.
    """
    in_header = info.header_offset + LOCAL_CRC
    if descriptor is None:
        # MAX32 stands for a size in the zip64 field; zipfile reads that field from the central directory.
        sizes_agree = header.packed in {info.compress_size, MAX32} and header.size in {info.file_size, MAX32}
        if header.crc != info.CRC or not sizes_agree:
            raise _disagreement(info)
        return (in_header,)
    if header.crc not in {0, info.CRC}:
        raise _disagreement(info)
    in_descriptor = end + len(descriptor.signature)
    return (in_descriptor, in_header) if header.crc else (in_descriptor,)


def _disagreement(info: zipfile.ZipInfo) -> ValueError:
    return ValueError(f"the headers of the record {info.orig_filename!r} disagree")


def _descriptor(file: BinaryIO, info: zipfile.ZipInfo, start: int, limit: int) -> Descriptor:
    """Return the layout of the data descriptor at `start`: the one in which all values match."""
    file.seek(start)
    # 24 bytes hold the longest form: signature, CRC, and two sizes of 64 bits.
    data = file.read(max(0, min(24, limit - start)))
    for descriptor in DESCRIPTORS:
        expected = (descriptor.signature, info.CRC, info.compress_size, info.file_size)
        if len(data) >= descriptor.layout.size and descriptor.layout.unpack_from(data) == expected:
            return descriptor
    raise ValueError(f"the data descriptor of the record {info.orig_filename!r} disagrees with the central directory")


def _check_layout(extents: list[tuple[int, int]], limit: int) -> None:
    # torch loads zips with other bytes before them, and zips whose records overlap: other readers would see
    # another file, and a change of one record would change another.
    if extents and extents[0][0] != 0:
        raise ValueError(f"it has {extents[0][0]} bytes before its first record")
    for (_, end), (start, _) in zip(extents, [*extents[1:], (limit, limit)], strict=True):
        if end > start:
            raise ValueError(f"two records overlap at byte {start}")


def _check_names(records: tuple[Record, ...]) -> None:
    # Readers do not agree on which of two records with one name counts.
    seen: set[str] = set()
    for name in (record.name for record in records):
        if name in seen:
            raise ValueError(f"it has two records named {name!r}")
        seen.add(name)
