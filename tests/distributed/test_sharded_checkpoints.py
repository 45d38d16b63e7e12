"""Checkpoints that FSDP2 and tensor parallelism save on several ranks, pruned, and loaded on other numbers of ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from support import same_bits
from torch import nn
from torch.nn.utils import prune as peer

from prunecli import Global, TopK, prune

if TYPE_CHECKING:
    from pathlib import Path

    from support.together import Ended, Together

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

MODEL = """
import torch, torch.distributed as dist, torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

dist.init_process_group("gloo")
torch.manual_seed(0)
way, folder, file, width = words[0], words[1], words[2], int(words[3])
model = nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 34, bias=False), nn.LayerNorm(34))
mesh = init_device_mesh("cpu", (size,))
if way == "fsdp":
    for layer in model:
        if list(layer.parameters()):
            fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
elif way == "tp":
    parallelize_module(model, mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})
optimizer = torch.optim.AdamW(model.parameters())
model(torch.ones(2, 64)).sum().backward()
optimizer.step()
weights, moments = get_state_dict(model, optimizer)

def whole(values):
    if isinstance(values, dict):
        return {key: whole(value) for key, value in values.items()}
    return values.full_tensor() if hasattr(values, "full_tensor") else values

def keep(values):
    values = whole(values)
    if rank == 0:
        torch.save(values, file)
"""

SAVE = f"""{MODEL}
dcp.save({{"model": weights, "optim": moments, "epoch": 3}}, checkpoint_id=folder)
dcp.save(weights, storage_writer=dcp.HuggingFaceStorageWriter(folder + ".hf", save_distributed=True))
keep({{"model": weights, "optim": moments}})
dist.destroy_process_group()
"""
"""Save the model after a step of training in both layouts, and whole tensors in a file."""

LOAD = f"""{MODEL}
state = {{"model": weights, "optim": moments}}
dcp.load(state, checkpoint_id=folder)
keep(state)
if way == "fsdp":
    file += ".hf"
    parts = {{name: torch.zeros_like(value) for name, value in weights.items()}}
    dcp.load(parts, storage_reader=dcp.HuggingFaceStorageReader(folder + ".hf"))
    keep(parts)
dist.destroy_process_group()
"""
"""Load a checkpoint in both layouts into a model on any number of ranks, and save whole tensors in files."""


def ran(ended: Ended) -> None:
    """Fail with what the processes printed unless all of them ended well."""
    assert set(ended.codes) == {0}, ended.stderr


@pytest.fixture(scope="module")
def saved(forks: Together, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save an FSDP2 model of 2 ranks; return the folder with `fsdp`, `fsdp.hf` and `fsdp.pth`."""
    folder = tmp_path_factory.mktemp("saved")
    ran(forks.run(2, ["fsdp", folder / "fsdp", folder / "fsdp.pth", 101], SAVE))
    ran(forks.run(2, ["tp", folder / "tp", folder / "tp.pth", 100], SAVE))
    return folder


def globally_pruned(weights: dict[str, torch.Tensor], amount: float) -> dict[str, torch.Tensor]:
    """Return whole weights, of which torch has pruned the matrices globally."""
    modules = {name: nn.Module() for name, t in weights.items() if t.dim() == 2}
    for name, module in modules.items():
        module.register_parameter("weight", nn.Parameter(weights[name].clone()))
    parameters = [(module, "weight") for module in modules.values()]
    peer.global_unstructured(parameters, pruning_method=peer.L1Unstructured, amount=amount)
    pruned = {name: modules[name].get_buffer("weight_mask") * weights[name] for name in modules}
    return {**weights, **pruned}


def alike(wanted: dict[str, torch.Tensor], found: dict[str, torch.Tensor]) -> bool:
    """Return whether two state_dicts have the same values, of which a zero may have either sign."""
    return wanted.keys() == found.keys() and all(torch.equal(wanted[name], found[name]) for name in wanted)


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_a_pruned_checkpoint_loads_into_fsdp_on_any_number_of_ranks(
    ranks: int, saved: Path, forks: Together, tmp_path: Path
) -> None:
    """The loaded weights are those that torch prunes globally as whole tensors; the moments of Adam are unchanged."""
    for layout in ("", ".hf"):
        prune(saved / f"fsdp{layout}", Global(amount=0.5), output=tmp_path / f"out{layout}", reports=())
    before = torch.load(saved / "fsdp.pth", weights_only=True)

    ran(forks.run(ranks, ["fsdp", tmp_path / "out", tmp_path / "loaded.pth", 101], LOAD))

    after = torch.load(tmp_path / "loaded.pth", weights_only=True)
    wanted = globally_pruned(before["model"], 0.5)
    assert alike(wanted, after["model"])
    assert alike(wanted, torch.load(tmp_path / "loaded.pth.hf", weights_only=True))
    for name, state in before["optim"]["state"].items():
        assert all(same_bits(state[key], after["optim"]["state"][name][key]) for key in ("exp_avg", "exp_avg_sq"))


def test_a_model_with_tensor_parallelism_is_pruned_as_whole_tensors(
    saved: Path, forks: Together, tmp_path: Path
) -> None:
    """Chunks of columns, which cut rows and groups, give the zeros of the whole tensors, and load."""
    prune(saved / "tp", TopK(keep=2, group=4), output=tmp_path / "out", reports=())
    torch.save(torch.load(saved / "tp.pth", weights_only=True)["model"], tmp_path / "whole.pth")
    prune(tmp_path / "whole.pth", TopK(keep=2, group=4), output=tmp_path / "wanted.pth", reports=())

    ran(forks.run(2, ["tp", tmp_path / "out", tmp_path / "loaded.pth", 100], LOAD))

    loaded = torch.load(tmp_path / "loaded.pth", weights_only=True)["model"]
    wanted = torch.load(tmp_path / "wanted.pth", weights_only=True)
    assert not [name for name in wanted if not same_bits(wanted[name], loaded[name])]
