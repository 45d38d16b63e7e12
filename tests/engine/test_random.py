"""Random weights and slices."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import examples
from support.pruning import Weights, pruned

from prunecli.kernels.random_bits import draw
from prunecli.strategies.structured import RandomStructured
from prunecli.strategies.unstructured import Random

if TYPE_CHECKING:
    import pytest


def test_random_masks_depend_on_seed_name_and_shape_alone(weights: Weights, tmp_path: Path) -> None:
    """Other tensors, dtypes and threads change nothing; another seed or name does."""
    whole = pruned(tmp_path, weights, Random(amount=0.5, seed=1))
    alone = pruned(tmp_path, {"big.weight": weights["big.weight"].double()}, Random(amount=0.5, seed=1), threads=1)
    other = pruned(tmp_path, weights, Random(amount=0.5, seed=2))
    named = pruned(tmp_path, {"bag.weight": weights["big.weight"]}, Random(amount=0.5, seed=1))

    holes = whole["big.weight"] == 0
    assert torch.equal(holes, alone["big.weight"] == 0)
    assert not torch.equal(holes, other["big.weight"] == 0)
    assert not torch.equal(holes, named["bag.weight"] == 0)


@settings(max_examples=examples(40))
@given(rows=st.integers(1, 40), cols=st.integers(1, 40), amount=st.floats(0, 1), seed=st.integers(-5, 5))
def test_random_prunes_exactly_the_amount(
    rows: int, cols: int, amount: float, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """For any seed, round(amount * n) weights are pruned."""
    folder = tmp_path_factory.mktemp("random")
    actual = pruned(folder, {"a.weight": torch.ones(rows, cols)}, Random(amount=amount, seed=seed))

    assert int((actual["a.weight"] == 0).sum()) == round(amount * rows * cols)


def test_random_weights_are_distributed_evenly(tmp_path: Path) -> None:
    """Each row and column of a large matrix loses its fraction, within six standard deviations."""
    actual = pruned(tmp_path, {"a.weight": torch.ones(1000, 1000)}, Random(amount=0.5))

    for dim in (0, 1):
        lost = (actual["a.weight"] == 0).sum(dim)
        assert (lost - 500).abs().max() < 6 * 0.5 * 1000**0.5


def test_random_slices_are_pruned_whole(tmp_path: Path) -> None:
    """Half of the columns are zero, and no other weight is."""
    actual = pruned(tmp_path, {"a.weight": torch.ones(6, 40)}, RandomStructured(amount=0.5, dim=1))

    assert sorted(actual["a.weight"].sum(0).tolist()) == [0.0] * 20 + [6.0] * 20


def test_random_numbers_can_start_at_any_position() -> None:
    """A run from any position equals that part of the whole stream."""
    whole = draw(7, 0, 1000)

    assert whole.min() >= 0
    for first, count in [(0, 1), (1, 5), (7, 9), (8, 8), (500, 77), (999, 1)]:
        assert np.array_equal(draw(7, first, count), whole[first : first + count])
