"""A small model with masks, every kind of optimizer, and the count of pruned weights that are not zero."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor
    from torch.optim import Optimizer

OPTIMIZERS: dict[str, Callable[[Any], Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.02, momentum=0.9, weight_decay=1e-3),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.02, momentum=0.9, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=2e-3, weight_decay=1e-3),
    "amsgrad": lambda p: torch.optim.Adam(p, lr=2e-3, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=2e-3, weight_decay=0.1),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=1e-3, momentum=0.9, weight_decay=1e-3),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=1e-2),
    "rprop": lambda p: torch.optim.Rprop(p, lr=1e-3),
}


def small() -> tuple[nn.Module, dict[str, Tensor]]:
    """Return a model of two matrices and masks that keep about half of each."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    return model, {"0.weight": torch.rand(5, 6) > 0.5, "2.weight": torch.rand(3, 5) > 0.5}


def take_step(model: nn.Module, optimizer: Optimizer) -> None:
    """Take one step on random data."""
    optimizer.zero_grad()
    model(torch.randn(8, 6)).square().sum().backward()
    optimizer.step()


def revived(model: nn.Module, mask: dict[str, Tensor]) -> int:
    """Count the weights that are not +0.0 where the mask is False."""
    parameters = dict(model.named_parameters())
    return sum(int((parameters[n].detach()[~keep].view(torch.int32) != 0).sum()) for n, keep in mask.items())
