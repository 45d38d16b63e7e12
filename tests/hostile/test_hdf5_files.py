"""Damaged and malicious HDF5 files: each is refused in one sentence, or read as the bytes that it has."""

from __future__ import annotations

import io
import struct
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hostile.cases import prune, refused
from hypothesis import given, settings
from hypothesis import strategies as st
from support import examples
from support.foreign import library

from prunecli.errors import CheckpointError
from prunecli.formats.hdf5.reader import read_hdf5

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

W = np.array([[0.1, 2], [0.25, -3]], np.float32)


def written(libver: str = "earliest") -> bytes:
    """Return a file of two datasets, one of them in a group."""
    file = io.BytesIO()
    with library("h5py").File(file, "w", libver=libver) as opened:
        opened.create_dataset("weight", data=W)
        opened.create_dataset("a/weight", data=W + 1)
    return file.getvalue()


def patched(mark: bytes, at: int, form: str, *values: int, nth: int = 0) -> Callable[[bytes], bytes]:
    """Return a function that writes numbers `at` bytes after the n-th occurrence of `mark`."""

    def patch(data: bytes) -> bytes:
        place = -1
        for _ in range(nth + 1):
            place = data.index(mark, place + 1)
        changed = bytearray(data)
        struct.pack_into(form, changed, place + at, *values)
        return bytes(changed)

    return patch


def layout_message(data: bytes) -> int:
    """Return the place of the first message that says where numbers are."""
    start = data.index(W.tobytes())
    return data.index(b"\x03\x01" + struct.pack("<QQ", start, 16))


def moved(address: int, length: int = 16) -> Callable[[bytes], bytes]:
    """Return a function that moves the numbers of the first dataset."""

    def patch(data: bytes) -> bytes:
        changed = bytearray(data)
        struct.pack_into("<QQ", changed, layout_message(data) + 2, address, length)
        return bytes(changed)

    return patch


def tree_of_itself(data: bytes) -> bytes:
    """Make the root's B-tree its own child."""
    place = data.index(b"TREE")
    changed = bytearray(data)
    changed[place + 5] = 1  # the level
    struct.pack_into("<Q", changed, place + 32, place)
    return bytes(changed)


def name_of_another(data: bytes) -> bytes:
    """Give both entries of a symbol table one name."""
    place = data.index(b"SNOD") + 8
    changed = bytearray(data)
    changed[place + 40 : place + 48] = data[place : place + 8]
    return bytes(changed)


DAMAGED: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "the signature alone": (lambda data: data[:8], "is not in it"),
    "half of the superblock": (lambda data: data[:40], "is not in it"),
    "a file that is cut short": (lambda data: data[:-8], "is truncated: it should have"),
    "an unknown superblock": (patched(b"\x89HDF", 8, "<B", 9), "its superblock has the unknown version 9"),
    "addresses of 4 bytes": (patched(b"\x89HDF", 13, "<B", 4), "its addresses do not have 8 bytes"),
    "a base address": (patched(b"\x89HDF", 24, "<Q", 512), "its addresses count from byte 512"),
    "a root beyond the file": (patched(b"\x89HDF", 64, "<Q", 2**63), "is not in it"),
    "a root that is no object": (patched(b"\x89HDF", 64, "<Q", 0), "there is no object header at byte 0"),
    "a tree that is its own child": (tree_of_itself, "its B-tree enters the node at byte"),
    "a tree of another kind": (patched(b"TREE", 4, "<B", 1), "is not one of a group, or of another level"),
    "a table that is a tree": (patched(b"SNOD", 0, "<4s", b"TREE"), "there is no SNOD at byte"),  # type: ignore[arg-type]
    "a heap that is none": (patched(b"HEAP", 0, "<B", 0), "there is no HEAP at byte"),
    "a heap beyond the file": (patched(b"HEAP", 24, "<Q", 2**62), "is not in it"),
    "a name outside of the heap": (patched(b"SNOD", 8, "<Q", 2**40), "the name of an object is not in its heap"),
    "two names alike": (name_of_another, "is given twice, or too long"),
    "an object beyond the file": (patched(b"SNOD", 16, "<Q", 2**64 - 2), "is not in it"),
    "numbers beyond the file": (moved(2**62), "does not fit its place"),
    "numbers at a negative place": (moved(2**64 - 8), "does not fit its place"),
    "too few numbers": (moved(800, 12), "does not fit its place"),
    "numbers over the superblock": (moved(0), "overlaps other parts of the file"),
    "numbers over a group": (moved(136), "overlaps other parts of the file"),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_damaged_files(what: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The file ends in one message, exit code 2 and no changed file."""
    change, want = DAMAGED[what]
    path = tmp_path / "in.h5"
    path.write_bytes(change(written()))

    refused(capfd, tmp_path, want, *prune(path, "-o", tmp_path / "out.h5"))


LATEST: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "an unknown object header": (patched(b"OHDR", 4, "<B", 9), "an object header has the unknown version 9"),
    "a long message": (patched(b"OHDR", 8, "<H", 60_000), "a message of an object header is cut short"),
}


@pytest.mark.parametrize("what", LATEST)
def test_damaged_files_of_the_present_form(what: str) -> None:
    """Object headers of version 2 are checked as those of version 1 are."""
    change, want = LATEST[what]

    with pytest.raises(CheckpointError, match=want):
        read_hdf5(io.BytesIO(change(written("latest"))), "in.h5")


def test_files_of_many_structures_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader stops before a file of many small structures takes much time or memory."""
    monkeypatch.setattr("prunecli.formats.hdf5.objects.MOST_STRUCTURES", 5)

    with pytest.raises(CheckpointError, match="it has more than 5 structures"):
        read_hdf5(io.BytesIO(written()), "in.h5")


def test_paths_that_grow_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups in groups with long names end in an error before their paths fill the memory."""
    file = io.BytesIO()
    with library("h5py").File(file, "w") as opened:
        opened.create_dataset("/".join(["x" * 100] * 30), data=W)
    monkeypatch.setattr("prunecli.formats.hdf5.reader._MOST_NAMED", 10_000)

    with pytest.raises(CheckpointError, match="is given twice, or too long"):
        read_hdf5(file, "in.h5")


@settings(max_examples=examples(80))
@given(st.data(), st.sampled_from(["earliest", "latest"]))
def test_changed_bytes_end_in_one_sentence_or_a_listing(data: st.DataObject, libver: str) -> None:
    """Whatever bytes of the structures change, the reader lists tensors inside of the file, or says what is wrong."""
    raw = bytearray(written(libver))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(8, len(raw) - 1))
        raw[place] = data.draw(st.integers(0, 255))

    try:
        listing = read_hdf5(io.BytesIO(bytes(raw)), "in.h5")
    except CheckpointError:
        return

    assert all(0 <= t.start <= t.end <= len(raw) for t in listing.tensors)
