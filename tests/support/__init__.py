"""What the promise tests share: one model's weights in every container, every strategy, and the answers by torch.

`CONTAINERS` write the same weights; `STRATEGIES` are what is tried on each. `expected` says which weights stay in a few
lines of torch and NumPy that know nothing of this package; `read` loads a result as its users do.
"""

from __future__ import annotations

import json
import math
import zipfile
from argparse import Namespace
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from prunecli.api import prune
from prunecli.strategies.semi_structured import TopK
from prunecli.strategies.unstructured import (
    L1,
    Block,
    Global,
    Percentile,
    StdThreshold,
    Strategy,
    Structured,
    Threshold,
)
from support.paths import DEMO, ROOT, SCRIPTS, SHARED
from support.profiles import examples

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

__all__ = ["DEMO", "ROOT", "SCRIPTS", "SHARED", "examples"]

INTS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}

Weights = dict[str, torch.Tensor]


class Net(nn.Module):
    """A small model with kernels, embeddings, LSTM matrices, biases and an integer buffer."""

    def __init__(self, *, tied: bool = False) -> None:
        """Make the layers; with `tied`, also a head that shares its matrix with the embedding."""
        super().__init__()
        self.conv = nn.Conv2d(5, 6, 3)
        self.norm = nn.BatchNorm2d(6)
        self.embed = nn.Embedding(37, 33)
        self.lstm = nn.LSTM(33, 9)
        self.fc = nn.Linear(130, 34)
        if tied:
            self.head = nn.Linear(33, 37, bias=False)
            self.head.weight = self.embed.weight


def make_weights(seed: int = 0, dtype: torch.dtype = torch.float32) -> Weights:
    """Return the state_dict of a `Net`, the same for the same seed, with its floats as `dtype`."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(t.shape, generator=generator).mul_(0.1).to(dtype) if t.is_floating_point() else t + 7
        for name, t in Net().state_dict().items()
    }


# --- strategies

STRATEGIES: dict[str, Strategy] = {
    "threshold": Threshold(0.05),
    "thr-std": StdThreshold(0.5),
    "percentile": Percentile(60),
    "global-amount": Global(amount=0.5),
    "global-count": Global(count=10),
    "topk-2-of-4": TopK(2, 4),
    "topk-2-of-7": TopK(2, 7),
    "topk-2-of-7-zero-tail": TopK(2, 7, tail="zero"),
    "topk-last-dim": TopK(1, 3, dim=-1),
    "topk-dim-0": TopK(2, 4, dim=0),
    "topk-8-of-32": TopK(8, 32),
    "l1": L1(amount=0.3),
    "l1-row": L1(amount=0.3, scope="row"),
    "structured-l2": Structured(amount=0.25),
    "structured-l1-dim-1": Structured(amount=0.4, dim=1, n=1),
    "structured-inf-last-dim": Structured(count=1, dim=-1, n=math.inf),
    "structured-minus-inf": Structured(amount=0.5, n=-math.inf),
    "block-4x4": Block(4, 4, amount=0.5),
    "block-1x3": Block(1, 3, count=2),
}


def expected(strategy: Strategy, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Return, per tensor in checkpoint order, a bool tensor: True where the weight survives."""
    if isinstance(strategy, Global):
        return _keep_global(strategy, tensors)
    return [_keep_one(strategy, t) for t in tensors]


def _keep_one(strategy: Strategy, t: torch.Tensor) -> torch.Tensor:  # noqa: PLR0911 - a case per strategy
    magnitude = t.float().abs() if t.element_size() == 1 else t.abs()
    if isinstance(strategy, Threshold):
        return ~(magnitude <= strategy.thr)
    if isinstance(strategy, StdThreshold):
        return ~(magnitude <= strategy.deviations * t.double().std().item())
    if isinstance(strategy, Percentile):
        wide = (magnitude if t.dtype == torch.float64 else magnitude.float()).numpy()
        return torch.from_numpy(~(wide <= np.percentile(wide, strategy.q)))
    if isinstance(strategy, L1):
        rows = magnitude.reshape(t.shape[0] if strategy.scope == "row" else 1, -1)
        return torch.stack([_without_lowest(row, strategy) for row in rows]).reshape(t.shape)
    if isinstance(strategy, Structured):
        slices = magnitude.double().movedim(strategy.dim, 0).flatten(1)
        keep = _without_lowest(torch.linalg.vector_norm(slices, strategy.n, dim=1), strategy)
        return (
            keep[:, None]
            .expand(slices.shape)
            .reshape(magnitude.movedim(strategy.dim, 0).shape)
            .movedim(0, strategy.dim)
        )
    if isinstance(strategy, Block):
        return _keep_tiles(strategy, magnitude)
    if not isinstance(strategy, TopK):
        raise TypeError(strategy)
    return _keep_groups(strategy, magnitude)


