"""The same weights in every container: safetensors, shards, torch's formats, and views that share storage."""

from __future__ import annotations

import json
import zipfile
from argparse import Namespace
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import save_file

from support.distributed_checkpoints import mixed, rows, save_distributed
from support.foreign import write_gguf, write_hdf5, write_onnx
from support.weights import Weights, make_weights

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.distributed_checkpoints import Cut


@dataclass(frozen=True, slots=True)
class Container:
    """A way to store the weights: `write` takes a folder and the weights, and returns the path to open.

    `prefix` is put before every name, and `key` leads to the state_dict. With `by_name`, checkpoint order is the order
    of the names. With `tied`, a head shares its weight with the embedding. `library` writes and reads it. Only CI tries
    a `slow` one with every strategy.
    """

    write: Callable[[Path, Weights], Path]
    prefix: str = ""
    key: str = ""
    by_name: bool = False
    tied: bool = False
    library: str = "torch"
    slow: bool = False


def _save(name: str, arrange: Callable[[Weights], object], folder: Path, weights: Weights, **options: Any) -> Path:  # noqa: ANN401
    torch.save(arrange(weights), folder / name, **options)
    return folder / name


def _safetensors(folder: Path, weights: Weights) -> Path:
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt", "note": "kept"})
    return folder / "model.safetensors"


def _shards(stem: str, suffix: str, folder: Path, weights: Weights) -> Path:
    """Write the tensors to three shards in turn, with the index and other files that transformers writes."""
    names = [f"{stem}-{i + 1:05}-of-00003{suffix}" for i in range(3)]
    shards = {name: dict(list(weights.items())[i::3]) for i, name in enumerate(names)}
    root = folder / "model"
    (root / "tokenizer").mkdir(parents=True)
    for name, shard in shards.items():
        if suffix == ".bin":
            torch.save(shard, root / name)
        else:
            save_file(shard, root / name, metadata={"format": "pt"})
    index = {"metadata": {"total_size": 1}, "weight_map": {t: name for name in names for t in shards[name]}}
    (root / f"{stem}{suffix}.index.json").write_text(json.dumps(index, indent=2))
    (root / "config.json").write_text('{"model_type": "net"}\n')
    (root / "tokenizer" / "vocab.txt").write_bytes(b"[PAD]\n[UNK]\n")
    return root


def _nested(weights: Weights) -> dict[str, object]:
    momenta = {i: {"momentum_buffer": t * 0.1} for i, t in enumerate(weights.values()) if t.is_floating_point()}
    groups = [{"lr": 0.1, "params": list(momenta)}]
    optimizer = {"state": momenta, "param_groups": groups}
    return {"epoch": 3, "state_dict": weights, "optimizer": optimizer, "args": Namespace(lr=0.1, arch="net")}


def _lightning(weights: Weights) -> dict[str, object]:
    return {
        "epoch": 1,
        "global_step": 10,
        "pytorch-lightning_version": "2.1.0",
        "state_dict": _prefixed("model.", weights),
        "callbacks": {},
        "optimizer_states": [],
        "hyper_parameters": {"lr": 0.1},
    }


def _prefixed(prefix: str, weights: Weights) -> Weights:
    return {prefix + name: t for name, t in weights.items()}


def _tied(weights: Weights) -> Weights:
    return {**weights, "head.weight": weights["embed.weight"]}


def transposed(weights: Weights) -> Weights:
    """Store matrices in column-major order and convolution kernels channels last."""
    return {name: _transpose(t) for name, t in weights.items()}


def _transpose(t: torch.Tensor) -> torch.Tensor:
    if t.dim() == 4:
        return t.contiguous(memory_format=torch.channels_last)
    return t.T.contiguous().T if t.dim() == 2 else t


def one_storage(weights: Weights) -> Weights:
    """Make all float tensors views of one storage."""
    floats = {name: t for name, t in weights.items() if t.is_floating_point()}
    storage = torch.cat([t.reshape(-1) for t in floats.values()])
    parts = torch.split(storage, [t.numel() for t in floats.values()])
    return weights | {name: part.view(floats[name].shape) for name, part in zip(floats, parts, strict=True)}


def sliced(weights: Weights) -> Weights:
    """Make each tensor a view into a larger one, without the ends of its rows; scalars stay as they are."""
    return {name: _slice(t) for name, t in weights.items()}


def _slice(t: torch.Tensor) -> torch.Tensor:
    if t.dim() == 0:
        return t
    base = torch.full((*t.shape[:-1], t.shape[-1] + 5), 3).to(t.dtype)
    view = base[..., 2:-3]
    view.copy_(t)
    return view


def _big_endian(folder: Path, weights: Weights) -> Path:
    """Write the archive that torch writes on a big-endian machine; torch has no option for it."""
    little, big = folder / "little.pth", folder / "model.pth"
    torch.save(weights, little)
    sizes = [t.element_size() for t in weights.values()]
    with zipfile.ZipFile(little) as source, zipfile.ZipFile(big, "w") as target:
        for name in source.namelist():
            data, parts = source.read(name), name.split("/")
            if parts[1] == "byteorder":
                data = b"big"
            if parts[1] == "data":
                data = np.frombuffer(data, f"<u{sizes[int(parts[2])]}").byteswap().tobytes()
            target.writestr(name, data)
    little.unlink()
    return big


