"""Tensors that are not contiguous: pruned in runs, to the same weights as contiguous ones, in bounded memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import torch
from support import ROOT, same_bits

import prunecli
from prunecli.engine import apply, rank_planner, scored_tensors

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from prunecli.strategies.strategy import Strategy

STRATEGIES: dict[str, Strategy] = {
    "threshold": prunecli.Threshold(0.5),
    "std": prunecli.StdThreshold(0.5),
    "percentile": prunecli.Percentile(40),
    "l1": prunecli.L1(amount=0.4),
    "row": prunecli.L1(amount=0.4, scope="row"),
    "global": prunecli.Global(amount=0.4),
    "lamp": prunecli.Global(amount=0.4, normalize="lamp"),
    "2:4": prunecli.TopK(2, 4),
    "2:4 of outputs": prunecli.TopK(2, 4, 0, "zero"),
    "long groups": prunecli.TopK(5, 20),
    "structured": prunecli.Structured(amount=0.4),
    "columns": prunecli.Structured(amount=0.4, dim=1),
    "block": prunecli.Block(4, 4, amount=0.4),
    "random": prunecli.Random(amount=0.4),
}

VIEWS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "transposed": lambda t: t.transpose(0, -1).contiguous().transpose(0, -1),
    "channels last": lambda t: t.movedim(1, -1).contiguous().movedim(-1, 1),
    "every third": lambda t: torch.stack([t, t + 1, t + 2], -1)[..., 0],
    "a part": lambda t: torch.cat([t, t], 1)[:, : t.shape[1]],
}

SHAPES = ((13, 22), (6, 10, 3, 3))


@pytest.fixture
def small_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut tensors of a few hundred weights into runs, and rank them by a search."""
    monkeypatch.setattr(apply, "STRIDED_RUN", 100)
    monkeypatch.setattr(scored_tensors, "SCAN_BYTES", 100)
    monkeypatch.setattr(rank_planner, "SMALL_TENSOR", 0)


def pruned(weights: dict[str, torch.Tensor], strategy: Strategy, folder: Path) -> tuple[dict[str, torch.Tensor], Path]:
    """Save and prune weights; return them and the mask."""
    path, output, mask = folder / "in.pth", folder / "out.pth", folder / "mask.safetensors"
    torch.save(weights, path)
    prunecli.prune(path, strategy, output=output, mask_out=mask, reports=(), force=True)
    return torch.load(output, weights_only=True), mask


@pytest.mark.usefixtures("small_runs")
@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("name", STRATEGIES)
def test_runs_prune_the_same_weights(name: str, view: str, tmp_path: Path) -> None:
    """A tensor with any strides loses the same weights as a contiguous one, ties included, and has the same mask."""
    generator = torch.Generator().manual_seed(7)
    weights = {f"{i}.weight": torch.randint(-9, 10, shape, generator=generator) / 8 for i, shape in enumerate(SHAPES)}
    strided = {key: VIEWS[view](weight) for key, weight in weights.items()}
    assert not all(weight.is_contiguous() for weight in strided.values())

    expected, mask = pruned(weights, STRATEGIES[name], tmp_path)
    expected_mask = mask.read_bytes()
    actual, mask = pruned(strided, STRATEGIES[name], tmp_path)

    assert any(not torch.equal(expected[key], weights[key]) for key in weights)
    for key, weight in expected.items():
        assert same_bits(actual[key], weight), key
        assert actual[key].stride() == strided[key].stride()
    assert mask.read_bytes() == expected_mask


PEAK = """
import json, pathlib, sys
from prunecli.cli.main import main
for line in json.loads(sys.argv[1]):
    assert main([*line, "-q", "-f"]) == 0
print(int(pathlib.Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) >> 10)
"""


def peak(path: Path, *options: str) -> int:
    """Return the most memory, in MiB, that a run with one thread holds."""
    command, *rest = options
    lines = json.dumps([[command, str(path), *rest, "--threads", "1"]])
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        [sys.executable, "-c", PEAK, lines], capture_output=True, text=True, check=True, env=environment
    )
    return int(run.stdout)


@pytest.mark.parametrize(
    "options",
    [
        ("threshold", "--thr", "0.5"),
        ("l1", "--amount", "0.5"),
        pytest.param(("l1", "--amount", "0.5", "--scope", "row"), marks=pytest.mark.slow),
        pytest.param(("global", "--amount", "0.5", "--normalize", "lamp"), marks=pytest.mark.slow),
        pytest.param(("topk", "--pattern", "2:4"), marks=pytest.mark.slow),
        pytest.param(("structured", "--amount", "0.5"), marks=pytest.mark.slow),
        pytest.param(("block", "--shape", "4x4", "--amount", "0.5"), marks=pytest.mark.slow),
    ],
    ids=" ".join,
)
def test_memory_is_the_tensor_and_some_runs(options: tuple[str, ...], tmp_path: Path) -> None:
    """A run holds the bytes of a transposed tensor once, and at most 64 MiB more than a run with a small one."""
    small, large = tmp_path / "small.pth", tmp_path / "large.pth"
    torch.save({"a.weight": torch.ones(64, 64).T}, small)
    torch.save({"a.weight": torch.rand(7168, 7168, dtype=torch.float16).T}, large)
    size = large.stat().st_size >> 20

    assert peak(large, *options) < peak(small, *options) + size + 64
