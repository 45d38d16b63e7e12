"""Biases belong to outputs: they are paired by name and shape, and what does not fit is named."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.geometry import GEOMETRIES, laid_out

from prunecli import prune
from prunecli.strategies.structured import RandomStructured, Structured

if TYPE_CHECKING:
    from support.pruning import Weights

    from prunecli.report.model import Report

STRATEGY = Structured(count=1, n=1, with_bias=True)


def pruned(folder: Path, weights: Weights, **options: Any) -> tuple[Weights, Report]:  # noqa: ANN401 - those of `prune`
    """Return the weights after pruning an output of each, and the report."""
    save_file(weights, folder / "in.safetensors")
    report = prune(folder / "in.safetensors", STRATEGY, output=folder / "out.safetensors", reports=(), **options)
    return load_file(folder / "out.safetensors"), report


def weak(shape: tuple[int, ...], dim: int, index: int) -> torch.Tensor:
    """Return ones, with the smallest slice along `dim` at `index`."""
    weight = torch.ones(shape)
    weight.select(dim, index).fill_(0.5)
    return weight


@pytest.mark.parametrize(
    ("weight", "bias"),
    [
        ("a.weight", "a.bias"),
        ("attn.in_proj_weight", "attn.in_proj_bias"),
        ("lstm.weight_ih_l0", "lstm.bias_ih_l0"),
        ("lstm.weight_hh_l1_reverse", "lstm.bias_hh_l1_reverse"),
        ("weight", "bias"),
        ("dense.kernel", "dense.bias"),
        ("mlp.gate_up_proj", "mlp.gate_up_proj_bias"),
    ],
)
def test_biases_are_paired_by_name(weight: str, bias: str, tmp_path: Path) -> None:
    """Each module's own spelling of the bias of a weight is known; other vectors of the same length stay."""
    weights = {weight: weak((3, 4), 0, 1), bias: torch.ones(3), "other.bias": torch.ones(3)}

    with laid_out({weight: GEOMETRIES["linear"].layout}):
        actual, _ = pruned(tmp_path, weights, include=(weight,))

    assert actual[bias].tolist() == [1, 0, 1]
    assert actual["other.bias"].tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("kind", "shape", "dim", "bias", "expected"),
    [
        ("conv1d-in-out", (4, 3), 1, (3,), [1, 0, 1]),
        ("transposed conv", (4, 3, 2), 1, (3,), [1, 0, 1]),
        ("grouped transposed conv", (4, 3, 2), 1, (6,), [1, 0, 1, 1, 0, 1]),
        ("keras conv", (2, 2, 4, 3), 3, (3,), [1, 0, 1]),
        ("experts", (2, 3, 4), 1, (2, 3), [[1, 0, 1], [1, 0, 1]]),
        ("experts in-out", (2, 4, 3), 2, (2, 3), [[1, 0, 1], [1, 0, 1]]),
    ],
)
def test_the_bias_of_every_layout(
    kind: str, shape: tuple[int, ...], dim: int, bias: tuple[int, ...], expected: list[int], tmp_path: Path
) -> None:
    """The entries of the pruned outputs become zero, of each expert and group."""
    weights = {"a.weight": weak(shape, dim, 1), "a.bias": torch.ones(bias)}

    with laid_out({"a.weight": GEOMETRIES[kind].layout}):
        actual, report = pruned(tmp_path, weights, include=("a.weight",))

    assert actual["a.bias"].tolist() == expected
    assert report.warnings == ()
    assert not any("bias" in fact for fact in report.facts)


def test_biases_that_do_not_fit_are_named(tmp_path: Path) -> None:
    """A bias whose length is the number of inputs is left as it is, with a warning; the largest weight is named."""
    weights = {
        "a.weight": weak((3, 4), 0, 1),
        "a.bias": torch.ones(3),
        "b.weight": torch.ones(3, 5),
        "b.bias": torch.ones(7),
        "c.weight": torch.ones(30, 5),
        "c.bias": torch.ones(7),
    }

    actual, report = pruned(tmp_path, weights)

    assert actual["b.bias"].tolist() == [1] * 7
    (warning,) = report.warnings
    assert warning.startswith("the bias c.bias stays as it is: it has the shape [7], and c.weight has 30 outputs")
    assert warning.endswith("; 1 other bias does not fit either")


@pytest.mark.parametrize(
    ("others", "words"), [(["b"], "b.weight has no bias"), (["b", "cc"], "2 selected tensors have no bias")]
)
def test_weights_without_a_bias_are_counted(others: list[str], words: str, tmp_path: Path) -> None:
    """A note names the largest of them."""
    weights = {"a.weight": weak((3, 4), 0, 1), "a.bias": torch.ones(3)}
    weights |= {f"{name}.weight": torch.ones(3, 5) for name in others}

    _, report = pruned(tmp_path, weights)

    assert [words] == [fact.partition(";")[0] for fact in report.facts]


def test_an_excluded_bias_is_not_missing(tmp_path: Path) -> None:
    """A bias that the user excludes stays as it is, without a note."""
    weights = {f"{name}.weight": weak((3, 4), 0, 1) for name in "ab"} | {f"{name}.bias": torch.ones(3) for name in "ab"}

    actual, report = pruned(tmp_path, weights, exclude=("b.bias",))

    assert (actual["a.bias"].tolist(), actual["b.bias"].tolist()) == ([1, 0, 1], [1, 1, 1])
    assert report.facts == ()


def test_a_selected_bias_follows_its_weight(tmp_path: Path) -> None:
    """A bias that the patterns select as well is pruned with its weight, not for itself."""
    weights = {"a.weight": weak((3, 4), 0, 1), "a.bias": torch.tensor([0.1, 2, 3])}

    actual, report = pruned(tmp_path, weights, include=("*",), min_dim=1)

    assert actual["a.bias"].tolist() == pytest.approx([0.1, 0, 3])
    assert [row.name for row in report.rows if row.selected] == ["a.bias", "a.weight"]
    assert report.facts == ()


def test_the_bias_of_a_tied_weight_is_found(tmp_path: Path) -> None:
    """The bias may have the name of another tensor with the same elements."""
    weight = weak((3, 4), 0, 1)
    torch.save({"embed.weight": weight, "head.weight": weight, "head.bias": torch.ones(3)}, tmp_path / "in.pth")

    prune(tmp_path / "in.pth", STRATEGY, output=tmp_path / "out.pth", reports=())

    assert torch.load(tmp_path / "out.pth")["head.bias"].tolist() == [1, 0, 1]


@pytest.mark.parametrize("strategy", [Structured(amount=0.05), RandomStructured(amount=0.05)])
def test_an_amount_that_rounds_to_no_output_is_said(strategy: Structured, tmp_path: Path) -> None:
    """A warning names the largest tensor of which nothing is pruned."""
    save_file({"a.weight": torch.ones(8, 8), "b.weight": torch.ones(8, 9)}, tmp_path / "in.safetensors")

    report = prune(tmp_path / "in.safetensors", strategy, dry_run=True)

    words = "nothing is pruned of b.weight and of 1 other tensor: 0.05 of its 8 outputs rounds to 0"
    assert report.warnings == (words,)
