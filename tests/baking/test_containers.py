"""Baked files of each format: valid for other readers, with the same records, metadata, index and alignment."""

from __future__ import annotations

import json
import subprocess
import zipfile
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from support import different, read, same_bits, state_dict
from support.pruned import NAMES, folded, save_pruned

from prunecli.baking.bake import bake
from prunecli.errors import CheckpointError
from prunecli.formats.contents import other_contents
from prunecli.formats.open import open_checkpoint
from prunecli.formats.output_names import default_output

if TYPE_CHECKING:
    from pathlib import Path

ZIPS = [
    "zip",
    "nested",
    "lightning",
    "ddp",
    "tied",
    "non-contiguous",
    "one-storage",
    "sliced",
    "protocol-4",
    "big-endian",
]
W, M = torch.ones(2, 2), torch.eye(2)


# --- torch


@pytest.mark.parametrize("container", ZIPS)
def test_a_zip_keeps_all_other_records(tmp_path: Path, container: str) -> None:
    """Unzip accepts all checksums; only the pickle and the weights change, and only masks are removed."""
    source, _ = save_pruned(container, tmp_path)

    bake(source, tmp_path / "out.pth")

    subprocess.run(["unzip", "-tqq", tmp_path / "out.pth"], check=True)
    with zipfile.ZipFile(source) as before, zipfile.ZipFile(tmp_path / "out.pth") as after:
        assert [n for n in before.namelist() if n in after.namelist()] == after.namelist()
        changed = [n for n in after.namelist() if before.read(n) != after.read(n)]
        weights = 1 if container == "one-storage" else len(NAMES)
        assert sum(n.endswith("data.pkl") for n in changed) == 1
        assert len(changed) == 1 + weights
        removed = len(before.namelist()) - len(after.namelist())
        assert removed == (0 if container == "one-storage" else len(NAMES))


@pytest.mark.parametrize("container", ["zip", "lightning", "ddp", "non-contiguous", "sliced", "one-storage"])
def test_all_loaders_of_torch_read_the_result(tmp_path: Path, container: str) -> None:
    """weights_only and mmap read the same tensors as a plain load, and torch finds the data aligned."""
    source, _ = save_pruned(container, tmp_path)
    output = tmp_path / "out.pth"

    bake(source, output)

    plain = state_dict(container, torch.load(output, weights_only=False))
    assert different(plain, state_dict(container, torch.load(output, weights_only=True))) == []
    assert different(plain, state_dict(container, torch.load(output, weights_only=True, mmap=True))) == []
    reader = torch._C.PyTorchFileReader(str(output))
    offsets = [reader.get_record_offset(n) for n in reader.get_all_records() if n.startswith("data/")]
    assert {offset % 64 for offset in offsets} == {0}


def test_a_zip_of_another_writer_keeps_its_alignment_and_comments(tmp_path: Path) -> None:
    """A zip without torch's padding, with comments, keeps the alignment of its data and the comments."""
    source, weights = save_pruned("zip", tmp_path)
    again = tmp_path / "again.pth"
    with zipfile.ZipFile(source) as before, zipfile.ZipFile(again, "w") as after:
        after.comment = b"kept"
        for info in before.infolist():
            new = zipfile.ZipInfo(info.filename, (2020, 1, 2, 3, 4, 6))
            new.comment = b"note"
            after.writestr(new, before.read(info))

    bake(again)

    with zipfile.ZipFile(again) as before, zipfile.ZipFile(default_output(again, "baked")) as after:
        assert after.testzip() is None
        assert (after.comment, after.infolist()[0].comment) == (b"kept", b"note")
        was = {info.filename: data_start(again, info) % 64 for info in before.infolist()}
        now = {info.filename: data_start(default_output(again, "baked"), info) % 64 for info in after.infolist()}
        assert was == was | now
    assert different(folded(weights), read(default_output(again, "baked"))) == []


def data_start(path: Path, info: zipfile.ZipInfo) -> int:
    """Return the offset of a record's data in its zip."""
    head = path.read_bytes()[info.header_offset : info.header_offset + 30]
    return info.header_offset + 30 + int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:30], "little")


# --- safetensors


def test_safetensors_keep_their_metadata(tmp_path: Path) -> None:
    """The library reads the result with the metadata of the input, and the space of the masks is freed."""
    source, weights = save_pruned("safetensors", tmp_path)

    bake(source, tmp_path / "out.safetensors")

    with safe_open(source, "pt") as before, safe_open(tmp_path / "out.safetensors", "pt") as after:
        assert before.metadata() == after.metadata()
    actual = load_file(tmp_path / "out.safetensors")
    assert all(same_bits(t, actual[name]) for name, t in folded(weights).items())
    size = (tmp_path / "out.safetensors").stat().st_size
    assert int.from_bytes((tmp_path / "out.safetensors").read_bytes()[:8], "little") % 8 == 0
    assert size - source.stat().st_size < -sum(weights[f"{name}_mask"].nbytes for name in NAMES)


