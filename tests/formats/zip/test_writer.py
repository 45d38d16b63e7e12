"""New zips: Python's zipfile and the reader of this package agree on them, also past 4 GiB."""

from __future__ import annotations

import io
import zipfile
import zlib
from typing import TYPE_CHECKING

import pytest

from prunecli.formats.zip.directory import read_records
from prunecli.formats.zip.writer import DEFLATED, STORED, Entry, lay_out

if TYPE_CHECKING:
    from pathlib import Path

GIGA = 1 << 30


def entry(name: str, content: bytes, method: int = STORED) -> Entry[bytes]:
    """Return an entry with this content."""
    data = zlib.compress(content)[2:-4] if method == DEFLATED else content
    return Entry(name.encode(), method, zlib.crc32(content), len(data), len(content), data)


@pytest.mark.parametrize("alignment", [1, 64])
def test_zipfile_reads_a_new_zip(alignment: int) -> None:
    """Names, contents and methods are those of the entries; stored data is aligned."""
    entries = [entry("a/x", b"12345"), entry("a/y", bytes(5000), DEFLATED), entry("a/z", b""), entry("a/zz", b"123")]

    layout = lay_out(entries, alignment)

    data = b"".join(layout.pieces)
    assert len(data) == layout.size
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert [archive.read(name) for name in archive.namelist()] == [b"12345", bytes(5000), b"", b"123"]
    records = read_records(io.BytesIO(data), "x")
    assert [record.span.start for record in records.values()] == layout.starts
    assert [record.span.start % alignment for record in records.values() if not record.compressed] == [0, 0, 0]


def test_large_zips_have_zip64_fields(tmp_path: Path) -> None:
    """Sizes and offsets of more than 32 bits are read back; the data is a hole in the file."""
    entries = [
        Entry(b"a/large", STORED, 0, 5 * GIGA, 5 * GIGA, None),
        Entry(b"a/packed", DEFLATED, 0, 9, 6 * GIGA, None),
        Entry(b"a/small", STORED, 0, 7, 7, None),
    ]
    layout = lay_out(entries)
    with (tmp_path / "z").open("wb") as file:
        packed = iter(one.packed for one in entries)
        for piece in layout.pieces:
            if piece is None:
                file.seek(next(packed), 1)
            else:
                file.write(piece)

    with (tmp_path / "z").open("rb") as file:
        records = read_records(file, "x").values()

    assert [(r.span.length, r.size) for r in records] == [(5 * GIGA, 5 * GIGA), (9, 6 * GIGA), (7, 7)]
    assert [record.span.start for record in records] == layout.starts
    with zipfile.ZipFile(tmp_path / "z") as archive:
        assert [info.file_size for info in archive.infolist()] == [5 * GIGA, 6 * GIGA, 7]
