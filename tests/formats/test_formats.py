"""Checkpoints of real programs are pruned: nested ones, those of trainers, and very large ones."""

from __future__ import annotations

import argparse
import enum
import pathlib
import pickle
import shutil
import zipfile
import zlib
from collections import OrderedDict, defaultdict
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from support import bits, zeroed
from torch import nn
from torch.optim.swa_utils import AveragedModel

from prunecli.api import prune
from prunecli.checkpoint import OUTSIDE
from prunecli.formats.open import open_checkpoint
from prunecli.formats.zip.directory import read_records
from prunecli.io.crc32 import combine
from prunecli.strategies.thresholds import Threshold

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

THRESHOLD = 0.2


class Net(nn.Module):
    """Linear layers, two of which share one matrix, and a buffer."""

    def __init__(self) -> None:
        """Initialize the layers from a fixed seed."""
        super().__init__()
        torch.manual_seed(0)
        self.fc = nn.Linear(8, 6)
        self.body = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 6, bias=False))
        self.body[2].weight = self.fc.weight
        self.register_buffer("steps", torch.arange(3))


class Stage(enum.Enum):
    """An enum, as trainers store options."""

    LATE = "late"


class OwnOptimizer:
    """An optimizer of an unknown class."""

    def __init__(self, net: nn.Module) -> None:
        """Store parameters and moments in objects."""
        self.groups = [{"params": list(net.parameters()), "lr": np.float64(0.1)}]
        self.moments = {0: torch.ones(8, 8)}


def extras(net: nn.Module) -> dict[str, Any]:
    """Return objects of the kinds that torch.load refuses with weights_only=True."""
    return {
        "args": argparse.Namespace(lr=0.1, out=pathlib.Path("runs/1"), simple=SimpleNamespace(a=1)),
        "best": np.float32(0.9),
        "history": defaultdict(list, loss=[np.float64(1.5)]),
        "stage": Stage.LATE,
        "rng_state": torch.get_rng_state(),
        "optimizer": OwnOptimizer(net),
        "tags": {"a", "b"},
        "when": frozenset({1}),
        "state": complex(1, 2),
        "log": b"bytes" * 100,
    }


def lightning(net: Net) -> dict[str, Any]:
    """Return a checkpoint in the form of Lightning."""
    return {
        "epoch": 1,
        "pytorch-lightning_version": "2.1.0",
        "state_dict": {f"model.{n}": t for n, t in net.state_dict().items()},
        "loops": {"fit_loop": {"state_dict": {}}},
        "callbacks": {"EMA": {"ema_weight": torch.ones(8, 8)}},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(8, 8)}}, "param_groups": [{"params": [0]}]}],
        "lr_schedulers": [],
        "hparams_name": "kwargs",
        "hyper_parameters": {"lr": np.float64(0.1)},
    }


def timm(net: Net) -> dict[str, Any]:
    """Return a checkpoint in the form of timm, with an EMA copy."""
    return {
        "epoch": 3,
        "arch": "net",
        "state_dict": net.state_dict(),
        "state_dict_ema": {n: t.clone() for n, t in net.state_dict().items()},
        "args": argparse.Namespace(lr=0.1),
        "metric": np.float64(0.5),
    }


Values = dict[str, tuple["Callable[[Net], Any]", str]]

