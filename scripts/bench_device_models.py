"""The models of `bench_device.py`, the strategies that it measures, and what people write in torch in their place."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

import prunecli

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from prunecli.strategies.strategy import Strategy

Model: TypeAlias = "dict[str, Tensor]"

torch_prune: Any = importlib.import_module("torch.nn.utils.prune")  # it has no annotations

CUT = 0.0135
"""The threshold: it prunes half of the weights, whose standard deviation is 0.02."""


@dataclass(frozen=True)
class Case:
    """A strategy, how often it reads and writes each byte at least, and what people write in torch, by name."""

    strategy: Strategy
    moved: int
    rivals: dict[str, Callable[[Model], Model]]


def multiply(model: Model) -> Model:
    """Prune by a threshold."""
    for w in model.values():
        w.mul_(w.abs() > CUT)
    return model


def sorted_global(model: Model) -> Model:
    """Prune half of all tensors together with one sort."""
    magnitudes = torch.cat([w.abs().flatten() for w in model.values()])
    cut = magnitudes.sort().values[magnitudes.numel() // 2 - 1]
    for w in model.values():
        w.mul_(w.abs() > cut)
    return model


def top_of_groups(keep: int, group: int) -> Callable[[Model], Model]:
    """Return a function that keeps the largest `keep` of each `group` inputs."""

    def apply(model: Model) -> Model:
        for w in model.values():
            groups = w.view(-1, group)
            kept = groups.abs().topk(keep, 1).indices
            groups.mul_(torch.zeros_like(groups).scatter_(1, kept, 1))
        return model

    return apply


def blocks(model: Model) -> Model:
    """Prune half of the blocks of 4 x 4, by their squares."""
    for w in model.values():
        tiles = w.view(w.shape[0] // 4, 4, w.shape[1] // 4, 4)
        norms = tiles.float().square().sum((1, 3))
        cut = norms.flatten().kthvalue(norms.numel() // 2).values
        tiles.mul_((norms > cut)[:, None, :, None])
    return model


class Holder(torch.nn.Module):
    """A module with one weight, as `torch.nn.utils.prune` needs it."""

    def __init__(self, weight: Tensor) -> None:
        """Hold `weight`."""
        super().__init__()
        self.weight = torch.nn.Parameter(weight, requires_grad=False)


def with_torch_prune(function: Callable[[Holder], object]) -> Callable[[Model], Model]:
    """Return a function that calls one of `torch.nn.utils.prune` for each tensor."""

    def apply(model: Model) -> Model:
        result = {}
        for name, w in model.items():
            holder = Holder(w)
            function(holder)
            torch_prune.remove(holder, "weight")
            result[name] = holder.weight.data
        return result

    return apply


def torch_global(model: Model) -> Model:
    """Prune half of all tensors together with `global_unstructured`."""
    holders = {name: Holder(w) for name, w in model.items()}
    weights = [(holder, "weight") for holder in holders.values()]
    torch_prune.global_unstructured(weights, torch_prune.L1Unstructured, amount=0.5)
    for holder in holders.values():
        torch_prune.remove(holder, "weight")
    return {name: holder.weight.data for name, holder in holders.items()}


def torch_global_of_part(model: Model) -> Model:
    """Do the same for an eighth of the tensors, because all of them need 16 times their memory."""
    return torch_global(dict(list(model.items())[: max(1, len(model) // 8)]))


torch_l1 = with_torch_prune(lambda holder: torch_prune.l1_unstructured(holder, "weight", 0.5))
torch_random = with_torch_prune(lambda holder: torch_prune.random_unstructured(holder, "weight", 0.5))
torch_structured = with_torch_prune(lambda holder: torch_prune.ln_structured(holder, "weight", 0.25, n=2, dim=0))

CASES = {
    "Threshold": Case(prunecli.Threshold(CUT), 2, {"w.mul_(w.abs() > t)": multiply}),
    "L1": Case(prunecli.L1(amount=0.5), 3, {"l1_unstructured": torch_l1}),
    "Global": Case(
        prunecli.Global(amount=0.5),
        3,
        {
            "global_unstructured": torch_global,
            "the same, 1/8 of the tensors": torch_global_of_part,
            "cat, sort": sorted_global,
        },
    ),
    "TopK(2,4)": Case(prunecli.TopK(2, 4), 2, {"topk, scatter_": top_of_groups(2, 4)}),
    "TopK(8,32)": Case(prunecli.TopK(8, 32), 2, {"topk, scatter_": top_of_groups(8, 32)}),
    "Structured": Case(prunecli.Structured(amount=0.25), 3, {"ln_structured": torch_structured}),
    "Block": Case(prunecli.Block(4, 4, amount=0.5), 3, {"squares of tiles": blocks}),
    "Global, lamp": Case(prunecli.Global(amount=0.5, normalize="lamp"), 3, {}),
    "Random": Case(prunecli.Random(amount=0.5), 2, {"random_unstructured": torch_random}),
}


def make_model(device: str, dtype: torch.dtype, shapes: Sequence[tuple[int, ...]]) -> Model:
    """Return random weights on a device; each shape has its own."""
    generator = torch.Generator(device=device).manual_seed(0)
    return {
        f"layers.{at}.weight": torch.randn(shape, generator=generator, device=device, dtype=torch.float32)
        .mul_(0.02)
        .to(dtype)
        for at, shape in enumerate(shapes)
    }


def restore(model: Model, pristine: Model) -> None:
    """Copy the weights of `pristine` to `model`."""
    for name, w in model.items():
        w.copy_(pristine[name])
