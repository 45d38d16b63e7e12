"""Damaged and malicious ONNX models: each is refused in one sentence, and none reaches a file outside its folder."""

from __future__ import annotations

import io
import os
import re
from typing import TYPE_CHECKING

import pytest
from hostile.cases import Case, accepted, prune, refusal, refused, try_case
from support.handmade import W, onnx, onnx_tensor, proto, varint

from prunecli.errors import CheckpointError
from prunecli.formats.onnx.reader import read_onnx

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HUGE = 2**63 - 1
START = proto((1, 8), (2, b"test"))


def cut(data: bytes, count: int) -> bytes:
    """Return a message without its last bytes, in a graph whose length is right."""
    return START + proto((7, proto((5, data[:-count]))))


def transpose(*order: int) -> bytes:
    """Return a node that transposes the initializer."""
    attribute = proto((1, b"perm"), *((8, axis) for axis in order))
    return proto((1, b"a.weight"), (2, b"t"), (4, b"Transpose"), (5, attribute))


FILES = {
    "no graph": (START, "it has 0 graphs"),
    "two graphs": (onnx() + proto((7, b"")), "it has 2 graphs"),
    "a number as graph": (START + proto((7, 1)), "it has 1 graphs"),
    "a file that is cut short": (onnx()[:-1], "one of its fields is cut short"),
    "a tensor that is cut short": (cut(onnx_tensor(), 1), "one of its fields is cut short"),
    "a length beyond the file": (START + b"\x3a" + varint(HUGE), "one of its fields is cut short"),
    "a number without an end": (START + b"\x3a" + b"\xff" * 30, "one of its fields is cut short"),
    "a group": (START + b"\x3b", "a field of the unknown kind 3"),
    "field 0": (START + b"\x02\x00", "a field of the unknown kind"),
    "too few numbers": (onnx(onnx_tensor("a.weight", (2, 2), 1, (9, W[:-1]))), "has 15 bytes instead of 16"),
    "too many numbers": (onnx(onnx_tensor("a.weight", (2, 2), 1, (9, W + b"0"))), "has 17 bytes instead of 16"),
    "numbers twice": (onnx(onnx_tensor("a.weight", (2, 2), 1, (9, W), (9, W))), "a field of the initializer"),
    "a name twice": (onnx(onnx_tensor(), onnx_tensor()), "two initializers named 'a.weight'"),
    "a name that is no text": (onnx(onnx_tensor(b"\xff")), "one of its names is not UTF-8 text"),
    "a number as a name": (onnx(proto((8, 7), (2, 1))), "one of its names is too long, or no text"),
    "a long name": (onnx(onnx_tensor("x" * 70_000)), "one of its names is too long, or no text"),
    "a negative size": (onnx(onnx_tensor("a.weight", (-2, -2))), "the initializer 'a.weight': one of its sizes"),
    "an overflow": (onnx(onnx_tensor("a.weight", (HUGE, HUGE))), "has 16 bytes instead of"),
    "a million dimensions": (onnx(proto(*[(1, b"\1" * 60_000)] * 20, (2, 1), (8, b"a"), (9, W))), "one of its sizes"),
    "65 dimensions": (onnx(onnx_tensor("a.weight", (1,) * 65)), "the initializer 'a.weight': one of its sizes"),
    "a long list of sizes": (
        onnx(proto((1, b"\1" * 70_000), (2, 1), (8, b"a"), (9, W))),
        "lists of numbers is too long",
    ),
    "a number as initializer": (START + proto((7, proto((5, 3)))), "an initializer is a number"),
    "an impossible order": (onnx(onnx_tensor(), nodes=[transpose(0, 5)]), "transposes 'a.weight' in an impossible"),
    "an order of one": (onnx(onnx_tensor(), nodes=[transpose(0, 0)]), "transposes 'a.weight' in an impossible"),
}


