"""The right weights: what torch.nn.utils.prune and NumPy zero, on random weights and on real checkpoints.

Where they leave the answer open, the documented rule: +0.0, and exactly k with the lowest position first among equals.
"""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from support import (
    CONTAINERS,
    SHARED,
    expected,
    make_checkpoint,
    make_weights,
    prune_tensors,
    read,
    same_bits,
    state_dict,
    zeroed,
)
from torch.nn.utils import prune as torch_prune

from prunecli.api import prune
from prunecli.strategies import Global, Percentile, Spread, Strategy, Threshold, TopK

if TYPE_CHECKING:
    from collections.abc import Callable

    from prunecli.report import Report

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
Weights = dict[str, torch.Tensor]


def matrices(seed: int = 0, dtype: torch.dtype = torch.float32) -> Weights:
    """Return the weights with 2 or more dimensions, in an order that is not that of their names."""
    return {name: t for name, t in make_weights(seed, dtype).items() if t.dim() > 1}


def torch_global(weights: Weights, amount: float) -> Weights:
    """Prune by global_unstructured with L1Unstructured; an int is a count."""
    holders = {name: torch.nn.ParameterDict({"w": torch.nn.Parameter(t.clone())}) for name, t in weights.items()}
    torch_prune.global_unstructured([(h, "w") for h in holders.values()], torch_prune.L1Unstructured, amount=amount)
    return {name: h.state_dict()["w_orig"] * h.state_dict()["w_mask"] for name, h in holders.items()}


def torch_threshold(t: torch.Tensor, thr: float) -> torch.Tensor:
    """Prune as people write it, where the comparison casts."""
    return t * (t.abs() > thr)


def numpy_percentile(t: torch.Tensor, q: float) -> torch.Tensor:
    """Prune by np.percentile of the magnitudes; 16-bit weights as float32, NumPy having no bfloat16."""
    magnitudes = (t if t.dtype == torch.float64 else t.float()).abs().numpy()
    return t * torch.from_numpy(magnitudes > np.percentile(magnitudes, q))


def tutorial_groups(t: torch.Tensor, group: int, keep: int) -> torch.Tensor:
    """Prune by the LSTM tutorial's double loop, which leaves what no full group covers masked out."""
    weights = t.numpy()
    mask = np.zeros_like(weights)
    for row in range(weights.shape[0]):
        for column in range(0, weights.shape[1] - group + 1, group):
            best = np.argsort(np.abs(weights[row, column : column + group]))[-keep:]
            mask[row, column + best] = 1
    return torch.from_numpy(weights * mask)


def different(wanted: Weights, found: Weights) -> list[str]:
    """Name the tensors whose bits are not those wanted."""
    assert list(wanted) == list(found)
    return [n for n, t in wanted.items() if not same_bits(t, found[n])]


def unlike(peer: Weights, found: Weights) -> list[str]:
    """Name the tensors whose bits are not those of a peer, whose `mask * w` leaves -0.0 where 0.0 is found here."""
    return different({n: torch.where(t == 0, torch.zeros_like(t), t) for n, t in peer.items()}, found)


# --- random weights


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("amount", [0.0, 0.1, 0.3, 0.5, 0.9, 1.0])
def test_global_prunes_what_torch_prunes(amount: float, seed: int, tmp_path: Path) -> None:
    """An amount zeroes the weights that global_unstructured zeroes over all tensors together."""
    weights = matrices(seed)

    found = prune_tensors(weights, Global(amount=amount), tmp_path)

    assert not unlike(torch_global(weights, amount), found)


@pytest.mark.parametrize("count", [0, 1, 10, 1000])
def test_a_global_count_prunes_what_torch_prunes(count: int, tmp_path: Path) -> None:
    """A count zeroes the weights that global_unstructured zeroes when it is given an int."""
    weights = matrices()

    found = prune_tensors(weights, Global(count=count), tmp_path)

    assert not unlike(torch_global(weights, count), found)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("thr", [0.0, 0.03, 0.1, 1.0])
def test_threshold_prunes_what_torch_compares(thr: float, dtype: torch.dtype, tmp_path: Path) -> None:
    """A threshold, even one above every weight, zeroes where `w.abs() > thr` is False in the tensor's dtype."""
    weights = matrices(dtype=dtype)

    found = prune_tensors(weights, Threshold(thr), tmp_path)

    assert not unlike({name: torch_threshold(t, thr) for name, t in weights.items()}, found)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_threshold_that_is_a_weight_prunes_it(dtype: torch.dtype, tmp_path: Path) -> None:
    """Equality is pruned, and the neighbour above is not: 0.1, 0.2 and 1 as each dtype stores them."""
    for thr in (0.1, 0.2, 1.0):
        at = torch.tensor(thr).to(dtype) if dtype != torch.float64 else torch.tensor(thr, dtype=dtype)
        up = torch.nextafter(at, torch.tensor(2.0, dtype=dtype))
        weights = {"w": torch.stack([at, -at, up, -up])}

        found = prune_tensors(weights, Threshold(thr), tmp_path)

        assert same_bits(torch.stack([at * 0, at * 0, up, -up]), found["w"])


@pytest.mark.parametrize("deviations", [0.0, 0.25, 1.0, 3.0])
def test_spread_prunes_what_torch_std_says(deviations: float, tmp_path: Path) -> None:
    """A multiple of the deviation is a threshold at that multiple of `Tensor.std`, per tensor."""
    weights = matrices(dtype=torch.float64)

    found = prune_tensors(weights, Spread(deviations), tmp_path)

    assert not unlike({n: torch_threshold(t, deviations * float(t.std())) for n, t in weights.items()}, found)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("q", [0, 50, 60, 80, 99.9, 100])
