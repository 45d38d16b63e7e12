"""Models that are sharded over processes: a process that forks the ranks, which run a list of cases.

Each rank makes the same whole tensors, distributes them, and compares its parts with the whole tensors that it pruned
alone. Importing torch takes seconds, so all cases of a test module run in one group of processes.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import traceback
from dataclasses import asdict, replace
from datetime import timedelta
from importlib import import_module
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.placement_types import _StridedShard

from prunecli import prune_state_dict
from prunecli.distributed.meshes import laid_out_like
from prunecli.engine.sharded import plans
from prunecli.selection.select import Selector
from prunecli.strategies.recipe import Recipe, Rule
from prunecli.strategies.semi_structured import TopK
from prunecli.strategies.structured import Block, RandomStructured, Structured
from prunecli.strategies.thresholds import StdThreshold, Threshold
from prunecli.strategies.unstructured import L1, Global, Percentile, Random
from support.children import start_python
from support.paths import ROOT
from support.weights import same_bits

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from prunecli.report.model import Report

Weights = dict[str, Any]

RANKS = 4

MOST_RUNS = plans.MOST_RUNS

STRATEGIES: dict[str, Any] = {
    "global": Global(amount=0.5),
    "global-90": Global(amount=0.9),
    "l2": Global(amount=0.5, normalize="l2"),
    "lamp": Global(amount=0.5, normalize="lamp"),
    "l1": L1(amount=0.4),
    "l1-row": L1(amount=0.4, scope="row"),
    "percentile": Percentile(40),
    "threshold": Threshold(0.05),
    "thr-std": StdThreshold(0.5),
    "random": Random(amount=0.4),
    "topk": TopK(2, 4),
    "topk-wide": TopK(5, 20),
    "topk-dim0": TopK(2, 4, dim=0),
    "structured": Structured(amount=0.4),
    "structured-l1-dim1": Structured(amount=0.4, dim=1, n=1),
    "structured-inf": Structured(amount=0.4, n=inf),
    "structured-bias": Structured(amount=0.4, with_bias=True),
    "random-slices": RandomStructured(amount=0.4, dim=1),
    "block": Block(2, 4, amount=0.4),
    "recipe": Recipe(
        (
            Rule(L1(amount=0.3), Selector(["*.weight"])),
            Rule(Structured(amount=0.2), Selector(["fc*"])),
            Rule(Global(amount=0.4), Selector(["*.weight"], exclude=["conv*"])),
        )
    ),
}


def whole_weights(dtype: torch.dtype, *, even: bool = False) -> Weights:
    """Return the tensors of a small model, with ties, zeros, and sizes that few numbers divide."""
    generator = torch.Generator().manual_seed(1)
    rows = 96 if even else 101
    shapes = {"embed.weight": (rows, 64), "fc1.weight": (rows, 48), "fc1.bias": (rows,), "fc2.weight": (24, rows)}
    shapes |= {"conv.weight": (8, 16 if even else 6, 3, 3), "wide.weight": (8, 3008) if even else (5, 3000)}
    shapes |= {"norm.weight": (48,), "scalar": ()}
    weights = {name: torch.randn(shape, generator=generator).mul(0.1) for name, shape in shapes.items()}
    weights["fc1.weight"] = weights["fc1.weight"].mul(20).round().div(20)  # many ties
    weights["fc2.weight"][:3] = 0
    return {name: tensor.to(dtype) for name, tensor in weights.items()}


def placed(weights: Weights, mesh: DeviceMesh, placements: Sequence[Any]) -> Weights:
    """Return the tensors as DTensors; a placement of a dimension that a tensor does not have becomes Replicate."""
    found = {}
    for name, tensor in weights.items():
        fitting = [p if getattr(p, "dim", 0) < tensor.dim() else Replicate() for p in placements]
        if not tensor.dim():
            fitting = [Replicate() for _ in placements]
        found[name] = distribute_tensor(tensor.clone(), mesh, fitting, src_data_rank=None)
    return found


class Meshes:
    """The meshes of four processes."""

    def __init__(self) -> None:
        """Make them, in all processes."""
        self.line = init_device_mesh("cpu", (RANKS,), mesh_dim_names=("dp",))
        self.square = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
        self.pair = DeviceMesh("cpu", [0, 1])
        self.column = DeviceMesh("cpu", [[0], [1]])

    def place(self, kind: str, weights: Weights) -> Weights | None:
        """Return the tensors placed in one way; None for a rank that takes no part."""
        if kind.startswith("pair") and dist.get_rank() > 1:
            return None
        square, mixed = self.square, kind == "mixed"
        if mixed:
            first, rest = {"embed.weight": weights["embed.weight"]}, dict(weights)
            del rest["embed.weight"], rest["conv.weight"]
            found = placed(first, square["dp"], [Shard(0)]) | placed(rest, square, [Shard(0), Shard(1)])
            found["conv.weight"] = weights["conv.weight"].clone()
            return {name: found[name] for name in weights}
        mesh, placements = {
            "fsdp": (self.line, [Shard(0)]),
            "pair": (self.pair, [Shard(0)]),
            "pair-2d": (self.column, [Shard(0), Replicate()]),
            "columns": (self.line, [Shard(1)]),
            "replicated": (self.line, [Replicate()]),
            "hsdp": (square, [Replicate(), Shard(0)]),
            "fsdp-tp": (square, [_StridedShard(0, split_factor=2), Shard(0)]),
            "fsdp-columns": (square, [Shard(0), Shard(1)]),
        }[kind]
        return placed(weights, mesh, placements)


def compare(meshes: Meshes, kind: str, strategy: str, dtype: str, options: dict[str, Any]) -> dict[str, Any]:
    """Prune placed and whole tensors, and return what differs."""
    options = dict(options)
    plans.MOST_RUNS = options.pop("most_runs", MOST_RUNS)
    weights = whole_weights(getattr(torch, dtype), even=options.pop("even", False))
    live = meshes.place(kind, weights)
    if live is None:
        return {"weights": [], "report": []}
    report = prune_state_dict(live, STRATEGIES[strategy], **options)
    alone = prune_state_dict(weights, STRATEGIES[strategy], **options)
    return {**differences(live, weights, report, alone), "pruned": report.selected.pruned}


def differences(live: Weights, weights: Weights, report: Report, alone: Report) -> dict[str, list[str]]:
    """Return the names of the tensors and the fields of the report that differ from those of whole tensors."""
    different = [name for name, tensor in live.items() if not same_bits(own(tensor), like(weights[name], tensor))]
    rows = [(a.name, asdict(a), asdict(b)) for a, b in zip(report.rows, alone.rows, strict=True) if a != b]
    fields = [
        f"{name}.{key}: {mine[key]} != {theirs[key]}"
        for name, mine, theirs in rows
        for key in mine
        if mine[key] != theirs[key]
    ]
    ours, others = replace(report, seconds=0, rows=()), replace(alone, seconds=0, rows=())
    return {"weights": different, "report": fields if ours == others else [*fields, f"{ours} != {others}"]}


def own(tensor: Any) -> Tensor:  # noqa: ANN401 - Tensor or DTensor
    """Return the part of a tensor that this process has."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def like(whole: Tensor, tensor: Any) -> Tensor:  # noqa: ANN401 - Tensor or DTensor
    """Return the part of `whole` that this process has of `tensor`."""
    return laid_out_like(whole, tensor) if isinstance(tensor, DTensor) else whole


