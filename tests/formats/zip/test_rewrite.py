"""Zips rewritten record by record: remaining records keep their bytes, and zipfile and unzip accept the result."""

from __future__ import annotations

import io
import subprocess
import zipfile
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.containers import make_checkpoint

from prunecli.errors import CheckpointError
from prunecli.formats.zip.directory import read_directory, read_records
from prunecli.formats.zip.rewrite import _central, _Contents, rewrite_zip
from prunecli.io.files import Source
from prunecli.io.parts import FilePlan, write_parts

if TYPE_CHECKING:
    from pathlib import Path


def written(plan: FilePlan, source: Path, target: Path) -> bytes:
    """Write `plan`, made from the file `source`, to `target` and return its bytes."""
    opened = Source(source, source.stat().st_size)
    with target.open("w+b") as file:
        write_parts(opened, file.fileno(), plan.parts)
    opened.close()
    assert target.stat().st_size == plan.size
    return target.read_bytes()


@pytest.mark.parametrize("container", ["zip", "nested", "one-storage", "big-endian"])
def test_without_changes_the_zip_is_the_same(tmp_path: Path, container: str) -> None:
    """A zip of torch or zipfile is written byte for byte if no record changes."""
    path = make_checkpoint(container, tmp_path)
    with path.open("rb") as file:
        plan = rewrite_zip(file, "it", {}, (), 64)

    assert path.read_bytes() == written(plan, path, tmp_path / "out")


def test_the_plan_lists_all_places_of_a_checksum(tmp_path: Path) -> None:
    """Each place in the plan holds the CRC of the record: in its header or descriptor, and in the directory."""
    path = make_checkpoint("zip", tmp_path)
    with path.open("rb") as file, zipfile.ZipFile(path) as archive:
        pickled = next(n for n in archive.namelist() if n.endswith("data.pkl"))
        removed = next(n for n in archive.namelist() if n.endswith("data/0"))
        plan = rewrite_zip(file, "it", {pickled: archive.read(pickled) + b"longer"}, {removed}, 64)

    data = written(plan, path, tmp_path / "out")

    assert plan.checksums
    for checksum in plan.checksums:
        assert len(checksum.places) == 2
        assert {data[place : place + 4] for place in checksum.places} == {checksum.value.to_bytes(4, "little")}
    subprocess.run(["unzip", "-tqq", tmp_path / "out"], check=True)


@given(
    contents=st.lists(st.binary(max_size=40), min_size=1, max_size=6),
    removed=st.sets(st.integers(0, 5)),
    new=st.dictionaries(st.integers(0, 5), st.binary(max_size=90)),
    headers=st.sampled_from(["plain", "zip64", "descriptor"]),
)
def test_zipfile_reads_the_remaining_records(
    tmp_path_factory: pytest.TempPathFactory,
    contents: list[bytes],
    removed: set[int],
    new: dict[int, bytes],
    headers: str,
) -> None:
    """After records are removed and others get new content, zipfile reads the rest in order, with right checksums."""
    folder = tmp_path_factory.mktemp("zip")
    path = folder / "in.zip"
    path.write_bytes(_zip_of(contents, headers))
    changed = {f"a/{i}": data for i, data in new.items() if i < len(contents)}

    with path.open("rb") as file:
        plan = rewrite_zip(file, "it", changed, {f"a/{i}" for i in removed}, 64)

    written(plan, path, folder / "out.zip")
    with zipfile.ZipFile(folder / "out.zip") as actual:
        names = [f"a/{i}" for i in range(len(contents)) if i not in removed]
        assert names == actual.namelist()
        assert actual.testzip() is None
        expected = {f"a/{i}": data for i, data in enumerate(contents)} | changed
        assert [expected[name] for name in names] == [actual.read(name) for name in names]
    if names:
        with (folder / "out.zip").open("rb") as file:
            assert list(read_records(file, "it")) == names


class _Pipe(io.BytesIO):
    """A stream without seek: zipfile then writes data descriptors."""

    def seek(self, *_: int) -> int:
        raise io.UnsupportedOperation


def _zip_of(contents: list[bytes], headers: str) -> bytes:
    """Return a zip of records a/0, a/1, ... with 64-bit sizes, with data descriptors, or plain."""
    out = _Pipe() if headers == "descriptor" else io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for i, data in enumerate(contents):
            with archive.open(zipfile.ZipInfo(f"a/{i}"), "w", force_zip64=headers == "zip64") as record:
                record.write(data)
    return out.getvalue()


def test_a_compressed_record_is_copied_but_not_changed(tmp_path: Path) -> None:
    """Compressed records are copied unchanged; changing one raises an error."""
    path = tmp_path / "in.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/0", b"x" * 1000, zipfile.ZIP_DEFLATED)
        archive.writestr("a/1", b"y")

    with path.open("rb") as file:
        written(rewrite_zip(file, "it", {}, {"a/1"}, 64), path, tmp_path / "out.zip")
        with pytest.raises(CheckpointError, match="compressed"):
            rewrite_zip(file, "it", {"a/0": b"z"}, (), 64)

    with zipfile.ZipFile(tmp_path / "out.zip") as actual:
        assert actual.read("a/0") == b"x" * 1000


def test_offsets_past_4_gib_are_in_the_zip64_field(tmp_path: Path) -> None:
    """A directory entry has an offset of 64 bits in the zip64 field, and no such field for a small offset."""
    path = tmp_path / "m.pth"
    torch.save({"w": torch.ones(3)}, path)
    with path.open("rb") as file:
        old, *_ = read_directory(file, "it").records

    far, near = (zipfile.ZipInfo(), zipfile.ZipInfo())
    for info, start in ((far, 5 << 30), (near, 1000)):
        entry = _central(old, start, _Contents(7, 8, 9))
        name, extra = len(old.name), int.from_bytes(entry[30:32], "little")
        info.extra = entry[46 + name : 46 + name + extra]
        info.header_offset, info.file_size, info.compress_size = int.from_bytes(entry[42:46], "little"), 9, 8
        info._decodeExtra(7) if decodes_with_checksum() else info._decodeExtra()  # type: ignore[attr-defined]

    assert far.header_offset == 5 << 30
    assert (near.header_offset, near.extra) == (1000, b"")


def decodes_with_checksum() -> bool:
    """Return whether this Python's zipfile takes the CRC of the name as an argument, as newer versions do."""
    return zipfile.ZipInfo._decodeExtra.__code__.co_argcount > 1  # type: ignore[attr-defined]
