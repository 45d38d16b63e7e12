"""A zip with some records taken out and others given new content, as parts of a new file.

Records keep their order, their headers and how their data is aligned; headers that tell of other places or sizes are
written anew, and the directory with them. Knows nothing about what the records hold.
"""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from itertools import accumulate
from struct import Struct, pack, pack_into, unpack_from
from typing import TYPE_CHECKING, BinaryIO

from prunecli.checkpoint import Checksum
from prunecli.errors import CheckpointError
from prunecli.formats.zip.directory import read_records
from prunecli.io.parts import FilePlan, length

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from prunecli.formats.zip.directory import Record
    from prunecli.io.parts import Part

_LOCAL = Struct("<4s5H3L2H")  # signature version flags method time date crc packed size name extra
_CENTRAL = Struct("<4s6H3L5H2L")  # ... crc packed size name extra comment disk internal external offset
_DESCRIPTOR = 0x0008  # flag bit 3: CRC and sizes follow the data
_ZIP64, _PADDING = 1, 0x4246  # ids of extra fields; the second is "FB", with which torch fills up to the alignment
_FULL32, _FULL16 = 0xFFFFFFFF, 0xFFFF
_END64 = b"PK\6\6"


@dataclass(frozen=True, slots=True)
class _Old:
    """A record as it was: where its header is, its size unpacked, the header and the directory's entry as spelled."""

    record: Record
    offset: int
    size: int
    local: bytes
    central: bytes


@dataclass(frozen=True, slots=True)
class _New:
    """What a record becomes: its parts, which begin at `start` of the new file, and the directory's entry.

    `places` are where its CRC is, but for the one in the directory.
    """

    parts: tuple[Part, ...]
    start: int
    central: bytes
    places: tuple[int, ...]

    @property
    def end(self) -> int:
        return self.start + sum(map(length, self.parts))


def rewrite_zip(
    file: BinaryIO, label: str, changed: Mapping[str, bytes], dropped: Collection[str], alignment: int = 64
) -> FilePlan:
    """Return the plan of the zip `file` without the records `dropped` and with the content of those `changed`.

    Data that is stored begins as many bytes past a multiple of `alignment` as it did. The plan has the checksum of
    each record that is stored and copied. Raises CheckpointError, naming `label`, for a zip that `read_records`
    refuses and for a record to change that is compressed.
    """
    records = read_records(file, label)
    if packed := next((name for name in changed if records[name].compressed), None):
        raise CheckpointError(f"{label} cannot be rewritten: its record {packed!r} is compressed")
    olds, tail = _old_records(file, records)
    kept = [old for old in olds if old.record.name not in dropped]
    news: dict[str, _New] = {}
    at = 0
    for old in sorted(kept, key=lambda old: old.offset):
        new = news[old.record.name] = _rewritten(file, old, at, changed.get(old.record.name), alignment)
        at = new.end
    entries = [news[old.record.name].central for old in kept]
    parts = [part for new in news.values() for part in new.parts]
    directory = b"".join(entries)
    ends = accumulate(map(len, entries), initial=at)
    checksums = (
        Checksum(old.record.span, old.record.crc, (start + 16, *news[old.record.name].places))
        for old, start in zip(kept, ends, strict=False)
        if not old.record.compressed and old.record.name not in changed
    )
    return FilePlan((*parts, directory, _end(tail, len(kept), at, len(directory))), tuple(checksums))


def _old_records(file: BinaryIO, records: Mapping[str, Record]) -> tuple[list[_Old], bytes]:
    """Return the records in the directory's order, and what follows the directory."""
    with zipfile.ZipFile(file) as archive:
        infos, start = archive.infolist(), archive.start_dir
    file.seek(start)
    directory = file.read()
    olds, at = [], 0
    for info in infos:
        end = at + _CENTRAL.size + sum(unpack_from("<3H", directory, at + 28))
        file.seek(info.header_offset)
        head = file.read(_LOCAL.size)
        local = head + file.read(sum(unpack_from("<2H", head, 26)))
        record = records[info.orig_filename]
        olds.append(_Old(record, info.header_offset, info.file_size, local, directory[at:end]))
        at = end
    return olds, directory[at:]


# --- one record


