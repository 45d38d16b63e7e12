"""Modules of torch and transformers, pruned by `structured --with-bias`: exactly the pruned outputs are zero."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn

from prunecli import prune
from prunecli.strategies.semi_structured import TopK
from prunecli.strategies.structured import Structured

if TYPE_CHECKING:
    from pathlib import Path


class Conv1D(nn.Module):
    """The matrix of GPT-2 in transformers: y = x W + b with W [in, out]."""

    def __init__(self, inputs: int, outputs: int) -> None:
        """Draw the weight and the bias."""
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, outputs))
        self.bias = nn.Parameter(torch.randn(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the outputs (n, out) for inputs (n, in)."""
        return x @ self.weight + self.bias


class Experts(nn.Module):
    """Stacked experts: y[e] = W[e] x[e] + b[e] with W [experts, out, in]."""

    def __init__(self, experts: int, outputs: int, inputs: int) -> None:
        """Draw the weights and the biases."""
        super().__init__()
        self.weight = nn.Parameter(torch.randn(experts, outputs, inputs))
        self.bias = nn.Parameter(torch.randn(experts, outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the outputs (experts, n, out) for inputs (experts, n, in)."""
        return torch.einsum("eoi,eni->eno", self.weight, x) + self.bias[:, None]


MODULES = {
    "linear": (lambda: nn.Linear(8, 12), "out-in", (5, 8), 1),
    "conv": (lambda: nn.Conv2d(4, 12, 3), "out-in", (2, 4, 5, 5), 1),
    "grouped conv": (lambda: nn.Conv2d(4, 12, 3, groups=2), "out-in", (2, 4, 5, 5), 1),
    "transposed": (lambda: nn.ConvTranspose2d(12, 12, 3), "in-out", (2, 12, 5, 5), 1),
    "transposed 1d": (lambda: nn.ConvTranspose1d(8, 12, 3), "in-out", (2, 8, 5), 1),
    "Conv1D": (lambda: Conv1D(8, 12), "in-out", (5, 8), 1),
    "square Conv1D": (lambda: Conv1D(12, 12), "in-out", (5, 12), 1),
    "experts": (lambda: Experts(3, 12, 8), "experts", (3, 5, 8), 2),
}


def run(module: nn.Module, folder: Path, strategy: Structured | TopK, order: str) -> nn.Module:
    """Prune the module's state_dict in a file and load the result."""
    torch.save({f"m.{name}": tensor for name, tensor in module.state_dict().items()}, folder / "in.pth")
    layout = {"m.weight": order}
    prune(folder / "in.pth", strategy, output=folder / "out.pth", reports=(), layout=layout, force=True)
    weights = torch.load(folder / "out.pth")
    module.load_state_dict({name.removeprefix("m."): tensor for name, tensor in weights.items()})
    return module


@pytest.mark.parametrize("name", MODULES)
def test_pruned_outputs_are_zero_for_any_input(name: str, tmp_path: Path) -> None:
    """A third of the outputs is zero for random inputs, and all others have both signs."""
    torch.manual_seed(0)
    make, order, inputs, dim = MODULES[name]
    module = run(make(), tmp_path, Structured(amount=1 / 3, with_bias=True), order)

    with torch.no_grad():
        outputs = torch.stack([module(torch.randn(inputs)) for _ in range(20)]).movedim(dim + 1, -1)

    if name == "experts":
        outputs = outputs.movedim(1, -2)
    seen = outputs.reshape(-1, *outputs.shape[-2:] if name == "experts" else (1, outputs.shape[-1]))
    zero = (seen == 0).all(dim=0)
    assert (seen == 0).any(dim=0).equal(zero)
    assert zero.sum(dim=1).tolist() == [4] * len(zero)


@pytest.mark.parametrize("parts", [2, 3])
def test_outputs_of_grouped_transposed_convolutions(parts: int, tmp_path: Path) -> None:
    """Each group gives its share of outputs, and their biases; the group is known from the length of the bias."""
    torch.manual_seed(0)
    module = nn.ConvTranspose2d(6, 4 * parts, 3, groups=parts)

    run(module, tmp_path, Structured(amount=0.5, with_bias=True), "in-out")

    with torch.no_grad():
        outputs = module(torch.randn(8, 6, 5, 5))
    zero = (outputs == 0).all(dim=0).flatten(1).all(dim=1)
    assert zero.view(parts, 4).sum(dim=1).tolist() == [2] * parts
    assert (outputs == 0).any(dim=0).flatten(1).any(dim=1).equal(zero)


def test_groups_of_inputs_reach_an_output(tmp_path: Path) -> None:
    """Of each 4 consecutive inputs, 2 reach an output of Conv1D, and of a transposed convolution."""
    torch.manual_seed(0)
    conv1d = run(Conv1D(8, 12), tmp_path, TopK(2, 4), "in-out")
    transposed = run(nn.ConvTranspose1d(8, 12, 1), tmp_path, TopK(2, 4), "in-out")

    with torch.no_grad():
        for module, inputs in ((conv1d, torch.eye(8)), (transposed, torch.eye(8)[:, :, None])):
            reached = (module(inputs) - module(torch.zeros_like(inputs))).reshape(8, 12) != 0
            assert (reached.view(2, 4, 12).sum(dim=1) == 2).all()
