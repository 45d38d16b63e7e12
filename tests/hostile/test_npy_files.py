"""Damaged and malicious arrays of NumPy: each is refused in one sentence, and nothing in them is evaluated."""

from __future__ import annotations

import io
import re
import struct
import zipfile
from typing import TYPE_CHECKING

import pytest
from hostile.cases import Case, accepted, refusal, try_case
from support.handmade import W, archive, npy

from prunecli.errors import CheckpointError
from prunecli.formats.npy.reader import read_npy, read_npz

if TYPE_CHECKING:
    from pathlib import Path


def npz(*arrays: tuple[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    """Return an archive of arrays."""
    return archive(list(arrays), method)


def fields(descr: str = "'<f4'", shape: str = "(2, 2)", fortran: str = "False") -> str:
    """Return the text of a header."""
    return f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}"


def flipped(data: bytes, place: int) -> bytes:
    """Return the bytes with one bit changed."""
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


def claiming(size: int) -> bytes:
    """Return an archive whose only array, which is compressed, has another size by its headers."""
    data = bytearray(npz(("w.npy", npy(data=W + bytes(4000))), method=zipfile.ZIP_DEFLATED))
    for place in (22, data.index(b"PK\1\2") + 24):
        struct.pack_into("<I", data, place, min(size, 2**32 - 2))
    return bytes(data)


GOOD = npz(("weight.npy", npy()))
NOT_NUMPY = "its header is not the one of a NumPy array"

HEADERS = {
    "code": (
        npy("{'descr': __import__('os').system('touch ran'), 'fortran_order': False, 'shape': (2, 2)}"),
        NOT_NUMPY,
    ),
    "code as a shape": (npy(fields(shape="(2, open('ran', 'w'))")), NOT_NUMPY),
    "no dict": (npy("[1, 2]"), NOT_NUMPY),
    "a dict without its first bracket": (npy(f"[{fields()[1:]}"), NOT_NUMPY),
    "a missing field": (npy("{'descr': '<f4', 'shape': (2, 2)}"), NOT_NUMPY),
    "a field twice": (npy("{'descr': '<f4', 'descr': '<f8', 'fortran_order': False, 'shape': (2, 2)}"), NOT_NUMPY),
    "another field": (npy("{'descr': '<f4', 'x': '', 'fortran_order': False, 'shape': (2, 2)}"), NOT_NUMPY),
    "text after the dict": (npy(fields() + " + 1"), NOT_NUMPY),
    "a text as order": (npy(fields(fortran="'False'")), NOT_NUMPY),
    "a truth value as dtype": (npy(fields(descr="True")), NOT_NUMPY),
    "a negative size": (npy(fields(shape="(-2, -2)")), NOT_NUMPY),
    "a number as shape": (npy(fields(shape="(4)")), "its shape is no tuple"),
    "sizes without commas": (npy(fields(shape="(2 2,)")), "not a number"),
    "a huge size": (npy(fields(shape="(0, 18446744073709551616)")), "too large"),
    "a size of many digits": (npy(fields(shape=f"({'9' * 5000},)")), "not a number"),
    "an overflow": (npy(fields(shape="(4294967296, 4294967296, 4294967296)")), "it is truncated: "),
    "65 dimensions": (npy(fields(shape=f"({'1,' * 65})")), "too large or not a number"),
    "nested brackets": (npy(fields(descr="[" * 5000)), NOT_NUMPY),
    "a long header": (npy(fields() + " " * 20_000), "at most 10,000"),
    "an unknown version": (npy().replace(b"\x93NUMPY\1", b"\x93NUMPY\4"), "its header has an unknown version"),
    "a header that is cut short": (npy()[:40], "its header is cut short"),
    "a magic number alone": (npy()[:6], "its header has an unknown version"),
    "missing numbers": (npy()[:-1], "it is truncated: 1 bytes are missing"),
}
ARCHIVES = {
    "an array that is cut short": (npz(("w.npy", npy()[:-4])), "it is truncated: 4 bytes are missing"),
    "an array that is too long": (npz(("w.npy", npy(data=W + b"0000"))), "it has 4 bytes more than its shape needs"),
    "a record that is no array": (npz(("w.npy", b"text")), "it does not begin as a NumPy array"),
    "two arrays of one name": (npz(("w.npy", npy()), ("w", npy())), "has two arrays named 'w'"),
    "another compression": (npz(("w.npy", npy()), method=zipfile.ZIP_LZMA), "its array 'w' is compressed with another"),
    "a compressed array that claims too much": (claiming(2**40), "its array 'w' would inflate from"),
    "a compressed array that claims too little": (claiming(100), "inflates to more than 100 bytes"),
    "a file that is cut short": (GOOD[:-30], "damaged or truncated zip"),
    "a wrong checksum": (flipped(GOOD, GOOD.index(W) + 5), "is damaged"),
    "a wrong checksum of a header": (flipped(GOOD, GOOD.index(b"<f4") + 20), "is damaged"),
}

EMPTY = npy(fields(shape=f"(0, {2**62}, {2**62})"), b"")

CASES = [
    *(
        refusal(71, f".npy: {what}", *HEADERS[what], "in.npy")
        for what in ("code", "missing numbers", "a negative size")
    ),
    *(refusal(72, f".npz: {what}", data, want, "in.npz") for what, (data, want) in ARCHIVES.items()),
    accepted(73, ".npy", lambda data: npy(data=data), "in.npy"),
    accepted(73, ".npz", lambda data: npz(("weight.npy", npy(data=data))), "in.npz"),
    accepted(
        73, "an array without suffix", lambda data: npz(("x.npy", npy(data=b"\1" * 16)), ("weight", npy(data=data)))
    ),
    accepted(73, "an empty array of large sizes", lambda data: npz(("weight.npy", npy(data=data)), ("e.npy", EMPTY))),
    accepted(73, "a .npy in a .pth", lambda data: npy(data=data)),
]


@pytest.mark.parametrize("what", HEADERS)
def test_bad_headers(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Alone and in an archive, an array with such a header is refused in one sentence, and nothing in it runs."""
    monkeypatch.chdir(tmp_path)
    data, want = HEADERS[what]

    with pytest.raises(CheckpointError, match=re.escape(want)):
        read_npy(io.BytesIO(data), "in.npy")
    with pytest.raises(CheckpointError, match=re.escape(want)):
        read_npz(io.BytesIO(npz(("weight.npy", data))), "in.npz")

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("case", CASES, ids=str)
def test_bad_arrays(
    case: Case, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is refused with one message and no changed file, or pruned correctly; nothing in it runs."""
    monkeypatch.chdir(tmp_path)

    try_case(capfd, tmp_path, case)


@pytest.mark.parametrize("size", [0, 1, 3, 5])
def test_headers_of_unusual_lengths_are_left_alone(
    size: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """In an archive, numbers that begin between two elements of the record are not pruned; the others are."""
    raw = fields().encode() + b" " * size
    odd = b"\x93NUMPY\1\0" + struct.pack("<H", len(raw)) + raw
    aligned = not len(odd) % 4

    def make(data: bytes) -> bytes:
        return npz(("weight.npy", npy(data=data)), ("odd_weight.npy", odd + (data if aligned else W)))

    try_case(capfd, tmp_path, accepted(73, "an odd header", make))
