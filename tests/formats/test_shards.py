"""Directories of shards: what the index promises must hold, and links must not lead astray."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import save_file

from prunecli.errors import CheckpointError
from prunecli.formats.open import open_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from prunecli.checkpoint import Checkpoint


def weights(seed: int = 0) -> dict[str, torch.Tensor]:
    """Return two small tensors, the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    return {f"l{seed}.weight": torch.randn(3, 4, generator=generator), f"l{seed}.bias": torch.ones(3)}


def write_shards(folder: Path, shards: Mapping[str, Mapping[str, torch.Tensor]], index: str | None = None) -> Path:
    """Write a directory of shards, safetensors or torch by suffix, with the index if it has a name."""
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
    """Write an index as transformers does."""
    path.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}, indent=2))


def sharded(folder: Path) -> Path:
    """Write a directory of two safetensors shards with index and config."""
    shards = {f"model-{i + 1:05}-of-00002.safetensors": weights(i) for i in range(2)}
    write_shards(folder, shards, "model.safetensors.index.json")
    (folder / "config.json").write_text("{}")
    return folder


def refused(path: str | Path) -> CheckpointError:
    """Return the error that opening `path` raises; it must be one line."""
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path)
    assert "\n" not in f"{caught.value}{caught.value.hint}"
    return caught.value


def values(checkpoint: Checkpoint) -> dict[str, bytes]:
    """Return each contiguous tensor's bytes, read from where the checkpoint says they are."""
    return {t.name: checkpoint.files[t.file].path.read_bytes()[t.start : t.end] for t in checkpoint.tensors}


def test_a_directory_of_shards_is_one_checkpoint(tmp_path: Path) -> None:
    """Its tensors are in name order, each in the right file; everything else is a companion."""
    folder = sharded(tmp_path / "d")
    (folder / "sub").mkdir()
    (folder / "sub" / "tokenizer.json").write_text("{}")
    (folder / "optimizer.pt").write_bytes(b"x")

    checkpoint = open_checkpoint(folder)

    expected = {name: t.numpy().tobytes() for i in range(2) for name, t in weights(i).items()}
    assert sorted(expected) == [t.name for t in checkpoint.tensors]
    assert expected == values(checkpoint)
    assert (folder, True, "safetensors") == (checkpoint.path, checkpoint.is_directory, checkpoint.format)
    assert {"config.json", "model.safetensors.index.json", "optimizer.pt", "sub/tokenizer.json"} == {
        path.as_posix() for path in checkpoint.other_files
    }
    assert checkpoint.notes == ("copied unchanged, though they may hold weights: optimizer.pt",)


def test_an_index_opens_its_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Naming the index is naming the directory, also by a bare name."""
    folder = sharded(tmp_path / "d")
    monkeypatch.chdir(folder)

    assert open_checkpoint(folder) == open_checkpoint(folder / "model.safetensors.index.json")
    assert open_checkpoint(".") == open_checkpoint("model.safetensors.index.json")


def test_torch_shards_with_an_index_open(tmp_path: Path) -> None:
    """The .bin twin of the layout works the same, and training_args.bin is a companion."""
    shards = {f"pytorch_model-{i + 1:05}-of-00002.bin": weights(i) for i in range(2)}
    folder = write_shards(tmp_path / "d", shards, "pytorch_model.bin.index.json")
    torch.save({"x": torch.ones(2, 2)}, folder / "training_args.bin")

    checkpoint = open_checkpoint(folder)

    assert {name: t.numpy().tobytes() for i in range(2) for name, t in weights(i).items()} == values(checkpoint)
    assert Path("training_args.bin") in checkpoint.other_files
    assert all(file.checksums for file in checkpoint.files)


def test_a_directory_without_index_takes_its_safetensors(tmp_path: Path) -> None:
    """Without an index every *.safetensors counts, and torch files beside them do not."""
    shards = {"b.safetensors": weights(0), "a.safetensors": weights(1), "old.bin": weights(2)}

    checkpoint = open_checkpoint(write_shards(tmp_path / "d", shards))

    assert [file.path.name for file in checkpoint.files] == ["a.safetensors", "b.safetensors"]
    assert [t.name for t in checkpoint.tensors] == ["l0.bias", "l0.weight", "l1.bias", "l1.weight"]
    assert [t.file for t in checkpoint.tensors] == [1, 1, 0, 0]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["model.pt"], ["model.pt"]),
        (["pytorch_model.bin", "training_args.bin", "optimizer.pt"], ["pytorch_model.bin"]),
        (
            ["m-00001-of-00002.bin", "m-00002-of-00002.bin", "extra.bin"],
            ["m-00001-of-00002.bin", "m-00002-of-00002.bin"],
        ),
    ],
)
def test_a_directory_of_torch_files_takes_the_one_or_the_shards(
    tmp_path: Path, names: list[str], expected: list[str]
) -> None:
    """One torch file, transformers' own name, or a set of shards is chosen; a .bin that is no torch file is not."""
    folder = write_shards(tmp_path / "d", {name: weights(i) for i, name in enumerate(names)})
    (folder / "raw.bin").write_bytes(b"\1\2\3")

    assert expected == [file.path.name for file in open_checkpoint(folder).files]


