"""Zip archives of torch: rewritten by other tools, with other byte orders, compressed, and damaged."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from support.handmade import patched
from support.torch_files import assert_checksums, assert_same, listing, renamed, rezip, saved

from prunecli.errors import CheckpointError
from prunecli.formats.zip.directory import read_records
from prunecli.io.inflated import inflated_view

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.parametrize("edit", [list, lambda records: records[::-1]], ids=["same order", "reversed"])
def test_rezipped_files_have_the_same_tensors(edit: Callable[[Any], Any]) -> None:
    """A file that is zipped again, in any order, has the same tensors; its CRCs are in headers and directory."""
    value = {"a": torch.randn(3, 4), "b": torch.randn(100), "c": torch.zeros(0)}

    data = rezip(saved(value), edit)

    assert_same(data, value)
    assert_checksums(data)


def test_zip64_fields_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes and offsets in zip64 fields are read."""
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 20)
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 2)
    value = {"w": torch.randn(3, 4), "v": torch.randn(40)}

    data = rezip(saved(value), list)

    assert b"PK\6\6" in data
    assert_same(data, value)
    assert_checksums(data)


@pytest.mark.parametrize("signature", [b"PK\7\b", b""])
@pytest.mark.parametrize("sizes", ["LL", "QQ"])
def test_every_form_of_data_descriptor_is_found(signature: bytes, sizes: str) -> None:
    """The CRC after the data is found with and without a signature, and with sizes of 32 or 64 bits."""
    content = b"weights!"
    crc = zlib.crc32(content)
    local = struct.pack("<4s5H3L2H", b"PK\3\4", 20, 8, 0, 0, 0, 0, 0, 0, 3, 0) + b"r/d"
    descriptor = signature + struct.pack(f"<L{sizes}", crc, 8, 8)
    central = struct.pack("<4s6H3L5H2L", b"PK\1\2", 20, 20, 8, 0, 0, 0, crc, 8, 8, 3, 0, 0, 0, 0, 0, 0) + b"r/d"
    start = len(local + content + descriptor)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, len(central), start, 0)

    record = read_records(io.BytesIO(local + content + descriptor + central + end), "x.zip")["r/d"]

    assert (start + 16, len(local + content + signature)) == record.places


def test_big_endian_files_are_read() -> None:
    """The byteorder record sets the byte order of the tensors and adds a note."""
    value = {"a": torch.randn(3, 4)}

    def swap(name: str, content: bytes) -> tuple[str, bytes]:
        if name.endswith("/byteorder"):
            return name, b"big"
        return name, np.frombuffer(content, ">u4").astype("<u4").tobytes() if "/data/" in name else content

    data = rezip(saved(value), renamed(swap))

    assert listing(data).tensors[0].big_endian
    assert listing(data).notes == ("the numbers are stored big-endian",)
    assert_same(data, value)


def test_compressed_files_are_listed_as_they_are_uncompressed() -> None:
    """The tensors of a compressed file are at the places that they have in the uncompressed one, which is aligned."""
    value = {"w": torch.ones(5_000), "v": torch.randn(300)}
    data = rezip(saved(value), list, zipfile.ZIP_DEFLATED)

    found = listing(data)

    assert found.inflated is not None
    assert len(data) == found.inflated.stored_size
    assert [t.span.length for t in found.tensors] == [20_000, 1200]
    assert [t.span.start % 64 for t in found.tensors] == [0, 0]
    view = inflated_view(io.BytesIO(data), found.inflated, "x").read()
    assert len(view) == found.inflated.size
    assert_same(view, value)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions_are_refused(method: int) -> None:
    """Torch reads no bzip2 and no LZMA, so neither is listed."""
    with pytest.raises(CheckpointError, match=f"has the compression method {method}"):
        listing(rezip(saved({"w": torch.zeros(5_000)}), list, method))


def test_an_archive_without_a_pickle_is_refused() -> None:
    """A zip in torch's layout without data.pkl is not a checkpoint."""
    data = rezip(saved({"w": torch.ones(3, 4)}), renamed(lambda n, c: None if n.endswith(".pkl") else (n, c)))

    with pytest.raises(CheckpointError, match=r"no data\.pkl in 'archive'"):
        listing(data)


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "other local name": lambda d: patched(d, b"archive/data/0", b"archive/data/1"),
    "other name in the directory": lambda d: patched(d, b"archive/data/0", b"archive/data/1", last=True),
    "other crc in the directory": lambda d: patched(d, b"archive/data/0", b"abcd", -30, last=True),
    "other crc behind the data": lambda d: patched(d, b"PK\7\b", b"abcd", 4),
    "other method": lambda d: patched(d, b"PK\3\4", b"\x08", 8),
    "huge size in the directory": lambda d: patched(d, b"archive/data/0", b"\xff\xff\xff\x7f" * 2, -26, last=True),
    "directory of nothing": lambda d: patched(d, b"PK\5\6", b"\0\0\0\0\0\0\0\0", 12, last=True),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_zips_are_refused(name: str) -> None:
    """A truncated, padded, inconsistent or corrupt zip is refused in one sentence that names the file."""
    data = DAMAGE[name](saved({"w": torch.ones(3, 4)}))

    with pytest.raises(CheckpointError, match=r"^x\.pth (is|has) [^\n]+$"):
        listing(data)


def test_every_truncation_is_refused() -> None:
    """Every prefix of a zip or legacy file raises CheckpointError."""
    for legacy in (False, True):
        data = saved({"w": torch.ones(2)}, legacy=legacy)
        for length in range(0, len(data), 7):
            with pytest.raises(CheckpointError):
                listing(data[:length])


def test_flipped_bytes_raise_only_checkpoint_errors() -> None:
    """A zip or legacy file with any byte changed is listed or raises CheckpointError."""
    for legacy in (False, True):
        data = bytearray(saved({"w": torch.ones(2)}, legacy=legacy))
        for place in range(len(data)):
            data[place] ^= 0x41
            try:
                listing(bytes(data))
            except CheckpointError as error:
                assert "\n" not in str(error)  # noqa: PT017
            data[place] ^= 0x41