def _without_lowest(scores: torch.Tensor, asked: L1 | Structured | Block) -> torch.Tensor:
    """Return True for all but the k lowest of a row of scores; of equals the first go first."""
    k = round((asked.amount or 0) * len(scores)) if asked.count is None else asked.count
    keep = torch.ones(len(scores), dtype=torch.bool)
    keep[torch.sort(scores, stable=True).indices[:k]] = False
    return keep


def _keep_tiles(strategy: Block, magnitude: torch.Tensor) -> torch.Tensor:
    matrix = magnitude.double().flatten(1)
    bands = [torch.split(band, strategy.cols, dim=1) for band in torch.split(matrix, strategy.rows)]
    means = torch.stack([tile.square().mean().sqrt() for band in bands for tile in band])
    keep = _without_lowest(means, strategy).reshape(len(bands), -1)
    wide = keep.repeat_interleave(strategy.rows, 0).repeat_interleave(strategy.cols, 1)
    return wide[: matrix.shape[0], : matrix.shape[1]].reshape(magnitude.shape)


def _keep_groups(strategy: TopK, magnitude: torch.Tensor) -> torch.Tensor:
    rows = magnitude.movedim(strategy.dim, -1).contiguous()
    keep = torch.zeros(rows.shape, dtype=torch.bool)
    for at in range(0, rows.shape[-1], strategy.group):
        group = rows[..., at : at + strategy.group]
        if strategy.tail == "zero" and group.shape[-1] < strategy.group:
            continue
        best = torch.sort(group, dim=-1, descending=True, stable=True).indices[..., : strategy.count]
        keep[..., at : at + strategy.group].scatter_(-1, best, value=True)
    return keep.movedim(-1, strategy.dim)


