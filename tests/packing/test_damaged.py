"""Damaged and forged packed files: they are refused, or give back exactly what was packed."""

from __future__ import annotations

import json
import zipfile
from typing import TYPE_CHECKING, Any

import pytest
import torch
from support.torch_files import listing, rezip, saved

from prunecli import CheckpointError, PruneError, pack, unpack
from prunecli.formats.torch.packed import RESTORE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

VALUE = {"a.weight": torch.arange(3000).float() // 300, "b.weight": torch.zeros(2000)}


@pytest.fixture
def packed(tmp_path: Path) -> bytes:
    """Return a packed file."""
    (tmp_path / "m.pth").write_bytes(saved(VALUE))
    pack(tmp_path / "m.pth", tmp_path / "p.pth")
    return (tmp_path / "p.pth").read_bytes()


def forged(data: bytes, change: Callable[[dict[str, Any], bytes], tuple[object, bytes]]) -> bytes:
    """Return a packed file whose record for unpacking is changed: its line of JSON and the bytes after it."""

    def edit(records: list[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
        return [(name, _changed(content) if name.endswith(RESTORE) else content) for name, content in records]

    def _changed(content: bytes) -> bytes:
        line, _, rest = content.partition(b"\n")
        described, rest = change(json.loads(line), rest)
        return json.dumps(described).encode() + b"\n" + rest

    return rezip(data, edit, zipfile.ZIP_DEFLATED)


def swapped(described: dict[str, Any], rest: bytes) -> tuple[object, bytes]:
    """Exchange the data of two storages."""
    text = json.dumps(described)
    return json.loads(text.replace("data/0", "x").replace("data/1", "data/0").replace("/x", "/data/1")), rest


def parts(change: Callable[[list[Any]], list[Any]]) -> Callable[[dict[str, Any], bytes], tuple[object, bytes]]:
    """Return a change of the list of parts."""
    return lambda described, rest: ({**described, "parts": change(described["parts"])}, rest)


FORGED: dict[str, Callable[[dict[str, Any], bytes], tuple[object, bytes]]] = {
    "swapped": swapped,
    "another name in a header": lambda described, rest: (described, rest.replace(b"data/0", b"data/9")),
    "another version": lambda described, rest: ({**described, "version": 2}, rest),
    "no parts": lambda _, rest: ({"version": 1}, rest),
    "a list": lambda described, rest: (described["parts"], rest),
    "bytes behind": lambda described, rest: (described, rest + b"x"),
    "bytes missing": lambda described, rest: (described, rest[:-1]),
    "a part less": parts(lambda some: some[:1] + some[2:]),
    "a part twice": parts(lambda some: [*some[:1], *some]),
    "an unknown record": parts(lambda some: [[some[0][0], "archive/nowhere"], *some[1:]]),
    "a negative length": parts(lambda some: [[-1, some[0][1]], *some[1:]]),
    "a huge length": parts(lambda some: [[1 << 60, some[0][1]], *some[1:]]),
    "a bool as length": parts(lambda some: [[True, some[0][1]], *some[1:]]),
    "itself": parts(lambda some: [[some[0][0], f"archive/{RESTORE}"], *some[1:]]),
}


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_description_is_refused(name: str, packed: bytes) -> None:
    """Torch ignores the record for unpacking, so a file in which it says something else is refused."""
    with pytest.raises(CheckpointError):
        listing(forged(packed, FORGED[name]))


def test_the_forger_changes_nothing_by_itself(packed: bytes) -> None:
    """A description that is written again unchanged is accepted."""
    assert listing(packed).tensors == listing(forged(packed, lambda described, rest: (described, rest))).tensors


def test_a_flipped_byte_is_refused_or_harmless(packed: bytes, tmp_path: Path) -> None:
    """Wherever a bit of a packed file is flipped, unpack refuses it or gives the original."""
    original = (tmp_path / "m.pth").read_bytes()
    accepted = 0
    for place in range(0, len(packed), max(1, len(packed) // 150)):
        (tmp_path / "x.pth").write_bytes(packed[:place] + bytes([packed[place] ^ 4]) + packed[place + 1 :])
        try:
            unpack(tmp_path / "x.pth", tmp_path / "u.pth", force=True)
        except PruneError:
            continue
        accepted += 1
        assert original == (tmp_path / "u.pth").read_bytes()
    assert accepted < 50


@pytest.mark.parametrize("end", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused(end: float, packed: bytes, tmp_path: Path) -> None:
    """A file that was cut short is refused, and no output is left."""
    (tmp_path / "x.pth").write_bytes(packed[: int(end * len(packed))])

    with pytest.raises(CheckpointError):
        unpack(tmp_path / "x.pth", tmp_path / "u.pth")

    assert not (tmp_path / "u.pth").exists()