def test_percentile_prunes_what_numpy_says(q: float, dtype: torch.dtype, tmp_path: Path) -> None:
    """A percentile zeroes, per tensor, what is not above np.percentile of the magnitudes."""
    weights = matrices(dtype=dtype)

    found = prune_tensors(weights, Percentile(q), tmp_path)

    assert not unlike({name: numpy_percentile(t, q) for name, t in weights.items()}, found)


neighbours = st.integers(0, 3).map(lambda steps: 1 + steps * 2.0**-23)
"""Adjacent float32 numbers: what lies between them must be rounded to one of them, as NumPy rounds it."""


@settings(max_examples=50, deadline=None)
@given(
    st.one_of(
        st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=40),
        st.lists(neighbours, min_size=2, max_size=6),
    ),
    st.one_of(st.floats(0, 100), st.sampled_from([25, 50, 75, 90])),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_percentile_is_numpys_for_any_weights(
    tmp_path_factory: pytest.TempPathFactory, values: list[float], q: float, dtype: torch.dtype
) -> None:
    """Law: few weights, repeated weights and odd ranks interpolate as NumPy does, to the last bit."""
    t = torch.tensor(values, dtype=dtype)

    found = prune_tensors({"w": t}, Percentile(q), tmp_path_factory.getbasetemp())

    assert not unlike({"w": numpy_percentile(t, q)}, found)


def test_groups_are_the_lstm_tutorials(tmp_path: Path) -> None:
    """Keeping 2 of every 7 with the tail zeroed is the tutorial's double loop, on the LSTM's matrices only."""
    path, output = make_checkpoint("zip", tmp_path), tmp_path / "out.pth"
    weights = read(path)

    prune(path, TopK(2, 7, tail="zero"), output=output, reports=(), include=["*lstm.weight_*"])

    wanted = {n: tutorial_groups(t, 7, 2) if fnmatch(n, "*lstm.weight_*") else t for n, t in weights.items()}
    found = read(output)
    assert [n for n in weights if not same_bits(weights[n], found[n])] == ["lstm.weight_ih_l0", "lstm.weight_hh_l0"]
    assert not unlike({n: wanted[n] for n in matrices()}, {n: found[n] for n in matrices()})


# --- ties


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0, 1), st.sampled_from(sorted(CONTAINERS)), st.integers(1, 4))
def test_exactly_k_go_and_the_lowest_position_first(
    tmp_path_factory: pytest.TempPathFactory, seed: int, amount: float, container: str, levels: int
) -> None:
    """Law: among equals at the cut the first in checkpoint order, then row-major, go, until exactly k are zero."""
    folder = tmp_path_factory.mktemp("ties")
    path = make_checkpoint(container, folder, coarse(seed, levels))
    before = state_dict(container, read(path))

    prune(path, Global(amount=amount), output=folder / "out", reports=())

    names = [n for n in before if n in matrices()]
    keeps = expected(Global(amount=amount), [before[n] for n in names])
    found = state_dict(container, read_as(folder / "out", path))
    total = sum(before[n].numel() for n in names)
    assert round(amount * total) == sum(int((found[n] == 0).sum()) for n in names)
    assert not different({n: zeroed(before[n], keep) for n, keep in zip(names, keeps, strict=True)}, only(found, names))


def only(weights: Weights, names: list[str]) -> Weights:
    """Return the tensors `names` in that order."""
    return {n: weights[n] for n in names}


def read_as(output: Path, source: Path) -> object:
    """Load an output that has no suffix as what its source is."""
    if source.is_dir():
        return read(output)
    named = output.with_name(f"named{source.suffix}")
    output.rename(named)
    return read(named)


def coarse(seed: int, levels: int) -> Weights:
    """Return weights of both signs with only `levels` different magnitudes, none of them zero."""
    weights = make_weights(seed)
    steps = {n: (t.abs() * 97).remainder(1).mul(levels).floor().add(1).clamp(max=levels) for n, t in weights.items()}
    return {n: steps[n] * t.sign() if t.is_floating_point() else t for n, t in weights.items()}


@pytest.mark.parametrize("strategy", [Global(amount=0.37), Global(count=777), Percentile(50), TopK(2, 4)])
def test_one_file_and_its_shards_give_the_same_weights(strategy: Strategy, tmp_path: Path) -> None:
    """The layout does not decide between equals: a single file and three shards are pruned alike."""
    found = {}
    for container in ("safetensors", "safetensors-shards", "bin-shards"):
        folder = tmp_path / container
        folder.mkdir()
        path = make_checkpoint(container, folder, coarse(0, 3))
        prune(path, strategy, output=folder / "out.safetensors", reports=())
        found[container] = read(folder / "out.safetensors")

    for container in ("safetensors-shards", "bin-shards"):
        assert not [n for n, t in found["safetensors"].items() if not same_bits(t, found[container][n])]


def test_names_order_ties_across_dtypes(tmp_path: Path) -> None:
    """In safetensors, where wider dtypes lie first, equals still go in the order of the names."""
    save_file({"a.weight": torch.ones(2, 3, dtype=torch.float16), "b.weight": torch.ones(2, 3)}, tmp_path / "in")

    prune(tmp_path / "in", Global(count=7), output=tmp_path / "out", reports=())

    found = load_file(tmp_path / "out")
    assert found["a.weight"].tolist() == [[0, 0, 0], [0, 0, 0]]
    assert found["b.weight"].tolist() == [[0, 1, 1], [1, 1, 1]]


# --- real checkpoints

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
    "topk": (TopK(2, 7, dim=-1), ["grouped_topk.py", "--group", "7", "--keep", "2"], ["--scope", "group:7"]),
}
COLUMNS: dict[str, Strategy] = {
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
