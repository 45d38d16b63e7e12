"""Folding weights of every dtype and layout, with masks of every dtype and layout."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from support.pruned import save_pruned
from torch import nn
from torch.nn.utils import prune

from prunecli.baking.bake import bake
from prunecli.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

    from support import Weights

DTYPES = [torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz]
MASKS = [None, torch.bool, torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.int64, torch.float32]


def baked(folder: Path, saved: Weights) -> Weights:
    """Save a state_dict, bake it, and return what torch loads from the result."""
    torch.save(saved, folder / "m.pth")
    bake(folder / "m.pth")
    weights: Weights = torch.load(folder / "m.baked.pth", weights_only=True)
    return weights


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("mask_dtype", MASKS, ids=str)
def test_every_dtype_of_weight_and_mask(tmp_path: Path, dtype: torch.dtype, mask_dtype: torch.dtype | None) -> None:
    """Weights keep their bits where the mask is 1, also NaN and -0.0, and are +0.0 where it is 0."""
    orig = torch.tensor([1.5, -2, float("nan"), float("nan"), -0.0, -0.0, 3, -4]).to(dtype)
    mask = torch.tensor([1, 0, 1, 0, 1, 0, 1, 0]).to(mask_dtype or dtype)

    actual = baked(tmp_path, {"w_orig": orig, "w_mask": mask})

    whole = {1: torch.int8, 2: torch.int16, 8: torch.int64}[orig.element_size()]
    expected = torch.where(mask.float() == 0, torch.zeros((), dtype=whole), orig.view(whole))
    assert list(actual) == ["w"]
    assert torch.equal(expected, actual["w"].view(whole))


def test_a_mask_of_another_layout(tmp_path: Path) -> None:
    """A weight stored by columns is folded with a mask stored by rows, and with a row repeated by expand."""
    orig = torch.randn(5, 7).T.contiguous().T
    mask = (torch.rand(5, 7) > 0.5).float()
    rows = (torch.rand(5, 1) > 0.5).float().expand(5, 7)

    actual = baked(tmp_path, {"a_orig": orig, "a_mask": mask, "b_orig": orig.clone(), "b_mask": rows})

    assert torch.equal(orig * mask, actual["a"])
    assert torch.equal(orig * rows, actual["b"])
    assert orig.stride() == actual["a"].stride()


def test_interleaved_weights_of_one_storage(tmp_path: Path) -> None:
    """Two interleaved views of one storage are both folded, and the values between them are unchanged."""
    base = torch.randn(6, 11)
    masks = [(torch.rand(6, 5) > 0.5).float() for _ in range(2)]
    saved = {"a_orig": base[:, :5], "a_mask": masks[0], "b_orig": base[:, 5:10], "b_mask": masks[1]}

    actual = baked(tmp_path, saved | {"rest": base[:, 10:]})

    assert torch.equal(base[:, :5] * masks[0], actual["a"])
    assert torch.equal(base[:, 5:10] * masks[1], actual["b"])
    assert torch.equal(base[:, 10:], actual["rest"])


def test_a_weight_of_several_steps(tmp_path: Path) -> None:
    """A weight larger than one step, and not a multiple of it, is folded completely."""
    model = nn.Linear(1031, 601)
    prune.random_unstructured(model, "weight", 0.3)
    torch.save(model.state_dict(), tmp_path / "m.pth")

    result = bake(tmp_path / "m.pth")

    assert result.weights[0].masked == int((model.weight_mask == 0).sum())
    assert torch.equal(model.weight, torch.load(tmp_path / "m.baked.pth", weights_only=True)["weight"])


def test_empty_and_scalar_weights(tmp_path: Path) -> None:
    """Weights without elements and without dimensions are folded."""
    saved = {"a_orig": torch.zeros(0, 3), "a_mask": torch.zeros(0, 3)}
    torch.save(saved | {"b_orig": torch.tensor(2.0), "b_mask": torch.tensor(0.0)}, tmp_path / "m.pth")

    result = bake(tmp_path / "m.pth")

    actual = torch.load(tmp_path / "m.baked.pth", weights_only=True)
    assert actual["a"].shape == (0, 3)
    assert actual["b"].item() == 0
    assert [weight.sparsity for weight in result.weights] == [0.0, 1.0]


def test_tied_weights_with_one_mask(tmp_path: Path) -> None:
    """Two names of one weight, with the same mask, become two names of one folded weight."""
    orig, mask = torch.randn(3, 3), torch.eye(3)

    actual = baked(tmp_path, {"a_orig": orig, "a_mask": mask, "b_orig": orig, "b_mask": mask})

    assert torch.equal(orig * mask, actual["a"])
    assert actual["a"].data_ptr() == actual["b"].data_ptr()


def test_a_mask_with_another_name_keeps_its_bytes(tmp_path: Path) -> None:
    """A mask that is stored under another name too remains under that name."""
    mask = torch.eye(4)

    actual = baked(tmp_path, {"w_mask": mask, "w_orig": torch.randn(4, 4), "other": mask})

    assert list(actual) == ["w", "other"]
    assert torch.equal(mask, actual["other"])


@pytest.mark.parametrize("transposed", [False, True])
def test_an_error_names_the_index_of_a_bad_mask_value(tmp_path: Path, transposed: bool) -> None:  # noqa: FBT001
    """The index is that of the mask's shape, also if weight and mask are stored by columns."""
    orig, mask = torch.ones(2, 3), torch.ones(2, 3)
    mask[1, 0] = 0.5
    if transposed:
        orig, mask = orig.T.contiguous().T, mask.T.contiguous().T

    with pytest.raises(CheckpointError, match=r"w_mask has the value 0\.5 at \[1, 0\]"):
        baked(tmp_path, {"w_orig": orig, "w_mask": mask})


@pytest.mark.parametrize("name", ["w_orig", "w_mask"])
def test_a_wrong_checksum_is_an_error(tmp_path: Path, name: str) -> None:
    """A weight or a mask that does not match its checksum raises an error, and nothing is written."""
    path = tmp_path / "m.pth"
    saved = {"w_orig": torch.full((64,), 3.0), "w_mask": torch.ones(64)}
    torch.save(saved, path)
    data = path.read_bytes()
    start = data.index(saved[name].numpy().tobytes())
    path.write_bytes(data[:start] + b"\0" * 4 + data[start + 4 :])

    with pytest.raises(CheckpointError, match="checksum"):
        bake(path)

    assert [p.name for p in tmp_path.iterdir()] == ["m.pth"]


def test_a_truncated_file_is_an_error(tmp_path: Path) -> None:
    """A file cut at any point raises an error, and nothing is written."""
    source, _ = save_pruned("zip", tmp_path)
    data = source.read_bytes()
    for size in (1, 100, len(data) // 2, len(data) - 1):
        source.write_bytes(data[:size])
        with pytest.raises(CheckpointError):
            bake(source)
    assert [path.name for path in tmp_path.iterdir()] == [source.name]
