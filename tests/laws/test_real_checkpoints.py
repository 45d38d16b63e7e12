"""On real checkpoints the result is what the oracle scripts compute with torch and NumPy."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from support import SHARED, different, expected, read, zeroed

from prunecli.api import prune
from prunecli.strategies.semi_structured import TopK
from prunecli.strategies.unstructured import L1, Global, Percentile, Strategy, Structured, Threshold

if TYPE_CHECKING:
    from collections.abc import Callable

    from prunecli.report.model import Report

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
Weights = dict[str, torch.Tensor]


REAL = [
    "burn-mnist.safetensors",
    "burn-mnist.pt",
    "facenet-rnet.pt",
    "resnet20-12fca82f.th",
    "distiller-4D-5Lremoved.pth.tar",
    "taef2_decoder.pth",
    "silero_vad_16k.safetensors",
    "allennlp-elmo-tagger.th",
    "AaronNet32plus.pth",
    "TinyPeLLM-pytorch_model.bin",
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


def same_by_design(name: str, strategy: str) -> bool:
    """Say whether peers agree: of a matrix under two names they count and rank both, and this package one."""
    return name != "TinyPeLLM-pytorch_model.bin" or not strategy.startswith("global")


@pytest.fixture
def checkpoints() -> Path:
    """Return the folder of real checkpoints."""
    if not (SHARED / "checkpoints").is_dir():
        pytest.skip("the real checkpoints are not beside this checkout")
    return SHARED / "checkpoints"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Return a function that runs an oracle script in this process, where torch is loaded, and gives its exit code."""
    oracles = SHARED / "oracles"
    if not oracles.is_dir():
        pytest.skip("the oracle scripts are not beside this checkout")
    monkeypatch.syspath_prepend(oracles)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # what is beside this checkout stays as it is

    def run(name: str, *arguments: str | Path) -> int:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        try:
            runpy.run_path(str(oracles / name), run_name="__main__")
        except SystemExit as end:
            return int(end.code or 0)
        return 0

    return run


def prune_all(path: Path, strategy: Strategy, output: Path) -> Report:
    """Prune what the oracles prune: every float with 2 or more dimensions that has `weight` in its name."""
    return prune(path, strategy, output=output, reports=(), include=["re:weight"], min_dim=2)


@pytest.mark.parametrize(("name", "oracle"), [(n, o) for n in REAL for o in ORACLES if same_by_design(n, o)])
def test_real_checkpoints_end_as_the_oracles_say(
    name: str, oracle: str, checkpoints: Path, tmp_path: Path, script: Callable[..., int]
) -> None:
    """On real weights the oracle scripts give the same bits, but for which of several equals went."""
    strategy, (program, *options), scope = ORACLES[oracle]
    path, wanted, found = checkpoints / name, tmp_path / f"wanted{suffix(name)}", tmp_path / f"found{suffix(name)}"
    prune_all(path, strategy, found)

    assert script(program, path, wanted, *options) == 0
    assert script("compare.py", wanted, found, "--input", path, "--zeros-equal", *scope) in {0, 1}


def suffix(name: str) -> str:
    """Return the suffix by which the oracles tell safetensors from torch's files."""
    return ".safetensors" if name.endswith(".safetensors") else ".pth"


def manifest(folder: Path) -> list[dict[str, str]]:
    """Return the last table of the manifest, which has the zero counts, a dict per row."""
    lines = (folder / "MANIFEST.md").read_text().splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("| file | tensors / weights |"))
    cells = [[c.strip() for c in line.strip("|").split("|")] for line in lines[first:] if line.startswith("|")]
    return [dict(zip(cells[0], row, strict=True)) for row in cells[2:]]


@pytest.mark.parametrize(("name", "column"), [(n, c) for n in REAL for c in COLUMNS if same_by_design(n, c)])
def test_real_checkpoints_have_the_zeros_of_the_manifest(name: str, column: str, checkpoints: Path) -> None:
    """The published number of zeros is reached exactly; tied tensors count once per name there."""
    wanted = {row["file"]: row[column] for row in manifest(checkpoints)}[name]
    if wanted.endswith("*") and isinstance(COLUMNS[column], Structured):
        pytest.skip("slices of equal norm hold different numbers of zeros: either choice is right")

    report = prune(checkpoints / name, COLUMNS[column], include=["re:weight"], min_dim=2, dry_run=True)

    rows = [row for row in report.rows if row.selected]
    zeros = sum((row.zeros_after or 0) * (1 + len(row.aliases)) for row in rows)
    assert int(wanted.split()[0]) == zeros


def make_variants(source: Path, folder: Path) -> None:
    """Write a real checkpoint in many containers; a process of its own, for it does not close its files."""
    program = SHARED / "oracles" / "make_variants.py"
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    subprocess.run([sys.executable, program, source, folder], check=True, capture_output=True, env=environment)


@pytest.mark.parametrize("name", ["facenet-rnet.pt", "silero_vad_16k.safetensors", "AaronNet32plus.pth"])
def test_every_variant_ends_as_torch_says(name: str, checkpoints: Path, tmp_path: Path) -> None:
    """Every container that a real checkpoint is put in ends with the weights of torch, bit for bit, ties included."""
    make_variants(checkpoints / name, tmp_path / "in")
    variants = sorted((tmp_path / "in").iterdir())
    assert len(variants) == 18

    for path in variants:
        before = flat(path)
        names = [n for n, t in before.items() if "weight" in n and t.dim() > 1 and not n.endswith(".tied")]
        for strategy, _, _ in ORACLES.values():
            found = flat(pruned_variant(path, strategy, tmp_path))
            keeps = expected(strategy, [before[n] for n in names])
            wanted = before | {n: zeroed(before[n], keep) for n, keep in zip(names, keeps, strict=True)}
            wanted |= {n: wanted[n.removesuffix(".tied")] for n in before if n.endswith(".tied")}
            assert not different(wanted, found), f"{path.name} {strategy}"


def pruned_variant(path: Path, strategy: Strategy, folder: Path) -> Path:
    """Return the pruned copy of a variant, in the place of the one before."""
    output = folder / f"out-{path.name}"
    prune(path, strategy, output=output, reports=(), include=["re:weight"], min_dim=2, force=True)
    return output


def flat(path: Path) -> Weights:
    """Return the state_dict of a variant, in checkpoint order: of names where nothing else orders the tensors."""
    loaded = read(path)
    found: Weights = loaded.get("state_dict", loaded)
    return dict(sorted(found.items())) if path.is_dir() or path.suffix == ".safetensors" else dict(found)
