"""The common parts of torch's zip archives: one folder of records, a byte order, and a checksum for each record."""

from __future__ import annotations

import shlex
import zlib
from typing import TYPE_CHECKING, BinaryIO

from prunecli.checkpoint import Checksum
from prunecli.errors import CheckpointError

if TYPE_CHECKING:
    from prunecli.formats.zip.directory import Record

RECORD_LIMIT = 1 << 28
"""The longest record, in bytes, that is read into memory; storages are not."""

BIG_ENDIAN_NOTE = "the numbers are stored big-endian"
"""The note about a file whose storages are big-endian."""


def only_folder(records: dict[str, Record], label: str) -> str:
    """Return the folder that holds all records; raise CheckpointError if there is not exactly one."""
    folders = {name.partition("/")[0] if "/" in name else "" for name in records}
    if len(folders) != 1 or "" in folders:
        raise CheckpointError(f"{label} is a zip, but not one of torch: its records are not all in one folder")
    return folders.pop()


def read_record(file: BinaryIO, record: Record, label: str) -> bytes:
    """Return the content of a small uncompressed record; raise CheckpointError if its checksum does not match."""
    if record.compressed:
        raise compressed(record, label)
    if record.span.length > RECORD_LIMIT:
        raise CheckpointError(
            f"{label} cannot be read: {record.name!r} has {record.span.length:,} bytes, at most {RECORD_LIMIT:,}"
        )
    file.seek(record.span.start)
    data = file.read(record.span.length)
    if zlib.crc32(data) != record.crc:
        raise CheckpointError(f"{label} is damaged: the checksum of {record.name!r} is wrong")
    return data


def is_big_endian(file: BinaryIO, records: dict[str, Record], folder: str, label: str) -> bool:
    """Return whether the storages are big-endian; raise CheckpointError for an unknown byte order."""
    record = records.get(f"{folder}/byteorder")
    order = read_record(file, record, label) if record else b"little"
    if order not in {b"little", b"big"}:
        raise CheckpointError(f"{label} has the unknown byte order {order[:16]!r}")
    return order == b"big"


def checksums(records: dict[str, Record], prefix: str) -> tuple[Checksum, ...]:
    """Return the checksums of the uncompressed records whose names begin with `prefix`."""
    return tuple(
        Checksum(record.span, record.crc, record.places)
        for record in records.values()
        if record.name.startswith(prefix) and not record.compressed
    )


def compressed(record: Record, label: str) -> CheckpointError:
    """Return the error for a compressed record whose bytes would have to be changed in place."""
    return CheckpointError(
        f"{label} cannot be pruned in place: its record {record.name!r} is compressed", hint=resave(label)
    )


def resave(label: str, module: str = "torch", suffix: str = ".pth") -> str:
    """Return a command that loads the file at `label` with `module` and saves it again, uncompressed."""
    code = f"import {module}; {module}.save({module}.load({label!r}), {label + '.resaved' + suffix!r})"
    return f"python -c {shlex.quote(code)}"
