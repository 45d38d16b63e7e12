"""The Triton kernels that draw random numbers, on a GPU or run by Triton's interpreter, rank and prune as the host."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from support.launches import count_launches
from support.triton import DEVICE

import prunecli
from prunecli.api import prune_state_dict
from prunecli.engine import random_ranks
from prunecli.kernels.random_bits import draw

pytest.importorskip("triton", reason="Triton is not installed")

from prunecli.kernels.fused_random import FusedRandom, holds

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),  # the interpreter computes with NumPy
]

KEYS = [7 << 70 | 5, 3, (1 << 128) - 1]


@pytest.mark.parametrize("length", [1, 5, 8, 300, 9_001])
def test_the_wanted_numbers_are_pruned(length: int) -> None:
    """Of the streams of three keys exactly the smallest numbers are pruned, of equals the first ones."""
    kernels = FusedRandom(torch)
    numbers = [draw(key, 0, length).astype(np.int64) for key in KEYS]
    keys = [row << 32 | np.arange(length) for row in numbers]
    for rank in {1, length // 3 + 1, length}:
        rows = kernels.ranked(KEYS, length, rank, DEVICE).tolist()
        for row, own, ordered in zip(rows, numbers, keys, strict=True):
            below, _, wanted, less, equal = row
            assert holds(row, rank, length)
            assert wanted == np.sort(ordered)[rank - 1]
            assert (below + less, equal) == ((own < wanted >> 32).sum(), (own == wanted >> 32).sum())
        for first in (0, length // 16 * 8):
            kept = kernels.kept(KEYS, [row[2] for row in rows], (first, length - first), DEVICE).cpu().numpy()
            expected = [own[first:] > row[2] for own, row in zip(keys, rows, strict=True)]
            assert np.array_equal(kept.reshape(3, -1), np.array(expected))


def test_a_rank_outside_of_the_bracket_is_noticed() -> None:
    """Counts of another rank do not hold."""
    (row,) = FusedRandom(torch).ranked(KEYS[:1], 9_001, 4_000, DEVICE).tolist()

    assert holds(row, 4_000, 9_001)
    assert not holds(row, 1, 9_001)
    assert not holds(row, 9_001, 9_001)


class Missing(FusedRandom):
    """Kernels whose brackets never have the rank."""

    def ranked(self, keys: Any, *_: Any) -> Any:  # noqa: ANN401 - as `FusedRandom`
        """Return counts of nothing."""
        return torch.zeros((len(keys), 5), dtype=torch.int64)


@pytest.mark.skipif(DEVICE != "cpu", reason="where there is a GPU, the kernels take no tensors of the host")
@pytest.mark.parametrize("kernels", [FusedRandom(torch), Missing(torch)], ids=["found", "missed"])
@pytest.mark.parametrize("amount", [0.0, 0.3, 1.0])
def test_weights_on_a_device_are_pruned_as_on_the_host(
    kernels: Any,  # noqa: ANN401
    amount: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same weights are pruned by the kernels, and by scores where a bracket misses its rank."""
    torch.manual_seed(0)
    live = {f"{name}.weight": torch.randn(shape) for name, shape in {"a": (12, 40), "b": (12, 40), "c": (5, 7)}.items()}
    host = {name: x.clone() for name, x in live.items()}
    expected = prune_state_dict(host, prunecli.Random(amount=amount))

    launches = count_launches(monkeypatch)
    monkeypatch.setattr(random_ranks, "drawing", lambda _: kernels)
    with launches:
        found = prune_state_dict(live, prunecli.Random(amount=amount))

    assert all(torch.equal(live[name], x) for name, x in host.items())
    assert found.rows == expected.rows


def test_equal_numbers_are_pruned_in_order() -> None:
    """A cut between equals prunes those up to its position."""
    kept = FusedRandom(torch).kept(KEYS[:1], [int(draw(KEYS[0], 4, 1)[0]) << 32 | 3], (0, 16), DEVICE).tolist()

    assert kept[4] == 1
    assert FusedRandom(torch).kept(KEYS[:1], [int(draw(KEYS[0], 4, 1)[0]) << 32 | 4], (0, 16), DEVICE).tolist()[4] == 0
