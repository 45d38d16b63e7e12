"""Directories of shards: the index must match the shards, and links must not leave the directory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import save_file
from support.opening import refused, tensor_bytes, weights

from prunecli.formats.open import open_checkpoint

if TYPE_CHECKING:
    from collections.abc import Mapping


def write_shards(folder: Path, shards: Mapping[str, Mapping[str, torch.Tensor]], index: str | None = None) -> Path:
    """Write safetensors or torch shards, depending on the suffix, and an index if `index` names one."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, tensors in shards.items():
        if name.endswith(".safetensors"):
            save_file(dict(tensors), folder / name)
        else:
            torch.save(dict(tensors), folder / name)
    if index:
        write_index(folder / index, {tensor: name for name, tensors in shards.items() for tensor in tensors})
    return folder


def write_index(path: Path, weight_map: Mapping[str, str]) -> None:
    """Write an index in the form of transformers."""
    path.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}, indent=2))


def sharded(folder: Path) -> Path:
    """Write two safetensors shards, an index and a configuration file."""
    shards = {f"model-{i + 1:05}-of-00002.safetensors": weights(i) for i in range(2)}
    write_shards(folder, shards, "model.safetensors.index.json")
    (folder / "config.json").write_text("{}")
    return folder


def test_a_directory_of_shards_is_one_checkpoint(tmp_path: Path) -> None:
    """The tensors are sorted by name, each in the right file; the remaining files are `other_files`."""
    folder = sharded(tmp_path / "d")
    (folder / "sub").mkdir()
    (folder / "sub" / "tokenizer.json").write_text("{}")
    (folder / "optimizer.pt").write_bytes(b"x")

    checkpoint = open_checkpoint(folder)

    expected = {name: t.numpy().tobytes() for i in range(2) for name, t in weights(i).items()}
    assert sorted(expected) == [t.name for t in checkpoint.tensors]
    assert expected == tensor_bytes(checkpoint)
    assert (folder, True, "safetensors") == (checkpoint.path, checkpoint.is_directory, checkpoint.format)
    assert {"config.json", "model.safetensors.index.json", "optimizer.pt", "sub/tokenizer.json"} == {
        path.as_posix() for path in checkpoint.other_files
    }
    assert checkpoint.notes == ("copied unchanged, though they may hold weights: optimizer.pt",)


def test_an_index_opens_its_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The path of the index opens its directory, also as a bare file name."""
    folder = sharded(tmp_path / "d")
    monkeypatch.chdir(folder)

    assert open_checkpoint(folder) == open_checkpoint(folder / "model.safetensors.index.json")
    assert open_checkpoint(".") == open_checkpoint("model.safetensors.index.json")


def test_torch_shards_with_an_index_open(tmp_path: Path) -> None:
    """Torch shards open like safetensors shards, and training_args.bin is one of the other files."""
    shards = {f"pytorch_model-{i + 1:05}-of-00002.bin": weights(i) for i in range(2)}
    folder = write_shards(tmp_path / "d", shards, "pytorch_model.bin.index.json")
    torch.save({"x": torch.ones(2, 2)}, folder / "training_args.bin")

    checkpoint = open_checkpoint(folder)

    assert {name: t.numpy().tobytes() for i in range(2) for name, t in weights(i).items()} == tensor_bytes(checkpoint)
    assert Path("training_args.bin") in checkpoint.other_files
    assert all(file.checksums for file in checkpoint.files)


def test_an_extra_tensor_in_a_shard_is_noted(tmp_path: Path) -> None:
    """A tensor that is missing in the index is listed, and a note says so."""
    folder = write_shards(tmp_path / "d", {"m.safetensors": weights()})
    write_index(folder / "m.safetensors.index.json", {"l0.weight": "m.safetensors"})

    checkpoint = open_checkpoint(folder)

    assert [t.name for t in checkpoint.tensors] == ["l0.bias", "l0.weight"]
    assert "1 tensors are in the shards but not in m.safetensors.index.json, first 'l0.bias'" in checkpoint.notes


def hub_cache(tmp_path: Path) -> Path:
    """Write a Hub cache, and return its snapshot, whose files are links to blobs."""
    repository = tmp_path / "models--a--b"
    snapshot = repository / "snapshots" / "0123abc"
    snapshot.mkdir(parents=True)
    source = sharded(repository / "blobs")
    for i, file in enumerate(sorted(source.iterdir())):
        file.rename(source / f"hash{i}")
        (snapshot / file.name).symlink_to(Path("..", "..", "blobs", f"hash{i}"))
    return snapshot


def test_a_hub_cache_snapshot_opens(tmp_path: Path) -> None:
    """A snapshot's links to the blobs of its repository are followed, for shards, index and other files."""
    snapshot = hub_cache(tmp_path)

    checkpoint = open_checkpoint(snapshot)

    assert {name: t.numpy().tobytes() for i in range(2) for name, t in weights(i).items()} == tensor_bytes(checkpoint)
    assert {"config.json", "model.safetensors.index.json"} == {str(path) for path in checkpoint.other_files}
    assert checkpoint == open_checkpoint(snapshot / "model.safetensors.index.json")


def test_a_linked_directory_opens(tmp_path: Path) -> None:
    """A link to a directory of shards opens."""
    sharded(tmp_path / "d")
    (tmp_path / "latest").symlink_to("d")

    assert len(open_checkpoint(tmp_path / "latest").tensors) == 4


def test_a_link_to_a_folder_is_not_followed(tmp_path: Path) -> None:
    """A linked folder in the directory, also one that loops, is left out, and a note says so."""
    folder = sharded(tmp_path / "d")
    (folder / "loop").symlink_to(".")

    checkpoint = open_checkpoint(folder)

    assert "the linked folder loop is left out" in checkpoint.notes
    assert Path("loop") not in checkpoint.other_files


FOLDERS = {
    "SavedModel": (["saved_model.pb", "variables.index"], "is a TensorFlow SavedModel", "safetensors"),
    "TensorFlow": (
        ["checkpoint", "m.ckpt-1.index", "m.ckpt-1.data-00000-of-00001"],
        "is a TensorFlow checkpoint",
        "safetensors",
    ),
    "DeepSpeed": (["zero_to_fp32.py", "latest"], "is a DeepSpeed checkpoint", "save_16bit_model"),
    "no checkpoint": (["readme.md"], "holds no checkpoint: none of its 1 files has the suffix of one", "ls {folder}"),
    "no file": ([], "holds no checkpoint: it is empty", "ls {folder}"),
    "checkpoint below": (
        ["x/m.safetensors", "x.pruned/m.safetensors", "a/b/m.bin"],
        "holds no checkpoint itself, but its folders may: a/b, x",
        "name the folder with the checkpoint: '{folder}/a/b'",
    ),
}


@pytest.mark.parametrize("kind", FOLDERS)
def test_directories_of_other_kinds_are_refused_by_kind(tmp_path: Path, kind: str) -> None:
    """The error names the kind of the directory; the hint has the command that converts it, or the next step."""
    names, message, hint = FOLDERS[kind]
    folder = tmp_path / "d"
    folder.mkdir()
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")

    error = refused(folder)

    assert f"{folder} {message}" in str(error)
    assert hint.format(folder=folder) in (error.hint or "")


def test_folders_in_very_many_levels_are_refused(tmp_path: Path) -> None:
    """Folders in more levels than os.walk can enter end in one sentence."""
    folder = sharded(tmp_path / "d")
    (folder / "/".join("d" * 101)).mkdir(parents=True)

    assert str(refused(folder)) == f"{folder} has folders in more than 100 levels"
