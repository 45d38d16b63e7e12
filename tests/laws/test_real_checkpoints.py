"""On real checkpoints the result is that of oracle scripts, which use torch and NumPy."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from support import SHARED, Weights, different, expected, read, zeroed
from support.covering import in_turn

from prunecli.api import prune
from prunecli.strategies.semi_structured import TopK
from prunecli.strategies.strategy import Strategy
from prunecli.strategies.structured import Structured
from prunecli.strategies.thresholds import Threshold
from prunecli.strategies.unstructured import L1, Global, Percentile

if TYPE_CHECKING:
    from collections.abc import Callable

    from prunecli.report.model import Report

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
REAL = [
    "burn-mnist.safetensors",
    "burn-mnist.pt",
    "facenet-rnet.pt",
    "resnet20-12fca82f.th",
    "distiller-4D-5Lremoved.pth.tar",
    "taef2_decoder.pth",
    "silero_vad_16k.safetensors",
    "allennlp-elmo-tagger.th",
    "TinyPeLLM-pytorch_model.bin",
    "AaronNet32plus.pth",
]
ORACLES: dict[str, tuple[Strategy, list[str], list[str]]] = {
    "threshold": (Threshold(0.05), ["threshold.py", "--thr", "0.05"], []),
    "percentile": (Percentile(80), ["percentile.py", "--q", "80", "--calc", "native"], []),
    "global": (Global(amount=0.5), ["global_l1.py", "--amount", "0.5"], ["--scope", "global"]),
    "l1": (L1(amount=0.5), ["l1.py", "--amount", "0.5"], []),
    "structured": (Structured(amount=0.25), ["ln_structured.py", "--amount", "0.25"], ["--scope", "slice:0:2"]),
    "structured-dim-1": (
        Structured(amount=0.25, dim=1, n=1),
        ["ln_structured.py", "--amount", "0.25", "--dim", "1", "-n", "1"],
        ["--scope", "slice:1:1"],
    ),
    "topk": (TopK(2, 7, dim=-1), ["grouped_topk.py", "--group", "7", "--keep", "2"], ["--scope", "group:7"]),
}
COLUMNS: dict[str, Strategy] = {
    "l1 amount 0.3": L1(amount=0.3),
    "l1 amount 0.5": L1(amount=0.5),
    "ln_structured amount 0.25 n 2 dim 0": Structured(amount=0.25),
    "global_l1 amount 0.5": Global(amount=0.5),
    "global_l1 amount 0.9": Global(amount=0.9),
    "percentile q 50": Percentile(50),
    "percentile q 80": Percentile(80),
    "threshold thr 0.05": Threshold(0.05),
    "grouped_topk": TopK(2, 7, dim=-1),
}


def comparable(name: str, strategy: str) -> bool:
    """Return whether the oracles agree by design: they rank a matrix with two names twice, and this package once."""
    return name != "TinyPeLLM-pytorch_model.bin" or not strategy.startswith("global")


@pytest.fixture
def checkpoints() -> Path:
    """Return the folder of real checkpoints."""
    if not (SHARED / "checkpoints").is_dir():
        pytest.skip("the real checkpoints are not next to this checkout, in ../shared")
    return SHARED / "checkpoints"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Return a function that runs an oracle script in this process, which has torch, and returns its exit code."""
    oracles = SHARED / "oracles"
    if not oracles.is_dir():
        pytest.skip("the oracle scripts are not next to this checkout, in ../shared")
    monkeypatch.syspath_prepend(oracles)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # write no file next to the oracles

    def run(name: str, *arguments: str | Path) -> int:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        try:
            runpy.run_path(str(oracles / name), run_name="__main__")
        except SystemExit as end:
            return int(end.code or 0)
        return 0

    return run


def prune_all(path: Path, strategy: Strategy, output: Path) -> Report:
    """Prune the tensors that the oracles prune: floats with 2 or more dimensions and `weight` in their names."""
    return prune(path, strategy, output=output, reports=(), include=["re:weight"], min_dim=2)


@pytest.mark.parametrize(("name", "oracle"), [p for p in in_turn(REAL, ORACLES) if comparable(*map(str, p.values))])
def test_real_checkpoints_end_as_the_oracles_say(
    name: str, oracle: str, checkpoints: Path, tmp_path: Path, script: Callable[..., int]
) -> None:
    """The oracle scripts give the same bits, except for the choice between equal weights."""
    strategy, (program, *options), scope = ORACLES[oracle]
    path, wanted, actual = checkpoints / name, tmp_path / f"wanted{suffix(name)}", tmp_path / f"actual{suffix(name)}"
    prune_all(path, strategy, actual)

    assert script(program, path, wanted, *options) == 0
    assert script("compare.py", wanted, actual, "--input", path, "--zeros-equal", *scope) in {0, 1}


