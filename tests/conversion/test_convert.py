"""Conversions, compared with what the libraries write for the same tensors and load from the result."""

from __future__ import annotations

import json
import subprocess
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, load_model, save_file, save_model
from support import CONTAINERS, Weights, make_checkpoint, make_weights, read, state_dict
from torch import nn

from prunecli import L1, CheckpointError, convert, open_checkpoint, prune

DTYPES = {
    "f64": torch.float64,
    "f32": torch.float32,
    "f16": torch.float16,
    "bf16": torch.bfloat16,
    "e4m3": torch.float8_e4m3fn,
    "e5m2": torch.float8_e5m2,
    "i64": torch.int64,
    "i8": torch.int8,
    "u16": torch.uint16,
    "bool": torch.bool,
    "c64": torch.complex64,
}


def of_every_dtype() -> Weights:
    """Return a tensor of each dtype that both formats have, empty ones and a scalar."""
    tensors = {name: torch.arange(6).reshape(2, 3).to(dtype) for name, dtype in DTYPES.items()}
    return {**tensors, "empty": torch.zeros(0, 3), "scalar": torch.tensor(2.5), "ünicode.weight": torch.ones(1)}


def equal(a: Any, b: Any) -> bool:  # noqa: ANN401 - any loaded object
    """Return whether two loaded objects are equal, tensors with their strides and types included."""
    if isinstance(a, torch.Tensor):
        same = a.dtype == b.dtype and a.shape == b.shape and a.stride() == b.stride()
        return same and bool(
            torch.equal(a.contiguous().view(-1).view(torch.uint8), b.contiguous().view(-1).view(torch.uint8))
        )
    if isinstance(a, dict):
        return type(a) is type(b) and list(a) == list(b) and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(equal, a, b))
    return bool(a == b) if not hasattr(a, "__dict__") else vars(a) == vars(b)


def test_safetensors_are_those_of_the_library(tmp_path: Path) -> None:
    """A torch file becomes the bytes that save_file writes for the same dict, strided tensors made contiguous."""
    tensors = {**of_every_dtype(), "t.weight": torch.rand(3, 4).T, "expanded": torch.rand(1, 3).expand(2, 3)}
    torch.save(tensors, tmp_path / "in.pth")
    save_file({k: v.contiguous() for k, v in tensors.items()}, tmp_path / "ref.safetensors", metadata={"format": "pt"})

    result = convert(tmp_path / "in.pth", tmp_path / "out.safetensors")

    assert (tmp_path / "ref.safetensors").read_bytes() == (tmp_path / "out.safetensors").read_bytes()
    assert result.facts == ("2 strided tensors are written in row-major order",)


def test_torch_files_are_those_of_torch(tmp_path: Path) -> None:
    """A safetensors file becomes the bytes that torch.save writes for the loaded dict, but for a digest."""
    save_file(of_every_dtype(), tmp_path / "in.safetensors", metadata={"format": "pt"})
    (tmp_path / "ref").mkdir()
    torch.save(load_file(tmp_path / "in.safetensors"), tmp_path / "ref" / "out.pth")

    convert(tmp_path / "in.safetensors", tmp_path / "out.pth")

    expected, actual = ((tmp_path / name).read_bytes() for name in ("ref/out.pth", "out.pth"))
    digits = actual.index(b"serialization_id")
    assert expected[:digits] == actual[:digits]
    assert len(expected) == len(actual)
    assert sum(a != b for a, b in zip(expected, actual, strict=True)) <= 20 + 4 + 4
    subprocess.run(["unzip", "-tq", tmp_path / "out.pth"], check=True, capture_output=True)
    for mapped in (False, True):
        assert equal(load_file(tmp_path / "in.safetensors"), torch.load(tmp_path / "out.pth", mmap=mapped))


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("output", ["out.safetensors", "out.pth", "out"])
def test_every_container_keeps_its_bits_in_every_format(container: str, output: str, tmp_path: Path) -> None:
    """The tensors of any format have the same names, shapes and bits afterwards."""
    source = make_checkpoint(container, tmp_path, weights := make_weights())
    before = open_checkpoint(source)

    convert(source, tmp_path / output, drop_rest=True, max_shard_size=None if "." in output else 2000)

    loaded = read(tmp_path / output)
    inside = {t.name for t in before.tensors if t.unprunable_reason != "outside the state_dict"}
    found = loaded
    for key in before.keys if output == "out.pth" and before.format.startswith("torch ") else ():
        found = found[key]
    prefix = CONTAINERS[container].prefix
    kept = {name: t for name, t in weights.items() if prefix + name in found}
    assert {name for name in inside if name not in found} <= {f"{prefix}head.weight", f"{prefix}embed.weight"}
    assert kept
    for name, tensor in kept.items():
        assert torch.equal(found[prefix + name].double(), tensor.double()), name