def _rewritten(file: BinaryIO, old: _Old, start: int, content: bytes | None, alignment: int) -> _New:
    """Return the record `old` where it begins at `start`; `content` is None where it keeps its own."""
    fields = list(_LOCAL.unpack_from(old.local))
    name = old.local[_LOCAL.size : _LOCAL.size + fields[9]]
    crc, packed, size = old.record.crc, old.record.span.length, old.size
    extra = _moved(_fields(old.local[_LOCAL.size + fields[9] :]), old.offset, start)
    if content is not None:
        crc, packed, size = zlib.crc32(content), len(content), len(content)
        later = fields[2] & _DESCRIPTOR and not any(fields[6:9])
        fields[6:9] = (0, 0, 0) if later else (crc, packed, size)
        extra = [field for field in extra if field[0] != _ZIP64]
    more = _with_padding(extra, start + _LOCAL.size + len(name), old, alignment)
    fields[10] = len(more)
    header = _LOCAL.pack(*fields) + name + more
    data = old.record.span if content is None else content
    end = start + len(header) + packed
    behind, place = _descriptor(file, old, crc, packed, size) if fields[2] & _DESCRIPTOR else (b"", -1)
    places = tuple(at for at, there in ((end + place, place >= 0), (start + 14, fields[6] or place < 0)) if there)
    return _New((header, data, behind), start, _central(old, start, crc, packed, size), places)


def _descriptor(file: BinaryIO, old: _Old, crc: int, packed: int, size: int) -> tuple[bytes, int]:
    """Return the data descriptor as it is spelled in the old file, with new numbers, and where its CRC is in it."""
    at = old.record.places[1] - old.record.span.end
    file.seek(old.record.span.end)
    spelled = file.read(at + 20)
    was = (old.record.span.length, old.size)
    sizes = "LL" if unpack_from("<LL", spelled, at + 4) == was else "QQ"
    return spelled[:at] + pack(f"<L{sizes}", crc, packed, size), at


def _fields(extra: bytes) -> list[tuple[int, bytes]]:
    """Return the (id, content) of each extra field; what is no field is left out, as every reader does."""
    fields = []
    while len(extra) >= 4:
        kind, size = unpack_from("<2H", extra)
        if len(extra) < 4 + size:
            break
        fields.append((kind, extra[4 : 4 + size]))
        extra = extra[4 + size :]
    return fields


def _moved(fields: list[tuple[int, bytes]], old: int, new: int) -> list[tuple[int, bytes]]:
    """Return extra fields of a local header with the place that torch notes in it past 4 GiB set to `new`."""
    place = pack("<Q", old)
    return [
        (kind, content[:-8] + pack("<Q", new) if kind == _ZIP64 and content.endswith(place) else content)
        for kind, content in fields
    ]


def _spelled(fields: list[tuple[int, bytes]]) -> bytes:
    return b"".join(pack("<2H", kind, len(content)) + content for kind, content in fields)


def _with_padding(fields: list[tuple[int, bytes]], start: int, old: _Old, alignment: int) -> bytes:
    """Spell the extra `fields`, which begin at `start`, and let the data behind them be aligned as it was."""
    plain = _spelled([field for field in fields if field[0] != _PADDING])
    missing = (old.record.span.start - start - len(plain)) % alignment
    had = any(kind == _PADDING for kind, _ in fields)
    if old.record.compressed or (not missing and not had):
        return _spelled(fields)
    return plain + _spelled([(_PADDING, b"Z" * ((missing - 4) % alignment))])


def _central(old: _Old, start: int, crc: int, packed: int, size: int) -> bytes:
    """Return the directory's entry; what does not fit into 32 bits stands in a zip64 field, and only that."""
    fields = list(_CENTRAL.unpack_from(old.central))
    at = _CENTRAL.size + fields[10]
    name, extra = old.central[_CENTRAL.size : at], old.central[at : at + fields[11]]
    comment = old.central[at + fields[11] :]
    large = [value for value in (size, packed, start) if value >= _FULL32]
    kept = [field for field in _fields(extra) if field[0] != _ZIP64]
    more = _spelled(([(_ZIP64, pack(f"<{len(large)}Q", *large))] if large else []) + kept)
    fields[7:10] = [crc, min(packed, _FULL32), min(size, _FULL32)]
    fields[11], fields[16] = len(more), min(start, _FULL32)
    return _CENTRAL.pack(*fields) + name + more + comment


# --- the end


def _end(tail: bytes, count: int, start: int, size: int) -> bytes:
    """Return what follows the directory of `count` records at `start`, of `size` bytes, as `tail` did the old one."""
    long = b""
    if tail.startswith(_END64):
        (behind,) = unpack_from("<Q", tail, 4)
        long, tail = tail[: 12 + behind], tail[12 + behind + 20 :]
    elif count >= _FULL16 or max(start, size) >= _FULL32:
        long = pack("<4sQ2H2L4Q", _END64, 44, 45, 45, 0, 0, 0, 0, 0, 0)
    brief = bytearray(tail)
    pack_into("<2H2L", brief, 8, *(min(count, _FULL16),) * 2, min(size, _FULL32), min(start, _FULL32))
    if not long:
        return bytes(brief)
    record = bytearray(long)
    pack_into("<4Q", record, 24, count, count, size, start)
    return bytes(record) + pack("<4sLQL", b"PK\6\7", 0, start + size, 1) + bytes(brief)
