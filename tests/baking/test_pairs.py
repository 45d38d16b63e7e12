"""Weights that cannot be folded raise an error with a hint; similar tensors are left unchanged and noted."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from prunecli.baking.bake import bake
from prunecli.cli.hints import as_options
from prunecli.errors import Argument, CheckpointError, SameCallWith

if TYPE_CHECKING:
    from pathlib import Path

W, M = torch.ones(2, 2), torch.eye(2)


def error(folder: Path, saved: object) -> str:
    """Return the message of the error for a saved object; no file may be written."""
    torch.save(saved, folder / "m.pth")
    with pytest.raises(CheckpointError) as caught:
        bake(folder / "m.pth")
    assert [path.name for path in folder.iterdir()] == ["m.pth"]
    assert caught.value.hint
    return str(caught.value)


@pytest.mark.parametrize(
    ("saved", "words"),
    [
        ({"w": W}, "nothing to fold"),
        ({"w_orig": W}, "there is no w_mask"),
        ({"w_orig": W, "w_u": M[0], "w_v": M[0]}, "w under spectral_norm"),
        ({"w_orig": W, "w_mask": M, "w_u": M[0]}, "spectral_norm too"),
        ({"w_orig": W, "w_mask": M, "w": W + 1}, "w exists as well as w_orig"),
        ({"w_orig": W, "w_mask": torch.ones(2)}, "w_mask has the shape [2], but w_orig has the shape [2, 2]"),
        ({"w_orig": W, "w_mask": M * 0.5}, "w_mask has the value 0.5 at [0, 0]"),
        ({"w_orig": W, "w_mask": -M}, "w_mask has the value -1.0 at [0, 0]"),
        ({"w_orig": W, "w_mask": torch.tensor([[1, 0], [0, 2]])}, "w_mask has the value 2 at [1, 1]"),
        ({"w_orig": W, "w_mask": torch.full((2, 2), float("nan"))}, "w_mask has the value nan"),
        ({"w_orig": W, "w_mask": M.to(torch.complex64)}, "C64"),
        ({"w_orig": W, "w_mask": M.to_sparse()}, "its mask is a sparse tensor"),
        ({"w_orig": W[:1].expand(2, 2), "w_mask": M}, "expanded view"),
        ({"w_orig": W, "w_mask": M, "head": W}, "shares its values with head"),
        ({"w_orig": W, "w_mask": M, "v_orig": W, "v_mask": M.clone()}, "another mask"),
        ({"w_orig": W.view(4)[:3], "w_mask": torch.ones(3), "rest": W.view(4)[1:]}, "some of its values with rest"),
        (
            {"state_dict": {"w_orig": W, "w_mask": M}, "ema": {"w": W}},
            "the file stores the same tensor elsewhere without a mask",
        ),
    ],
)
def test_a_weight_that_cannot_be_folded_is_an_error(tmp_path: Path, saved: object, words: str) -> None:
    """Each reason has a message with the tensors and values, and a hint; no file is written."""
    assert words in error(tmp_path, saved)


def test_a_pickled_module_is_an_error(tmp_path: Path) -> None:
    """The masks of a pickled module cannot be folded, because its hooks apply them."""
    model = nn.Linear(2, 2)
    prune.l1_unstructured(model, "weight", 0.5)

    assert "is a whole pickled module" in error(tmp_path, {"model": model})


def test_the_hint_folds_what_bake_does_not(tmp_path: Path) -> None:
    """A weight under another reparametrisation gets torch's call; a pruned one outside the state_dict its key."""
    model = nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))
    torch.save(model.state_dict(), tmp_path / "a.pth")
    torch.save({"model": {"w": W, "v.x": W}, "model_ema": {"w_orig": W + 1, "w_mask": M}}, tmp_path / "b.pth")

    with pytest.raises(CheckpointError) as caught:
        bake(tmp_path / "a.pth")
    assert "remove_parametrizations(module, 'weight')" in str(caught.value.hint)
    with pytest.raises(CheckpointError) as caught:
        bake(tmp_path / "b.pth")
    assert caught.value.hint == "key=['model_ema']"


def test_a_refused_call_is_not_forced() -> None:
    """A hint that repeats a call replaces an output only if the call has written it."""
    argument, words = Argument("key", ["ema"]), ["bake", "a.pth"]

    assert as_options(SameCallWith(argument), words) == "prune bake a.pth --key ema"
    assert as_options(SameCallWith(argument, replaces=True), words) == "prune bake a.pth --key ema --force"


def test_an_exported_model_is_an_error(tmp_path: Path) -> None:
    """A TorchScript archive cannot be folded, because its code names the original weight and the mask."""
    model = nn.Linear(2, 2)
    prune.l1_unstructured(model, "weight", 0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(model, torch.ones(1, 2)), tmp_path / "m.pt")

    with pytest.raises(CheckpointError, match=r"is TorchScript: only files of torch.save"):
        bake(tmp_path / "m.pt")


def test_similar_tensors_are_noted_and_unchanged(tmp_path: Path) -> None:
    """Tensors of spectral_norm and a weight without a mask are unchanged, and notes name them."""
    saved = {"w_orig": W, "w_mask": M, "s_orig": W + 1, "s_u": M[0], "s_v": M[1], "lone_orig": W + 2}
    torch.save(saved, tmp_path / "m.pth")

    result = bake(tmp_path / "m.pth")

    actual = torch.load(tmp_path / "m.baked.pth", weights_only=True)
    assert list(actual) == ["w", "s_orig", "s_u", "s_v", "lone_orig"]
    assert any("spectral_norm" in note for note in result.notes)
    assert any("lone_mask" in note for note in result.notes)
