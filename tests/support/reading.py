"""Results loaded as users load them: with torch or safetensors, not with this package."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file

from prunecli.api import prune
from support.containers import CONTAINERS
from support.distributed_checkpoints import is_distributed, read_distributed
from support.foreign import READERS

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from prunecli.strategies.strategy import Strategy
    from support.weights import Weights


def files(path: Path) -> list[Path]:
    """Return the file, or every file below the directory, in name order."""
    return [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())


def shards(path: Path) -> list[Path]:
    """Return the files that hold tensors."""
    torch_suffixes = {".bin", ".pth", ".pt", ".ckpt", ".tar", ".th"}
    return [p for p in files(path) if p.suffix in {".safetensors", *torch_suffixes, *READERS}]


def read(path: Path) -> Any:  # noqa: ANN401 - whatever was saved
    """Load a file with the library that wrote it; load the shards of a directory as one dict."""
    if path.is_dir() and is_distributed(path):
        return read_distributed(path)
    if path.is_dir():
        return {name: t for shard in shards(path) for name, t in read(shard).items()}
    if path.suffix == ".safetensors":
        return load_file(path)
    if path.suffix in READERS:
        return READERS[path.suffix](path)
    return torch.load(path, weights_only=False, map_location="cpu")


def state_dict(container: str, loaded: Any) -> Weights:  # noqa: ANN401 - whatever was saved
    """Return the state_dict in a value from `read`, in checkpoint order and without the container's prefix."""
    layout = CONTAINERS[container]
    weights: Weights = loaded[layout.key] if layout.key else loaded
    names: Iterable[str] = sorted(weights) if layout.by_name else weights
    return {name.removeprefix(layout.prefix): weights[name] for name in names}


def prune_tensors(weights: Weights, strategy: Strategy, folder: Path) -> Weights:
    """Save all `weights` with torch in `folder`, prune every one by `strategy`, and return the result."""
    path, output = folder / "in.pth", folder / "out.pth"
    torch.save(weights, path)
    prune(path, strategy, output=output, reports=(), include=("*",), min_dim=0, force=True)
    pruned: Weights = torch.load(output, weights_only=True)
    return pruned
