"""The metadata of a distributed checkpoint is read as torch's own pickle describes it, without unpickling it."""

from __future__ import annotations

import io
import pickle
import re
import subprocess
import sys
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import examples
from support.paths import SCRIPTS
from support.scripts import load_script
from torch.distributed.checkpoint import metadata as classes
from torch.distributed.checkpoint.filesystem import _StorageInfo

from prunecli.errors import CheckpointError
from prunecli.formats.dcp.metadata import Metadata, read_metadata

GENERATOR = load_script("bench_dcp")

DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.int64: "I64", torch.float8_e4m3fn: "F8_E4M3"}


def read(data: bytes) -> Metadata:
    """Read the bytes of a `.metadata`."""
    return read_metadata(io.BytesIO(data), "x")


def chunks_of(read_: Metadata) -> dict[str, object]:
    """Return what was read about the tensors, as plain values."""
    return {
        name: (one.dtype, one.shape, [chunk for rows in one.chunks for chunk in read_.chunks.chunks(rows)])
        for name, one in read_.tensors.items()
    }


def places_of(read_: Metadata) -> dict[tuple[str, tuple[int, ...] | None], tuple[str, int, int]]:
    """Return what was read about the places, as plain values."""
    places = read_.places
    names, paths = list(places.names), list(places.paths)
    return {
        (names[places.name[i]], places.offsets_of(i)): (paths[places.file[i]], places.start[i], places.length[i])
        for i in range(len(places))
    }


names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
numbers = st.one_of(st.integers(0, 300), st.integers(0, 1 << 17), st.sampled_from([1 << 31, 1 << 40, (1 << 63) - 1]))


@st.composite
def metadata(draw: st.DrawFn) -> Any:  # noqa: ANN401 - torch's Metadata
    """Draw a metadata as torch writes it, with shared sizes and texts, objects, and chunks of any shape."""
    tensors: dict[str, Any] = {}
    stored: dict[Any, Any] = {}
    paths: dict[str, tuple[Any, ...]] = {}
    files = draw(st.lists(names, min_size=1, max_size=3))
    shared = draw(st.booleans())
    for name in draw(st.lists(names, max_size=4, unique=True)):
        paths[name] = tuple(draw(st.lists(st.one_of(names, st.integers(0, 9)), min_size=1, max_size=3)))
        if draw(st.integers(0, 4)) == 0:
            tensors[name] = classes.BytesStorageMetadata()
            stored[classes.MetadataIndex(name)] = _StorageInfo(draw(st.sampled_from(files)), 0, 9)
            continue
        rank = draw(st.integers(0, 7))
        sizes = st.lists(numbers, min_size=rank, max_size=rank).map(torch.Size)
        chunks = []
        for offset in draw(st.lists(sizes, max_size=4, unique=True)):
            chunks.append(classes.ChunkStorageMetadata(offset, draw(sizes)))
            index = classes.MetadataIndex(name, offset, draw(st.one_of(st.none(), st.integers(0, 400))))
            if shared:
                object.__setattr__(index, "offset", offset)
            stored[index] = _StorageInfo(draw(st.sampled_from(files)), draw(numbers), draw(numbers))
        dtype = draw(st.sampled_from(list(DTYPES)))
        tensors[name] = classes.TensorStorageMetadata(classes.TensorProperties(dtype), draw(sizes), chunks)
    return classes.Metadata(tensors, paths, stored, classes.StorageMeta(), "1.0.0")


