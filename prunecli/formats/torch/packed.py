"""Torch zips with compressed records, read as the zip that has them uncompressed.

A file that `pack` wrote holds a record with all bytes of the original zip that are not the data of a record, so the
original is restored byte for byte. For other zips a new one is laid out, with the same records.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, BinaryIO

from prunecli.checkpoint import Span
from prunecli.errors import CheckpointError
from prunecli.formats.strict_json import parse_json_object
from prunecli.formats.torch.records import ALIGNMENT
from prunecli.formats.zip.directory import read_records
from prunecli.formats.zip.structs import central_header
from prunecli.formats.zip.writer import DEFLATED, STORED, entry_like, lay_out
from prunecli.io.inflated import MOST_PER_BYTE, Deflated, Inflated, inflate, inflated_view
from prunecli.text.escape import quoted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from prunecli.formats.zip.directory import Record

RESTORE = ".data/prunecli_unpack"
"""The name, inside the archive's folder, of the record that restores the original zip. Loaders of torch ignore it."""

MEMORY_LIMIT = 1 << 26
"""The most bytes that a compressed record may inflate to in memory; storages are not held in memory."""

OMITTED = ".format_version"
"""A record that a packed zip lacks: with it torch may calculate the places of records from their sizes."""

_VERSION = 1


@dataclass(frozen=True, slots=True)
class Opened:
    """A torch zip as it is read: the file or a view of it, its records, and its parts if some are compressed."""

    file: BinaryIO
    records: dict[str, Record]
    inflated: Inflated | None = None
    packed: bool = False

    @property
    def notes(self) -> tuple[str, ...]:
        """A sentence about the compression, if there is some."""
        if self.inflated is None:
            return ()
        return ("its weights are compressed; a new file has them uncompressed",)


def open_zip(file: BinaryIO, label: str) -> Opened:
    """Return the torch zip `file`, with all records that are compressed inflated when they are read.

    The code of TorchScript stays as it is. Raises CheckpointError, naming `label`, for a zip that `read_records`
    rejects, and for records that no reader of torch inflates.
    """
    records = read_records(file, label)
    if not any(record.compressed and not is_code(name) for name, record in records.items()):
        return Opened(file, records)
    for name, record in records.items():
        _check(name, record, label)
    stored_size = file.seek(0, 2)
    own = next((record for name, record in records.items() if name.partition("/")[2] == RESTORE), None)
    parts = _laid_out(records) if own is None else _restored(file, records, own, label)
    inflated = Inflated(tuple(parts), stored_size)
    view = inflated_view(file, inflated, label)
    plain = read_records(view, label)
    if own is not None:
        _check_same(records, plain, inflated, label)
    return Opened(view, plain, inflated, packed=own is not None)


def is_code(name: str) -> bool:
    """Return whether a record, named with its folder, is code of TorchScript, which torch itself compresses."""
    return name.partition("/")[2].startswith("code/")


def is_storage(name: str) -> bool:
    """Return whether a record, named with its folder, holds the bytes of a storage, which is never read at once."""
    return name.partition("/")[2].startswith("data/")


def _check(name: str, record: Record, label: str) -> None:
    """Refuse a compressed record that torch cannot read, or that claims more bytes than it can have."""
    if not record.compressed or is_code(name):
        return
    method = central_header(record.central).method
    if method != DEFLATED:
        raise CheckpointError(f"{label} cannot be read: its record {quoted(name)} has the compression method {method}")
    limit = MOST_PER_BYTE * record.span.length
    if not is_storage(name):
        limit = min(limit, MEMORY_LIMIT)
    if record.size > limit:
        raise CheckpointError(
            f"{label} cannot be read: its record {quoted(name)} would inflate from {record.span.length:,} to"
            f" {record.size:,} bytes, at most {limit:,}"
        )


def _data(name: str, record: Record) -> Span | Deflated:
    """Return the data of a record as the uncompressed zip has it."""
    if not record.compressed or is_code(name):
        return record.span
    return Deflated(record.span, record.size, record.crc, name)


# --- zips of other writers


