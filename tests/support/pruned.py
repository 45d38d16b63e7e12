"""A model pruned with torch.nn.utils.prune, saved in every container, and the weights that baking must produce."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn.utils import prune

from support.containers import make_checkpoint
from support.weights import Net, Weights, make_weights

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

LAYERS = (("conv", "weight"), ("conv", "bias"), ("lstm", "weight_hh_l0"), ("fc", "weight"))
"""The pruned parameters: the layer and the parameter's name in it."""

NAMES = [".".join(layer) for layer in LAYERS]
"""The names of the pruned parameters in the state_dict."""


def pruned_net() -> Net:
    """Return a model with four pruned parameters, one of them pruned twice."""
    model = Net()
    model.load_state_dict(make_weights())
    for layer, name in LAYERS:
        prune.l1_unstructured(getattr(model, layer), name, 0.4)
    prune.ln_structured(model.fc, "weight", 0.25, n=2, dim=0)
    return model


def after_remove(model: nn.Module) -> Weights:
    """Return the state_dict of `model` after torch.nn.utils.prune.remove."""
    for layer, name in LAYERS:
        prune.remove(getattr(model, layer), name)
    weights: Weights = model.state_dict()
    return weights


def folded(pruned: Weights) -> Weights:
    """Return a state_dict with x in place of x_orig: the bits of x_orig, and 0 where x_mask is 0."""
    weights = {}
    for name, tensor in pruned.items():
        stem = name.removesuffix("_orig")
        if stem != name and f"{stem}_mask" in pruned:
            weights[stem] = torch.where(pruned[f"{stem}_mask"] == 0, torch.zeros_like(tensor), tensor)
        elif not name.endswith("_mask"):
            weights[name] = tensor
    return weights


def save_pruned(container: str, folder: Path) -> tuple[Path, Weights]:
    """Save the state_dict of the pruned model in a container; return the path to open and the state_dict."""
    weights = {name: t.detach().clone() for name, t in pruned_net().state_dict().items()}
    return make_checkpoint(container, folder, weights), weights