def _npz(folder: Path, weights: Weights) -> Path:
    np.savez(folder / "model.npz", **{name: t.numpy() for name, t in weights.items()})
    return folder / "model.npz"


def _npz_of_other_order(folder: Path, weights: Weights) -> Path:
    """Write arrays in column-major order and big-endian, as numpy.savez writes transposes and big-endian arrays."""
    arrays = {name: np.array(t.numpy(), order="F") for name, t in weights.items()}
    np.savez(folder / "model.npz", **{name: a.astype(a.dtype.newbyteorder(">")) for name, a in arrays.items()})
    return folder / "model.npz"


def _gguf(folder: Path, weights: Weights) -> Path:
    return write_gguf(folder / "model.gguf", {name: t.numpy() for name, t in weights.items()})


def _distributed(layout: str, cuts: Callable[[str, torch.Tensor], list[Cut]], folder: Path, weights: Weights) -> Path:
    """Write a distributed checkpoint of 3 ranks, with the state of an optimizer, and a configuration."""
    momenta = {name: {"exp_avg": t * 0.1, "step": 7} for name, t in weights.items() if t.is_floating_point()}
    state = {"model": weights, "optim": {"state": momenta, "lr": 0.1}, "epoch": 3}
    root = save_distributed(folder / "model", state, cuts, layout=layout, ranks=3)
    (root / "config.json").write_text('{"model_type": "net"}\n')
    return root


def _onnx(folder: Path, weights: Weights) -> Path:
    return write_onnx(folder / "model.onnx", {name: t.numpy() for name, t in weights.items()})


def _onnx_with_data(folder: Path, weights: Weights) -> Path:
    """Write the numbers of all tensors into a file next to the model."""
    (folder / "model").mkdir()
    path = folder / "model" / "model.onnx"
    write_onnx(path, {name: t.numpy() for name, t in weights.items()}, data="model.onnx.data")
    return path.parent


def _hdf5(folder: Path, weights: Weights) -> Path:
    return write_hdf5(folder / "model.h5", {name: t.numpy() for name, t in weights.items()})


def _plain(weights: Weights) -> Weights:
    return weights


_save_old = partial(_save, _use_new_zipfile_serialization=False)

CONTAINERS: dict[str, Container] = {
    "safetensors": Container(_safetensors, by_name=True, library="safetensors"),
    "safetensors-shards": Container(partial(_shards, "model", ".safetensors"), by_name=True, library="safetensors"),
    "zip": Container(partial(_save, "model.pth", _plain)),
    "nested": Container(partial(_save, "model.pth", _nested), key="state_dict"),
    "lightning": Container(partial(_save, "model.ckpt", _lightning), prefix="model.", key="state_dict"),
    "ddp": Container(partial(_save, "model.pt", partial(_prefixed, "module.")), prefix="module."),
    "legacy": Container(partial(_save_old, "model.pth", _plain)),
    "legacy-nested": Container(partial(_save_old, "model.pth.tar", _nested), key="state_dict"),
    "bin-shards": Container(partial(_shards, "pytorch_model", ".bin"), by_name=True),
    "tied": Container(partial(_save, "model.pth", _tied), tied=True),
    "legacy-tied": Container(partial(_save_old, "model.pth", _tied), tied=True),
    "non-contiguous": Container(partial(_save, "model.pth", transposed)),
    "legacy-non-contiguous": Container(partial(_save_old, "model.pth", transposed)),
    "one-storage": Container(partial(_save, "model.pth", one_storage)),
    "sliced": Container(partial(_save, "model.pth", sliced)),
    "legacy-sliced": Container(partial(_save_old, "model.pth", sliced)),
    "protocol-4": Container(partial(_save, "model.pth", _plain, pickle_protocol=4)),
    "big-endian": Container(_big_endian),
    "dcp": Container(partial(_distributed, "torch", mixed), key="model", library="dcp"),
    "dcp-safetensors": Container(partial(_distributed, "safetensors", rows(2)), key="model", library="dcp"),
    "npz": Container(_npz, library="numpy"),
    "npz-of-other-order": Container(_npz_of_other_order, library="numpy", slow=True),
    "gguf": Container(_gguf, library="gguf"),
    "hdf5": Container(_hdf5, by_name=True, library="h5py"),
    "onnx": Container(_onnx, library="onnx"),
    "onnx-with-data": Container(_onnx_with_data, by_name=True, library="onnx", slow=True),
}

FOLDABLE = [name for name, container in CONTAINERS.items() if container.library in {"torch", "safetensors"}]
"""The containers that can hold the masks of torch.nn.utils.prune."""


def make_checkpoint(container: str, folder: Path, weights: Weights | None = None) -> Path:
    """Write the weights (default: `make_weights()`) in a container into `folder`, and return the path to open."""
    return CONTAINERS[container].write(folder, make_weights() if weights is None else weights)
