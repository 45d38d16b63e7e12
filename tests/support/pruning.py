"""Pruning a few tensors as a safetensors file."""

from __future__ import annotations

from math import inf
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from prunecli import prune, prune_state_dict
from prunecli.strategies.recipe import Recipe
from prunecli.strategies.semi_structured import TopK
from prunecli.strategies.strategy import Strategy
from prunecli.strategies.structured import Block, RandomStructured, Structured
from prunecli.strategies.thresholds import StdThreshold, Threshold
from prunecli.strategies.unstructured import L1, Global, Percentile, Random
from support.weights import different

Weights = dict[str, torch.Tensor]

RANKING: dict[str, Strategy] = {
    "l1": L1(amount=0.4),
    "l1-row": L1(amount=0.4, scope="row"),
    "global": Global(amount=0.4),
    "topk": TopK(2, 4),
    "topk-wide": TopK(5, 20),
    "structured": Structured(amount=0.4, n=1),
    "structured-inf": Structured(amount=0.4, dim=1, n=inf),
    "block": Block(3, 4, amount=0.4),
    "percentile": Percentile(40),
    "threshold": Threshold(0.3),
}

COUNTED: dict[str, Strategy] = {
    **RANKING,
    "random": Random(amount=0.4),
    "random-slices": RandomStructured(amount=0.4, dim=1),
    "thr-std": StdThreshold(0.5),
}


def pruned(folder: Path, weights: Weights, strategy: Strategy | Recipe, **options: Any) -> Weights:  # noqa: ANN401 - prune's own
    """Return the weights after pruning them as a safetensors file."""
    save_file(weights, folder / "in.safetensors")
    output = folder / "out.safetensors"
    prune(folder / "in.safetensors", strategy, output=output, reports=(), force=True, **options)
    return load_file(output)


def same(result: Weights, expected: Weights) -> bool:
    """Return whether all tensors are equal."""
    return all(torch.equal(result[name], expected[name]) for name in expected)


def stored(folder: Path, name: str, tensors: Weights) -> Path:
    """Save tensors as safetensors and return the path."""
    save_file(tensors, folder / f"{name}.safetensors")
    return folder / f"{name}.safetensors"


def check_memory_and_file(weights: Weights, strategy: Strategy, folder: Path) -> None:
    """Fail unless pruning in memory gives the bits and the report that pruning the same weights in a file gives."""
    torch.save(weights, folder / "in.pth")
    from_file = prune(folder / "in.pth", strategy, output=folder / "out.pth", reports=())

    report = prune_state_dict(weights, strategy)

    assert different(torch.load(folder / "out.pth", weights_only=True), weights) == []
    assert from_file.rows == report.rows
    assert from_file.selected == report.selected