VALUES: Values = {
    "state_dict": (lambda net: net.state_dict(), ""),
    "pickled module": (lambda net: net, ""),
    "module in a dict": (lambda net: {"model": net, "epoch": 3}, ""),
    "extras": (lambda net: {"state_dict": net.state_dict()} | extras(net), ""),
    "Lightning": (lightning, "model."),
    "timm": (timm, ""),
    "DDP": (lambda net: {f"module.{n}": t for n, t in net.state_dict().items()}, "module."),
    "compiled": (lambda net: {f"_orig_mod.{n}": t for n, t in net.state_dict().items()}, "_orig_mod."),
    "averaged": (lambda net: AveragedModel(net).state_dict(), "module."),
    "list": (lambda net: [net.state_dict(), {"epoch": 3}], "0."),
    "list in a dict": (lambda net: {"models": [net.state_dict()], "epoch": 3}, "models.0."),
    "OrderedDict": (lambda net: OrderedDict(model=OrderedDict(net.state_dict())), ""),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("options", [{}, {"pickle_protocol": 5}, {"_use_new_zipfile_serialization": False}], ids=str)
@pytest.mark.parametrize("kind", VALUES)
def test_checkpoints_of_trainers_are_pruned(tmp_path: Path, kind: str, options: dict[str, Any]) -> None:
    """The weights are found inside the object, only they are pruned, and the file still loads."""
    make, prefix = VALUES[kind]
    path, output = tmp_path / "m.pth", tmp_path / "o.pth"
    torch.save(make(Net()), path, **options)

    prune(path, Threshold(THRESHOLD), output=output, reports=())

    found = {t.name: t for t in open_checkpoint(output).tensors if t.unprunable_reason is None}
    data = output.read_bytes()
    for name, t in Net().state_dict().items():
        chosen = name.endswith("weight")
        expected = zeroed(t, t.abs() > THRESHOLD) if chosen else t
        place = found[prefix + name]
        assert bits(expected).numpy().tobytes() == data[place.start : place.end], name
    torch.load(output, weights_only=False)


def test_copies_and_optimizers_are_outside_the_state_dict(tmp_path: Path) -> None:
    """EMA copies, callbacks and optimizer state are not pruned unless `key` names them."""
    for number, make in enumerate((timm, lightning)):
        path = tmp_path / f"{number}.pth"
        torch.save(make(Net()), path)
        outside = [t.name for t in open_checkpoint(path).tensors if t.unprunable_reason == OUTSIDE]
        assert outside
        assert all(n.startswith(("state_dict_ema.", "callbacks.", "optimizer_states.")) for n in outside)

    ema = open_checkpoint(tmp_path / "0.pth", key="state_dict_ema")

    assert {n for n, t in Net().state_dict().items()} == {t.name for t in ema.tensors if t.unprunable_reason is None}


# --- large ones


@pytest.mark.slow
def test_more_records_than_the_zip_limit(tmp_path: Path) -> None:
    """A file of 66,000 records, which need a zip64 directory, is pruned, and its checksums are right."""
    path, output = tmp_path / "m.pth", tmp_path / "o.pth"
    w = torch.randn(20, 20, generator=torch.Generator().manual_seed(0))
    torch.save({"a.weight": w}, path)
    with zipfile.ZipFile(path, "a") as archive:
        for i in range(66_000):
            archive.writestr(f"m/extra/{i}", b"")

    prune(path, Threshold(0.5), output=output, reports=())

    with zipfile.ZipFile(output) as archive:
        assert len(archive.namelist()) > 65_535
        assert zlib.crc32(archive.read("m/data/0")) == archive.getinfo("m/data/0").CRC
    assert torch.equal(zeroed(w, w.abs() > 0.5), torch.load(output, weights_only=True)["a.weight"])


@pytest.mark.slow
def test_fifty_thousand_tensors_open(tmp_path: Path) -> None:
    """A checkpoint of 50,000 tensors in three entries is within the limits for hostile files."""
    rows = torch.zeros(50_000, 1)
    weights = {f"layers.{i}.weight": row for i, row in enumerate(rows)}
    torch.save({"model": weights, "ema": weights, "state": list(weights.values())}, tmp_path / "m.pth")

    found = open_checkpoint(tmp_path / "m.pth")

    assert list(weights) == [t.name for t in found.tensors if t.unprunable_reason is None]


def crc_of_zeros(length: int) -> int:
    """Return the CRC-32 of `length` zero bytes without allocating them."""
    crc, done = zlib.crc32(bytes(length % 4096)), length % 4096
    block, size, blocks = zlib.crc32(bytes(4096)), 4096, length // 4096
    while blocks:
        if blocks & 1:
            crc, done = combine(crc, block, size), done + size
        block, size, blocks = combine(block, block, size), 2 * size, blocks >> 1
    assert done == length
    return crc


def end_record(path: Path, name: str, tail: bytes) -> None:
    """Write `tail` at the end of a record of zeros, and the new checksum at each of its places."""
    with path.open("r+b") as file:
        record = read_records(file, str(path))[name]
        crc = combine(crc_of_zeros(record.span.length - len(tail)), zlib.crc32(tail), len(tail))
        for place, content in [
            (record.span.end - len(tail), tail),
            *((p, crc.to_bytes(4, "little")) for p in record.places),
        ]:
            file.seek(place)
            file.write(content)


@pytest.mark.slow
def test_a_record_over_4_gib(tmp_path: Path) -> None:
    """A weight at the end of a storage of more than 4 GiB is pruned, and both copies of the checksum are right."""
    if shutil.disk_usage(tmp_path).free < 12 << 30:
        pytest.skip("needs 12 GiB of free disk space")
    path, output = tmp_path / "m.pth", tmp_path / "o.pth"
    w = torch.randn(250, 4, generator=torch.Generator().manual_seed(0))
    with torch.serialization.skip_data():  # the file is sparse and takes no disk space
        torch.save({"a.weight": torch.empty((1 << 30) + 1000)[-1000:].view(250, 4), "b": torch.empty(3)}, path)
    end_record(path, "m/data/0", w.numpy().tobytes())
    end_record(path, "m/data/1", b"")
    after = zeroed(w, w.abs() > 0.5)

    prune(path, Threshold(0.5), output=output, reports=())

    with output.open("rb") as file:
        record = read_records(file, str(output))["m/data/0"]
        fields = [file.seek(place) and int.from_bytes(file.read(4), "little") for place in record.places]
    tail = after.numpy().tobytes()
    crc = combine(crc_of_zeros(record.span.length - len(tail)), zlib.crc32(tail), len(tail))
    loaded = torch.load(output, weights_only=True, mmap=True)["a.weight"].clone()
    output.unlink()
    assert fields == [crc, crc]
    assert torch.equal(bits(after), bits(loaded))


def test_sparse_tensors_are_listed_and_kept(tmp_path: Path) -> None:
    """A sparse tensor is listed by kind and not changed when the other tensors are pruned."""
    w = torch.randn(6, 6, generator=torch.Generator().manual_seed(0))
    value = {"w.weight": w, "s.weight": w.to_sparse(), "n": pickle.dumps(1)}
    torch.save(value, tmp_path / "m.pth")

    prune(tmp_path / "m.pth", Threshold(0.5), output=tmp_path / "o.pth", reports=())

    loaded = torch.load(tmp_path / "o.pth", weights_only=True)
    assert dict(open_checkpoint(tmp_path / "m.pth").unprunable_entries) == {"s.weight": "sparse tensor"}
    assert torch.equal(zeroed(w, w.abs() > 0.5), loaded["w.weight"])
    assert torch.equal(w, loaded["s.weight"].to_dense())