@pytest.mark.parametrize("what", FILES)
def test_bad_files(what: str) -> None:
    """The reader raises one sentence that says what is wrong."""
    data, want = FILES[what]

    with pytest.raises(CheckpointError, match=re.escape(want)):
        read_onnx(io.BytesIO(data), "in.onnx")


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        ("reader.MOST_INITIALIZERS", "it has more than 1 initializers"),
        ("wire.MOST_FIELDS", "it has more than 1 fields"),
    ],
)
def test_models_of_many_parts_are_bounded(limit: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader stops before a file of many small parts takes much time or memory."""
    monkeypatch.setattr(f"prunecli.formats.onnx.{limit}", 1)

    with pytest.raises(CheckpointError, match=message):
        read_onnx(io.BytesIO(onnx(onnx_tensor(), onnx_tensor("b.weight"))), "in.onnx")


def packed(data: bytes) -> bytes:
    """Return a model whose numbers are a packed list of floats."""
    return onnx(onnx_tensor("a.weight", (2, 2), 1, (4, data)))


NAME = "in.onnx"
CASES = [
    *(refusal(76, what, *FILES[what], NAME) for what in ("no graph", "an overflow", "too few numbers")),
    accepted(77, "one tensor", lambda data: onnx(onnx_tensor("a.weight", (2, 2), 1, (9, data))), NAME),
    accepted(77, "sizes in one list", lambda data: onnx(proto((1, b"\2\2"), (2, 1), (8, b"weight"), (9, data))), NAME),
    accepted(77, "a list of floats", packed, NAME),
    accepted(77, "a suffix of torch", lambda data: onnx(onnx_tensor("a.weight", (2, 2), 1, (9, data)))),
    accepted(77, "an unknown type", lambda data: onnx(onnx_tensor("a.weight", (2, 2), 1, (9, data)), UNKNOWN), NAME),
    accepted(77, "an empty tensor", lambda data: onnx(onnx_tensor("a.weight", (2, 2), 1, (9, data)), EMPTY), NAME),
]
UNKNOWN, EMPTY = onnx_tensor("b.weight", (2, 2), 99), onnx_tensor("b.weight", (0, HUGE), 1, (9, b""))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_runs_on_odd_files(case: Case, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A bad file ends in one message and no changed file; any other is pruned in its four weights alone."""
    try_case(capfd, tmp_path, case)


# --- other files


def external(location: str, **more: str) -> bytes:
    """Return a model whose numbers are in another file."""
    pairs = {"location": location, **more}
    entries = ((13, proto((1, key.encode()), (2, text.encode()))) for key, text in pairs.items())
    return onnx(onnx_tensor("a.weight", (2, 2), 1, *entries, (14, 1)))


def link(folder: Path) -> None:
    """Make a link that leaves the folder."""
    (folder / "w.data").unlink()
    (folder / "w.data").symlink_to(folder.parent / "secret")


def gone(folder: Path) -> None:
    """Delete the file with the numbers."""
    (folder / "w.data").unlink()


def fifo(folder: Path) -> None:
    """Put a pipe in the place of the file with the numbers."""
    (folder / "w.data").unlink()
    os.mkfifo(folder / "w.data")


def nothing(_: Path) -> None:
    """Leave the folder as it is."""


OUTSIDE = "which is not a plain path inside its directory"
REFUSED: dict[str, tuple[bytes, Callable[[Path], None], str]] = {
    "a path upwards": (external("../secret"), nothing, OUTSIDE),
    "a path upwards in the middle": (external("a/../../secret"), nothing, OUTSIDE),
    "an absolute path": (external("/etc/passwd"), nothing, OUTSIDE),
    "a drive of Windows": (external("C:\\secret"), nothing, OUTSIDE),
    "a path that is not canonical": (external("./w.data"), nothing, OUTSIDE),
    "a path with a line break": (external("w\n.data"), nothing, OUTSIDE),
    "no path": (external(""), nothing, "is in another file, which has no name"),
    "the folder": (external("."), nothing, OUTSIDE),
    "the model itself": (external("in.onnx"), nothing, "names itself as the file with its weights"),
    "a link out of the folder": (external("w.data"), link, "is a link that leaves its directory"),
    "a missing file": (external("w.data"), gone, "which is missing"),
    "a pipe": (external("w.data"), fifo, "is not a regular file"),
    "an offset beyond the file": (external("w.data", offset="8"), nothing, "ends at byte 24 and the file at 16"),
    "a huge offset": (external("w.data", offset=str(2**62)), nothing, "and the file at 16"),
    "a negative offset": (external("w.data", offset="-4"), nothing, "at the impossible place '-4'"),
    "an offset that is no number": (external("w.data", offset="²"), nothing, "at the impossible place '²'"),
    "another length": (external("w.data", length="12"), nothing, "has 12 bytes instead of 16"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_bad_places_of_external_data(what: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A model whose numbers are not in a plain file of its folder is refused, and no file changes."""
    folder = tmp_path / "in"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(W)
    (folder / "w.data").write_bytes(W)
    data, change, want = REFUSED[what]
    (folder / "in.onnx").write_bytes(data)
    change(folder)

    refused(capfd, tmp_path, want, *prune(folder / "in.onnx", "-o", tmp_path / "out"))
