"""The common parts of torch's zip archives: one folder of records, a byte order, and a checksum for each record."""

from __future__ import annotations

import shlex
from dataclasses import replace
from typing import TYPE_CHECKING, BinaryIO

from prunecli.checkpoint import Checksum
from prunecli.errors import CheckpointError
from prunecli.io.crc32 import crc32
from prunecli.text.escape import quoted
from prunecli.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Collection

    from prunecli.formats.zip.directory import Record

ALIGNMENT = 64
"""Bytes: torch writes storages at multiples of it, unless a file states another number."""

RECORD_LIMIT = 1 << 28
"""The longest record, in bytes, that is read into memory; storages are not."""


_KNOWN = ("data.pkl", "byteorder", "version", "constants.pkl", ".format_version", ".storage_alignment")


@dataclass(frozen=True, slots=True)
class Archive:
    """A zip of torch: its records by their names inside the folder that holds all of them.

    `label` names the zip in messages. `big_endian` is the byte order of the storages.
    """

    file: BinaryIO
    label: str
    folder: str
    records: dict[str, Record]
    big_endian: bool = False

    @property
    def notes(self) -> tuple[str, ...]:
        """A sentence about the byte order, unless it is the usual one."""
        return ("the numbers are stored big-endian",) if self.big_endian else ()

    def read(self, name: str) -> bytes:
        """Return the content of a small record; raise CheckpointError if its checksum does not match."""
        record = self.records[name]
        if record.span.length > RECORD_LIMIT:
            raise CheckpointError(
                f"{self.label} cannot be read: {record.name!r} has {record.span.length:,} bytes,"
                f" at most {RECORD_LIMIT:,}"
            )
        self.file.seek(record.span.start)
        data = self.file.read(record.span.length)
        # torch.load does not check it.
        if crc32(data) != record.crc:
            raise CheckpointError(f"{self.label} is damaged: the checksum of {record.name!r} is wrong")
        return data

    def checksums(self, prefix: str) -> tuple[Checksum, ...]:
        """Return the checksums of the uncompressed records whose names begin with `prefix`."""
        return tuple(
            Checksum(record.span, record.crc, record.places)
            for name, record in self.records.items()
            if name.startswith(prefix) and not record.compressed
        )


def torch_archive(file: BinaryIO, records: dict[str, Record], label: str) -> Archive:
    """Return the archive of the `records` of a zip.

    Raises CheckpointError if they are not all in one folder, or if the byte order is unknown.
    """
    # torch names the folder after the file. With two folders, readers could choose different ones.
    folders = {name.partition("/")[0] if "/" in name else "" for name in records}
    if len(folders) != 1 or "" in folders:
        raise CheckpointError(f"{label} is a zip, but not one of torch: its records are not all in one folder")
    folder = folders.pop()
    inside = {name.removeprefix(f"{folder}/"): record for name, record in records.items()}
    _check_case(inside, label)
    archive = Archive(file, label, folder, inside)
    # Old versions of torch write no such record.
    order = archive.read("byteorder") if "byteorder" in inside else b"little"
    if order not in {b"little", b"big"}:
        raise CheckpointError(f"{label} has the unknown byte order {order[:16]!r}")
    return replace(archive, big_endian=order == b"big")


def _check_case(names: Collection[str], label: str) -> None:
    """Refuse records that torch, which ignores the case of names, may take for others. Code has classes of any name."""
    seen: dict[str, str] = dict.fromkeys(_KNOWN, "")
    for name in names:
        if name.startswith("code/"):
            continue
        lower = name.lower()
        if seen.setdefault(lower, name) not in {"", name} or (not seen[lower] and name != lower):
            other = seen[lower] or lower
            raise CheckpointError(f"{label} is damaged: its record {quoted(name)} can be taken for {quoted(other)}")


def resave(label: str) -> str:
    """Return a command that loads the torch file at `label` without running its code and saves it uncompressed."""
    code = f"import torch; torch.save(torch.load({label!r}, weights_only=True), {label + '.resaved.pth'!r})"
    return f"python -c {shlex.quote(code)}"
