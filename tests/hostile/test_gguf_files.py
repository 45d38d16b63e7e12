"""Damaged and malicious GGUF files: each is refused in one sentence, in bounded time and memory."""

from __future__ import annotations

import io
import re
import struct
from typing import TYPE_CHECKING

import pytest
from hostile.cases import Case, accepted, measured, refusal, try_case
from support.handmade import W, gguf, gguf_tensor, gguf_text

from prunecli.errors import CheckpointError
from prunecli.formats.gguf.reader import MOST_ITEMS, read_gguf

if TYPE_CHECKING:
    from pathlib import Path

    from support.runs import Forks

HUGE = 2**63


def value(kind: int, content: bytes, key: str = "k") -> bytes:
    """Return an entry of the metadata."""
    return gguf_text(key) + struct.pack("<I", kind) + content


def array(kind: int, count: int, content: bytes = b"") -> bytes:
    """Return an array of the metadata."""
    return struct.pack("<IQ", kind, count) + content


def nested(levels: int) -> bytes:
    """Return an array in an array, and so on."""
    return array(9, 1) * levels + array(0, 0)


ALIGNMENT = "general.alignment"
CUT = "its header is cut short"
FILES = {
    "the magic number alone": (b"GGUF", CUT),
    "no metadata": (gguf()[:20], CUT),
    "half a tensor": (gguf()[:50], CUT),
    "more tensors than entries": (gguf(counts=(9, 0), data=b""), CUT),
    "a count of tensors beyond any": (gguf(counts=(HUGE, 0)), "9,223,372,036,854,775,808 tensors, at most 300,000"),
    "a count of metadata beyond any": (gguf(counts=(1, HUGE)), f"more than {MOST_ITEMS:,} entries"),
    "a text longer than the file": (gguf(metadata=[value(8, struct.pack("<Q", HUGE))]), CUT),
    "a name longer than the file": (gguf(struct.pack("<Q", HUGE)), "one of its names has 9,223"),
    "a name that is no text": (gguf(gguf_tensor(b"\xff\xfe")), "one of its names is not UTF-8 text"),
    "an array longer than the file": (gguf(metadata=[value(9, array(4, HUGE))]), CUT),
    "an array of more texts than any": (gguf(metadata=[value(9, array(8, HUGE))]), f"more than {MOST_ITEMS:,} entries"),
    "arrays nested too deeply": (gguf(metadata=[value(9, nested(5000))]), "a value of the unknown type 9"),
    "an unknown type of metadata": (gguf(metadata=[value(13, b"")]), "a value of the unknown type 13"),
    "a key twice": (gguf(metadata=[value(0, b"\1"), value(0, b"\2")]), "its metadata has 'k' twice"),
    "an alignment of zero": (gguf(metadata=[value(4, b"\0" * 4, ALIGNMENT)]), "its alignment of 0 bytes is impossible"),
    "an odd alignment": (gguf(metadata=[value(4, b"\7\0\0\0", ALIGNMENT)]), "its alignment of 7 bytes is impossible"),
    "a text as alignment": (gguf(metadata=[value(8, gguf_text("8"), ALIGNMENT)]), "its alignment of '8' bytes"),
    "a huge size": (gguf(gguf_tensor(shape=(HUGE, 1))), "negative, too large or not a number"),
    "an overflow": (gguf(gguf_tensor(shape=(2**32, 2**32))), "ends at byte 73786976294838206"),
    "many dimensions": (gguf(gguf_tensor(shape=(1,) * 70)), "negative, too large or not a number"),
    "a count of dimensions beyond any": (gguf(gguf_text("a") + b"\xff" * 4 + bytes(2000)), "not a number"),
    "an offset beyond the file": (gguf(gguf_tensor(offset=HUGE)), "ends at byte 9223372036854775"),
    "data that is cut short": (gguf(data=W[:-1]), "ends at byte 112, and the file at 111"),
    "two tensors at one place": (gguf(gguf_tensor("a"), gguf_tensor("b")), "the tensors 'a' and 'b' overlap"),
    "tensors that overlap": (gguf(gguf_tensor("a"), gguf_tensor("b", offset=8), data=W * 2), "overlap"),
    "rows of half a block": (gguf(gguf_tensor(shape=(16, 2), kind=2)), "not a multiple of 32 weights"),
    "a quantized scalar": (gguf(gguf_tensor(shape=(), kind=2)), "not a multiple of 32 weights"),
    "a name twice": (gguf(gguf_tensor(), gguf_tensor(offset=16), data=W * 2), "has two tensors named 'a.weight'"),
    "version 1": (gguf(version=1), "is a GGUF file of version 1, and only 2 and 3 are known"),
    "version 99": (gguf(version=99), "is a GGUF file of version 99, and only 2 and 3 are known"),
}


@pytest.mark.parametrize("what", FILES)
def test_bad_files(what: str) -> None:
    """The reader raises one sentence that says what is wrong."""
    data, want = FILES[what]

    with pytest.raises(CheckpointError, match=re.escape(want)):
        read_gguf(io.BytesIO(data), "in.gguf")


def test_long_keys_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many long keys end in an error before they fill the memory."""
    monkeypatch.setattr("prunecli.formats.gguf.reader._MOST_TEXT", 10_000)
    keys = [value(0, b"\1", f"{i:0500}") for i in range(30)]

    with pytest.raises(CheckpointError, match="or all are too long"):
        read_gguf(io.BytesIO(gguf(metadata=keys)), "in.gguf")


NAME = "in.gguf"
CASES = [
    *(refusal(74, what, *FILES[what], NAME) for what in ("no metadata", "data that is cut short", "an overflow")),
    accepted(75, "one tensor", lambda data: gguf(data=data), NAME),
    accepted(75, "version 2", lambda data: gguf(data=data, version=2), NAME),
    accepted(75, "a suffix of torch", lambda data: gguf(data=data)),
    accepted(75, "a wide alignment", lambda data: gguf(data=data, metadata=WIDE, alignment=256), NAME),
    accepted(75, "an unknown type", lambda data: gguf(gguf_tensor(), gguf_tensor("b", kind=99), data=data), NAME),
    accepted(75, "bytes after the data", lambda data: gguf(data=data + b"more"), NAME),
    accepted(75, "an empty tensor", lambda data: gguf(gguf_tensor(), gguf_tensor("b", (0, 3)), data=data), NAME),
]
WIDE = [value(4, struct.pack("<I", 256), ALIGNMENT)]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_runs_on_odd_files(case: Case, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A bad file ends in one message and no changed file; any other is pruned in its four weights alone."""
    try_case(capfd, tmp_path, case)


def test_a_large_vocabulary_is_read_in_little_memory(tmp_path: Path, forks: Forks) -> None:
    """The texts of the metadata are passed over, not kept: 100,000 of 100 bytes take no memory."""
    texts = gguf_text("x" * 100) * 100_000
    path = tmp_path / NAME
    path.write_bytes(gguf(metadata=[value(9, array(8, 100_000, texts))]))

    end = measured(forks, tmp_path, "threshold", path, "--thr", "0.5", "-o", tmp_path / "out.gguf", "-q", seconds=10)

    assert (end.code, end.err) == (0, "")
