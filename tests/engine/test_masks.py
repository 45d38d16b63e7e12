"""Masks from files, amounts of the remaining weights, and the mask that a run writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support import CONTAINERS, expected, make_checkpoint, make_weights, state_dict
from support import read as read_back
from support.pruning import COUNTED, Weights, pruned, same, stored
from torch.nn.utils import prune as torch_prune

from prunecli import CheckpointError, SelectionError, UsageError, load_mask, prune
from prunecli.strategies.mask import Mask
from prunecli.strategies.strategy import Strategy
from prunecli.strategies.structured import RandomStructured, Structured
from prunecli.strategies.thresholds import Threshold
from prunecli.strategies.unstructured import L1, Global, Percentile, Random


@pytest.mark.parametrize(
    "dtype",
    [torch.uint8, torch.bool, torch.float32, torch.bfloat16, torch.int64, torch.uint16, torch.uint32, torch.uint64],
)
def test_a_mask_prunes_where_it_is_zero(dtype: torch.dtype, weights: Weights, tmp_path: Path) -> None:
    """The result is that of custom_from_mask, for masks of every dtype that can have zeros and ones."""
    generator = torch.Generator().manual_seed(5)
    masks = {name: (torch.rand(t.shape, generator=generator) > 0.5) for name, t in weights.items()}
    file = stored(tmp_path, "mask", {name: mask.to(dtype) for name, mask in masks.items()})

    actual = pruned(tmp_path, weights, Mask(str(file)))

    assert same(actual, {name: torch.where(masks[name], t, 0) for name, t in weights.items()})


def test_a_mask_file_selects_the_tensors_it_names(tmp_path: Path) -> None:
    """Other tensors are kept; torch's own `weight_mask` is for `weight`; biases can have masks."""
    weights = {"a.weight": torch.ones(2, 2), "a.bias": torch.ones(2), "b.weight": torch.ones(2, 2)}
    masks = {"a.weight_mask": torch.tensor([[1.0, 0.0], [1.0, 1.0]]), "a.bias": torch.tensor([0.0, 1.0])}

    actual = pruned(tmp_path, weights, Mask(str(stored(tmp_path, "mask", masks))))

    assert actual["a.weight"].tolist() == [[1, 0], [1, 1]]
    assert actual["a.bias"].tolist() == [0, 1]
    assert torch.equal(actual["b.weight"], weights["b.weight"])


@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        ({"a.weight": torch.full((4, 4), 0.5)}, CheckpointError, "has other values than 0 and 1"),
        ({"a.weight": torch.full((4, 4), 2, dtype=torch.uint8)}, CheckpointError, "has other values than 0 and 1"),
        ({"a.weight": torch.full((4, 4), torch.nan)}, CheckpointError, "has other values than 0 and 1"),
        ({"a.weight": torch.full((4, 4), -1.0)}, CheckpointError, "has other values than 0 and 1"),
        ({"a.weight": torch.full((4, 4), -1.0).bfloat16()}, CheckpointError, "has other values than 0 and 1"),
        ({"a.weight": torch.full((4, 4), -1, dtype=torch.int8)}, CheckpointError, "has other values than 0 and 1"),
        ({}, CheckpointError, "there is no mask in .*mask"),
        ({"a.weight": torch.ones(4)}, CheckpointError, r"'a.weight' needs a mask of shape \[4, 4\], not \[4\] as in"),
        ({"c.weight": torch.ones(4, 4)}, SelectionError, "has 'c.weight', and the checkpoint has no such tensor"),
    ],
)
def test_invalid_masks_are_refused(mask: Weights, error: type[Exception], message: str, tmp_path: Path) -> None:
    """Other values, shapes and names are errors, and no output is written."""
    file = stored(tmp_path, "mask", mask)

    with pytest.raises(error, match=message):
        pruned(tmp_path, {"a.weight": torch.ones(4, 4)}, Mask(str(file)))

    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize("strategy", [L1(amount=0.5), Structured(amount=0.3), Structured(amount=0.3, dim=1, n=1)])
def test_masks_of_two_runs_compose_as_in_torch(strategy: Strategy, weights: Weights, tmp_path: Path) -> None:
    """Two runs, the second with the mask of the first, prune what two calls of torch do: 75 % for 0.5 twice."""
    module = torch.nn.Linear(2000, 600, bias=False)
    module.weight.data = weights["big.weight"].clone()
    for _ in range(2):
        if isinstance(strategy, Structured):
            torch_prune.ln_structured(module, "weight", strategy.amount or 0, n=strategy.n, dim=strategy.dim or 0)
        else:
            torch_prune.l1_unstructured(module, "weight", amount=0.5)
    first, second = tmp_path / "1.safetensors", tmp_path / "2.safetensors"

    pruned(tmp_path, weights, strategy, mask_out=first)
    actual = pruned(tmp_path, weights, strategy, mask_in=first, mask_out=second)

    assert torch.equal(load_mask(second)["big.weight"], module.weight_mask.bool())
    assert torch.equal(actual["big.weight"], module.weight)


