"""Cases for `support.sharded`: training models that are sharded in several ways, with masks."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.utils.checkpoint import checkpoint

from prunecli import keep_sparse, mask_from_checkpoint, prune_state_dict
from prunecli.strategies.unstructured import Global
from support.sharded import like, own

if TYPE_CHECKING:
    from torch import Tensor

    from support.sharded import Meshes


class Layers(nn.Module):
    """Two layers; with `checkpointed`, the activations of the first one are computed twice."""

    def __init__(self, *, checkpointed: bool) -> None:
        """Make the layers."""
        super().__init__()
        self.one, self.two = nn.Linear(13, 10), nn.Linear(10, 6)
        self.checkpointed = checkpointed

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layers."""
        if self.checkpointed:
            hidden: Tensor = checkpoint(self._first, x, use_reentrant=False)
        else:
            hidden = self._first(x)
        result: Tensor = self.two(hidden)
        return result

    def _first(self, x: Tensor) -> Tensor:
        return torch.relu(self.one(x))


def train(meshes: Meshes, kind: str, optimizer: str, masks: str) -> dict[str, Any]:
    """Train a sharded model and the same one in this process alone, and return how they differ."""
    torch.manual_seed(0)
    alone = Layers(checkpointed=kind == "checkpoint")
    mask = {f"{layer}.weight": torch.rand(getattr(alone, layer).weight.shape) > 0.5 for layer in ("one", "two")}
    model = deepcopy(alone)
    _shard(model, meshes, kind)
    ours, others = _optimizer(optimizer, model), _optimizer(optimizer, alone)
    forward = torch.compile(model, backend="aot_eager") if kind == "compile" else model
    batch = torch.randn(8, 13)
    norms = [_step(forward, model, ours, batch), _step(alone, alone, others, batch)]
    given, revived = mask, 0
    if masks == "of the model":
        prune_state_dict(model.state_dict(), Global(amount=0.5))
        prune_state_dict(alone.state_dict(), Global(amount=0.5))
        given, mask = mask_from_checkpoint(model.state_dict()), mask_from_checkpoint(alone.state_dict())
    with keep_sparse(model, ours, given), keep_sparse(alone, others, mask):
        for _ in range(3):
            norms += [_step(forward, model, ours, batch), _step(alone, alone, others, batch)]
            revived += _revived(model, mask) + _revived(alone, mask)
    parameters = dict(alone.named_parameters())
    gaps = [float((own(p) - like(parameters[n], p)).abs().max()) for n, p in model.named_parameters() if own(p).numel()]
    _step(forward, model, ours, batch)
    return {"revived": revived, "gap": max(gaps), "norms": norms, "later": _revived(model, mask)}


def placed_elsewhere(meshes: Meshes) -> dict[str, Any]:
    """Keep zeros with a mask and a gradient whose placements are not those of the parameter."""
    torch.manual_seed(0)
    weight, keep = torch.randn(9, 5), torch.rand(9, 5) > 0.5
    model = nn.Module()
    model.weight = nn.Parameter(distribute_tensor(weight, meshes.line, [Shard(0)], src_data_rank=None))
    mask = {"weight": distribute_tensor(keep, meshes.line, [Replicate()], src_data_rank=None)}
    model.weight.grad = distribute_tensor(torch.ones(9, 5), meshes.line, [Shard(1)], src_data_rank=None)
    with keep_sparse(model, torch.optim.SGD(model.parameters(), lr=1), mask):
        gradient = model.weight.grad
    return {
        "weight": torch.equal(model.weight.full_tensor(), weight * keep),
        "gradient": torch.equal(gradient.full_tensor(), keep.float()),
        "placements": str(gradient.placements),
    }


def refused(meshes: Meshes, why: str) -> None:
    """Ask for what is refused."""
    model, keep = nn.Module(), torch.ones(8, 4, dtype=torch.bool)
    whole = torch.zeros(8, 4)
    if why == "partial":
        model.weight = nn.Parameter(DTensor.from_local(whole, meshes.line, [Partial()], run_check=False))
    else:
        model.weight = nn.Parameter(distribute_tensor(whole, meshes.line, [Shard(0)], src_data_rank=None))
    if why == "mesh":
        keep = distribute_tensor(keep, meshes.square, [Shard(0), Replicate()], src_data_rank=None)
    keep_sparse(model, torch.optim.SGD(model.parameters(), lr=1), {"weight": keep})


def _shard(model: nn.Module, meshes: Meshes, kind: str) -> None:
    if kind in {"tp", "fsdp-tp"}:
        plan = {"one": ColwiseParallel(), "two": RowwiseParallel()}
        parallelize_module(model, meshes.square["tp"], plan)
    if kind != "tp":
        mesh = {"hsdp": meshes.square, "fsdp-tp": meshes.square["dp"]}.get(kind, meshes.line)
        for layer in (model.one, model.two, model):
            fully_shard(layer, mesh=mesh)


def _optimizer(name: str, model: nn.Module) -> torch.optim.Optimizer:
    if name == "adamw":
        return torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    return torch.optim.SGD(model.parameters(), lr=1e-2, momentum=0.9, weight_decay=0.1)


def _step(forward: Any, model: nn.Module, optimizer: torch.optim.Optimizer, batch: Tensor) -> float:  # noqa: ANN401
    optimizer.zero_grad()
    forward(batch).square().sum().backward()
    norm: Any = nn.utils.clip_grad_norm_(model.parameters(), 0.5)
    optimizer.step()
    return float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)


def _revived(model: nn.Module, mask: dict[str, Tensor]) -> int:
    """Return the number of weights of this process's parts that are not +0.0 where the mask is False."""
    parameters = dict(model.named_parameters())
    pairs = [(own(parameters[name].detach()), like(keep, parameters[name])) for name, keep in mask.items()]
    return sum(int((part.view(torch.int32)[~keep] != 0).sum()) for part, keep in pairs)