def test_an_extra_tensor_in_a_shard_is_told(tmp_path: Path) -> None:
    """A tensor that its shard has and the index does not is listed, and a fact."""
    folder = write_shards(tmp_path / "d", {"m.safetensors": weights()})
    write_index(folder / "m.safetensors.index.json", {"l0.weight": "m.safetensors"})

    checkpoint = open_checkpoint(folder)

    assert [t.name for t in checkpoint.tensors] == ["l0.bias", "l0.weight"]
    assert "1 tensors are in the shards but not in m.safetensors.index.json, first 'l0.bias'" in checkpoint.notes


def hub_cache(tmp_path: Path) -> Path:
    """Write a Hub cache: a snapshot whose files are links to blobs; return the snapshot."""
    repository = tmp_path / "models--a--b"
    snapshot = repository / "snapshots" / "0123abc"
    snapshot.mkdir(parents=True)
    source = sharded(repository / "blobs")
    for i, file in enumerate(sorted(source.iterdir())):
        file.rename(source / f"hash{i}")
        (snapshot / file.name).symlink_to(Path("..", "..", "blobs", f"hash{i}"))
    return snapshot


def test_a_hub_cache_snapshot_opens(tmp_path: Path) -> None:
    """A snapshot's links into its repository's blobs are followed, for shards, index and companions."""
    snapshot = hub_cache(tmp_path)

    checkpoint = open_checkpoint(snapshot)

    assert {name: t.numpy().tobytes() for i in range(2) for name, t in weights(i).items()} == values(checkpoint)
    assert {"config.json", "model.safetensors.index.json"} == {str(path) for path in checkpoint.other_files}
    assert checkpoint == open_checkpoint(snapshot / "model.safetensors.index.json")


def test_a_linked_directory_opens(tmp_path: Path) -> None:
    """A directory named through a link is no link that leaves it."""
    sharded(tmp_path / "d")
    (tmp_path / "latest").symlink_to("d")

    assert len(open_checkpoint(tmp_path / "latest").tensors) == 4


def test_a_link_to_a_folder_is_not_followed(tmp_path: Path) -> None:
    """A linked folder inside, even one that loops, is left out and told."""
    folder = sharded(tmp_path / "d")
    (folder / "loop").symlink_to(".")

    checkpoint = open_checkpoint(folder)

    assert "the linked folder loop is left out" in checkpoint.notes
    assert Path("loop") not in checkpoint.other_files


INDEX = "model.safetensors.index.json"
SHARD = "model-00001-of-00002.safetensors"


def mapped(**changes: object) -> Callable[[Path], object]:
    """Return a damage that writes an index with the right map, but for `changes` to l0.weight's shard."""
    return lambda d: (d / INDEX).write_text(json.dumps({"weight_map": {"l0.weight": SHARD, **changes}}))


def linked(target: str, name: str) -> Callable[[Path], object]:
    """Return a damage that moves a file out to `target` and leaves a link."""

    def damage(d: Path) -> None:
        out = (d / target).absolute()
        out.parent.mkdir(parents=True, exist_ok=True)
        (d / name).rename(out)
        (d / name).symlink_to(out)

    return damage


def moved(put: Callable[[Path], None]) -> Callable[[Path], object]:
    """Return a damage that moves the shard aside and puts something else in its place."""

    def damage(d: Path) -> None:
        (d / SHARD).rename(d / "moved")
        put(d / SHARD)

    return damage


