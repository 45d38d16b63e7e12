"""Thresholds equal NumPy's quantiles, for every dtype and mixture of dtypes, with ties, zeros and NaN."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from support import examples
from support.weights import TORCH_FLOATS

import prunecli.inspection.ranks
from prunecli.dtypes import FLOATS
from prunecli.formats.open import open_checkpoint
from prunecli.inspection.passes import Passes
from prunecli.inspection.thresholds import count_below, cut_of, rank, ranks_of, shortest

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from prunecli.inspection.thresholds import ThresholdTable

PERCENTS = (1, 10, 25, 50, 80, 90, 99, 100)


def tables(folder: Path, tensors: Sequence[torch.Tensor]) -> tuple[ThresholdTable, tuple[ThresholdTable, ...]]:
    """Write tensors to a file and return their threshold tables."""
    path = folder / "q.pth"
    torch.save({f"{i:03}": t for i, t in enumerate(tensors)}, path)
    checkpoint = open_checkpoint(path)
    ranking = rank(Passes(checkpoint), checkpoint.tensors, PERCENTS)
    return ranking.together, ranking.each


def zeroed_by(threshold: float, t: torch.Tensor) -> int:
    """Return for how many weights `tensor.abs() <= threshold` holds in torch, which rounds the threshold."""
    as_torch = torch.tensor(threshold, dtype=torch.float64 if t.dtype == torch.float64 else torch.float32).to(t.dtype)
    return int((t.double().abs() <= as_torch.double()).sum())


def normal(dtype: torch.dtype, size: int, seed: int = 0, scale: float = 0.05) -> torch.Tensor:
    """Return normal weights."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(size, generator=generator, dtype=torch.float64) * scale).to(dtype)


@pytest.mark.parametrize("dtype", TORCH_FLOATS.values(), ids=TORCH_FLOATS.keys())
@pytest.mark.parametrize("size", [1, 2, 100, 40_001])
def test_a_threshold_is_the_order_statistic(tmp_path: Path, dtype: torch.dtype, size: int) -> None:
    """Each threshold zeroes the weights up to NumPy's inverted-CDF quantile, and has their number."""
    weights = normal(dtype, size)
    magnitudes = weights.double().abs().numpy()

    _, (found,) = tables(tmp_path, [weights])

    assert [step.percent for step in found.steps] == list(PERCENTS)
    for step in found.steps:
        quantile = np.percentile(magnitudes, step.percent, method="inverted_cdf")
        assert step.threshold is not None
        assert step.zeroed == zeroed_by(step.threshold, weights) == (magnitudes <= quantile).sum()


@pytest.mark.parametrize("dtype", TORCH_FLOATS.values(), ids=TORCH_FLOATS.keys())
def test_joint_thresholds_are_the_order_statistics_of_all_weights(tmp_path: Path, dtype: torch.dtype) -> None:
    """The thresholds of all tensors together equal those of the joined weights."""
    tensors = [normal(dtype, 5000, 1), normal(dtype, 300, 2, 0.2), normal(dtype, 1, 3)]
    magnitudes = np.concatenate([t.double().abs().numpy() for t in tensors])

    found, _ = tables(tmp_path, tensors)

    assert found.numel == 5301
    for step in found.steps:
        quantile = np.percentile(magnitudes, step.percent, method="inverted_cdf")
        assert step.threshold is not None
        assert step.zeroed == sum(zeroed_by(step.threshold, t) for t in tensors) == (magnitudes <= quantile).sum()


@settings(max_examples=examples(40))
@given(names=st.lists(st.sampled_from(sorted(TORCH_FLOATS)), min_size=2, max_size=5), seed=st.integers(0, 99))
def test_thresholds_of_mixed_dtypes_zero_the_counted_weights(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], seed: int
) -> None:
    """If dtypes differ, the threshold is rounded to each of them; the count is exact and large enough."""
    tensors = [normal(TORCH_FLOATS[name], 400, seed + i) for i, name in enumerate(names)]
    magnitudes = np.concatenate([t.double().abs().numpy() for t in tensors])

    found, _ = tables(tmp_path_factory.mktemp("mixed"), tensors)

    for step in found.steps:
        quantile = np.percentile(magnitudes, step.percent, method="inverted_cdf")
        assert step.threshold is not None
        assert step.zeroed == sum(zeroed_by(step.threshold, t) for t in tensors)
        assert step.zeroed >= max((magnitudes <= quantile).sum(), step.percent / 100 * magnitudes.size)