def _keep_global(strategy: Global, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    scores = torch.cat([t.double().abs().reshape(-1) for t in tensors])
    k = round((strategy.amount or 0) * len(scores)) if strategy.count is None else strategy.count
    keep = torch.ones(len(scores), dtype=torch.bool)
    keep[torch.sort(scores, stable=True).indices[:k]] = False
    parts = torch.split(keep, [t.numel() for t in tensors])
    return [part.reshape(t.shape) for part, t in zip(parts, tensors, strict=True)]


def zeroed(t: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    """Return `t` with +0.0 where `keep` is False and every other bit as it was."""
    return torch.where(keep, bits(t), 0).view(t.dtype)


def bits(t: torch.Tensor) -> torch.Tensor:
    """Return the patterns of `t` as integers, in a contiguous tensor of its shape."""
    return t.detach().contiguous().view(INTS[t.element_size()])


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Say whether two tensors have one dtype, one shape, and the same bits."""
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(bits(a), bits(b))


def different(wanted: Weights, found: Weights) -> list[str]:
    """Name the tensors whose bits are not those wanted."""
    assert list(wanted) == list(found)
    return [n for n, t in wanted.items() if not same_bits(t, found[n])]


# --- containers


@dataclass(frozen=True, slots=True)
class Container:
    """A way to store the weights: `write` takes a folder and the weights, and returns what to open.

    `prefix` is put before every name and `key` is where the state_dict is. `by_name` says whether the checkpoint
    order is that of the names; `tied` whether it has a head tied to the embedding.
    """

    write: Callable[[Path, Weights], Path]
    prefix: str = ""
    key: str = ""
    by_name: bool = False
    tied: bool = False


def _save(name: str, arrange: Callable[[Weights], object], folder: Path, weights: Weights, **options: Any) -> Path:  # noqa: ANN401
    torch.save(arrange(weights), folder / name, **options)
    return folder / name


def _safetensors(folder: Path, weights: Weights) -> Path:
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt", "note": "kept"})
    return folder / "model.safetensors"


def _shards(stem: str, suffix: str, folder: Path, weights: Weights) -> Path:
    """Deal the tensors to three shards in turn, with the index and other files that transformers writes."""
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


def _turned(weights: Weights) -> Weights:
    """Store matrices column by column and kernels channels last."""
    return {name: _turn(t) for name, t in weights.items()}


def _turn(t: torch.Tensor) -> torch.Tensor:
    if t.dim() == 4:
        return t.contiguous(memory_format=torch.channels_last)
    return t.T.contiguous().T if t.dim() == 2 else t


def _one_storage(weights: Weights) -> Weights:
    """Make all floats views of one long storage."""
    floats = {name: t for name, t in weights.items() if t.is_floating_point()}
    storage = torch.cat([t.reshape(-1) for t in floats.values()])
    parts = torch.split(storage, [t.numel() for t in floats.values()])
    return weights | {name: part.view(floats[name].shape) for name, part in zip(floats, parts, strict=True)}


def _sliced(weights: Weights) -> Weights:
    """Make every tensor with dimensions a view that leaves out the ends of each row of a larger one."""
    return {name: _slice(t) for name, t in weights.items()}


def _slice(t: torch.Tensor) -> torch.Tensor:
    if t.dim() == 0:
        return t
    base = torch.full((*t.shape[:-1], t.shape[-1] + 5), 3).to(t.dtype)
    view = base[..., 2:-3]
    view.copy_(t)
    return view


def _big_endian(folder: Path, weights: Weights) -> Path:
    """Write the archive as a big-endian machine would: torch itself cannot be asked to."""
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


def _plain(weights: Weights) -> Weights:
    return weights


_save_old = partial(_save, _use_new_zipfile_serialization=False)

CONTAINERS: dict[str, Container] = {
    "safetensors": Container(_safetensors, by_name=True),
    "safetensors-shards": Container(partial(_shards, "model", ".safetensors"), by_name=True),
    "zip": Container(partial(_save, "model.pth", _plain)),
    "nested": Container(partial(_save, "model.pth", _nested), key="state_dict"),
    "lightning": Container(partial(_save, "model.ckpt", _lightning), prefix="model.", key="state_dict"),
    "ddp": Container(partial(_save, "model.pt", partial(_prefixed, "module.")), prefix="module."),
    "legacy": Container(partial(_save_old, "model.pth", _plain)),
    "legacy-nested": Container(partial(_save_old, "model.pth.tar", _nested), key="state_dict"),
    "bin-shards": Container(partial(_shards, "pytorch_model", ".bin"), by_name=True),
    "tied": Container(partial(_save, "model.pth", _tied), tied=True),
    "legacy-tied": Container(partial(_save_old, "model.pth", _tied), tied=True),
    "non-contiguous": Container(partial(_save, "model.pth", _turned)),
    "legacy-non-contiguous": Container(partial(_save_old, "model.pth", _turned)),
    "one-storage": Container(partial(_save, "model.pth", _one_storage)),
    "sliced": Container(partial(_save, "model.pth", _sliced)),
    "legacy-sliced": Container(partial(_save_old, "model.pth", _sliced)),
    "protocol-4": Container(partial(_save, "model.pth", _plain, pickle_protocol=4)),
    "big-endian": Container(_big_endian),
}


def make_checkpoint(container: str, folder: Path, weights: Weights | None = None) -> Path:
    """Write the weights (None: `make_weights()`) in a `container` into `folder`, and return what to open."""
    return CONTAINERS[container].write(folder, make_weights() if weights is None else weights)


# --- reading back


def files(path: Path) -> list[Path]:
    """Return the file, or every file below the directory, in name order."""
    return [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())


def shards(path: Path) -> list[Path]:
    """Return the files that hold tensors."""
    return [p for p in files(path) if p.suffix in {".safetensors", ".bin", ".pth", ".pt", ".ckpt", ".tar", ".th"}]


def read(path: Path) -> Any:  # noqa: ANN401 - whatever was saved
    """Load a file with the library that wrote it, or all the shards of a directory as one dict."""
    if path.is_dir():
        return {name: t for shard in shards(path) for name, t in read(shard).items()}
    if path.suffix == ".safetensors":
        return load_file(path)
    return torch.load(path, weights_only=False, map_location="cpu")


def state_dict(container: str, loaded: Any) -> Weights:  # noqa: ANN401 - whatever was saved
    """Return the state_dict of what `read` returned, in checkpoint order and without the container's prefix."""
    how = CONTAINERS[container]
    found: Weights = loaded[how.key] if how.key else loaded
    names: Iterable[str] = sorted(found) if how.by_name else found
    return {name.removeprefix(how.prefix): found[name] for name in names}


def chosen(weights: Mapping[str, torch.Tensor]) -> list[str]:
    """Return the names of the weights that are pruned when nothing is asked: no biases, no tied names."""
    return [
        n for n, t in weights.items() if "weight" in n and t.dim() > 1 and t.is_floating_point() and n != "head.weight"
    ]


def pruned_weights(strategy: Strategy, weights: Weights) -> Weights:
    """Return what `weights`, in checkpoint order, must be after `strategy`."""
    names = chosen(weights)
    keeps = expected(strategy, [weights[n] for n in names])
    after = weights | {n: zeroed(weights[n], keep) for n, keep in zip(names, keeps, strict=True)}
    return after | {"head.weight": after["embed.weight"]} if "head.weight" in weights else after


def prune_tensors(weights: Weights, strategy: Strategy, folder: Path) -> Weights:
    """Return what `strategy` makes of `weights`, all of them, stored as torch does in `folder`."""
    path, output = folder / "in.pth", folder / "out.pth"
    torch.save(weights, path)
    prune(path, strategy, output=output, reports=(), include=("*",), force=True)
    found: Weights = torch.load(output, weights_only=True)
    return found
