"""What Python does for each of many small tensors on a device; torch's CPU backend is the device."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest
import torch

from prunecli.api import prune_state_dict
from prunecli.strategies.structured import Structured
from prunecli.strategies.thresholds import Threshold
from prunecli.strategies.unstructured import L1, Global, Random
from prunecli.training.masks import mask_from_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from prunecli.strategies.strategy import Strategy

FEW, MANY = 60, 160


@pytest.fixture(autouse=True)
def device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let all tensors count as those of a device."""
    for module in ("io.memory_reader", "engine.in_memory", "training.masks"):
        monkeypatch.setattr(f"prunecli.{module}.on_host", lambda _: False)


def make_model(count: int) -> dict[str, Tensor]:
    """Return small matrices."""
    torch.manual_seed(0)
    return {f"layers.{n}.weight": torch.randn(8, 32).to(torch.bfloat16) for n in range(count)}


def calls(work: Callable[[], object]) -> int:
    """Return how many functions `work` calls, those of C included."""
    made = 0

    def count(_: object, event: str, __: object) -> None:
        nonlocal made
        made += event in {"call", "c_call"}

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(before)
    return made


def calls_per_tensor(work: Callable[[dict[str, Tensor]], object]) -> float:
    """Return how many calls a tensor adds, after those that are made once."""
    work(make_model(FEW))  # modules are imported, and functions are cached
    few, many = (calls(lambda model=model: work(model)) for model in map(make_model, (FEW, MANY)))
    return (many - few) / (MANY - FEW)


@pytest.mark.parametrize(
    ("strategy", "most"),
    [
        (Threshold(0.5), 290),
        (L1(amount=0.5), 350),
        (Global(amount=0.5), 360),
        (Global(amount=0.5, normalize="lamp"), 650),
        (Structured(amount=0.25), 470),
        (Random(amount=0.5), 390),
    ],
    ids=repr,
)
def test_a_tensor_takes_few_calls(strategy: Strategy, most: int) -> None:
    """Python calls a bounded number of functions for each tensor, however many there are."""
    assert calls_per_tensor(lambda model: prune_state_dict(model, strategy)) < most


def test_a_mask_takes_few_calls() -> None:
    """The same holds for masks."""
    assert calls_per_tensor(mask_from_checkpoint) < 150
