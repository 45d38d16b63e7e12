"""Every checkpoint people really have: nested ones, those of trainers, huge ones, and the formats that are refused."""

from __future__ import annotations

import argparse
import enum
import io
import pathlib
import pickle
import shutil
import tarfile
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
from prunecli.errors import CheckpointError
from prunecli.formats.open import open_checkpoint
from prunecli.formats.zip.directory import read_records
from prunecli.io.crc32 import combine
from prunecli.strategies.unstructured import Threshold

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

THRESHOLD = 0.2


class Net(nn.Module):
    """Two layers that share one matrix, and a buffer."""

    def __init__(self) -> None:
        """Make the layers, the same each time."""
        super().__init__()
        torch.manual_seed(0)
        self.fc = nn.Linear(8, 6)
        self.body = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 6, bias=False))
        self.body[2].weight = self.fc.weight
        self.register_buffer("steps", torch.arange(3))


class Stage(enum.Enum):
    """An option as people keep them in checkpoints."""

    LATE = "late"


class OwnOptimizer:
    """An optimizer of a class that no library has."""

    def __init__(self, net: nn.Module) -> None:
        """Keep parameters and moments, as objects."""
        self.groups = [{"params": list(net.parameters()), "lr": np.float64(0.1)}]
        self.moments = {0: torch.ones(8, 8)}


def extras(net: nn.Module) -> dict[str, Any]:
    """Return what people keep beside the weights, of the kinds that torch.load refuses by itself."""
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
    """Return what a Lightning trainer keeps."""
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
    """Return what a timm trainer keeps, with an EMA copy."""
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
def test_whatever_is_saved_is_pruned(tmp_path: Path, kind: str, options: dict[str, Any]) -> None:
    """The weights are found in what people save, and it loads again with just those pruned."""
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


def test_copies_and_optimizers_stay_as_they_are(tmp_path: Path) -> None:
    """EMA copies, callbacks and optimizer state are no weights, unless --key names them."""
    for number, make in enumerate((timm, lightning)):
        path = tmp_path / f"{number}.pth"
        torch.save(make(Net()), path)
        outside = [t.name for t in open_checkpoint(path).tensors if t.unprunable_reason == OUTSIDE]
        assert outside
        assert all(n.startswith(("state_dict_ema.", "callbacks.", "optimizer_states.")) for n in outside)

    ema = open_checkpoint(tmp_path / "0.pth", key="state_dict_ema")

    assert {n for n, t in Net().state_dict().items()} == {t.name for t in ema.tensors if t.unprunable_reason is None}


# --- large ones


def test_more_records_than_zip_counts_to(tmp_path: Path) -> None:
    """A file of 66,000 records, which need a zip64 directory, is pruned, and the checksums of the output fit."""
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


def test_fifty_thousand_tensors_open(tmp_path: Path) -> None:
    """The limits that bound hostile files are far above what an honest checkpoint of 50,000 tensors needs."""
    rows = torch.zeros(50_000, 1)
    weights = {f"layers.{i}.weight": row for i, row in enumerate(rows)}
    torch.save({"model": weights, "ema": weights, "state": list(weights.values())}, tmp_path / "m.pth")

    found = open_checkpoint(tmp_path / "m.pth")

    assert list(weights) == [t.name for t in found.tensors if t.unprunable_reason is None]


def crc_of_zeros(length: int) -> int:
    """Return the CRC-32 of `length` zero bytes, without making them."""
    crc, done = zlib.crc32(bytes(length % 4096)), length % 4096
    block, size, blocks = zlib.crc32(bytes(4096)), 4096, length // 4096
    while blocks:
        if blocks & 1:
            crc, done = combine(crc, block, size), done + size
        block, size, blocks = combine(block, block, size), 2 * size, blocks >> 1
    assert done == length
    return crc


def end_record(path: Path, name: str, tail: bytes) -> None:
    """Put `tail` at the end of a record of zeros, and its checksum in each of its places."""
    with path.open("r+b") as file:
        record = read_records(file, str(path))[name]
        crc = combine(crc_of_zeros(record.span.length - len(tail)), zlib.crc32(tail), len(tail))
        for place, content in [
            (record.span.end - len(tail), tail),
            *((p, crc.to_bytes(4, "little")) for p in record.places),
        ]:
            file.seek(place)
            file.write(content)


def test_a_record_over_4_gib(tmp_path: Path) -> None:
    """A weight at the end of a storage of more than 4 GiB is pruned, and the checksum is right in both its places."""
    if shutil.disk_usage(tmp_path).free < 12 << 30:
        pytest.skip("the disk has no room for 4 GiB twice and to spare")
    path, output = tmp_path / "m.pth", tmp_path / "o.pth"
    w = torch.randn(250, 4, generator=torch.Generator().manual_seed(0))
    with torch.serialization.skip_data():  # the file is one hole, and takes no room
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


# --- what is refused, by name