def test_the_object_of_a_torch_file_is_kept(tmp_path: Path) -> None:
    """From the old torch format to the new one, everything is as before: classes, attributes, ties, strides, order."""
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    weight = torch.rand(4, 5)
    saved = {
        "epoch": 3,
        "state_dict": model.state_dict(),
        "tied": [weight, weight[1:], weight.T],
        "parameter": nn.Parameter(torch.rand(2)),
        "optimizer": torch.optim.Adam(model.parameters()).state_dict(),
        "numbers": [1 << 70, -5, 300, 70000, 2.5, None, True, "text", b"bytes", (1, 2, 3, 4), {1, 2}],
    }
    torch.save(saved, tmp_path / "old.pth", _use_new_zipfile_serialization=False)

    convert(tmp_path / "old.pth", tmp_path / "new.pth")

    loaded = torch.load(tmp_path / "new.pth")
    assert equal(saved, loaded)
    assert isinstance(loaded["state_dict"], OrderedDict)
    assert loaded["state_dict"]._metadata == model.state_dict()._metadata
    assert isinstance(loaded["parameter"], nn.Parameter)
    loaded["tied"][0][1, 0] = 7
    assert loaded["tied"][1][0, 0] == loaded["tied"][2][0, 1] == 7
    assert equal(saved["state_dict"], torch.load(tmp_path / "new.pth", mmap=True)["state_dict"])


class Tied(nn.Module):
    """A language model whose head shares its weight with the embedding."""

    def __init__(self) -> None:
        """Tie the weights."""
        super().__init__()
        self.embed, self.head = nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight


def test_tied_names_are_in_the_metadata_as_save_model_writes_them(tmp_path: Path) -> None:
    """The file is that of save_model, load_model takes it, and back in torch both names share one storage."""
    model = Tied()
    torch.save(model.state_dict(), tmp_path / "in.pth")
    save_model(model, str(tmp_path / "ref.safetensors"))

    result = convert(tmp_path / "in.pth", tmp_path / "out.safetensors")
    convert(tmp_path / "out.safetensors", tmp_path / "back.pth")

    with safe_open(tmp_path / "ref.safetensors", "pt") as ref, safe_open(tmp_path / "out.safetensors", "pt") as out:
        assert ref.metadata() | {"format": "pt"} == out.metadata()
        assert list(ref.keys()) == list(out.keys())
    assert result.tied == {"head.weight": "embed.weight"}
    load_model(Tied(), tmp_path / "out.safetensors")
    back = torch.load(tmp_path / "back.pth")
    Tied().load_state_dict(back)
    assert back["head.weight"].data_ptr() == back["embed.weight"].data_ptr()


def test_untied_names_are_stored_twice(tmp_path: Path) -> None:
    """With untie, both names have a tensor, in safetensors and in torch."""
    torch.save(Tied().state_dict(), tmp_path / "in.pth")

    convert(tmp_path / "in.pth", tmp_path / "out.safetensors", untie=True)
    convert(tmp_path / "out.safetensors", tmp_path / "back.pth")
    convert(tmp_path / "in.pth", tmp_path / "direct.pth", untie=True)

    assert sorted(load_file(tmp_path / "out.safetensors")) == ["embed.weight", "head.weight"]
    for name in ("back.pth", "direct.pth"):
        weights = torch.load(tmp_path / name)
        assert weights["head.weight"].data_ptr() != weights["embed.weight"].data_ptr()


def test_numbers_and_strings_go_into_the_metadata_and_the_rest_is_an_error(tmp_path: Path) -> None:
    """The error lists what does not fit; drop_rest leaves it out, and the rest is in the metadata as texts."""
    weights = {"a.weight": torch.rand(2, 2)}
    saved = {
        "epoch": 3,
        "arch": "net",
        "losses": [0.5, 0.25],
        "config": {"lr": 0.1, "betas": (0.9, 0.99)},
        "state_dict": weights,
        "optimizer": {"state": {0: {"momentum": torch.rand(2, 2)}}, "param_groups": []},
        "device": torch.device("cpu"),
    }
    torch.save(saved, tmp_path / "in.pth")

    with pytest.raises(CheckpointError) as error:
        convert(tmp_path / "in.pth", tmp_path / "out.safetensors")
    assert str(error.value) == ("safetensors cannot hold 2 entries: optimizer (1 tensor), device (torch.device)")
    assert not (tmp_path / "out.safetensors").exists()

    result = convert(tmp_path / "in.pth", tmp_path / "out.safetensors", drop_rest=True)
    with safe_open(tmp_path / "out.safetensors", "pt") as file:
        assert file.metadata() == {
            "format": "pt",
            "epoch": "3",
            "arch": "net",
            "losses": "[0.5, 0.25]",
            "config.lr": "0.1",
            "config.betas": "[0.9, 0.99]",
        }
    assert result.left_out == (("optimizer", "1 tensor"), ("device", "torch.device"))