@settings(max_examples=examples(50))
@given(metadata(), st.sampled_from([2, 4, 5]))
def test_the_metadata_is_what_torch_has_pickled(whole: Any, protocol: int) -> None:  # noqa: ANN401 - torch's Metadata
    """Tensors, chunks, places, objects and paths are those of the object that torch pickled, for every protocol."""
    found = read(pickle.dumps(whole, protocol=protocol))

    tensors = {name: one for name, one in whole.state_dict_metadata.items() if hasattr(one, "size")}
    assert chunks_of(found) == {
        name: (
            DTYPES[one.properties.dtype], tuple(one.size), [(tuple(c.offsets), tuple(c.sizes)) for c in one.chunks]
        )
        for name, one in tensors.items()
    }  # fmt: skip
    assert places_of(found) == {
        (index.fqn, None if index.offset is None else tuple(index.offset)): (p.relative_path, p.offset, p.length)
        for index, p in whole.storage_data.items()
    }
    assert set(found.objects) == set(whole.state_dict_metadata) - set(tensors)
    assert found.paths == whole.planner_data


def test_the_generated_metadata_is_that_of_torch() -> None:
    """The metadata that the script writes for measurements is one that torch unpickles to the same chunks."""
    data = b"".join(GENERATOR.metadata(tensors=3, ranks=300, copies=2))

    whole = pickle.loads(data)  # noqa: S301 - our own
    found = read(data)

    assert 6 == len(found.tensors) == len(whole.state_dict_metadata)
    assert {name: len(one.chunks) for name, one in whole.state_dict_metadata.items()} == {
        name: len(chunks)
        for name, (_, _, chunks) in chunks_of(found).items()  # type: ignore[misc]
    }
    assert places_of(found) == {
        (index.fqn, tuple(index.offset)): (p.relative_path, p.offset, p.length)
        for index, p in whole.storage_data.items()
    }


def test_a_chunk_takes_little_memory() -> None:
    """The memory grows by the columns of the chunks alone: what the pickle does not fetch again is not kept."""
    args = [sys.executable, str(SCRIPTS / "bench_dcp.py"), "--tensors", "400", "--ranks", "64", "--copies", "1"]
    said = subprocess.run(args, capture_output=True, text=True, check=True).stdout

    found = re.fullmatch(r"25,600 chunks, \d+ MB: \S+ CPU seconds, peak (\d+) MB \((\d+) MB before\)\n", said)

    assert found is not None, said
    assert int(found[1]) - int(found[2]) < 20


class Evil:
    """An object whose pickle calls a function."""

    def __reduce__(self) -> tuple[object, ...]:
        """Return a call that leaves a trace."""
        return (exec, ("import support; support.ran = True",))


BAD = {
    "a call": (pickle.dumps(Evil()), "no attributes"),
    "text": (b"hello", "was never stored"),
    "nothing": (b"", "the end is missing"),
    "no lists": (pickle.dumps(classes.Metadata({}, {}, None)), "lists no tensors with their places"),
    "cut off": (pickle.dumps(classes.Metadata({}, {}, {}))[:-20], "bytes are needed|the end is missing|no opcode"),
    "a list": (pickle.dumps(classes.Metadata([1], {}, {})), "lists no tensors"),  # type: ignore[arg-type]
    "huge text": (b"\x80\x04X\xff\xff\xff\x7f.", "too long"),
    "many marks": (b"\x80\x04" + b"(" * 300 + b"0" * 600 + b".", "DUP is not allowed|not allowed"),
    "negative": (
        pickle.dumps(classes.Metadata({}, {}, {classes.MetadataIndex("a", [0]): _StorageInfo("f", -1, 2)})),
        "negative",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_other_pickles_are_refused_and_not_run(kind: str) -> None:
    """Bytes that are no metadata end in one sentence, and a call in them is not made."""
    import support

    data, problem = BAD[kind]

    with pytest.raises(CheckpointError, match=rf"x is not the metadata of a distributed checkpoint: .*({problem})"):
        read(data)
    assert not hasattr(support, "ran")


def test_places_outside_the_list_of_places_are_refused() -> None:
    """A place that torch would not find in the list of places is not taken for one."""
    place = {classes.MetadataIndex("a", [0]): _StorageInfo("f", 1, 2)}
    data = pickle.dumps(classes.Metadata({}, {"other": place}, {}))

    with pytest.raises(CheckpointError, match="outside the list of places"):
        read(data)
