"""The safetensors reader lists the tensors that the library reads, and refuses invalid files."""

from __future__ import annotations

import io
import json
import runpy
import struct
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import safetensors.torch
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as some
from safetensors import SafetensorError, deserialize, safe_open
from support import SHARED, examples
from support.bad_safetensors import REFUSED
from support.handmade import container, entry

from prunecli.checkpoint import MAX_RANK
from prunecli.dtypes import BITS
from prunecli.errors import CheckpointError
from prunecli.formats.safetensors.reader import DTYPES, read_safetensors
from prunecli.formats.strict_json import HEADER_LIMIT

if TYPE_CHECKING:
    from prunecli.formats.listing import Listing

REAL = sorted((SHARED / "checkpoints").glob("*.safetensors"))
needs_shared = pytest.mark.skipif(not REAL, reason="the shared folder of real checkpoints is not here")

Entry = tuple[str, str, tuple[int, ...], bytes]  # name, dtype, shape, data


def listed(raw: bytes) -> Listing:
    """List a container in memory."""
    return read_safetensors(io.BytesIO(raw), "w.safetensors")


def accepted(raw: bytes) -> bool:
    """Return whether the reader accepts `raw`."""
    try:
        listed(raw)
    except CheckpointError:
        return False
    return True


def contents(raw: bytes) -> list[Entry]:
    """Return the name, dtype, shape and data of all tensors in `raw`, at the positions of the reader."""
    return [(t.name, t.dtype, t.shape, raw[t.span.start : t.span.end]) for t in listed(raw).tensors]


def library_contents(raw: bytes) -> list[Entry]:
    """Return the same from the safetensors library, in name order."""
    tensors: list[tuple[str, Any]] = deserialize(raw)  # type: ignore[no-untyped-call]
    return sorted((n, t["dtype"], tuple(t["shape"]), bytes(t["data"])) for n, t in tensors)


@needs_shared
@pytest.mark.parametrize("path", REAL, ids=lambda path: path.name)
def test_real_files_equal_safe_open(path: Path) -> None:
    """Names, their order, and the bytes of each tensor equal those of safe_open."""
    raw = path.read_bytes()

    with safe_open(path, framework="pt") as file:
        names = list(file.keys())
        expected = {name: file.get_tensor(name).numpy().tobytes() for name in names}

    assert names == [t.name for t in listed(raw).tensors]
    assert expected == {name: data for name, _, _, data in contents(raw)}


