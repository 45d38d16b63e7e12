"""Histograms of magnitudes, against NumPy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from support.reports import written
from support.small import write

from prunecli.errors import SelectionError
from prunecli.formats.open import open_checkpoint
from prunecli.inspection.inspect import inspect
from prunecli.inspection.inspect_text import write_inspection
from prunecli.text.tables import View

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_bars_count_every_weight_once(tmp_path: Path) -> None:
    """The bars equal NumPy's histogram of the finite magnitudes, and each weight counts once."""
    weights = torch.randn(100, 100, generator=torch.Generator().manual_seed(0))
    weights[0, :5], weights[1, :7] = torch.nan, 0.0
    path = write(tmp_path, {"a.weight": weights, "b.weight": torch.ones(1)})

    histogram = inspect(path, hist="a.weight").histogram

    assert histogram is not None
    magnitudes = weights.abs().double().numpy().ravel()
    edges = np.array([*histogram.edges, np.finfo(np.float32).max])
    expected, _ = np.histogram(magnitudes[np.isfinite(magnitudes)], edges)
    assert list(histogram.counts) == expected.tolist()
    assert (histogram.zeros, histogram.nonfinite) == (7, 5)
    assert sum(histogram.counts) + histogram.nonfinite == 10_000


def test_a_pattern_joins_the_tensors_that_match(source: Callable[[str], Path]) -> None:
    """A glob or a regular expression gives one histogram of the floats that match; an alias matches its tensor."""
    path = source("tied")

    by_glob, by_expression = inspect(path, hist="norm.*").histogram, inspect(path, hist="re:^norm").histogram
    by_alias = inspect(path, hist="head.weight").histogram

    assert by_glob is not None
    assert by_expression is not None
    assert by_alias is not None
    assert by_glob.tensors == ("norm.weight", "norm.bias", "norm.running_mean", "norm.running_var")
    assert by_expression.counts == by_glob.counts
    assert by_alias.tensors == ("embed.weight",)


@pytest.mark.parametrize(
    "weights",
    [
        torch.zeros(3, 3),
        torch.full((2, 2), torch.nan),
        torch.tensor([1e-45, 0.0]),
        torch.tensor([5e-324, 1.7e308], dtype=torch.float64),
        torch.tensor([3e38, 1.0]),
        torch.ones(1),
    ],
    ids=["zeros", "nan", "tiny", "far", "huge", "one"],
)
def test_every_float_tensor_has_a_histogram(tmp_path: Path, weights: torch.Tensor) -> None:
    """Zero, NaN, constant, tiny and huge magnitudes have ascending edges and complete counts, and can be printed."""
    path = write(tmp_path, {"a": weights})

    inspection = inspect(path, hist="a")

    assert inspection.histogram is not None
    assert sum(inspection.histogram.counts) + inspection.histogram.nonfinite == weights.numel()
    assert list(inspection.histogram.edges) == sorted(set(inspection.histogram.edges))
    assert "Magnitudes of a: " in written(write_inspection, inspection, View())


@pytest.mark.parametrize(
    ("hist", "message"),
    [
        ("fc.wieght", "matches none of 17 tensors"),
        ("*num_batches*", "I64 holds integers, not weights"),
        ("optimizer*", "outside the state_dict"),
        ("re:(", "is not a regular expression"),
    ],
)
def test_a_histogram_of_no_magnitudes_is_an_error(source: Callable[[str], Path], hist: str, message: str) -> None:
    """A pattern that matches nothing, or no floats, raises SelectionError with a hint."""
    checkpoint = open_checkpoint(source("nested"))
    expected = message.replace("17", str(len(checkpoint.tensors)))

    with pytest.raises(SelectionError, match=expected) as caught:
        inspect(checkpoint, hist=hist)

    assert caught.value.hint
