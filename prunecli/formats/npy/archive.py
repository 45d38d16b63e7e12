"""Archives of arrays with compressed records, read as the archive that has them uncompressed."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, BinaryIO

from prunecli.errors import CheckpointError
from prunecli.formats.zip.directory import read_records
from prunecli.formats.zip.structs import central_header
from prunecli.formats.zip.writer import DEFLATED, STORED, entry_like, lay_out
from prunecli.io.inflated import MOST_PER_BYTE, Deflated, Inflated, inflated_view
from prunecli.text.escape import quoted

if TYPE_CHECKING:
    from prunecli.formats.zip.directory import Record

_ALIGNMENT = 64  # bytes; headers of arrays have multiples of it, so numbers are aligned too


def open_archive(file: BinaryIO, label: str) -> tuple[BinaryIO, dict[str, Record], Inflated | None]:
    """Return the archive `file` or a view in which its records are stored, its records, and its parts for the view.

    Raises CheckpointError, naming `label`, for a zip that `read_records` rejects, for another compression than that of
    numpy.savez_compressed, and for records that claim more bytes than they can have.
    """
    records = read_records(file, label)
    if not any(record.compressed for record in records.values()):
        return file, records, None
    entries = []
    for name, record in sorted(records.items(), key=lambda item: item[1].offset):
        _check(name, record, label)
        data = Deflated(record.span, record.size, record.crc, name) if record.compressed else record.span
        entries.append(entry_like(record, data, method=STORED, packed=record.size))
    inflated = Inflated(tuple(lay_out(entries, _ALIGNMENT).pieces), file.seek(0, 2))
    view = inflated_view(file, inflated, label)
    return view, read_records(view, label), inflated


def _check(name: str, record: Record, label: str) -> None:
    if not record.compressed:
        return
    array = quoted(name.removesuffix(".npy"))
    if central_header(record.central).method != DEFLATED:
        code = f"import numpy; numpy.savez({label + '.stored.npz'!r}, **numpy.load({label!r}, allow_pickle=False))"
        raise CheckpointError(
            f"{label} cannot be read: its array {array} is compressed with another method than that of NumPy",
            hint=f"python -c {shlex.quote(code)}",
        )
    limit = MOST_PER_BYTE * record.span.length
    if record.size > limit:
        raise CheckpointError(
            f"{label} cannot be read: its array {array} would inflate from {record.span.length:,} to {record.size:,}"
            f" bytes, at most {limit:,}"
        )