def keras() -> bytes:
    """Return the head of a .keras archive."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("metadata.json", "{}")
        archive.writestr("model.weights.h5", b"\x89HDF\r\n\x1a\n")
    return buffer.getvalue()


def tar_era() -> bytes:
    """Return what torch 0.1 wrote: a tar of pickles and storages."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:") as archive:
        for name in ("sys_info", "storages", "tensors", "pickle"):
            archive.addfile(tarfile.TarInfo(name), io.BytesIO(b""))
    return buffer.getvalue()


def npz() -> bytes:
    """Return arrays as numpy.savez writes them."""
    buffer = io.BytesIO()
    np.savez(buffer, weight=np.ones((3, 3)))
    return buffer.getvalue()


FILES = {
    "m.gguf": (b"GGUF\3\0\0\0" + bytes(64), "a GGUF model", "convert again"),
    "m.onnx": (b"\x08\x0a\x12\x07pytorch\x1a\x052.13." + bytes(64), "an ONNX model", "export again"),
    "m.h5": (b"\x89HDF\r\n\x1a\n" + bytes(64), "an HDF5 file, perhaps of Keras", "safetensors"),
    "m.keras": (keras(), "a Keras archive", "safetensors"),
    "m.npz": (npz(), "a NumPy .npz archive", "safetensors"),
    "m.pdiparams": (bytes(16) + b"\x09\0\0\0\x08\x05\x10\x20" + bytes(64), "exported Paddle model", "export again"),
    "m.tflite": (b"\x1c\0\0\0TFL3" + bytes(64), "a TensorFlow Lite model", "convert again"),
    "old.pth": (tar_era(), "a tar archive of torch 0.1", "torch.save again"),
    "other.tar": (b"x" * 257 + b"ustar" + bytes(250), "a tar archive", "tar -xf"),
}


@pytest.mark.parametrize("name", FILES)
def test_files_of_other_kinds_are_named(tmp_path: Path, name: str) -> None:
    """A file of another library is refused with what it is and what to do about it."""
    data, what, hint = FILES[name]
    (tmp_path / name).write_bytes(data)

    with pytest.raises(CheckpointError, match=what) as caught:
        open_checkpoint(tmp_path / name)

    assert hint in str(caught.value.hint)


FOLDERS = {
    "DCP": ([".metadata", "__0_0.distcp"], "a distributed checkpoint", "dcp_to_torch"),
    "SavedModel": (["saved_model.pb", "variables.index"], "a TensorFlow SavedModel", "safetensors"),
    "TensorFlow": (["checkpoint", "m.ckpt-1.index", "m.ckpt-1.data-00000-of-00001"], "TensorFlow", "safetensors"),
    "DeepSpeed": (["zero_to_fp32.py", "latest"], "a DeepSpeed checkpoint", "deepspeed.utils.zero_to_fp32"),
}


@pytest.mark.parametrize("kind", FOLDERS)
def test_directories_of_other_kinds_are_named(tmp_path: Path, kind: str) -> None:
    """A directory of another library is refused with what it is and, where there is one, the command that converts."""
    names, what, hint = FOLDERS[kind]
    for name in names:
        (tmp_path / name).write_bytes(b"x")

    with pytest.raises(CheckpointError, match=what) as caught:
        open_checkpoint(tmp_path)

    assert hint in str(caught.value.hint)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_real_distributed_checkpoint_is_named(tmp_path: Path) -> None:
    """What torch.distributed.checkpoint writes is recognised, as a directory and by each of its files."""
    from torch.distributed.checkpoint.state_dict_saver import save

    save({"fc.weight": torch.ones(4, 4)}, checkpoint_id=tmp_path, no_dist=True)

    for path in (tmp_path, tmp_path / ".metadata", next(tmp_path.glob("*.distcp"))):
        with pytest.raises(CheckpointError, match="distributed checkpoint") as caught:
            open_checkpoint(path)
        assert f"dcp_to_torch {tmp_path}" in str(caught.value.hint)


def test_sparse_and_quantized_tensors_are_named(tmp_path: Path) -> None:
    """Tensors that are no plain numbers are listed as what they are, and the file is pruned around them."""
    w = torch.randn(6, 6, generator=torch.Generator().manual_seed(0))
    value = {"w.weight": w, "s.weight": w.to_sparse(), "n": pickle.dumps(1)}
    torch.save(value, tmp_path / "m.pth")

    prune(tmp_path / "m.pth", Threshold(0.5), output=tmp_path / "o.pth", reports=())

    loaded = torch.load(tmp_path / "o.pth", weights_only=True)
    assert dict(open_checkpoint(tmp_path / "m.pth").unprunable_entries) == {"s.weight": "sparse tensor"}
    assert torch.equal(zeroed(w, w.abs() > 0.5), loaded["w.weight"])
    assert torch.equal(w, loaded["s.weight"].to_dense())