def suffix(name: str) -> str:
    """Return the suffix by which the oracles detect safetensors or torch."""
    return ".safetensors" if name.endswith(".safetensors") else ".pth"


def manifest(folder: Path) -> list[dict[str, str]]:
    """Return the last table of the manifest, with the numbers of zeros, as a dict per row."""
    lines = (folder / "MANIFEST.md").read_text().splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("| file | tensors / weights |"))
    cells = [[c.strip() for c in line.strip("|").split("|")] for line in lines[first:] if line.startswith("|")]
    return [dict(zip(cells[0], row, strict=True)) for row in cells[2:]]


@pytest.mark.parametrize(("name", "column"), [(n, c) for n in REAL for c in COLUMNS if comparable(n, c)])
def test_real_checkpoints_have_the_zeros_of_the_manifest(name: str, column: str, checkpoints: Path) -> None:
    """The number of zeros is that of the manifest, which counts tied tensors once per name."""
    wanted = {row["file"]: row[column] for row in manifest(checkpoints)}[name]
    if wanted.endswith("*") and isinstance(COLUMNS[column], Structured):
        pytest.skip("slices of equal norm have different numbers of zeros: either choice is right")

    report = prune(checkpoints / name, COLUMNS[column], include=["re:weight"], min_dim=2, dry_run=True)

    rows = [row for row in report.rows if row.selected]
    zeros = sum((row.zeros_after or 0) * (1 + len(row.aliases)) for row in rows)
    assert int(wanted.split()[0]) == zeros


def make_variants(source: Path, folder: Path) -> list[Path]:
    """Write a real checkpoint in many containers; the script needs its own process, as it does not close files."""
    program = SHARED / "oracles" / "make_variants.py"
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    subprocess.run([sys.executable, program, source, folder], check=True, capture_output=True, env=environment)
    variants = sorted(folder.iterdir())
    assert len(variants) == 18
    return variants


@pytest.mark.parametrize(
    "name",
    [
        "facenet-rnet.pt",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("silero_vad_16k.safetensors", "AaronNet32plus.pth")),
    ],
)
def test_a_strategy_on_every_variant_ends_as_torch_says(name: str, checkpoints: Path, tmp_path: Path) -> None:
    """In every container a real checkpoint is pruned as torch does, bit for bit; the strategies take turns."""
    variants = make_variants(checkpoints / name, tmp_path / "in")
    strategies = [strategy for strategy, _, _ in ORACLES.values()]

    for index, path in enumerate(variants):
        check_variant(path, [strategies[index % len(strategies)]], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["facenet-rnet.pt", "silero_vad_16k.safetensors", "AaronNet32plus.pth"])
def test_every_variant_ends_as_torch_says(name: str, checkpoints: Path, tmp_path: Path) -> None:
    """In every container a real checkpoint is pruned by every strategy as torch does, bit for bit."""
    for path in make_variants(checkpoints / name, tmp_path / "in"):
        check_variant(path, [strategy for strategy, _, _ in ORACLES.values()], tmp_path)


def check_variant(path: Path, strategies: list[Strategy], folder: Path) -> None:
    """Check the weights of a variant after each strategy, ties included."""
    before = flat(path)
    names = [n for n, t in before.items() if "weight" in n and t.dim() > 1 and not n.endswith(".tied")]
    for strategy in strategies:
        after = flat(pruned_variant(path, strategy, folder))
        keeps = expected(strategy, [before[n] for n in names])
        wanted = before | {n: zeroed(before[n], keep) for n, keep in zip(names, keeps, strict=True)}
        wanted |= {n: wanted[n.removesuffix(".tied")] for n in before if n.endswith(".tied")}
        assert different(wanted, after) == [], f"{path.name} {strategy}"


def pruned_variant(path: Path, strategy: Strategy, folder: Path) -> Path:
    """Prune a variant and return the output, which replaces that of the strategy before."""
    output = folder / f"out-{path.name}"
    prune(path, strategy, output=output, reports=(), include=["re:weight"], min_dim=2, force=True)
    return output


def flat(path: Path) -> Weights:
    """Return the state_dict of a variant in checkpoint order, which in safetensors is the order of the names."""
    loaded = read(path)
    weights: Weights = loaded.get("state_dict", loaded)
    return dict(sorted(weights.items())) if path.is_dir() or path.suffix == ".safetensors" else dict(weights)
