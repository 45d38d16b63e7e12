"""The evidence decides what is pruned in every container: GPT-2, a transposed convolution and stacked experts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from support import CONTAINERS, make_checkpoint
from support.reading import read, state_dict

from prunecli import L1, Block, Structured, TopK, prune

if TYPE_CHECKING:
    from pathlib import Path

    from prunecli.strategies.strategy import Strategy

Weights = dict[str, torch.Tensor]

SHAPES = {
    "embed.weight": (20, 8),
    "h.0.attn.c_attn.weight": (8, 24),
    "h.0.attn.c_attn.bias": (24,),
    "h.0.attn.c_proj.weight": (8, 8),
    "h.0.attn.c_proj.bias": (8,),
    "up.weight": (8, 12, 3, 3),
    "up.bias": (12,),
    "moe.experts.gate_up_proj": (4, 8, 32),
    "moe.experts.gate_up_proj_bias": (4, 32),
    "moe.experts.down_proj": (4, 16, 8),
    "moe.experts.down_proj_bias": (4, 8),
}
"""Tensors with inputs before outputs, and an embedding, which some containers tie; `c_proj` is square."""

WEIGHTS = [name for name in SHAPES if not name.endswith("bias") and "embed" not in name]


def make() -> Weights:
    """Return the tensors with random weights."""
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


def matrices(name: str, weight: torch.Tensor) -> torch.Tensor:
    """Return the weight as (stacks, outputs, inputs, others)."""
    stacks = weight if "experts" in name else weight[None]
    return stacks.transpose(1, 2).flatten(3) if stacks.dim() > 3 else stacks.transpose(1, 2)[..., None]


def assert_pruned(strategy: Strategy, name: str, before: Weights, after: Weights) -> None:
    """Check one weight, and its bias, after `strategy`."""
    old, new = matrices(name, before[name]), matrices(name, after[name])
    stacks, outputs, inputs, _ = old.shape
    zero = new == 0
    assert torch.equal(new[~zero], old[~zero])
    if isinstance(strategy, TopK):  # two of four consecutive inputs are the largest of them
        groups = [t.abs().reshape(stacks, outputs, inputs // 4, 4, -1) for t in (old, new)]
        assert torch.equal(groups[1].sort(dim=3).values[:, :, :, 2:], groups[0].sort(dim=3).values[:, :, :, 2:])
        assert not groups[1].sort(dim=3).values[:, :, :, :2].any()
    elif isinstance(strategy, L1):  # half of the weights of each output are its smallest
        rows = old.abs().flatten(2)
        cut = rows.sort(dim=2).values[:, :, rows.shape[2] // 2, None]
        assert torch.equal(zero.flatten(2), rows < cut)
    elif isinstance(strategy, Structured):  # a quarter of the outputs of each matrix, and their biases
        norms = old.flatten(2).norm(dim=2)
        cut = norms.sort(dim=1).values[:, outputs // 4, None]
        assert torch.equal(zero.flatten(2).all(dim=2), norms < cut)
        assert torch.equal(zero.flatten(2).any(dim=2), norms < cut)
        bias = f"{name}_bias" if "experts" in name else name.replace("weight", "bias")
        assert torch.equal(after[bias].reshape(stacks, outputs) == 0, norms < cut)
    else:  # half of the tiles of 2 outputs by 4 columns
        tiles = old.flatten(2).reshape(stacks, outputs // 2, 2, -1, 4).transpose(2, 3).flatten(3).flatten(1, 2)
        norms = tiles.norm(dim=2)
        cut = norms.sort(dim=1).values[:, norms.shape[1] // 2, None]
        gone = zero.flatten(2).reshape(stacks, outputs // 2, 2, -1, 4).transpose(2, 3).flatten(3).flatten(1, 2)
        assert torch.equal(gone.all(dim=2), norms < cut)
        assert torch.equal(gone.any(dim=2), norms < cut)


@pytest.mark.parametrize(
    "strategy",
    [TopK(2, 4), L1(amount=0.5, scope="row"), Structured(amount=0.25, with_bias=True), Block(2, 4, amount=0.5)],
    ids=["topk", "row", "structured", "block"],
)
@pytest.mark.parametrize("container", CONTAINERS)
def test_weights_with_inputs_first(container: str, strategy: Strategy, tmp_path: Path) -> None:
    """Whatever the container, each strategy prunes along the outputs and inputs that the evidence proves."""
    path = make_checkpoint(container, tmp_path, make())
    output = tmp_path / "out" / path.name
    output.parent.mkdir()

    report = prune(path, strategy, output=output, reports=())

    before, after = (state_dict(container, read(place)) for place in (path, output))
    assert not report.warnings
    for name in WEIGHTS:
        assert_pruned(strategy, name, before, after)
