"""`diff`: the contents of two checkpoints besides their tensors."""

from __future__ import annotations

import hashlib
import zipfile
from argparse import Namespace
from collections import OrderedDict
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import save_file
from support import make_checkpoint
from support.small import saved

from prunecli.errors import CheckpointError
from prunecli.inspection.diff import diff

if TYPE_CHECKING:
    from pathlib import Path


def contents(a: Path, b: Path) -> dict[str, tuple[str | None, str | None]]:
    """Return the differences in contents other than tensors."""
    return {item.name: (item.a, item.b) for item in diff(a, b).contents}


def digest(values: list[float]) -> str:
    """Return the first digits of the SHA-256 of a list of numbers."""
    return hashlib.sha256("\0".join(map(repr, values)).encode()).hexdigest()[:12]


@pytest.mark.parametrize("empty", [{}, [], (), "", None])
def test_an_empty_entry_is_an_entry(empty: object, tmp_path: Path) -> None:
    """An entry with an empty value differs from a missing entry."""
    a = saved(tmp_path / "a.pth", {"w": torch.ones(1), "more": empty})
    b = saved(tmp_path / "b.pth", {"w": torch.ones(1)})

    assert list(contents(a, b)) == ["entry more"]


@pytest.mark.parametrize("old_format", [False, True])
def test_other_entries_are_named(old_format: bool, tmp_path: Path) -> None:  # noqa: FBT001
    """Values of a nested checkpoint are named by their paths, and tensors are left out."""

    def nested(**other: object) -> dict[str, object]:
        groups = [{"lr": 0.1, "betas": (0.9, 0.99), "params": [0, 1]}]
        base = {"state_dict": {"w": torch.ones(2)}, "epoch": 3, "optimizer": {"param_groups": groups}, "who": "me"}
        blobs = {"short": b"one", "long": b"x" * 5000, "same": b"y" * 5000}
        return {
            **base,
            **blobs,
            "args": Namespace(arch="net", deep={"x": None, "z": 2}),
            "losses": [0.5] * 100,
            **other,
        }

    options = {"_use_new_zipfile_serialization": not old_format}
    groups = [{"lr": 0.2, "betas": (0.9, 0.99), "params": [0, 1]}]
    a = saved(tmp_path / "a.pth", nested(), **options)
    b = saved(
        tmp_path / "b.pth",
        nested(
            epoch=4,
            optimizer={"param_groups": groups},
            args=Namespace(arch="net2", deep={"z": 2}),
            losses=[0.5] * 99,
            short=b"two",
            long=b"x" * 4999 + b"z",
        ),
        **options,
    )

    differences = contents(a, b)

    assert differences.pop("entry losses")[0] == f"100 values, sha256 {digest([0.5] * 100)}"
    assert len(set(differences.pop("entry long"))) == len(("old", "new"))
    assert differences == {
        "entry epoch": ("3", "4"),
        "entry short": ("b'one'", "b'two'"),
        "entry optimizer.param_groups.0.lr": ("0.1", "0.2"),
        "entry args.arch": ("'net'", "'net2'"),
        "entry args.deep.x": ("None", None),
    }


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("size", [3, 500, 300_000])
def test_bytes_are_compared_completely(protocol: int, size: int, tmp_path: Path) -> None:
    """Byte strings of any length are compared to their last byte, in every pickle protocol."""
    data = bytes(range(250)) * (size // 250) + b"end"
    a = saved(tmp_path / "a.pth", {"w": torch.ones(1), "raw": data, "kept": data[1:]}, pickle_protocol=protocol)
    b = saved(tmp_path / "b.pth", {"w": torch.ones(1), "raw": data[:-1] + b"t", "kept": data[1:]}, pickle_protocol=4)

    assert list(contents(a, b)) == ["entry raw"]


def test_order_and_class_of_a_dict_are_no_difference(tmp_path: Path) -> None:
    """A state_dict may be any dict class in any order."""
    a = saved(tmp_path / "a.pth", {"x": torch.ones(2), "y": torch.zeros(1), "n": 1})
    b = saved(tmp_path / "b.pth", OrderedDict([("n", 1), ("y", torch.zeros(1)), ("x", torch.ones(2))]))

    assert diff(a, b).same


def test_metadata_of_safetensors_is_named(tmp_path: Path) -> None:
    """A metadata entry that differs or is missing is named by its key."""
    a, b = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save_file({"w": torch.ones(2)}, a, metadata={"format": "pt", "note": "x" * 100})
    save_file({"w": torch.ones(2)}, b, metadata={"format": "np"})

    differences = contents(a, b)

    assert differences["metadata format"] == ("'pt'", "'np'")
    assert differences["metadata note"][0] is not None
    assert differences["metadata note"][0].startswith("'xxx")
    assert differences["metadata note"][1] is None


def test_other_records_and_files_are_named(tmp_path: Path) -> None:
    """A record of an archive and a file of a directory that differ are named."""
    a = saved(tmp_path / "a.pth", {"w": torch.ones(2)})
    b = tmp_path / "b.pth"
    b.write_bytes(a.read_bytes())
    with zipfile.ZipFile(b, "a") as archive:
        archive.writestr("a/extra/notes.txt", "hello")
    (tmp_path / "x").mkdir()
    (tmp_path / "y").mkdir()
    one, two = (make_checkpoint("safetensors-shards", tmp_path / side) for side in "xy")
    (two / "config.json").write_text("{}")
    (two / "tokenizer" / "vocab.txt").unlink()

    assert list(contents(a, b)) == ["record extra/notes.txt"]
    assert list(contents(one, two)) == ["file config.json", "file tokenizer/vocab.txt"]
    assert contents(one, two)["file tokenizer/vocab.txt"][1] is None


def test_contents_that_are_not_compared_are_noted(tmp_path: Path) -> None:
    """A note says if only tensors, or no other files of a directory, are compared."""
    a, b = make_checkpoint("safetensors-shards", tmp_path), make_checkpoint("safetensors", tmp_path)
    c = make_checkpoint("nested", tmp_path)

    assert diff(a, b).notes == ("A is a directory: its other files were not compared",)
    assert diff(b, c).notes == (
        "A is safetensors and B is torch zip: only the tensors of their state_dicts were compared",
    )


@pytest.mark.parametrize("long", [False, True])
def test_entries_with_too_many_shared_parts_are_an_error(long: bool, tmp_path: Path) -> None:  # noqa: FBT001
    """Nested lists with shared parts, 2^40 entries in a few bytes, and a long text that repeats raise an error."""
    bomb: list[object] = [{}]
    for _ in range(40):
        bomb = [bomb, bomb, {}]
    if long:
        text = "x" * (1 << 20)
        bomb = [{"a": text, text: 1}] * 100_000
    path = saved(tmp_path / "a.pth", {"w": torch.ones(1), "bomb": bomb})

    with pytest.raises(CheckpointError, match="entries besides its tensors") as caught:
        diff(path, path)

    assert caught.value.hint == "compare only the tensors: include=['*']"
    assert diff(path, path, include=["*"]).same


def test_a_cyclic_object_is_compared_once(tmp_path: Path) -> None:
    """An object that contains itself is followed once."""
    knot: dict[str, object] = {"n": 1}
    knot["self"] = knot
    other: dict[str, object] = {"n": 2}
    other["self"] = other
    a = saved(tmp_path / "a.pth", {"w": torch.ones(1), "knot": knot})
    b = saved(tmp_path / "b.pth", {"w": torch.ones(1), "knot": other})

    assert contents(a, b) == {"entry knot.n": ("1", "2")}
