"""Tensors on a device are pruned there, with the bits and the report of a file; torch's CPU backend is the device."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from support import STRATEGIES, different, make_weights, pruned_weights
from support.containers import one_storage, sliced, transposed
from support.weights import TORCH_FLOATS, contiguous_copies

from prunecli.api import prune, prune_state_dict

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor


@pytest.fixture(autouse=True)
def device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let all tensors count as those of a device."""
    for module in ("io.memory_reader", "engine.in_memory"):
        monkeypatch.setattr(f"prunecli.{module}.on_host", lambda _: False)


@pytest.mark.parametrize("dtype", TORCH_FLOATS.values(), ids=str)
def test_device_and_file_agree_in_every_dtype(dtype: torch.dtype, strategy: str, tmp_path: Path) -> None:
    """Device and file agree bit for bit and row for row, in every float dtype."""
    weights = make_weights(dtype=dtype)
    torch.save(weights, tmp_path / "in.pth")
    from_file = prune(tmp_path / "in.pth", STRATEGIES[strategy], output=tmp_path / "out.pth", reports=())

    report = prune_state_dict(weights, STRATEGIES[strategy])

    assert different(torch.load(tmp_path / "out.pth", weights_only=True), weights) == []
    assert from_file.rows == report.rows
    assert from_file.selected == report.selected


@pytest.mark.parametrize("layout", [transposed, sliced, one_storage])
def test_strided_tensors_are_pruned_on_the_device(
    layout: Callable[[dict[str, Tensor]], dict[str, Tensor]], strategy: str
) -> None:
    """Transposed and sliced tensors have the zeros of contiguous ones."""
    weights = make_weights()
    live = layout(contiguous_copies(weights))

    prune_state_dict(live, STRATEGIES[strategy])

    assert different(pruned_weights(STRATEGIES[strategy], weights), live) == []
