"""Thresholds, histograms and curves of FP8 codes with a scale are those of the products; zeros are those of codes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch
from support.pruning import stored
from support.scaled import make_scaled, model

from prunecli import check, inspect, scan
from prunecli.inspection.conditions import Finite, MinSparsity

if TYPE_CHECKING:
    from pathlib import Path

WEIGHTS = ("a.weight", "b.weight", "c.weight", "d.weight")


@pytest.fixture
def both(tmp_path: Path) -> tuple[Path, Path]:
    """Write a model of codes, and the same one of products."""
    codes, products = model("blocks of 16, ragged")
    return stored(tmp_path, "codes", codes), stored(tmp_path, "products", products)


def test_thresholds_prune_products(both: tuple[Path, Path]) -> None:
    """The tables of both files are equal, together and for each tensor."""
    codes, products = (inspect(path, thresholds=True).thresholds for path in both)

    assert codes == products


@pytest.mark.parametrize("pattern", ["a.weight", "*.weight"])
def test_histograms_count_products(pattern: str, both: tuple[Path, Path]) -> None:
    """The bars and percentiles of both files are equal, for one tensor and for several dtypes."""
    codes, products = (inspect(path, hist=pattern).histogram for path in both)

    assert codes == products


def test_curves_are_those_of_products(both: tuple[Path, Path]) -> None:
    """The tensors are ranked by the norms of products."""
    codes, products = (scan(path).curves for path in both)

    assert [replace(curve, dtype="F64") for curve in codes] == [replace(curve, dtype="F64") for curve in products]


def test_zeros_do_not_depend_on_the_scale(tmp_path: Path) -> None:
    """Files with an unusable scale are listed and checked: zeros and values that are not finite are codes."""
    codes, scale = make_scaled("blocks of 16, ragged")
    path = stored(tmp_path, "in", {"a.weight": codes, "a.weight_scale": torch.full_like(scale, torch.nan)})
    zeros = int((codes.float() == 0).sum())

    entry = next(entry for entry in inspect(path).entries if entry.name == "a.weight")

    assert (entry.zeros, entry.nonfinite, entry.scaled_by) == (zeros, 0, "a.weight_scale")
    assert all(finding.holds for finding in check(path, [Finite(), MinSparsity(zeros / codes.numel())]))


def test_scales_are_listed_with_the_reason(both: tuple[Path, Path]) -> None:
    """A scale is listed as no weight, and is not among the prunable tensors."""
    result = inspect(both[0])

    assert tuple(entry.name for entry in result.prunable) == WEIGHTS
    assert {e.reason for e in result.entries if "scale" in e.name} == {"a scale, not a weight"}