def test_texts_of_safetensors_are_the_rest_of_a_torch_file(tmp_path: Path) -> None:
    """A dict of tensors has no place for metadata: it is listed, and left out with drop_rest."""
    save_file({"w": torch.rand(2)}, tmp_path / "in.safetensors", metadata={"format": "pt", "title": "mine"})

    with pytest.raises(CheckpointError, match=r"a torch file of tensors cannot hold 1 entry: title \(text\)"):
        convert(tmp_path / "in.safetensors", tmp_path / "out.pth")
    convert(tmp_path / "in.safetensors", tmp_path / "out.pth", drop_rest=True)

    assert list(torch.load(tmp_path / "out.pth")) == ["w"]


def test_texts_of_torch_shards_are_in_the_index_and_one_shard_has_none(tmp_path: Path) -> None:
    """A directory with one file of torch has no place for an epoch: it is listed, and left out with drop_rest."""
    torch.save({"epoch": 3, "model": {"a": torch.ones(9, 9), "b": torch.ones(9, 9)}}, tmp_path / "in.pth")

    convert(tmp_path / "in.pth", tmp_path / "two", format="torch", max_shard_size=400)
    with pytest.raises(CheckpointError, match=r"shards of torch cannot hold 1 entry: epoch \(text\)"):
        convert(tmp_path / "in.pth", tmp_path / "one", format="torch")
    result = convert(tmp_path / "in.pth", tmp_path / "one", format="torch", drop_rest=True)

    index = json.loads((tmp_path / "two" / "pytorch_model.bin.index.json").read_text())
    assert index["metadata"] == {"epoch": "3", "total_size": 648}
    assert result.left_out == (("epoch", "text"),)


@pytest.mark.parametrize(
    ("tensor", "output", "message"),
    [
        (torch.zeros(2, dtype=torch.complex128), "o.safetensors", "safetensors cannot hold 'w': it has no dtype C128"),
        (torch.zeros(2).to_sparse(), "o.safetensors", r"safetensors cannot hold 1 entry: w \(sparse tensor\)"),
        (torch.zeros(2, dtype=torch.complex64).conj(), "o.safetensors", "'w' is a conjugate view"),
    ],
)
def test_tensors_that_a_format_cannot_hold_are_refused_by_name(
    tensor: torch.Tensor, output: str, message: str, tmp_path: Path
) -> None:
    """The message has the name and the reason, and there is no output."""
    torch.save({"w": tensor, "v": torch.zeros(2)}, tmp_path / "in.pth")

    with pytest.raises(CheckpointError, match=message):
        convert(tmp_path / "in.pth", tmp_path / output)

    assert not (tmp_path / output).exists()