def test_other_tensors_of_safetensors_keep_their_bytes(tmp_path: Path) -> None:
    """The data of each tensor that is not folded is byte for byte that of the input."""
    source, weights = save_pruned("safetensors", tmp_path)
    bake(source, tmp_path / "out.safetensors")
    before, after = source.read_bytes(), (tmp_path / "out.safetensors").read_bytes()

    heads = [json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")]) for raw in (before, after)]
    for name in set(weights) & set(heads[1]):
        parts = [head[name]["data_offsets"] for head in heads]
        datas = [raw[8 + int.from_bytes(raw[:8], "little") :] for raw in (before, after)]
        assert datas[0][slice(*parts[0])] == datas[1][slice(*parts[1])]


def test_removing_a_mask_of_bytes_keeps_other_tensors_aligned(tmp_path: Path) -> None:
    """If removing a mask would misalign wider tensors, they are written first."""
    weights = {"w_orig": torch.randn(3), "w_mask": torch.tensor([1, 0, 1], dtype=torch.uint8), "z": torch.randn(5)}
    path = tmp_path / "m.safetensors"
    data = [weights["w_mask"], torch.tensor([5], dtype=torch.uint8), weights["w_orig"], weights["z"]]
    header, end = {}, 0
    for name, dtype, t in zip(("w_mask", "b", "w_orig", "z"), ("U8", "U8", "F32", "F32"), data, strict=True):
        header[name] = {"dtype": dtype, "shape": list(t.shape), "data_offsets": [end, end + t.nbytes]}
        end += t.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(t.numpy().tobytes() for t in data))

    bake(path, tmp_path / "out.safetensors")

    actual = load_file(tmp_path / "out.safetensors")
    assert torch.equal(weights["w_orig"] * weights["w_mask"], actual["w"])
    assert torch.equal(weights["z"], actual["z"])
    assert torch.equal(data[1], actual["b"])


def test_a_header_number_of_thousands_of_digits_is_rejected(tmp_path: Path) -> None:
    """A field of thousands of digits, which the reader skips, raises CheckpointError."""
    text = '{"w_orig":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"x":%s}' % ("9" * 5000)
    text += ',"w_mask":{"dtype":"U8","shape":[1],"data_offsets":[4,5]}}'
    path = tmp_path / "m.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text.encode() + b"\0\0\x80\x3f\1")

    with pytest.raises(CheckpointError, match="cannot be written again"):
        bake(path)


# --- directories of shards


@pytest.mark.parametrize("container", ["safetensors-shards", "bin-shards"])
def test_an_index_is_updated(tmp_path: Path, container: str) -> None:
    """The index has the new names, each with its shard, and the new total; other files are copied."""
    source, weights = save_pruned(container, tmp_path)
    (index,) = source.glob("*.index.json")
    before = json.loads(index.read_text())
    before["metadata"] = {"total_size": sum(t.nbytes for t in weights.values()), "note": "kept"}
    index.write_text(json.dumps(before, indent=2) + "\n")

    bake(source, tmp_path / "out")

    text = (tmp_path / "out" / index.name).read_text()
    after = json.loads(text)
    assert text == json.dumps(after, indent=2) + "\n"
    total = sum(t.nbytes for t in folded(weights).values())
    assert after["metadata"] == {"total_size": total, "note": "kept"}
    names = [name.removesuffix("_orig") for name in before["weight_map"] if not name.endswith("_mask")]
    assert list(after["weight_map"]) == names
    for name, shard in after["weight_map"].items():
        assert name in read(tmp_path / "out" / shard)
    assert (source / "config.json").read_bytes() == (tmp_path / "out" / "config.json").read_bytes()


@pytest.mark.parametrize("indent", [None, 2, 4])
@pytest.mark.parametrize("end", ["", "\n"])
def test_an_index_keeps_its_style(tmp_path: Path, indent: int | None, end: str) -> None:
    """Indentation, the last line break and the other keys of the index are those of the input."""
    source = tmp_path / "m"
    source.mkdir()
    save_file({"w_orig": W.clone(), "w_mask": M.clone(), "\u00e4": W + 1}, source / "a.safetensors")
    before = {"x": [1.50, {}], "weight_map": dict.fromkeys(("w_orig", "\u00e4", "w_mask"), "a.safetensors")}
    (source / "m.safetensors.index.json").write_text(json.dumps(before, indent=indent) + end)

    bake(source)

    after = {"x": [1.50, {}], "weight_map": dict.fromkeys(("w", "\u00e4"), "a.safetensors")}
    actual = (tmp_path / "m.baked" / "m.safetensors.index.json").read_text()
    assert json.dumps(after, indent=indent) + end == actual


def test_a_mask_may_be_in_another_shard(tmp_path: Path) -> None:
    """A weight and its mask in different files are folded, and a file of masks keeps no tensor."""
    source, orig, mask = tmp_path / "model", torch.randn(4, 4), (torch.rand(4, 4) > 0.5).float()
    source.mkdir()
    save_file({"w_orig": orig}, source / "model-00001-of-00002.safetensors")
    save_file({"w_mask": mask}, source / "model-00002-of-00002.safetensors")

    bake(source)

    assert torch.equal(orig * mask, load_file(tmp_path / "model.baked" / "model-00001-of-00002.safetensors")["w"])
    assert load_file(tmp_path / "model.baked" / "model-00002-of-00002.safetensors") == {}


def test_shards_may_have_both_formats_of_torch(tmp_path: Path) -> None:
    """A directory with a zip and a file of the format before torch 1.6 is baked, and its contents are listed."""
    source = tmp_path / "model"
    source.mkdir()
    old = {"_use_new_zipfile_serialization": False}
    torch.save({"a_orig": W, "a_mask": M, "epoch": 1}, source / "model-00001-of-00002.bin")
    torch.save({"b_orig": W + 1, "b_mask": M, "epoch": 2}, source / "model-00002-of-00002.bin", **old)

    bake(source)

    first, second = (read(tmp_path / "model.baked" / f"model-0000{i}-of-00002.bin") for i in (1, 2))
    assert torch.equal(W * M, first["a"])
    assert torch.equal((W + 1) * M, second["b"])
    assert {"entry epoch": "1", "entry epoch#2": "2"}.items() <= other_contents(
        open_checkpoint(tmp_path / "model.baked")
    ).items()
