"""Reparametrised weights, recognised by name; the expected names are those of torch's own modules."""

from __future__ import annotations

import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm

from prunecli.layouts.reparametrized import (
    ASP_MASK,
    PARAMETRIZATION,
    PRUNE,
    SPECTRAL_NORM,
    WEIGHT_NORM,
    Leftover,
    leftovers,
)


def weight_normed() -> nn.Module:
    """Return a layer under the old weight_norm, which torch warns about."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return torch.nn.utils.weight_norm(nn.Linear(3, 2))


def test_a_plain_model_has_none() -> None:
    """Ordinary names, including buffers of normalisation layers, are weights of their own."""
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.LSTM(3, 3))

    assert leftovers(list(model.state_dict())) == ()


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (
            prune.l1_unstructured(nn.Linear(3, 2), "weight", 0.5),
            Leftover("0.weight", PRUNE, ("0.weight_orig", "0.weight_mask")),
        ),
        (
            spectral_norm(nn.Linear(3, 2)),
            Leftover("0.weight", SPECTRAL_NORM, ("0.weight_orig", "0.weight_u", "0.weight_v")),
        ),
        (weight_normed(), Leftover("0.weight", WEIGHT_NORM, ("0.weight_g", "0.weight_v"))),
        (
            parametrizations.weight_norm(nn.Linear(3, 2)),
            Leftover(
                "0.weight",
                PARAMETRIZATION,
                ("0.parametrizations.weight.original0", "0.parametrizations.weight.original1"),
            ),
        ),
        (
            parametrizations.spectral_norm(nn.Linear(3, 2)),
            Leftover(
                "0.weight",
                PARAMETRIZATION,
                (
                    "0.parametrizations.weight.original",
                    "0.parametrizations.weight.0._u",
                    "0.parametrizations.weight.0._v",
                ),
            ),
        ),
    ],
    ids=["prune", "spectral_norm", "weight_norm", "parametrized weight_norm", "parametrized spectral_norm"],
)
def test_reparametrised_weights_of_torch_are_recognised(model: nn.Module, expected: Leftover) -> None:
    """Each reparametrisation of torch is recognised, with its kind and its tensors."""
    names = list(nn.Sequential(model).state_dict())

    assert (expected,) == leftovers(names)
    assert set(expected.parts) <= set(names)


@pytest.mark.parametrize("mask", ["fc.__weight_mma_mask", "fc.weight_mma_mask"])
def test_masks_of_asp_are_recognised(mask: str) -> None:
    """Masks of apex are found with its copy of the pruned weights; the weight itself is not a part."""
    saved = mask.replace("_mma_mask", "_mma_pruned_p")

    assert leftovers(["fc.weight", mask, saved]) == (Leftover("fc.weight", ASP_MASK, (mask, saved)),)


@pytest.mark.parametrize(
    "names",
    [
        ["w_orig"],
        ["w_mask"],
        ["_orig", "_mask"],
        ["a._orig", "a._mask"],
        ["w", "w_g", "w_v"],
        ["parametrizations.weight.0._u"],
        [],
    ],
)
def test_incomplete_parts_are_ignored(names: list[str]) -> None:
    """A single part, and parts without a name for the weight, are not a reparametrised weight."""
    assert leftovers(names) == ()


parts = st.sampled_from(["a.w", "b.w", "w", "a.b_orig"])
suffixes = st.sampled_from(["", "_orig", "_mask", "_u", "_v", "_g", "_mma_mask"])
name_lists = st.lists(st.tuples(parts, suffixes).map("".join), unique=True)


@given(name_lists)
def test_parts_are_names_in_order(names: list[str]) -> None:
    """Parts are among the names, no weight has the same kind twice, and first parts are in the order of the names."""
    found = leftovers(names)

    assert {part for leftover in found for part in leftover.parts} <= set(names)
    assert len({(leftover.name, leftover.kind) for leftover in found}) == len(found)
    firsts = [names.index(leftover.parts[0]) for leftover in found]
    assert sorted(firsts) == firsts