def run_cases(cases: Sequence[tuple[str, Sequence[Any]]], seconds: int = 120) -> list[list[Any]]:
    """Run functions of `support`, ("module.name", arguments), on every rank; return the results of each case by rank.

    A result is what the function returns, or the text of an error.
    """
    with tempfile.TemporaryDirectory() as folder:
        code = f"from support.sharded import main; main({folder!r})"
        Path(folder, "cases.json").write_text(json.dumps(cases))
        path = os.pathsep.join([str(ROOT / "tests"), str(ROOT), os.environ.get("PYTHONPATH", "")])
        environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        child = start_python("-W", "ignore", "-c", code, env=environment, stderr=sys.stderr)
        try:
            child.wait(seconds)
        finally:
            child.kill()
        results = [json.loads(Path(folder, f"{rank}.json").read_text()) for rank in range(RANKS)]
    return [list(by_rank) for by_rank in zip(*results, strict=True)]


def main(folder: str) -> None:
    """Fork the ranks and run the cases in `folder`."""
    import torch._dynamo  # the ranks would import it, each for itself

    torch.set_num_threads(1)
    children = []
    for rank in range(RANKS):
        pid = os.fork()
        if not pid:
            try:
                _rank(rank, folder)
            except BaseException:  # noqa: BLE001 - the process ends
                traceback.print_exc()
            finally:
                os._exit(0)
        children.append(pid)
    for pid in children:
        os.waitpid(pid, 0)


def _rank(rank: int, folder: str) -> None:
    timeout = timedelta(seconds=30)
    dist.init_process_group("gloo", rank=rank, world_size=RANKS, init_method=f"file://{folder}/store", timeout=timeout)
    meshes, results = Meshes(), []
    cases = json.loads(Path(folder, "cases.json").read_text())
    for name, arguments in cases:
        module, _, function = name.rpartition(".")
        try:
            results.append(getattr(import_module(f"support.{module}"), function)(meshes, *arguments))
        except Exception as error:  # noqa: BLE001 - it is a result
            if os.environ.get("SHARDED_TRACE"):
                traceback.print_exc()
            results.append(f"{type(error).__name__}: {error}")
        Path(folder, f"{rank}.json").write_text(json.dumps(results))
        if len(results) < len(cases):
            dist.barrier()
