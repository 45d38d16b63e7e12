"""Requests for conversions that are refused, and contents that are bounded."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from prunecli import L1, UsageError, convert, prune, strip
from prunecli.errors import PruneError


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "gguf"}, "a format is one of safetensors, torch"),
        ({"max_shard_size": "5 apples"}, "max_shard_size is a size such as 5GB"),
        ({"max_shard_size": 0}, "max_shard_size is a size such as 5GB"),
        ({"output": "o.pth", "max_shard_size": "1GB"}, "has the suffix of a file, and shards are written into a"),
        ({"output": "o.pth", "format": "safetensors"}, "is that of another format than safetensors"),
        ({"output": "model.safetensors.index.json"}, "is the name of an index, which is written with its shards"),
        ({"output": "o.foo"}, "no checkpoint format has the suffix .foo"),
    ],
)
def test_wrong_requests_are_refused_before_anything_is_written(
    options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    """One sentence says what is wrong, and there is no output."""
    torch.save({"w": torch.zeros(2)}, tmp_path / "in.pth")
    output = tmp_path / options.pop("output", "out")

    with pytest.raises(PruneError, match=message):
        convert(tmp_path / "in.pth", output, **options)

    assert [path.name for path in tmp_path.iterdir()] == ["in.pth"]


def test_choices_without_a_new_layout_are_refused(tmp_path: Path) -> None:
    """Untie and drop_rest mean nothing where the output has the format of the input."""
    torch.save({"weight": torch.zeros(2, 2)}, tmp_path / "in.pth")

    with pytest.raises(UsageError, match="untie has no effect"):
        prune(tmp_path / "in.pth", L1(amount=0.5), output=tmp_path / "out.pth", untie=True)
    with pytest.raises(UsageError, match="shards cannot replace their input"):
        prune(tmp_path / "in.pth", L1(amount=0.5), in_place=True, max_shard_size="1GB")


def test_the_input_is_no_output(tmp_path: Path) -> None:
    """A conversion never replaces its input."""
    torch.save({"w": torch.zeros(2)}, tmp_path / "in.pth")

    with pytest.raises(PruneError, match="is the input itself"):
        convert(tmp_path / "in.pth", tmp_path / "in.pth", force=True)


def test_shared_lists_are_no_endless_texts(tmp_path: Path) -> None:
    """Sixty lists that each hold the next one twice have 2^60 numbers: they are listed as one entry."""
    nested: list[object] = [1]
    for _ in range(60):
        nested = [nested, nested]
    torch.save({"state_dict": {"w": torch.zeros(2, 2)}, "bomb": nested}, tmp_path / "in.pth")

    result = convert(tmp_path / "in.pth", tmp_path / "out.safetensors", drop_rest=True)

    assert [name for name, _ in result.left_out] == ["bomb"]


@pytest.mark.parametrize("name", ["n.npz", "n.npy"])
def test_a_format_that_is_not_written_is_no_output(name: str, tmp_path: Path) -> None:
    """An output with the suffix of the input would be a file of safetensors under a wrong name."""
    np.save(tmp_path / "n.npy", np.ones((2, 2), np.float32))
    np.savez(tmp_path / "n.npz", w=np.ones((2, 2), np.float32))

    for options in ({}, {"format": "safetensors"}):
        with pytest.raises(PruneError, match="would be NumPy, which is not written"):
            convert(tmp_path / name, tmp_path / f"out{name[1:]}", **options)

    assert sorted(path.name for path in tmp_path.iterdir()) == ["n.npy", "n.npz"]


def test_what_has_no_place_is_refused(tmp_path: Path) -> None:
    """Shards do not go to a descriptor, and a format that is not written anew has no stripped form."""
    torch.save({"w": torch.zeros(2)}, tmp_path / "in.pth")
    np.savez(tmp_path / "n.npz", w=np.ones((2, 2), np.float32))

    with (tmp_path / "pipe").open("wb") as pipe, pytest.raises(UsageError, match="shards need a directory"):
        convert(tmp_path / "in.pth", pipe.fileno(), format="torch", max_shard_size="1GB")
    with pytest.raises(PruneError, match=r"NumPy \.npz is not written anew"):
        strip(tmp_path / "n.npz")


def test_what_is_in_an_archive_besides_is_listed_once(tmp_path: Path) -> None:
    """An array of objects is one entry, and so is a record that is no array."""
    np.savez(tmp_path / "n.npz", w=np.ones((2, 2), np.float32), o=np.array([None]))
    with zipfile.ZipFile(tmp_path / "n.npz", "a") as archive:
        archive.writestr("notes.txt", "hello")

    message = r"cannot hold 2 entries: o \(array of Python objects\), record notes\.txt \(5 bytes\)$"
    with pytest.raises(PruneError, match=message):
        convert(tmp_path / "n.npz", tmp_path / "out.safetensors")


def test_a_text_under_the_key_that_names_the_library_is_no_metadata(tmp_path: Path) -> None:
    """Loaders of the Hub refuse a file whose `format` is another one."""
    torch.save({"state_dict": {"w": torch.zeros(2, 2)}, "format": "mine"}, tmp_path / "in.pth")

    with pytest.raises(PruneError, match=r"format \(text under a key that loaders read\)"):
        convert(tmp_path / "in.pth", tmp_path / "out.safetensors")
    result = convert(tmp_path / "in.pth", tmp_path / "out.safetensors", drop_rest=True)

    assert [name for name, _ in result.left_out] == ["format"]
    with safe_open(tmp_path / "out.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_a_text_that_is_the_name_of_a_tensor_is_a_text(tmp_path: Path) -> None:
    """Only the metadata of safetensors names tied tensors so."""
    torch.save({"state_dict": {"weight": torch.ones(2, 2)}, "best": "weight"}, tmp_path / "in.pth")

    result = convert(tmp_path / "in.pth", tmp_path / "out.safetensors")

    assert (result.tensors, result.tied, result.texts) == (1, {}, ("best",))
    assert list(load_file(tmp_path / "out.safetensors")) == ["weight"]


def test_an_object_without_tensors_is_written_again(tmp_path: Path) -> None:
    """A torch file with no storage has a whole zip, too; safetensors would have nothing."""
    torch.save({"epoch": 3}, tmp_path / "in.pth")

    result = convert(tmp_path / "in.pth", tmp_path / "out.pth")

    assert (result.tensors, torch.load(tmp_path / "out.pth")) == (0, {"epoch": 3})
    with pytest.raises(PruneError, match="has no tensors to convert"):
        convert(tmp_path / "in.pth", tmp_path / "out.safetensors")
