"""Scores of tensors on a device, and cuts of normalized ones, give the bits and the report of a file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import save_file
from support import different
from support.containers import transposed
from support.weights import contiguous_copies

from prunecli.api import prune, prune_state_dict
from prunecli.errors import CheckpointError, UsageError
from prunecli.strategies.mask import Mask
from prunecli.strategies.semi_structured import TopK
from prunecli.strategies.strategy import Strategy
from prunecli.strategies.structured import Block, Structured
from prunecli.strategies.thresholds import StdThreshold, Threshold
from prunecli.strategies.unstructured import L1, Global, Percentile, Random

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

KINDS = ("", "norms", "scores", "mask", "remaining")

STRATEGIES: tuple[Strategy, ...] = (
    Threshold(0.3),
    StdThreshold(0.5),
    Percentile(60),
    L1(amount=0.4),
    L1(amount=0.4, scope="row"),
    L1(amount=0.4, allocate="erk"),
    Global(amount=0.5),
    Global(amount=0.5, normalize="rms"),
    Global(amount=0.5, normalize="lamp", min_per_tensor=0.1),
    TopK(2, 4),
    Structured(amount=0.25),
    Block(4, 4, amount=0.5),
    Random(amount=0.5, seed=3),
)


@pytest.fixture(autouse=True)
def device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let all tensors count as those of a device."""
    for module in ("io.memory_reader", "engine.in_memory", "training.masks"):
        monkeypatch.setattr(f"prunecli.{module}.on_host", lambda _: False)


@pytest.fixture(params=[True, False], ids=["stacks", "runs"])
def sizes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let tensors be small, and computed in stacks, or large, and computed alone in runs."""
    if request.param:
        return
    for module in ("together", "device_rows", "device_ranks", "scored_ranks", "stacked_measure"):
        monkeypatch.setattr(f"prunecli.engine.{module}.SMALL", 0)
    monkeypatch.setattr("prunecli.engine.device_rows.RUN", 512)
    monkeypatch.setattr("prunecli.engine.in_memory.SCORED_RUN", 512)


def make_live(kind: str) -> dict[str, Tensor]:
    """Return tensors of several dtypes and shapes, many of their weights equal."""
    torch.manual_seed(0)
    dtypes = torch.float32, torch.bfloat16, torch.float64, torch.float8_e4m3fn, torch.float32, torch.bfloat16
    live = {}
    for number, dtype in enumerate(dtypes):
        numbers = (torch.randn((40, 52) if number % 3 else (16, 16), dtype=torch.float64) * 4).round() / 4
        numbers = numbers * (torch.rand(numbers.shape) > 0.3) if kind == "remaining" else numbers + number / 8
        live[f"{number}.weight"] = numbers.to(dtype)
    return live


def options_of(kind: str, live: dict[str, Tensor], folder: Path) -> dict[str, Any]:
    """Write the file that `kind` needs, and return the arguments of the call."""
    path = folder / f"{kind}.safetensors"
    if kind == "norms":
        save_file({name: torch.rand(w.shape[1]) for name, w in live.items()}, path)
        return {"act_norms": path}
    if kind == "scores":
        save_file({name: torch.randint(0, 99, w.shape).float() for name, w in live.items()}, path)
        return {"scores": path}
    if kind == "mask":
        save_file({name: torch.rand(w.shape) > 0.4 for name, w in live.items()}, path)
        return {"mask_in": path}
    return {"of": "remaining"} if kind else {}


def check(strategy: Strategy, live: dict[str, Tensor], options: dict[str, Any], folder: Path) -> None:
    """Compare what the call does with what a file gets."""
    torch.save(contiguous_copies(live), folder / "in.pth")
    from_file = prune(folder / "in.pth", strategy, output=folder / "out.pth", reports=(), force=True, **options)

    report = prune_state_dict(live, strategy, **options)

    assert different(torch.load(folder / "out.pth", weights_only=True), live) == [], strategy
    assert from_file.rows == report.rows, strategy


@pytest.mark.usefixtures("sizes")
@pytest.mark.parametrize("kind", KINDS)
def test_device_and_file_agree(kind: str, tmp_path: Path) -> None:
    """Every strategy agrees with every kind of score."""
    options = options_of(kind, make_live(kind), tmp_path)
    for strategy in STRATEGIES:
        if not strategy.ranks_weights and kind in {"norms", "scores"}:
            continue
        check(strategy, make_live(kind), options, tmp_path)


@pytest.mark.usefixtures("sizes")
@pytest.mark.parametrize("kind", ["norms", "remaining"])
def test_other_layouts_agree(kind: str, tmp_path: Path) -> None:
    """Columns are rows where the first dimension is that of the inputs; norms belong to it, then."""
    live = make_live(kind)
    options = options_of(kind, {name: w.T for name, w in live.items()}, tmp_path) | {"layout": {"*": "in-out"}}
    for strategy in (L1(amount=0.4, scope="row"), TopK(2, 4), Structured(amount=0.25)):
        check(strategy, make_live(kind), options, tmp_path)


def test_strided_tensors_agree(tmp_path: Path) -> None:
    """Scores of transposed tensors are in row-major order."""
    options = options_of("norms", make_live(""), tmp_path)
    for strategy in (L1(amount=0.4), Global(amount=0.5, normalize="l2"), Random(amount=0.5)):
        check(strategy, transposed(make_live("")), {} if isinstance(strategy, Random) else options, tmp_path)


@pytest.mark.usefixtures("sizes")
def test_masks_agree(tmp_path: Path) -> None:
    """The mask of a strategy is applied on the device."""
    path = options_of("mask", make_live(""), tmp_path)["mask_in"]
    check(Mask(str(path)), make_live(""), {}, tmp_path)


@pytest.mark.parametrize(
    ("kind", "wrong", "strategy"),
    [
        ("norms", -1.0, L1(amount=0.4)),
        ("scores", float("nan"), L1(amount=0.4)),
        ("scores", float("nan"), TopK(2, 4)),
        ("mask", 0.5, Threshold(0.1)),
    ],
)
def test_an_error_changes_nothing(kind: str, wrong: float, strategy: Strategy, tmp_path: Path) -> None:
    """What is wrong in a file is found before the first weight changes."""
    live = make_live("")
    options = options_of(kind, live, tmp_path)
    (path,) = options.values()
    sides = {name: torch.ones(w.shape[1] if kind == "norms" else w.shape) for name, w in live.items()}
    sides["5.weight"].view(-1)[-1] = wrong
    save_file(sides, path)

    with pytest.raises(CheckpointError):
        prune_state_dict(live, strategy, **options)

    assert different(make_live(""), live) == []


def test_rows_with_too_few_weights_change_nothing() -> None:
    """A count that a row does not have is an error before the first weight changes."""
    live = make_live("")
    live["5.weight"][3, 2:] = 0
    before = contiguous_copies(live)

    with pytest.raises(UsageError):
        prune_state_dict(live, L1(count=3, scope="row"), of="remaining")

    assert different(before, live) == []
