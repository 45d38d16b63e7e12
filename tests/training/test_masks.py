"""Masks from mask files and from the zeros of checkpoints and state_dicts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from support import CONTAINERS, DEMO, Net, make_weights, same_bits
from torch import nn
from torch.nn.utils import prune as torch_prune

from prunecli.api import prune
from prunecli.errors import CheckpointError, PruneError, SelectionError
from prunecli.strategies.thresholds import Threshold
from prunecli.strategies.unstructured import L1
from prunecli.training.masks import load_mask, mask_from_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor


@pytest.mark.parametrize("container", CONTAINERS)
def test_the_mask_of_a_checkpoint_is_true_where_it_is_not_zero(container: str, tmp_path: Path) -> None:
    """For every container the masks are bool tensors of the chosen names, True where torch reads a non-zero."""
    spec, weights = CONTAINERS[container], make_weights()
    path = spec.write(tmp_path, weights)
    output = tmp_path / f"out{path.suffix}"
    prune(path, Threshold(0.05), output=output, reports=())

    actual = {name.removeprefix(spec.prefix): keep for name, keep in mask_from_checkpoint(output).items()}

    names = [n for n, t in weights.items() if "weight" in n and t.dim() > 1]
    assert sorted(names) == sorted(actual)
    assert all(torch.equal(weights[n].abs() > 0.05, actual[n]) for n in names)


def test_the_mask_of_a_state_dict_equals_that_of_its_file(tmp_path: Path) -> None:
    """A model in memory has the mask of its file, and biases that are zero are in neither."""
    model = Net()
    torch_prune.l1_unstructured(model.fc, "weight", amount=0.3)
    torch_prune.remove(model.fc, "weight")
    nn.init.zeros_(model.fc.bias)
    torch.save(model.state_dict(), tmp_path / "m.pth")

    actual = mask_from_checkpoint(model.state_dict())

    from_file = mask_from_checkpoint(tmp_path / "m.pth")
    assert list(from_file) == list(actual)
    assert all(torch.equal(from_file[n], actual[n]) for n in actual)
    assert int((~actual["fc.weight"]).sum()) == round(0.3 * 130 * 34)
    assert "fc.bias" not in actual
    assert list(mask_from_checkpoint(model.state_dict(), include=["fc.*"], exclude=["*.bias"])) == ["fc.weight"]


@given(st.binary(min_size=8, max_size=64), st.sampled_from(["float16", "bfloat16", "float8_e4m3fnuz", "float8_e5m2"]))
def test_only_zeros_are_pruned(raw: bytes, dtype: str) -> None:
    """For any bits the mask equals torch's comparison with zero: -0.0 is pruned, and NaN is not."""
    w = torch.frombuffer(bytearray(raw[: len(raw) // 4 * 4]), dtype=getattr(torch, dtype)).reshape(2, -1)

    actual = mask_from_checkpoint({"w": w}, include=["w"])

    assert torch.equal(w.float() != 0, actual["w"])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bool, torch.float32, torch.int64, torch.uint16, torch.uint64])
def test_a_mask_file_is_read_as_torch_reads_it(dtype: torch.dtype, tmp_path: Path) -> None:
    """Masks of integers, booleans and floats, of any shape, equal those that torch reads."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 4), (1_100, 1_000), (5,), (), (0, 3)]
    masks = {f"t{i}.weight": torch.rand(shape, generator=generator) > 0.5 for i, shape in enumerate(shapes)}
    save_file(
        {f"{n}_mask" if n == "t0.weight" else n: m.to(dtype) for n, m in masks.items()}, tmp_path / "m.safetensors"
    )

    actual = load_mask(tmp_path / "m.safetensors")

    assert masks.keys() == actual.keys()
    assert all(same_bits(masks[n].to(torch.uint8), actual[n].to(torch.uint8)) for n in masks)
    assert {m.dtype for m in actual.values()} == {torch.bool}


def test_transposed_masks_are_read(tmp_path: Path) -> None:
    """The strides of a mask in a torch file are applied."""
    mask = (torch.arange(12).reshape(3, 4) % 3 == 0).T
    torch.save({"w": mask}, tmp_path / "m.pth")

    assert torch.equal(mask, load_mask(tmp_path / "m.pth")["w"])


def test_the_mask_of_a_run_equals_the_mask_of_its_output(tmp_path: Path) -> None:
    """If the input has no zeros, mask_out writes the mask of the output."""
    output, mask_out = tmp_path / "out.pth", tmp_path / "mask.safetensors"
    prune(DEMO / "digits_conv.pth", L1(amount=0.7), output=output, mask_out=mask_out, reports=())

    actual = load_mask(mask_out)

    expected = mask_from_checkpoint(output)
    assert expected.keys() == actual.keys()
    assert all(torch.equal(expected[n], actual[n]) for n in expected)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({}, "holds no mask"),
        ({"w": torch.tensor([0, 1, 2], dtype=torch.uint8)}, "other values than 0 and 1"),
        ({"w": torch.tensor([0, 255], dtype=torch.uint8)}, "other values than 0 and 1"),
        ({"w": torch.tensor([0.5])}, "other values than 0 and 1"),
        ({"w": torch.tensor([torch.nan])}, "other values than 0 and 1"),
        ({"w": torch.tensor([2]).view(torch.bool)}, "other values than 0 and 1"),
        ({"w": torch.ones(2, dtype=torch.complex64)}, "is C64, not a mask"),
        ({"w": torch.ones(2), "w_mask": torch.ones(2)}, "two masks for one tensor"),
        ({"\x1b[2J": torch.tensor([3])}, r"'\\x1b\[2J'"),
    ],
)
def test_other_tensors_are_an_error(tensors: dict[str, Tensor], message: str, tmp_path: Path) -> None:
    """The error names the tensor, escaped for a terminal, and the problem."""
    save_file(tensors, tmp_path / "m.safetensors")

    with pytest.raises(CheckpointError, match=message):
        load_mask(tmp_path / "m.safetensors")


def test_an_expanded_mask_is_an_error(tmp_path: Path) -> None:
    """A view of 900 million elements that stores one is an error before it is read."""
    torch.save({"w": torch.ones(1, dtype=torch.bool).expand(30_000, 30_000)}, tmp_path / "m.pth")

    with pytest.raises(CheckpointError, match="cannot be read as a mask: expanded view"):
        load_mask(tmp_path / "m.pth")


@given(st.binary(max_size=200))
def test_random_bytes_are_an_error(tmp_path_factory: pytest.TempPathFactory, junk: bytes) -> None:
    """Random bytes as a file raise PruneError."""
    path = tmp_path_factory.mktemp("junk") / "m.safetensors"
    path.write_bytes(junk)

    with pytest.raises(PruneError):
        load_mask(path)
    with pytest.raises(PruneError):
        mask_from_checkpoint(path)


def test_an_empty_selection_is_an_error() -> None:
    """No selected tensor, or no file, is an error."""
    with pytest.raises(SelectionError):
        mask_from_checkpoint({"bias": torch.zeros(3)})
    with pytest.raises(CheckpointError):
        mask_from_checkpoint("absent.pth")
