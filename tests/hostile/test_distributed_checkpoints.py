"""Damaged and malicious distributed checkpoints end in one sentence, and nothing is written."""

from __future__ import annotations

import io
import pickle
import re
import zipfile
from typing import TYPE_CHECKING, Any

import pytest
import torch
from support.distributed_checkpoints import grid, mixed, rows, save_distributed
from support.opening import refused
from torch.distributed.checkpoint import metadata as classes

from prunecli import CheckpointError, Global, prune
from prunecli.formats.dcp.window import BLOCK
from prunecli.inspection.inspect import inspect

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

STATE = {"model": {"a.weight": torch.arange(24.0).reshape(4, 6), "a.bias": torch.ones(4)}, "step": 7}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Write a distributed checkpoint of two ranks."""
    return save_distributed(tmp_path / "d", STATE, rows(2))


def changed(folder: Path, change: Callable[[Any], object]) -> None:
    """Change the metadata of a checkpoint."""
    path = folder / ".metadata"
    whole = pickle.loads(path.read_bytes())  # noqa: S301 - our own
    change(whole)
    path.write_bytes(pickle.dumps(whole))


def place(whole: Any, row: int = 0) -> Any:  # noqa: ANN401 - torch's
    """Return the place of the chunk of the weight that begins at a row."""
    return whole.storage_data[classes.MetadataIndex("model.a.weight", [row, 0])]


def tensor(whole: Any) -> Any:  # noqa: ANN401 - torch's
    """Return the description of the weight."""
    return whole.state_dict_metadata["model.a.weight"]


OUTSIDE = "names a shard .*, which is not a plain path inside its directory"
METADATA: dict[str, tuple[Callable[[Any], object], str]] = {
    "parent": (lambda whole: setattr(place(whole), "relative_path", "../../x.distcp"), OUTSIDE),
    "absolute": (lambda whole: setattr(place(whole), "relative_path", "/etc/passwd"), OUTSIDE),
    "empty": (lambda whole: setattr(place(whole), "relative_path", ""), OUTSIDE),
    "NUL": (lambda whole: setattr(place(whole), "relative_path", "a\0b"), OUTSIDE),
    "missing file": (lambda whole: setattr(place(whole), "relative_path", "__9_0.distcp"), "lacks the shard __9_0"),
    "past the end": (lambda whole: setattr(place(whole), "offset", 1 << 40), "is truncated: its chunks end at byte"),
    "huge length": (lambda whole: setattr(place(whole, 2), "length", 1 << 62), "is truncated|overlap"),
    "negative": (lambda whole: setattr(place(whole), "offset", -1), "is negative"),
    "overlapping items": (lambda whole: setattr(place(whole), "offset", place(whole).offset + 9), "overlap at byte"),
    "one item twice": (
        lambda whole: whole.storage_data.update({classes.MetadataIndex("model.a.weight", [2, 0]): place(whole)}),
        "two chunks overlap at byte",
    ),
    "no place": (
        lambda whole: whole.storage_data.pop(classes.MetadataIndex("model.a.weight", [2, 0])),
        r"'model.a.weight' has a chunk at \[2, 0\] that is stored nowhere",
    ),
    "gap": (
        lambda whole: tensor(whole).chunks.pop(),
        "'model.a.weight' cannot be put together: its chunks leave a gap",
    ),
    "overlap": (lambda whole: tensor(whole).chunks.append(tensor(whole).chunks[0]), "two chunks overlap"),
    "larger shape": (lambda whole: setattr(tensor(whole), "size", torch.Size([9, 6])), "leave a gap"),
    "smaller shape": (lambda whole: setattr(tensor(whole), "size", torch.Size([3, 6])), "is larger than"),
    "huge shape": (lambda whole: setattr(tensor(whole), "size", torch.Size([1 << 62, 1 << 62])), "leave a gap"),
    "huge chunk": (lambda whole: _one_chunk(tensor(whole), 1 << 40), "bytes are stored"),
    "other dimensions": (lambda whole: setattr(tensor(whole), "size", torch.Size([24])), "other dimensions"),
    "short item": (lambda whole: setattr(place(whole), "length", 40), "bytes are stored"),
    "negative chunk": (
        lambda whole: _resize(whole, sizes=torch.Size([-2, 6])),
        "is negative",
    ),
    "chunk of other dimensions": (lambda whole: _resize(whole, offsets=torch.Size([0])), "differ in number"),
    "negative shape": (
        lambda whole: setattr(tensor(whole), "size", torch.Size([-4, 6])),
        "negative, too large or not a",
    ),
    "shape of texts": (lambda whole: setattr(tensor(whole), "size", "46"), "a size is not a list of numbers"),
    "many dimensions": (lambda whole: setattr(tensor(whole), "size", torch.Size([1] * 70)), "a size is not a list of"),
    "chunks that are no list": (lambda whole: setattr(tensor(whole), "chunks", {}), "chunks of other dimensions"),
    "path that is no text": (lambda whole: setattr(place(whole), "relative_path", 7), "a chunk has no place"),
    "description that is none": (
        lambda whole: whole.state_dict_metadata.update({"model.a.weight": 7}),
        "no name or no description",
    ),
    "name that is no text": (
        lambda whole: whole.state_dict_metadata.update({7: tensor(whole)}),
        "no name or no description",
    ),
    "places in another dict": (
        lambda whole: setattr(whole, "planner_data", {"x": dict(whole.storage_data)}),
        "places are outside the list of places",
    ),
    "extension": (
        lambda whole: setattr(place(whole), "transform_descriptors", ["stream.zstd"]),
        "is stored through the extension 'stream.zstd'",
    ),
}


def _one_chunk(one: Any, count: int) -> None:  # noqa: ANN401 - torch's
    one.size = torch.Size([count, 6])
    one.chunks = [classes.ChunkStorageMetadata(torch.Size([0, 0]), one.size)]


def _resize(whole: Any, **sizes: torch.Size) -> None:  # noqa: ANN401 - torch's
    chunk = tensor(whole).chunks[0]
    tensor(whole).chunks[0] = classes.ChunkStorageMetadata(**{"offsets": chunk.offsets, "sizes": chunk.sizes} | sizes)


@pytest.mark.parametrize("kind", METADATA)
def test_metadata_that_does_not_fit_is_refused(folder: Path, kind: str) -> None:
    """Paths that leave the directory, bytes that are not there, and chunks that are no tensor are named."""
    change, problem = METADATA[kind]
    changed(folder, change)

    error = refused(folder)

    assert re.search(problem, str(error)), str(error)


def test_a_text_has_the_length_that_it_says(folder: Path) -> None:
    """A name that is longer than its length, between two opcodes, is refused."""
    path = folder / ".metadata"
    data = path.read_bytes()
    path.write_bytes(data.replace(b"\x8c\x0cmodel.a.bias", b"\x8c\x0bmodel.a.bias"))

    assert data != path.read_bytes()
    assert "is not the metadata of a distributed checkpoint" in str(refused(folder))


@pytest.mark.parametrize("missing", [1, 2, BLOCK])
def test_bytes_beyond_the_end_are_missing(folder: Path, missing: int) -> None:
    """A long byte string that the metadata does not have to its end, by one byte or by many, is refused."""
    length = BLOCK + missing
    (folder / ".metadata").write_bytes(b"\x80\x02B" + length.to_bytes(4, "little") + bytes(BLOCK))

    assert "is not the metadata of a distributed checkpoint" in str(refused(folder))


def test_a_link_that_leaves_the_directory_is_refused(folder: Path, tmp_path: Path) -> None:
    """A file of chunks that is a link to another folder is not read."""
    (folder / "__0_0.distcp").rename(tmp_path / "private")
    (folder / "__0_0.distcp").symlink_to(tmp_path / "private")

    assert "is a link that leaves its directory" in str(refused(folder))


def test_the_files_of_all_ranks_are_needed(folder: Path) -> None:
    """A file that ends early, or is missing, is named, and so is missing metadata."""
    path = folder / "__1_0.distcp"
    path.write_bytes(path.read_bytes()[:-1])
    assert "__1_0.distcp is truncated" in str(refused(folder))
    path.unlink()
    assert "lacks the shard __1_0.distcp" in str(refused(folder))
    (folder / ".metadata").unlink()
    assert "lacks the file .metadata" in str(refused(folder))


@pytest.mark.parametrize("name", [".metadata", "__0_0.distcp"])
def test_one_file_of_a_checkpoint_is_not_the_checkpoint(folder: Path, name: str) -> None:
    """A file of the directory is refused, with the hint to name the directory."""
    error = refused(folder / name)

    assert "it is part of a distributed checkpoint" in str(error)
    assert f"name the folder it is in: {folder}" == error.hint


def test_the_file_of_one_rank_is_refused_whatever_its_name(tmp_path: Path) -> None:
    """A safetensors file with parts of tensors is no checkpoint by itself."""
    folder = save_distributed(tmp_path / "d", STATE["model"], rows(2), layout="headers")  # type: ignore[arg-type]
    path = next(folder.iterdir()).rename(tmp_path / "model.safetensors")

    assert "it is part of a distributed checkpoint" in str(refused(path))


def saved(value: object) -> bytes:
    """Return a value as torch saves it."""
    content = io.BytesIO()
    torch.save(value, content)
    return content.getvalue()


def zipped(archive: bytes, method: int, order: bytes = b"little") -> bytes:
    """Return an archive with its records stored by another method, and another byte order."""
    content = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(content, "w", method) as new:
        for name in old.namelist():
            new.writestr(name, order if name.endswith("/byteorder") else old.read(name))
    return content.getvalue()


ITEMS: dict[str, tuple[Callable[[], bytes], str]] = {
    "no archive": (lambda: b"x" * 2000, "is a damaged or truncated zip"),
    "dtype": (lambda: saved(torch.zeros(2, 6, dtype=torch.float64)), r"is stored as F64 \[2, 6\]"),
    "shape": (lambda: saved(torch.zeros(6, 2)), r"is stored as F32 \[6, 2\], and the metadata has F32 \[2, 6\]"),
    "transposed": (lambda: saved(torch.zeros(6, 2).T), "is stored as a view, not in row-major order"),
    "part of a storage": (lambda: saved(torch.zeros(9, 6)[3:5]), "is stored as a view"),
    "several tensors": (lambda: saved([torch.zeros(2, 6)] * 2), "is not one plain tensor"),
    "sparse": (lambda: saved(torch.eye(2, 6).to_sparse()), "is not one plain tensor"),
    "compressed": (lambda: zipped(saved(torch.zeros(2, 6)), zipfile.ZIP_DEFLATED), "is stored compressed"),
    "big-endian": (lambda: zipped(saved(torch.ones(2, 6)), zipfile.ZIP_STORED, b"big"), "in big-endian byte order"),
    "a call": (lambda: saved(Evil()), "is not one plain tensor"),
}


class Evil:
    """An object whose pickle calls a function."""

    def __reduce__(self) -> tuple[object, ...]:
        """Return a call that leaves a trace."""
        return (exec, ("import support; support.ran = True",))


def with_item(folder: Path, item: bytes) -> None:
    """Put other bytes in the place of the first chunk of the weight, in a file of their own."""
    (folder / "x.distcp").write_bytes(item)
    changed(folder, lambda whole: _move(place(whole), len(item)))


def _move(one: Any, length: int) -> None:  # noqa: ANN401 - torch's
    one.relative_path, one.offset, one.length = "x.distcp", 0, length


@pytest.mark.parametrize("kind", ITEMS)
def test_items_that_are_another_tensor_are_refused(folder: Path, tmp_path: Path, kind: str) -> None:
    """A chunk must be one tensor of the dtype and shape that the metadata has; a call in it is not made."""
    import support

    make, problem = ITEMS[kind]
    with_item(folder, make())

    with pytest.raises(CheckpointError, match=problem) as caught:
        prune(folder, Global(amount=0.5), output=tmp_path / "out", reports=())

    assert "x.distcp, at byte 0" in str(caught.value)
    assert not hasattr(support, "ran")
    assert not (tmp_path / "out").exists()
    with pytest.raises(CheckpointError, match=problem):
        inspect(folder)


def test_a_flipped_bit_is_found(folder: Path, tmp_path: Path) -> None:
    """Weights that do not match the checksum of their archive are refused, and no output appears."""
    whole = pickle.loads((folder / ".metadata").read_bytes())  # noqa: S301 - our own
    start = place(whole).offset
    content = bytearray((folder / "__0_0.distcp").read_bytes())
    content[content.index(torch.arange(3.0).numpy().tobytes(), start)] ^= 1
    (folder / "__0_0.distcp").write_bytes(content)

    with pytest.raises(CheckpointError, match=r"is damaged: the 48 bytes at offset .* have the CRC-32"):
        prune(folder, Global(amount=0.5), output=tmp_path / "out", reports=())

    assert not (tmp_path / "out").exists()


def test_the_checksums_of_the_output_are_right(folder: Path, tmp_path: Path) -> None:
    """Every archive in the output passes the test of its checksums."""
    prune(folder, Global(amount=0.5), output=tmp_path / "out", reports=())

    whole = pickle.loads((tmp_path / "out" / ".metadata").read_bytes())  # noqa: S301 - our own
    for one in whole.storage_data.values():
        item = (tmp_path / "out" / one.relative_path).read_bytes()[one.offset : one.offset + one.length]
        assert zipfile.ZipFile(io.BytesIO(item)).testzip() is None


INFO = {
    "no offsets": ('{"a.weight": {}}', "does not say where the part of 'a.bias' begins"),
    "negative": ('{"a.weight": {"saved_offsets": [-1, 0]}, "a.bias": {"saved_offsets": [0]}}', "does not say where"),
    "a text": ('"x"', "is not a JSON object"),
    "no JSON": ("{", "is not JSON"),
    "deep": ("[" * 100_000, "is not JSON"),
}


@pytest.mark.parametrize("kind", INFO)
def test_headers_that_do_not_fit_are_refused(tmp_path: Path, kind: str) -> None:
    """The places of parts in the header of a safetensors file are checked."""
    from safetensors.torch import save_file

    info, problem = INFO[kind]
    (tmp_path / "d").mkdir()
    save_file(STATE["model"], tmp_path / "d" / "x.safetensors", metadata={"DCP_SHARDING_INFO": info})  # type: ignore[arg-type]

    assert problem in str(refused(tmp_path / "d"))


def test_parts_of_one_tensor_must_agree(tmp_path: Path) -> None:
    """Two files that have a tensor with different dtypes are refused, and so is a missing first file."""
    folder = save_distributed(tmp_path / "d", STATE["model"], rows(2), layout="headers")  # type: ignore[arg-type]
    other = {"a.bias": torch.zeros(2, dtype=torch.float64), "a.weight": torch.zeros(2, 6, dtype=torch.float64)}
    save_distributed(tmp_path / "e", other, lambda _, t: grid(t.shape, (1,)), layout="headers", ranks=1)
    first, _ = sorted(folder.iterdir())
    first.unlink()
    assert "'a.bias' cannot be put together: its chunks leave a gap" in str(refused(folder))
    next((tmp_path / "e").iterdir()).replace(first)
    assert "'a.bias' has parts of different dtypes or dimensions" in str(refused(folder))


def test_the_number_of_opcodes_for_unusual_chunks_is_limited(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A metadata that is not written as usual is read opcode by opcode, up to a limit."""
    monkeypatch.setattr("prunecli.formats.dcp.metadata.MAX_OPCODES", 100)

    assert "more than 100 opcodes" in str(refused(folder))


def test_chunks_of_any_shape_in_one_file_of_safetensors_are_not_invented(tmp_path: Path) -> None:
    """A chunk that the metadata has and the file does not have is refused."""
    folder = save_distributed(tmp_path / "d", {"a": torch.ones(4, 4)}, mixed, layout="safetensors", ranks=4)
    changed(folder, lambda whole: setattr(whole.state_dict_metadata["a"].properties, "dtype", torch.int32))

    assert "that its file does not have" in str(refused(folder))
