"""Plan a zip with some records removed and others given new content.

Remaining records keep their order, their headers and the alignment of their data. Headers and directory entries are
updated where offsets or sizes change. The content of the records is not interpreted.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from operator import attrgetter
from struct import pack
from typing import TYPE_CHECKING, BinaryIO

from prunecli.checkpoint import Checksum
from prunecli.errors import CheckpointError
from prunecli.formats.zip.directory import read_directory
from prunecli.formats.zip.structs import (
    CENTRAL,
    CENTRAL_CRC,
    CRC_FOLLOWS,
    LOCAL,
    LOCAL_CRC,
    MAX32,
    PADDING_FIELD,
    ZIP64_FIELD,
    central_header,
    end_records,
    join_extra,
    local_header,
    split_extra,
)
from prunecli.io.crc32 import crc32
from prunecli.io.parts import FilePlan, length

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from prunecli.formats.zip.directory import Record
    from prunecli.io.parts import Part


@dataclass(frozen=True, slots=True)
class _Contents:
    """The CRC and the stored and uncompressed sizes of a record, and its data: None if it is copied."""

    crc: int
    packed: int
    size: int
    data: bytes | None = None


@dataclass(frozen=True, slots=True)
class _NewRecord:
    """A record of the new zip: its parts from offset `start` on, and its entry in the central directory.

    `places` are the offsets of its CRC outside the central directory.
    """

    parts: tuple[Part, ...]
    start: int
    central: bytes
    places: tuple[int, ...]

    @property
    def end(self) -> int:
        return self.start + sum(map(length, self.parts))


def rewrite_zip(
    file: BinaryIO, label: str, changed: Mapping[str, bytes], removed: Collection[str], alignment: int
) -> FilePlan:
    """Return the plan of the zip `file` without the records `removed`, and with the new content of those `changed`.

    Stored data keeps its offset modulo `alignment` (bytes). The plan has the checksums of the records that are stored
    and copied. Raises CheckpointError, naming `label`, for a zip that `read_directory` rejects and if a record to
    change is compressed.
    """
    directory = read_directory(file, label)
    kept = [record for record in directory.records if record.name not in removed]
    if compressed := [record.name for record in kept if record.compressed and record.name in changed]:
        raise CheckpointError(f"{label} cannot be rewritten: its record {compressed[0]!r} is compressed")
    new: dict[str, _NewRecord] = {}
    offset = 0
    for record in sorted(kept, key=attrgetter("offset")):
        new[record.name] = _new_record(file, record, offset, changed.get(record.name), alignment)
        offset = new[record.name].end
    central = [new[record.name].central for record in kept]
    parts = [part for record in new.values() for part in record.parts]
    end = end_records(directory.tail, len(kept), offset, sum(map(len, central)))
    checksums = (
        Checksum(record.span, record.crc, (start + CENTRAL_CRC, *new[record.name].places))
        for record, start in zip(kept, accumulate(map(len, central), initial=offset), strict=False)
        if not record.compressed and record.name not in changed
    )
    return FilePlan((*parts, b"".join(central), end), tuple(checksums))


def _new_record(file: BinaryIO, record: Record, start: int, content: bytes | None, alignment: int) -> _NewRecord:
    """Return a record that begins at offset `start`; `content` is None if its data is copied."""
    contents = _Contents(record.crc, record.span.length, record.size)
    if content is not None:
        contents = _Contents(crc32(content), len(content), len(content), content)
    local = _local(file, record, start, contents, alignment)
    end = start + len(local) + contents.packed
    descriptor, places = b"", [start + LOCAL_CRC]
    if record.descriptor is not None:
        descriptor = record.descriptor.pack(contents.crc, contents.packed, contents.size)
        # The header of such a record has a CRC only if the writer filled it in.
        places = [end + len(record.descriptor.signature), *(places if local_header(local).crc else [])]
    data = record.span if content is None else content
    return _NewRecord((local, data, descriptor), start, _central(record, start, contents), tuple(places))


def _local(file: BinaryIO, record: Record, start: int, contents: _Contents, alignment: int) -> bytes:
    """Return the local header, with name and extra fields, of a record that begins at offset `start`."""
    file.seek(record.offset)
    old = file.read(record.span.start - record.offset)
    header = local_header(old)
    name = old[LOCAL.size :][: header.name_length]
    extra = _with_offset(split_extra(old[LOCAL.size + header.name_length :]), record.offset, start)
    if contents.data is not None:
        # torch leaves CRC and sizes 0 here and writes them after the data. Other writers fill them in.
        if not header.flags & CRC_FOLLOWS or header.crc or header.packed or header.size:
            header = header._replace(crc=contents.crc, packed=contents.packed, size=contents.size)
        # New content is held in memory, so its sizes fit into 32 bits.
        extra = [field for field in extra if field[0] != ZIP64_FIELD]
    fields = _padded(extra, start + LOCAL.size + len(name), record, alignment)
    return LOCAL.pack(*header._replace(extra_length=len(fields))) + name + fields


def _with_offset(fields: list[tuple[int, bytes]], old: int, new: int) -> list[tuple[int, bytes]]:
    """Return the extra fields with the offset updated that torch adds to the zip64 field past 4 GiB."""
    offset = pack("<Q", old)
    return [
        (field_id, content[:-8] + pack("<Q", new) if field_id == ZIP64_FIELD and content.endswith(offset) else content)
        for field_id, content in fields
    ]


def _padded(fields: list[tuple[int, bytes]], start: int, record: Record, alignment: int) -> bytes:
    """Return the extra fields at offset `start`, with padding so that the data keeps its alignment."""
    plain = join_extra([field for field in fields if field[0] != PADDING_FIELD])
    missing = (record.span.start - start - len(plain)) % alignment
    was_padded = any(field_id == PADDING_FIELD for field_id, _ in fields)
    if record.compressed or (not missing and not was_padded):
        return join_extra(fields)
    # The id and the length of the field take 4 of the missing bytes.
    return plain + join_extra([(PADDING_FIELD, b"Z" * ((missing - 4) % alignment))])


def _central(record: Record, start: int, contents: _Contents) -> bytes:
    """Return the entry in the central directory; its zip64 field holds the values that need more than 32 bits."""
    header = central_header(record.central)
    extra_start = CENTRAL.size + header.name_length
    name = record.central[CENTRAL.size : extra_start]
    comment = record.central[extra_start + header.extra_length :]
    fields = split_extra(record.central[extra_start : extra_start + header.extra_length])
    fields = [field for field in fields if field[0] != ZIP64_FIELD]
    # APPNOTE 4.5.3: only the values that are MAX32 in the header, in the order size, stored size, offset.
    if large := [value for value in (contents.size, contents.packed, start) if value >= MAX32]:
        fields.insert(0, (ZIP64_FIELD, pack(f"<{len(large)}Q", *large)))
    extra = join_extra(fields)
    header = header._replace(
        crc=contents.crc,
        packed=min(contents.packed, MAX32),
        size=min(contents.size, MAX32),
        extra_length=len(extra),
        offset=min(start, MAX32),
    )
    return CENTRAL.pack(*header) + name + extra + comment