def test_large_tensors_are_counted_in_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counting in a table gives the same numbers as sorting."""
    tensors = [normal(torch.float32, 300_000), normal(torch.float64, 70_000)]
    expected = tables(tmp_path, tensors)

    monkeypatch.setattr(prunecli.inspection.ranks, "HELD_LIMIT", 0)

    assert tables(tmp_path, tensors) == expected


def test_ties_are_counted(tmp_path: Path) -> None:
    """If zeros or equal weights exceed the requested part, the number of zeroed weights includes all of them."""
    weights = torch.tensor([0.0] * 60 + [0.5] * 30 + [2.0] * 10)

    _, (found,) = tables(tmp_path, [weights])

    assert [(s.percent, s.threshold, s.zeroed) for s in found.steps] == [
        *((p, 0.0, 60) for p in (1, 10, 25, 50)),
        *((p, 0.5, 90) for p in (80, 90)),
        *((p, 2.0, 100) for p in (99, 100)),
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_nonfinite_weights_have_no_threshold(tmp_path: Path, dtype: torch.dtype) -> None:
    """A part that includes NaN or infinities has no threshold; a smaller part has one."""
    weights = torch.arange(1, 11).to(dtype)
    weights[7], weights[9] = torch.nan, -torch.inf
    other = torch.ones(10, dtype=torch.float32)

    whole, (found, _) = tables(tmp_path, [weights, other])

    assert [s.threshold for s in found.steps] == [1, 1, 3, 5, 9, None, None, None]
    assert [s.zeroed for s in found.steps] == [1, 1, 3, 5, 8, None, None, None]
    assert [s.zeroed for s in whole.steps][-2:] == [None, None]


@pytest.mark.parametrize("limit", [prunecli.inspection.ranks.HELD_LIMIT, 0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_largest_patterns_are_ranked(
    tmp_path: Path, dtype: torch.dtype, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NaN with all bits set is the largest pattern, and the largest finite number has a threshold."""
    monkeypatch.setattr(prunecli.inspection.ranks, "HELD_LIMIT", limit)
    weights = torch.full((10,), torch.finfo(dtype).max, dtype=dtype)
    weights.view(torch.int32 if dtype is torch.float32 else torch.int64)[5:] = -1

    _, (found,) = tables(tmp_path, [weights])

    assert [s.zeroed for s in found.steps] == [5, 5, 5, 5, None, None, None, None]


@given(value=st.floats(0, 60_000), names=st.lists(st.sampled_from(sorted(FLOATS)), min_size=1, max_size=3))
def test_the_shortest_threshold_zeroes_the_same_weights(value: float, names: list[str]) -> None:
    """A shortened threshold has the same cut as the long one in each dtype, and is not longer."""
    dtypes = [FLOATS[name] for name in names]

    short = shortest(value, dtypes)

    assert [cut_of(short, d) for d in dtypes] == [cut_of(value, d) for d in dtypes]
    assert len(repr(short)) <= max(len(repr(value)), 6)


@given(numel=st.integers(1, 10**12), percent=st.integers(1, 100))
def test_ranks_are_the_smallest_that_suffice(numel: int, percent: int) -> None:
    """A rank is the smallest whole number that is at least the percentage, without rounding errors."""
    rank = ranks_of(numel, [percent])[percent]

    assert rank * 100 >= percent * numel
    assert rank == 1 or (rank - 1) * 100 < percent * numel


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_weights_are_counted_below_cuts(tmp_path: Path, dtype: torch.dtype) -> None:
    """Cuts are patterns in any order; NaN is below none of them."""
    weights = torch.tensor([0.0, -1.0, 1.0, 1.5, 2.0, -3.0, torch.nan], dtype=dtype)
    save_file({"a": weights, "b": torch.ones(5, dtype=torch.float64)}, tmp_path / "t.safetensors")
    checkpoint = open_checkpoint(tmp_path / "t.safetensors")
    passes, tensors, own = Passes(checkpoint), checkpoint.tensors, FLOATS["F16" if dtype is torch.float16 else "F32"]
    whole = rank(passes, tensors, PERCENTS).whole

    cuts = [own.ceil(value) for value in (2.5, 0.5, 1.5)]

    assert count_below(passes, tensors, own, cuts, whole) == [5, 1, 3]
