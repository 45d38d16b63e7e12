"""Damaged zips raise one sentence with the records and numbers that disagree."""

from __future__ import annotations

import io
import struct
import zipfile

import pytest

from prunecli.errors import CheckpointError
from prunecli.formats.zip.directory import read_records


class _Pipe(io.BytesIO):
    """A stream without seek: zipfile then writes data descriptors."""

    def seek(self, *_: int) -> int:
        raise io.UnsupportedOperation


def zipped(*, descriptors: bool = False) -> bytes:
    """Return a zip with the stored records m/a and m/b; one written to a pipe has data descriptors."""
    out = _Pipe() if descriptors else io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name in ("m/a", "m/b"):
            with archive.open(zipfile.ZipInfo(name), "w") as record:
                record.write(name.encode() * 5)
    return out.getvalue()


def patched(data: bytes, signature: bytes, offset: int, new: bytes) -> bytes:
    """Return a zip with bytes replaced at `offset` after the last occurrence of a signature."""
    start = data.rindex(signature) + offset
    return data[:start] + new + data[start + len(new) :]


SOUND, LATER = zipped(), zipped(descriptors=True)
DIRECTORY = SOUND.index(b"PK\1\2")
SIZE = len(SOUND) - DIRECTORY - 22

DAMAGED = {
    "count": (
        patched(SOUND, b"PK\5\6", 8, struct.pack("<2H", 3, 3)),
        "its end record says 3 records and its central directory has 2",
    ),
    "bytes before": (
        b"junk" + SOUND,
        f"its end record says {SIZE} bytes at offset {DIRECTORY} for its central directory, which has {SIZE} bytes at",
    ),
    "local CRC": (patched(SOUND, b"PK\3\4", 14, b"\0\0\0\0"), "the headers of the record 'm/b' disagree"),
    "local method": (patched(SOUND, b"PK\3\4", 8, b"\x08"), "the headers of the record 'm/b' disagree"),
    "local name": (patched(SOUND, b"PK\3\4", 30, b"x"), "the record 'm/b' does not start at the offset"),
    "encrypted": (patched(SOUND, b"PK\3\4", 6, b"\1"), "the record 'm/b' is encrypted"),
    "descriptor": (
        patched(LATER, b"PK\7\x08", 4, b"\0\0\0\0"),
        "the data descriptor of the record 'm/b' disagrees with the central directory",
    ),
    "repeated name": (SOUND.replace(b"m/b", b"m/a"), "it has two records named 'm/a'"),
    "bytes after": (SOUND + b"\0\0\0", "it has 3 bytes after its end"),
    "truncated": (SOUND[:-30], "File is not a zip file"),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_zip_raises_one_sentence(damage: str) -> None:
    """The message names the file and what is wrong, and the hint is a command that tests the zip."""
    data, message = DAMAGED[damage]

    with pytest.raises(CheckpointError, match=f"^x is a damaged or truncated zip: {message}") as caught:
        read_records(io.BytesIO(data), "x")

    assert caught.value.hint == "unzip -t x"


@pytest.mark.parametrize("data", [SOUND, LATER], ids=["stored", "with descriptors"])
def test_each_place_holds_the_checksum(data: bytes) -> None:
    """The CRC of each record is at every place that the record lists, and its span is its content."""
    records = read_records(io.BytesIO(data), "x")

    assert list(records) == ["m/a", "m/b"]
    for record in records.values():
        assert data[record.span.start : record.span.end] == record.name.encode() * 5
        assert {data[place : place + 4] for place in record.places} == {record.crc.to_bytes(4, "little")}
        assert len(record.places) == 2
