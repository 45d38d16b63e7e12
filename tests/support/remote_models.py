"""Small models for the servers of `support.servers`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file

if TYPE_CHECKING:
    from pathlib import Path


def save_model(path: Path, layers: int = 2, *, rows: int = 64, first: int = 0) -> Path:
    """Write a safetensors file of some matrices, and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {f"layers.{first + i}.weight": torch.randn(rows, 256) for i in range(layers)}
    save_file(tensors, path)
    return path


def save_shards(folder: Path, *, rows: int = 64) -> Path:
    """Write a model of two shards with an index, a configuration and another copy of the weights."""
    names = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    for number, name in enumerate(names):
        save_model(folder / name, rows=rows, first=2 * number)
    weights = {f"layers.{layer}.weight": names[layer // 2] for layer in range(4)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weights}))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (folder / "pytorch_model.bin").write_bytes(bytes(1000))
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "vocab.txt").write_text("a\nb\n")
    return folder


def contents(path: Path) -> dict[str, bytes]:
    """Return the bytes of each file of a folder by its name, or those of one file."""
    if path.is_file():
        return {"": path.read_bytes()}
    return {one.relative_to(path).as_posix(): one.read_bytes() for one in path.rglob("*") if one.is_file()}