DAMAGED: dict[str, tuple[Callable[[Path], object], str]] = {
    "62 shard above": (mapped(x="../x.safetensors"), "not a plain path"),
    "62 absolute shard": (mapped(x="/etc/x.safetensors"), "not a plain path"),
    "62 drive": (mapped(x="C:x.safetensors"), "not a plain path"),
    "62 backslash": (mapped(x="a\\x.safetensors"), "not a plain path"),
    "62 hidden above": (mapped(x="a/../../x.safetensors"), "not a plain path"),
    "62 two spellings": (mapped(x=f"./{SHARD}"), "not a plain path"),
    "62 NUL": (mapped(x="a\0.safetensors"), "not a plain path"),
    "62 empty name": (mapped(x=""), "not a plain path"),
    "62 number": (mapped(x=3), "no file name"),
    "62 missing shard": (mapped(x="gone.safetensors"), "lacks the shard gone.safetensors"),
    "62 bin in a safetensors index": (mapped(x="x.bin"), "is not a .safetensors file"),
    "62 tensor missing from its shard": (mapped(x=SHARD), "puts the tensor 'x' in model-00001"),
    "62 tensor in the other shard": (
        mapped(**{"l1.bias": SHARD, "l1.weight": SHARD.replace("00001-", "00002-")}),
        "but it is in model-00002",
    ),
    "62 listed twice": (
        lambda d: (d / INDEX).write_text('{"weight_map":{"a":"x.safetensors","a":"x.safetensors"}}'),
        "lists the tensor 'a' twice",
    ),
    "62 name in two shards": (
        lambda d: save_file({**weights(0), **weights(1)}, d / SHARD),
        "is in ",
    ),
    "62 link leaving the directory": (linked("../../out.safetensors", SHARD), "a link that leaves"),
    "62 companion leaving the directory": (linked("../secret", "config.json"), "a link that leaves"),
    "62 link into blobs of no cache": (linked("../blobs/x", SHARD), "a link that leaves"),
    "62 shard is a directory": (moved(lambda path: path.mkdir()), "not a regular file"),
    "dangling companion": (lambda d: (d / "tokenizer.json").symlink_to("gone"), "a dangling link"),
    "looping shard": (moved(lambda path: path.symlink_to(path.name)), "cannot read"),
    "no weight_map": (lambda d: (d / INDEX).write_text("{}"), "has no weight_map"),
    "empty weight_map": (lambda d: (d / INDEX).write_text('{"weight_map":{}}'), "has no weight_map"),
    "weight_map is a list": (lambda d: (d / INDEX).write_text('{"weight_map":[1]}'), "has no weight_map"),
    "index is no JSON": (lambda d: (d / INDEX).write_text("<html>"), "not valid JSON"),
    "index bomb": (lambda d: (d / INDEX).write_text("[" * 100_000), "nested too deeply"),
    "two indexes": (
        lambda d: (d / "pytorch_model.bin.index.json").write_text("{}"),
        "has 2 indexes: model.safetensors.index.json, pytorch_model.bin.index.json",
    ),
    "torch content in a safetensors shard": (
        lambda d: torch.save(weights(0), d / SHARD),
        "is torch zip, but ",
    ),
    "shard truncated": (
        lambda d: (d / SHARD).write_bytes((d / SHARD).read_bytes()[:-1]),
        "is truncated",
    ),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_directory_whose_index_does_not_hold_is_refused(tmp_path: Path, case: str) -> None:
    """Each way an index and its directory can disagree or lead astray is one sentence."""
    folder = sharded(tmp_path / "d" / "d")
    damage, want = DAMAGED[case]
    damage(folder)

    assert want in str(refused(folder))


def test_missing_numbers_without_an_index_are_noticed(tmp_path: Path) -> None:
    """Shards that number themselves must be complete even where no index says so."""
    safetensors = write_shards(tmp_path / "s", {"m-00001-of-00002.safetensors": weights()})
    bins = write_shards(tmp_path / "t", {"m-00002-of-00003.bin": weights()})

    assert "lacks the shard m-00002-of-00002.safetensors" in str(refused(safetensors))
    assert "lacks the shard m-00001-of-00003.bin" in str(refused(bins))


def test_the_same_name_in_two_files_is_refused(tmp_path: Path) -> None:
    """Two variants of one model in a directory are a choice the user has to make."""
    folder = write_shards(tmp_path / "d", {"a.safetensors": weights(), "b.safetensors": weights()})

    error = refused(folder)

    assert "tensor 'l0.bias' is in " in str(error)
    assert f"name one of the files: {folder / 'a.safetensors'}" == error.hint


def test_several_torch_files_are_a_choice(tmp_path: Path) -> None:
    """Two torch files that are no shards are refused by name."""
    folder = write_shards(tmp_path / "d", {"a.pth": weights(0), "b.pt": weights(1)})

    assert "has 2 checkpoints: a.pth, b.pt" in str(refused(folder))


def test_directories_of_other_kinds_are_named(tmp_path: Path) -> None:
    """A distributed checkpoint and a SavedModel are told apart from an empty directory."""
    for name in ("dcp/.metadata", "dcp/__0_0.distcp", "tf/saved_model.pb", "none/readme.md", "up/x/m.safetensors"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")

    dcp, none, up = (refused(tmp_path / name) for name in ("dcp", "none", "up"))

    assert "is a distributed checkpoint" in str(dcp)
    assert (dcp.hint or "").endswith(f"format_utils dcp_to_torch {tmp_path / 'dcp'} dcp.pth")
    assert "is a TensorFlow SavedModel" in str(refused(tmp_path / "tf"))
    assert ("holds no checkpoint" in str(none), f"ls {tmp_path / 'none'}") == (True, none.hint)
    assert f"name the folder with the checkpoint: {tmp_path / 'up' / 'x'}" == up.hint