@pytest.mark.parametrize("dtype", ["F6_E2M3", "F4"])
def test_dtypes_that_torch_has_not_are_refused_by_name(dtype: str, tmp_path: Path) -> None:
    """The narrow formats of safetensors have no place in a torch file."""
    size = 6 if dtype == "F6_E2M3" else 4
    header = json.dumps({"w": {"dtype": dtype, "shape": [8], "data_offsets": [0, size]}}).encode()
    (tmp_path / "in.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"\1" * size)

    with pytest.raises(CheckpointError, match=f"a torch file cannot hold 'w': torch stores no {dtype}"):
        convert(tmp_path / "in.safetensors", tmp_path / "out.pth")
    convert(tmp_path / "in.safetensors", tmp_path / "out.safetensors")

    assert (tmp_path / "in.safetensors").read_bytes()[-size:] == (tmp_path / "out.safetensors").read_bytes()[-size:]


def test_shards_are_divided_as_the_hub_divides_them(tmp_path: Path) -> None:
    """Shards are filled in order; a tensor above the limit has one of its own, and the index has each name."""
    sizes = {"a": 40, "b": 40, "c": 200, "d": 10, "e": 40, "f": 60}
    torch.save({name: torch.zeros(size // 2, dtype=torch.float16) for name, size in sizes.items()}, tmp_path / "in.pth")

    result = convert(tmp_path / "in.pth", tmp_path / "out", max_shard_size=100)

    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert index["metadata"] == {"total_size": 390}
    shard = {name: int(file.split("-")[1]) for name, file in index["weight_map"].items()}
    assert shard == {"a": 2, "b": 2, "c": 1, "d": 2, "e": 3, "f": 3}
    assert result.files == tuple(f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3))
    for file in result.files:
        with safe_open(tmp_path / "out" / file, "pt") as opened:
            assert opened.metadata() == {"format": "pt"}
    assert open_checkpoint(tmp_path / "out").is_directory


def test_one_file_comes_from_shards_and_other_files_go_along_into_a_directory(tmp_path: Path) -> None:
    """Shards of torch become shards of safetensors with the configuration, and these become one file."""
    source = make_checkpoint("bin-shards", tmp_path, weights := make_weights())

    convert(source, tmp_path / "st", max_shard_size="2kB")
    result = convert(tmp_path / "st", tmp_path / "one.safetensors")

    assert sorted(p.name for p in (tmp_path / "st").iterdir() if "model" not in p.name) == ["config.json", "tokenizer"]
    assert not list((tmp_path / "st").glob("*.bin*"))
    assert sorted(weights) == sorted(load_file(tmp_path / "one.safetensors"))
    assert result.facts == ("not copied: 2 other files of the directory",)


def test_pruned_shards_are_shards_or_one_file_by_the_name_of_the_output(tmp_path: Path) -> None:
    """A path with a suffix is one file; a path without one, or with a slash, is a directory of the same shards."""
    source = make_checkpoint("safetensors-shards", tmp_path)
    names = {path.name for path in source.iterdir()}

    for output in ("one.safetensors", "same", "slash/"):
        prune(source, L1(amount=0.5), output=f"{tmp_path}/{output}", reports=())

    assert names == {path.name for path in (tmp_path / "same").iterdir()}
    assert names == {path.name for path in (tmp_path / "slash").iterdir()}
    merged = load_file(tmp_path / "one.safetensors")
    assert all(torch.equal(merged[name], tensor) for name, tensor in read(tmp_path / "same").items())


def test_a_pruned_output_of_another_format_is_the_converted_one(tmp_path: Path) -> None:
    """Pruning and conversion in one pass give the bytes of the two steps, also for strided and tied tensors."""
    model = Tied()
    saved = {**model.state_dict(), "t.weight": torch.rand(30, 40).T, "z.weight": torch.rand(40, 30)}
    torch.save(saved, tmp_path / "in.pth")
    prune(tmp_path / "in.pth", L1(amount=0.5), output=tmp_path / "step.pth", reports=())
    convert(tmp_path / "step.pth", tmp_path / "two.safetensors")

    report = prune(
        tmp_path / "in.pth", L1(amount=0.5), output=tmp_path / "one.safetensors", reports=(), sha256=True, estimate=True
    )

    assert (tmp_path / "two.safetensors").read_bytes() == (tmp_path / "one.safetensors").read_bytes()
    assert report.output_bytes == (tmp_path / "one.safetensors").stat().st_size
    assert report.compressed is not None
    convert(tmp_path / "one.safetensors", tmp_path / "back.pth")
    prune(tmp_path / "one.safetensors", L1(amount=0.5), output=tmp_path / "direct.pth", reports=())
    assert equal(torch.load(tmp_path / "back.pth"), torch.load(tmp_path / "direct.pth"))
    subprocess.run(["unzip", "-tq", tmp_path / "direct.pth"], check=True, capture_output=True)


def test_big_endian_storages_become_little_endian(tmp_path: Path) -> None:
    """The numbers of a big-endian torch file are the same in safetensors."""
    source = make_checkpoint("big-endian", tmp_path, weights := make_weights())

    convert(source, tmp_path / "out.safetensors")

    loaded = load_file(tmp_path / "out.safetensors")
    assert all(torch.equal(loaded[name].double(), tensor.double()) for name, tensor in weights.items())


def test_damage_of_a_stored_tensor_is_found_while_it_is_gathered(tmp_path: Path) -> None:
    """A truncated input is an error, and there is no output."""
    torch.save({"w": torch.rand(100, 100)}, tmp_path / "in.pth")
    data = (tmp_path / "in.pth").read_bytes()
    (tmp_path / "in.pth").write_bytes(data[: len(data) // 2])

    with pytest.raises(CheckpointError):
        convert(tmp_path / "in.pth", tmp_path / "out.safetensors")

    assert not (tmp_path / "out.safetensors").exists()


def test_the_state_dict_that_the_user_names_is_converted(tmp_path: Path) -> None:
    """`key` takes one of several state_dicts; the others are the rest."""
    torch.save({"a": {"x.weight": torch.ones(2, 2)}, "ema": {"x.weight": torch.zeros(2, 2)}}, tmp_path / "in.pth")

    result = convert(tmp_path / "in.pth", tmp_path / "out.safetensors", key="ema", drop_rest=True)

    assert load_file(tmp_path / "out.safetensors")["x.weight"].eq(0).all()
    assert result.left_out == (("a", "1 tensor"),)
    assert state_dict("safetensors", {"x": torch.ones(1)})