@pytest.mark.parametrize("strategy", COUNTED.values(), ids=COUNTED)
def test_amounts_are_fractions_of_the_remaining_weights(strategy: Strategy, weights: Weights, tmp_path: Path) -> None:
    """With a mask, the remaining weights are pruned as if there were no others; slices and blocks as torch does."""
    generator = torch.Generator().manual_seed(6)
    masks = {name: torch.rand(t.shape, generator=generator) > 0.6 for name, t in weights.items()}
    for mask in masks.values():
        mask[:3] = False  # whole slices and blocks are already pruned, too

    actual = pruned(tmp_path, weights, strategy, mask_in=stored(tmp_path, "mask", masks), min_dim=2)

    for name, mask in masks.items():
        assert not (actual[name][~mask]).any(), name
        assert torch.equal(actual[name][actual[name] != 0], weights[name][actual[name] != 0])
    if isinstance(strategy, (L1, Random)) and getattr(strategy, "scope", "tensor") == "tensor":
        for name, mask in masks.items():
            remaining = int(mask.sum())
            assert int((actual[name] != 0).sum()) == remaining - round(0.4 * remaining)
    if isinstance(strategy, (L1, Percentile, Threshold)) and getattr(strategy, "scope", "tensor") == "tensor":
        for name, mask in masks.items():
            (keep,) = expected(strategy, [weights[name][mask]])
            assert torch.equal(actual[name][mask] != 0, keep), name
    if isinstance(strategy, (Structured, RandomStructured)):
        for name, mask in masks.items():
            dims = [d for d in range(mask.dim()) if d != strategy.dim]
            alive, kept = mask.sum(dims) > 0, (actual[name] != 0).sum(dims) > 0
            assert int(kept.sum()) == int(alive.sum()) - round(0.4 * int(alive.sum()))


def test_each_row_loses_a_fraction_of_its_own_remaining_weights(tmp_path: Path) -> None:
    """The fraction is of the weights that the mask keeps in that row."""
    weights = {"a.weight": torch.arange(1.0, 13.0).view(2, 6)}
    mask = {"a.weight": torch.tensor([[0, 0, 1, 1, 1, 1], [0, 0, 0, 0, 1, 1]], dtype=torch.uint8)}

    actual = pruned(tmp_path, weights, L1(amount=0.5, scope="row"), mask_in=stored(tmp_path, "mask", mask))

    assert actual["a.weight"].tolist() == [[0, 0, 0, 0, 5, 6], [0, 0, 0, 0, 0, 12]]


@pytest.mark.parametrize("strategy", COUNTED.values(), ids=COUNTED)
def test_of_remaining_takes_zeros_for_pruned_weights(strategy: Strategy, weights: Weights, tmp_path: Path) -> None:
    """`of="remaining"` prunes what a mask of the non-zeros does."""
    generator = torch.Generator().manual_seed(7)
    holed = {name: t * (torch.rand(t.shape, generator=generator) > 0.6) for name, t in weights.items()}
    masks = stored(tmp_path, "mask", {name: t != 0 for name, t in holed.items()})

    assert same(pruned(tmp_path, holed, strategy, of="remaining"), pruned(tmp_path, holed, strategy, mask_in=masks))


@pytest.mark.parametrize("amount", [0.0, 1.0])
@pytest.mark.parametrize("make", [L1, Global, Structured, Random, RandomStructured])
def test_none_and_all_of_the_remaining_weights(make: Any, amount: float, tmp_path: Path) -> None:  # noqa: ANN401
    """0 prunes nothing and 1 all remaining weights, also where a tensor has no remaining weights."""
    weights = {"a.weight": torch.tensor([[1.0, 0.0], [2.0, 3.0]]), "z.weight": torch.zeros(3, 3)}

    actual = pruned(tmp_path, weights, make(amount=amount), of="remaining")

    assert same(actual, {name: t * (1 - amount) for name, t in weights.items()})


def test_a_count_is_at_most_the_remaining_weights(tmp_path: Path) -> None:
    """A larger count is refused, and the message has the number of remaining weights."""
    weights = {"a.weight": torch.tensor([[1.0, 0.0], [2.0, 3.0]])}

    with pytest.raises(UsageError, match=r"the count 4 is more than the 3 remaining weights of 'a.weight'"):
        pruned(tmp_path, weights, L1(count=4), of="remaining")


@pytest.mark.parametrize("container", CONTAINERS)
def test_the_mask_output_is_right_in_every_container(container: str, tmp_path: Path) -> None:
    """`mask_out` is 1 exactly where a selected weight was kept, under the tensor's name, for any strides."""
    path = make_checkpoint(container, tmp_path, make_weights())
    output = tmp_path / ("out" if path.is_dir() else f"out{path.suffix}")

    prune(path, L1(amount=0.5), output=output, reports=(), mask_out=tmp_path / "mask.safetensors")

    masks, how = load_mask(tmp_path / "mask.safetensors"), CONTAINERS[container]
    before, after = (state_dict(container, read_back(p)) for p in (path, output))
    assert masks
    for name, mask in masks.items():
        short = name.removeprefix(how.prefix)
        assert torch.equal(after[short], before[short] * mask.to(before[short].dtype)), name
        assert int(mask.sum()) == mask.numel() - round(0.5 * mask.numel())


def test_the_mask_is_written_only_with_the_checkpoint(tmp_path: Path) -> None:
    """A failed run writes neither; an existing mask is kept unless forced; a dry run writes only the mask."""
    weights, mask = {"a.weight": torch.tensor([[1.0, torch.nan]])}, tmp_path / "mask.safetensors"

    with pytest.raises(CheckpointError, match="not finite"):
        pruned(tmp_path, weights, L1(count=1), mask_out=mask, strict=True)
    assert not mask.exists()
    assert not (tmp_path / "out.safetensors").exists()

    prune(tmp_path / "in.safetensors", L1(count=1), dry_run=True, reports=(), mask_out=mask)
    assert load_mask(mask)["a.weight"].tolist() == [[False, True]]
    with pytest.raises(Exception, match=r"mask\.safetensors exists"):
        prune(tmp_path / "in.safetensors", L1(count=1), dry_run=True, reports=(), mask_out=mask)
