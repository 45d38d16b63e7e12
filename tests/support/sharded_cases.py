"""Cases for `support.sharded`: special weights, options, and what is refused. A case runs on every rank."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor

from prunecli import PruneError, mask_from_checkpoint, prune_state_dict
from prunecli.distributed.mesh_group import MeshGroup
from prunecli.strategies.semi_structured import TopK
from prunecli.strategies.unstructured import L1, Global
from support.sharded import STRATEGIES, compare, differences, like, own, placed, whole_weights
from support.weights import same_bits

if TYPE_CHECKING:
    from support.sharded import Meshes, Weights


def with_options(meshes: Meshes, kind: str, strategy: str, option: str) -> dict[str, Any]:
    """Prune with scores, activation norms, a mask, or of the remaining weights."""
    weights = whole_weights(torch.float32)
    matrices = {name: tensor for name, tensor in weights.items() if tensor.dim() > 1}
    generator = torch.Generator().manual_seed(2)
    files = {
        "scores": {name: torch.rand(tensor.shape, generator=generator) for name, tensor in matrices.items()},
        "act_norms": {name: torch.rand(tensor.shape[1], generator=generator) for name, tensor in matrices.items()},
        "mask_in": {name: torch.rand(tensor.shape, generator=generator) > 0.3 for name, tensor in matrices.items()},
    }
    if option == "remaining":
        return compare(meshes, kind, strategy, "float32", {"of": "remaining"})
    with tempfile.TemporaryDirectory() as folder:
        save_file(files[option], Path(folder, "file.safetensors"))
        found = compare(meshes, kind, strategy, "float32", {option: f"{folder}/file.safetensors"})
    paths = [text for text in found["report"] if "safetensors" in text]  # each rank has a file of its own
    return {**found, "report": [text for text in found["report"] if text not in paths]}


def special(meshes: Meshes, kind: str) -> dict[str, Any]:
    """Prune tied tensors, NaN and infinity, tensors that are not contiguous, and one that few ranks have."""
    weights = whole_weights(torch.float32)
    weights["embed.weight"][3, :7] = torch.tensor([torch.nan, torch.inf, -torch.inf, 0.0, -0.0, 1e-42, 1e30])
    weights["short.weight"] = torch.full((1, 9), 0.5)
    live = meshes.place(kind, weights)
    assert live is not None
    for tensors in (weights, live):
        tensors["head.weight"] = tensors["embed.weight"]
        del tensors["scalar"]
    turned = live["fc2.weight"]
    local = own(turned).t().contiguous().t()
    live["fc2.weight"] = DTensor.from_local(
        local, turned.device_mesh, turned.placements, run_check=False, shape=turned.shape, stride=turned.stride()
    )
    version = live["fc1.weight"]._version
    report = prune_state_dict(live, Global(amount=0.5), dry_run=True)
    before = all(same_bits(own(tensor), like(weights[name], tensor)) for name, tensor in live.items())
    alone = prune_state_dict(weights, Global(amount=0.5), dry_run=True)
    found = differences(weights, weights, report, alone)
    report, alone = prune_state_dict(live, Global(amount=0.5)), prune_state_dict(weights, Global(amount=0.5))
    after = differences(live, weights, report, alone)
    return {
        "weights": [*found["weights"], *after["weights"]],
        "report": [*found["report"], *after["report"]],
        "kept": before,
        "marked": live["fc1.weight"]._version > version,
    }


def pipeline(meshes: Meshes) -> dict[str, Any]:
    """Prune the stages of a pipeline, of which each rank has one: the cut is that of the whole model."""
    weights = whole_weights(torch.float32)
    stages: list[Weights] = [{}, {}]
    for index, (name, tensor) in enumerate(weights.items()):
        stages[index > 2][name] = tensor
    live = placed(stages[dist.get_rank() // 2], meshes.square["tp"], [Shard(0)])
    report, alone = prune_state_dict(live, Global(amount=0.5)), prune_state_dict(weights, Global(amount=0.5))
    return differences(live, weights, report, alone)


def masks(meshes: Meshes, kind: str) -> dict[str, Any]:
    """Return what is wrong with the masks of a pruned model."""
    weights = whole_weights(torch.bfloat16)
    live = meshes.place(kind, weights)
    assert live is not None
    prune_state_dict(live, STRATEGIES["global"])
    prune_state_dict(weights, STRATEGIES["global"])
    found, expected = mask_from_checkpoint(live), mask_from_checkpoint(weights)
    wrong = [n for n, mask in expected.items() if not torch.equal(own(found[n]), like(mask, live[n]))]
    placements = [n for n in found if getattr(found[n], "placements", 0) != getattr(live[n], "placements", 0)]
    return {"names": list(found) == list(expected), "wrong": wrong, "placements": placements}


def refused(meshes: Meshes, why: str) -> dict[str, Any]:
    """Ask for what is refused. The error is raised; this process ends if a weight has changed."""
    placement = {"copies": Replicate(), "groups": Shard(1)}.get(why, Shard(0))
    live = placed(whole_weights(torch.float32), meshes.line, [placement])
    change = {"partial": _partial, "copies": _differ, "incomplete": _forget, "shape": _resize, "strict": _spoil}.get(
        why
    )
    if change is not None:
        change(meshes, live)
    strategy, options = Global(amount=0.6 if why == "options" and dist.get_rank() == 2 else 0.5), dict[str, Any]()
    with tempfile.TemporaryDirectory() as folder:
        if why == "missing":
            options["scores"] = f"{folder}/scores.safetensors"
            if dist.get_rank() != 1:
                save_file(whole_weights(torch.float32), options["scores"])
        return _asked(live, TopK(2, 4) if why == "groups" else strategy, {"strict": why == "strict", **options})


def _asked(live: Weights, strategy: Any, options: dict[str, Any]) -> dict[str, Any]:  # noqa: ANN401 - Strategy
    before = {name: own(tensor).clone() for name, tensor in live.items()}
    try:
        report = prune_state_dict(live, strategy, **options)
    finally:
        changed = [n for n, t in live.items() if not torch.equal(own(t).nan_to_num(7), before[n].nan_to_num(7))]
        if changed:
            os.write(2, f"changed: {changed}\n".encode())
            os._exit(1)
    return {"pruned": report.selected.pruned}


def _partial(meshes: Meshes, live: Weights) -> None:
    live["fc1.weight"] = DTensor.from_local(live["fc1.weight"].full_tensor(), meshes.line, [Partial()], run_check=False)


def _differ(_: Meshes, live: Weights) -> None:
    own(live["fc2.weight"])[5, 5] += dist.get_rank() == 3


def _forget(_: Meshes, live: Weights) -> None:
    if dist.get_rank() == 3:
        del live["fc1.weight"]


def _resize(meshes: Meshes, live: Weights) -> None:
    part = own(live["fc1.weight"])[: 3 if dist.get_rank() == 0 else None]
    sizes: dict[str, Any] = {"shape": torch.Size([101, 48]), "stride": (48, 1)}
    live["fc1.weight"] = DTensor.from_local(part, meshes.line, [Shard(0)], run_check=False, **sizes)


def _spoil(_: Meshes, live: Weights) -> None:
    if dist.get_rank() == 2:
        own(live["fc1.weight"])[0, 0] = torch.nan


def on_torch_kernels(meshes: Meshes, kind: str, strategy: str) -> dict[str, Any]:
    """Prune with the kernels of devices, which take the tensors where they lie."""
    from prunecli.engine.sharded import run
    from prunecli.io import memory_reader

    weights = whole_weights(torch.float32)
    live = meshes.place(kind, weights)
    assert live is not None
    known = memory_reader.on_host
    memory_reader.on_host = run.on_host = lambda _: False
    try:
        report = prune_state_dict(live, STRATEGIES[strategy])
    finally:
        memory_reader.on_host = run.on_host = known
    return differences(live, weights, report, prune_state_dict(weights, STRATEGIES[strategy]))


def all_ranks_agree(meshes: Meshes) -> dict[str, Any]:
    """Return the report, which is the same on all ranks."""
    live = placed(whole_weights(torch.float32), meshes.line, [Shard(0)])
    report = prune_state_dict(live, L1(amount=0.5))
    return {"rows": [asdict(row) for row in report.rows]}


def exchanged(meshes: Meshes) -> dict[str, Any]:
    """Return the bytes that this process sends for a model, and for one with 25 times as many weights."""
    sent = []
    for columns in (64, 1600):
        weights = {"weight": torch.randn(96, columns), "other.weight": torch.randn(96, columns).bfloat16()}
        with patch.object(MeshGroup, "__init__", autospec=True, side_effect=MeshGroup.__init__) as made:
            prune_state_dict(placed(weights, meshes.line, [Shard(0)]), Global(amount=0.5))
        sent.append(made.call_args.args[0].sent)
    return {"sent": sent}


def lost(meshes: Meshes) -> dict[str, Any]:
    """Lose a process, after another one that waits for it was interrupted; this ends the group."""
    live = placed(whole_weights(torch.float32), meshes.line, [Shard(0)])
    before = {name: own(tensor).clone() for name, tensor in live.items()}
    rank, interrupted = dist.get_rank(), Path(tempfile.gettempdir(), f"interrupted-{os.getppid()}")
    if rank == 3:
        for _ in range(1000):
            if interrupted.exists():
                break
            time.sleep(0.02)
        heard = interrupted.exists()
        interrupted.unlink(missing_ok=True)
        return {"heard": heard}  # it is the last case, so this process ends
    if rank == 0:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        try:
            prune_state_dict(live, Global(amount=0.5))
        except KeyboardInterrupt:
            interrupted.touch()
            time.sleep(0.5)
            return {"heard": True}
    try:
        prune_state_dict(live, Global(amount=0.5))
    except PruneError as error:
        return {"error": str(error), "kept": all(torch.equal(own(t), before[n]) for n, t in live.items())}
    return {}


def whole_and_replicated(meshes: Meshes) -> dict[str, Any]:
    """Prune one tensor that each rank has whole and one that is sharded, on a mesh of a part of the ranks."""
    if dist.get_rank() > 1:
        return {"weights": [], "report": []}
    weights = {"a.weight": torch.randn(8, 8), "b.weight": torch.randn(9, 8)}
    live = {"a.weight": weights["a.weight"].clone()}
    live["b.weight"] = distribute_tensor(weights["b.weight"].clone(), meshes.pair, [Shard(0)], src_data_rank=None)
    report, alone = prune_state_dict(live, Global(amount=0.5)), prune_state_dict(weights, Global(amount=0.5))
    return differences(live, weights, report, alone)
