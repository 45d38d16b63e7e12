"""`scan`: the norm that each tensor keeps equals that of torch's pruning, and the most sensitive tensor comes first."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from support import SHARED
from support.reports import written
from support.small import write
from torch.nn.utils import prune as torch_prune

import prunecli
from prunecli.dtypes import FLOATS
from prunecli.errors import SelectionError
from prunecli.formats.open import open_checkpoint
from prunecli.inspection.scan import ENOUGH, bends_at, kept, scan
from prunecli.inspection.scan_html import to_html
from prunecli.inspection.scan_text import to_json, write_scan
from prunecli.inspection.thresholds import SPARSITIES
from prunecli.kernels.histograms import HistogramBuilder
from prunecli.kernels.numpy_ops import NumpyOps
from prunecli.text.tables import View

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from prunecli.kernels.histograms import Histogram


DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2)


def count(weights: np.ndarray[Any, Any]) -> Histogram:
    """Return the histogram of the magnitudes of float16 weights."""
    builder = HistogramBuilder(FLOATS["F16"])
    builder.add(NumpyOps().magnitudes(weights.view(np.int16), FLOATS["F16"]))
    return builder.histogram()


def torch_keeps(weights: torch.Tensor, percent: int) -> float:
    """Return the part of the sum of squares that remains after torch's l1_unstructured, in float64."""
    wide = weights.double()
    pruned = torch_prune.L1Unstructured(amount=percent / 100).prune(wide)  # type: ignore[no-untyped-call]
    return float(pruned.square().sum() / wide.square().sum())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_norm_kept_equals_that_of_torch(tmp_path: Path, dtype: torch.dtype) -> None:
    """For each sparsity, the norm kept equals that of the tensor that torch prunes by L1."""
    weights = torch.randn(200, 37, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)
    expected = [torch_keeps(weights, percent) for percent in SPARSITIES]

    (curve,) = scan(write(tmp_path, {"a.weight": weights})).curves

    assert curve.kept == pytest.approx(expected, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["burn-mnist.safetensors", "silero_vad_16k.safetensors"])
def test_the_norm_of_trained_layers_equals_that_of_torch(name: str) -> None:
    """The norms kept equal those of torch for each tensor of a trained model."""
    if not (SHARED / "checkpoints" / name).exists():
        pytest.skip(f"{name} is not here: the shared checkpoints are absent")
    weights = load_file(SHARED / "checkpoints" / name)

    result = scan(SHARED / "checkpoints" / name)

    assert result.curves
    for curve in result.curves:
        assert curve.kept == pytest.approx([torch_keeps(weights[curve.name], p) for p in SPARSITIES], abs=2e-4)


@given(values=st.lists(st.floats(-4, 4, width=16), min_size=1, max_size=300), data=st.data())
def test_narrow_dtypes_are_exact(values: list[float], data: st.DataObject) -> None:
    """If every pattern has its own bin, the norm kept equals the sum over the sorted weights, ties included."""
    weights = np.array(values, np.float16)
    histogram = count(weights)
    k = data.draw(st.integers(0, len(values)))
    squares = np.sort(np.square(weights.astype(np.float64)))
    if not squares.sum():
        return

    assert kept(histogram, [k]) == pytest.approx([squares[k:].sum() / squares.sum()], abs=1e-12)


@given(values=st.lists(st.floats(2**-9, 4, width=16), min_size=1, max_size=300))
def test_the_bend_is_the_last_count_that_keeps_enough(values: list[float]) -> None:
    """Pruning up to the bend keeps enough, and pruning one more weight does not."""
    weights = np.array(values, np.float16)
    histogram = count(weights)

    bend = bends_at(histogram)

    at_bend, behind = kept(histogram, [bend, bend + 1])
    assert at_bend >= ENOUGH - 1e-9
    assert bend == len(values) or behind <= ENOUGH + 1e-9


@given(seed=st.integers(0, 50))
def test_the_norm_kept_falls_with_the_sparsity(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    """The norm kept falls with the sparsity and stays between 1 and 0."""
    weights = torch.randn(40, 9, generator=torch.Generator().manual_seed(seed))

    (curve,) = scan(write(tmp_path_factory.mktemp("falls"), {"a.weight": weights})).curves

    assert curve.kept is not None
    assert list(curve.kept) == sorted(curve.kept, reverse=True)
    assert 0 <= curve.kept[-1] <= curve.kept[0] <= 1


def test_the_most_sensitive_tensor_comes_first(tmp_path: Path) -> None:
    """Equal weights come before normal ones, then few large ones; an all-zero tensor comes last."""
    generator = torch.Generator().manual_seed(0)
    few = torch.full((50, 50), 1e-3)
    few[0] = 1.0
    weights = {
        "a.weight": torch.zeros(5, 5),
        "b.weight": few,
        "c.weight": torch.randn(50, 50, generator=generator),
        "d.weight": torch.ones(50, 50),
    }

    result = scan(write(tmp_path, weights))

    assert [curve.name for curve in result.curves] == ["d.weight", "c.weight", "b.weight", "a.weight"]
    assert result.curves[0].kept == pytest.approx([1 - p / 100 for p in SPARSITIES])
    assert result.curves[-1].kept is None
    assert result.curves[-1].zeros == 25


def test_nonfinite_weights_are_in_no_sum(tmp_path: Path) -> None:
    """NaN and infinities are counted and rank last; the sums are over the other weights."""
    weights = torch.ones(10, 10)
    weights[0, :3] = torch.tensor([torch.nan, torch.inf, -torch.inf])

    (curve,) = scan(write(tmp_path, {"a.weight": weights})).curves

    assert curve.nonfinite == 3
    assert curve.kept == pytest.approx([max(97 - p, 0) / 97 for p in SPARSITIES])


def test_sums_beyond_float64_are_unknown(tmp_path: Path) -> None:
    """If squares overflow, every form shows that the number is unknown, without a warning."""
    path = write(tmp_path, {"a.weight": torch.full((4, 4), 1e300, dtype=torch.float64)})

    result = scan(path)

    assert result.curves[0].kept is None
    assert json.loads(to_json(result))["tensors"][0]["l2_kept"] is None
    assert "1 tensor is all zero or too large to square in float64" in written(write_scan, result, View())
    assert "<td>-<td>" in to_html(result)


def test_patterns_select_as_for_pruning(tmp_path: Path) -> None:
    """Patterns and dimensions select as for pruning; a pattern that matches nothing is an error."""
    weights = {"a.weight": torch.ones(3, 3), "a.bias": torch.ones(3), "b.weight": torch.ones(3, 3)}
    path = write(tmp_path, weights)

    assert {curve.name for curve in prunecli.scan(path).curves} == {"a.weight", "b.weight"}
    assert [curve.name for curve in scan(path, include=["a.*"], min_dim=1).curves] == ["a.weight", "a.bias"]
    assert prunecli.scan(open_checkpoint(path), label="x").path == "x"
    with pytest.raises(SelectionError, match="matches none"):
        scan(path, include=["c.*"])