@needs_shared
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_shared_cases_are_accepted_and_refused_as_the_library_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each case is accepted or refused like in the library; duplicate keys are always refused."""
    monkeypatch.setattr(sys, "argv", ["st_cases.py", str(tmp_path)])
    cases = runpy.run_path(str(SHARED / "oracles" / "st_cases.py"), run_name="cases")["C"]

    actual = {name: "load" if accepted(raw) else "refuse" for name, _, raw in cases}

    assert {name: want.replace("?", "refuse") for name, want, _ in cases} == actual


NAMES = some.text(some.characters(exclude_categories=["Cs"]), max_size=12).filter(lambda n: n != "__metadata__")
SHAPES = some.lists(some.integers(0, 5), max_size=4).map(tuple)


@some.composite
def containers(draw: some.DrawFn) -> bytes:
    """Draw a valid container: any dtypes, data and header in any order, with or without padding."""
    names = draw(some.lists(NAMES, unique=True, max_size=6))
    header: dict[str, object] = {}
    end = 0
    for name in names:
        dtype, shape = draw(some.sampled_from(sorted(DTYPES))), list(draw(SHAPES))
        bits = BITS[dtype]
        for n in shape:
            bits *= n
        shape, bits = (shape, bits) if bits % 8 == 0 else ([*shape, 4], 4 * bits)
        header[name] = {**entry(shape, [end, end + bits // 8], dtype), "note": draw(some.booleans())}
        end += bits // 8
    items = list(header.items())
    if draw(some.booleans()):
        items.append(("__metadata__", draw(some.dictionaries(NAMES, NAMES, max_size=3))))
    text = json.dumps(dict(draw(some.permutations(items))), ensure_ascii=draw(some.booleans()))
    return container(text + " " * draw(some.integers(0, 8)), draw(some.binary(min_size=end, max_size=end)))


@given(containers())
@settings(max_examples=examples(150))
def test_any_valid_file_equals_the_library(raw: bytes) -> None:
    """For any dtypes, shapes, names, data order and header order, the tensors equal those of the library."""
    assert library_contents(raw) == contents(raw)


@given(containers(), some.data())
@settings(max_examples=examples(300))
def test_a_damaged_file_is_refused_or_equals_the_library(raw: bytes, data: some.DataObject) -> None:
    """With any byte changed, a file raises CheckpointError, or the library reads the same tensors."""
    place = data.draw(some.integers(0, len(raw) - 1))
    damaged = raw[:place] + bytes([data.draw(some.integers(0, 255))]) + raw[place + 1 :]

    if accepted(damaged):
        assert library_contents(damaged) == contents(damaged)


@given(some.binary(max_size=200))
@example(b"")
@settings(max_examples=examples(200))
def test_random_bytes_raise_only_checkpoint_errors(raw: bytes) -> None:
    """Random bytes are refused with CheckpointError, unless the library accepts them."""
    try:
        library = library_contents(raw)
    except SafetensorError:
        library = None

    assert library is not None or not accepted(raw)


def test_metadata_is_returned() -> None:
    """The __metadata__ that the library wrote is returned, and is not a tensor."""
    raw = safetensors.torch.save({"w": torch.ones(2)}, metadata={"format": "pt"})

    assert listed(raw).metadata == {"format": "pt"}
    assert [t.name for t in listed(raw).tensors] == ["w"]


ONE = {"a": entry([1], [0, 4])}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_files_are_refused_in_one_sentence(case: str) -> None:
    """Each bad input raises CheckpointError with one line that names the file and the problem."""
    raw, want = REFUSED[case]

    with pytest.raises(CheckpointError) as caught:
        listed(raw)

    assert want in str(caught.value)
    assert str(caught.value).startswith("w.safetensors")
    assert "\n" not in str(caught.value)


LARGE = 2**62
ACCEPTED = {
    "9 leading space": (container(b" {} "), []),
    "12 unknown field": (container({"a": {**entry([1], [0, 4]), "x": [1, {"y": None}]}}, bytes(4)), [((1,), 4)]),
    "20 empty with huge dimensions": (container({"a": entry([0, LARGE, LARGE], [0, 0])}), [((0, LARGE, LARGE), 0)]),
    "21 scalar": (container({"a": entry([], [0, 4])}, bytes(4)), [((), 4)]),
    "21 empty at the end": (
        container({**ONE, "b": entry([0, 3], [4, 4])}, bytes(4)),
        [((1,), 4), ((0, 3), 0)],
    ),
    "22 F4": (container({"a": entry([2, 3], [0, 3], "F4")}, bytes(3)), [((2, 3), 3)]),
    "22 F6": (container({"a": entry([4], [0, 3], "F6_E2M3")}, bytes(3)), [((4,), 3)]),
    "22 F8_E8M0": (container({"a": entry([4], [0, 4], "F8_E8M0")}, bytes(4)), [((4,), 4)]),
    "24 misaligned": (
        container({"a": entry([1], [0, 1], "U8"), "b": entry([1], [1, 9], "F64")}, bytes(9)),
        [((1,), 1), ((1,), 8)],
    ),
    "27 header out of order": (
        container({"b": entry([2], [4, 12]), "a": entry([1], [0, 4])}, bytes(12)),
        [((1,), 4), ((2,), 8)],
    ),
    "null metadata": (container({"__metadata__": None}), []),
    "no tensors": (container(b"{}\r \t\n"), []),
    "most dimensions": (container({"a": entry([1] * MAX_RANK, [0, 4])}, bytes(4)), [((1,) * MAX_RANK, 4)]),
}


@pytest.mark.parametrize("case", ACCEPTED)
def test_unusual_valid_files_are_listed(case: str) -> None:
    """Unusual files that the format allows are listed with their shapes and sizes, like in the library."""
    raw, expected = ACCEPTED[case]

    assert expected == [(t.shape, t.span.length) for t in listed(raw).tensors]
    assert library_contents(raw) == contents(raw)


def test_names_are_kept_and_escaped_in_messages() -> None:
    """A name with control characters and markup is listed unchanged, and escaped and shortened in messages."""
    name = "a\0b\n\x1b[31m[red]" + "x" * 1000
    raw = container({name: entry([1], [0, 4])}, bytes(4))

    assert [name] == [t.name for t in listed(raw).tensors]
    with pytest.raises(CheckpointError) as caught:
        listed(container({name: entry([2], [0, 4])}, bytes(4)))
    assert r"a\x00b\n\x1b[31m[red]" in str(caught.value)
    assert len(str(caught.value)) < 300


def test_a_header_over_the_limit_is_refused(tmp_path: Path) -> None:
    """A header longer than HEADER_LIMIT is refused before it is read (case 7)."""
    path = tmp_path / "big.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", HEADER_LIMIT + 1))
        file.truncate(8 + HEADER_LIMIT + 1)

    with path.open("rb") as file, pytest.raises(CheckpointError, match=f"at most {HEADER_LIMIT}"):
        read_safetensors(file, "big")


def test_a_file_that_shrinks_is_refused() -> None:
    """A header that is shorter than expected when it is read is an error (case 61)."""

    class Shrinking(io.BytesIO):
        def seek(self, offset: int, whence: int = 0, /) -> int:
            return super().seek(offset, whence) + (100 if whence else 0)

    with pytest.raises(CheckpointError, match="became shorter"):
        read_safetensors(Shrinking(container(b"{}", length=50)), "w")