def _laid_out(records: Mapping[str, Record]) -> list[bytes | Span | Deflated]:
    """Return the parts of a zip with the same records in the same order, stored."""
    entries = []
    for name, record in sorted(records.items(), key=lambda item: item[1].offset):
        code = record.compressed and is_code(name)
        packed = record.span.length if code else record.size
        entries.append(entry_like(record, _data(name, record), method=DEFLATED if code else STORED, packed=packed))
    return lay_out(entries, ALIGNMENT).pieces


# --- zips that `pack` wrote


def restore_record(file: BinaryIO, size: int, records: Sequence[Record]) -> bytes:
    """Return the record that restores the zip `file` of `size` bytes from a packed one with the same records.

    It has a line of JSON with the bytes before the data of each record, and all bytes that are no data.
    """
    kept: list[tuple[int, str]] = []
    between: list[bytes] = []
    for gap, name in _gaps(records, size):
        file.seek(gap.start)
        between.append(file.read(gap.length))
        kept.append((gap.length, name))
    line = json.dumps({"version": _VERSION, "parts": [[length, name] for length, name in kept]}, separators=(",", ":"))
    return line.encode() + b"\n" + b"".join(between)


def gap_bytes(records: Sequence[Record], size: int) -> int:
    """Return the bytes of a zip of `size` bytes that are no data of its records."""
    return sum(gap.length for gap, _ in _gaps(records, size))


def _gaps(records: Sequence[Record], size: int) -> Iterator[tuple[Span, str]]:
    """Yield the bytes before the data of each record, with its name, and at last those after all data, with ""."""
    kept = sorted((r for r in records if r.name.partition("/")[2] != OMITTED), key=attrgetter("offset"))
    edges = [0, *(edge for record in kept for edge in (record.span.start, record.span.end)), size]
    names = [*(record.name for record in kept), ""]
    for name, start, end in zip(names, edges[::2], edges[1::2], strict=True):
        yield Span(start, end - start), name


def _restored(file: BinaryIO, records: Mapping[str, Record], own: Record, label: str) -> list[bytes | Span | Deflated]:
    """Return the parts of the original zip, as the record `own` describes them."""

    def read(offset: int, length: int) -> bytes:
        file.seek(offset)
        return file.read(length)

    data = _data(own.name, own)
    if isinstance(data, Span):
        raise _unusable(label)
    line, _, rest = b"".join(inflate(read, data, label)).partition(b"\n")
    parts: list[bytes | Span | Deflated] = []
    at = 0
    for length, name in _described(line, label):
        parts.append(rest[at : at + length])
        at += length
        if name:
            if name not in records or name == own.name:
                raise _unusable(label)
            parts.append(_data(name, records[name]))
    if at < len(rest):
        raise _unusable(label)
    return parts


def _described(line: bytes, label: str) -> Iterator[tuple[int, str]]:
    """Yield the pairs (bytes before the data, name of the record) of the line of JSON."""
    fields = dict(parse_json_object(line, f"{label}: its record {RESTORE}"))
    parts = fields.get("parts")
    if fields.get("version") != _VERSION or not isinstance(parts, list):
        raise _unusable(label)
    for part in parts:
        match part:
            case [int(length), str(name)] if length >= 0 and type(length) is int:
                yield length, name
            case _:
                raise _unusable(label)


def _check_same(records: Mapping[str, Record], plain: Mapping[str, Record], inflated: Inflated, label: str) -> None:
    """Check that both zips have the same records, so that torch, which reads the packed one, sees nothing else."""
    ours = {name for name in records if name.partition("/")[2] != RESTORE}
    theirs = {name for name in plain if name.partition("/")[2] != OMITTED}
    if ours != theirs:
        raise _unusable(label)
    starts = {_start(part): offset for offset, part in inflated.placed() if not isinstance(part, bytes)}
    for name in ours:
        old, new = records[name], plain[name]
        same = (old.size, old.crc, old.compressed and is_code(name)) == (new.size, new.crc, new.compressed)
        if not same or (old.span.length and starts.get(old.span.start) != new.span.start):
            raise _unusable(label)


def _start(part: Span | Deflated) -> int:
    return part.start if isinstance(part, Span) else part.span.start


def _unusable(label: str) -> CheckpointError:
    return CheckpointError(f"{label} is damaged: its record {RESTORE} does not describe its other records")
