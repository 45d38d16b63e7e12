"""Defects that other pruning tools have, each as a test that this one does not have it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from prunecli import SelectionError, prune
from prunecli.cli.main import main
from prunecli.strategies.mask import Mask
from prunecli.strategies.semi_structured import TopK
from prunecli.strategies.structured import Block, Structured
from prunecli.strategies.thresholds import Threshold
from prunecli.strategies.unstructured import L1, Global, Percentile

if TYPE_CHECKING:
    from pathlib import Path

    from prunecli.strategies.strategy import Strategy


def pruned(folder: Path, weight: torch.Tensor, strategy: Strategy, **options: Any) -> torch.Tensor:  # noqa: ANN401
    """Return one tensor of a safetensors file after pruning by `strategy`."""
    save_file({"w.weight": weight}, folder / "in.safetensors")
    out = folder / "out.safetensors"
    prune(folder / "in.safetensors", strategy, output=out, reports=(folder / "r.json",), force=True, **options)
    return load_file(out)["w.weight"]


@pytest.mark.parametrize("make", [L1, Global, Structured, lambda amount: Block(2, 2, amount=amount)])
def test_amounts_0_and_1_prune_no_weight_and_every_weight(make: Any, tmp_path: Path) -> None:  # noqa: ANN401
    """0 % prunes no weight, and 100 % prunes every weight without an error."""
    weight = torch.arange(1.0, 13.0).view(3, 4)

    assert torch.equal(pruned(tmp_path, weight, make(amount=0.0)), weight)
    assert not pruned(tmp_path, weight, make(amount=1.0)).any()


@pytest.mark.parametrize(("amount", "count"), [(0.25, 2), (0.35, 4), (0.45, 4), (0.15, 2), (0.05, 0)])
def test_amounts_are_rounded_half_to_even(amount: float, count: int, tmp_path: Path) -> None:
    """The number of weights is rounded as `round` of Python and torch does, half to even."""
    assert int((pruned(tmp_path, torch.arange(1.0, 11.0).view(2, 5), L1(amount=amount)) == 0).sum()) == count


def test_ties_at_the_cut_do_not_prune_too_many(tmp_path: Path) -> None:
    """Half of a tensor of two bf16 values is pruned, not every weight that equals the threshold."""
    weight = torch.full((64, 64), 0.5, dtype=torch.bfloat16)
    weight[0, 0] = 1.0

    for strategy in (L1(amount=0.5), Global(amount=0.5)):
        assert int((pruned(tmp_path, weight, strategy) == 0).sum()) == 2048


def test_a_pruned_weight_is_plus_zero_even_if_it_was_infinite(tmp_path: Path) -> None:
    """Multiplying by a mask would leave -0.0 for a negative weight, and NaN for infinity."""
    weight = torch.tensor([[-1.0, -torch.inf, torch.nan, 2.0]])

    actual = pruned(tmp_path, weight, L1(amount=1.0))

    assert actual.view(torch.int32).tolist() == [[0, 0, 0, 0]]


def test_norms_of_16_bit_rows_are_exact_enough(tmp_path: Path) -> None:
    """Rows of 1,000 and of 1,001 ones rank by their sums, although a sum in bf16 stops at 256."""
    weight = torch.zeros(4, 1024, dtype=torch.bfloat16)
    for row, ones in enumerate((1002, 1000, 1003, 1001)):
        weight[row, :ones] = 1

    actual = pruned(tmp_path, weight, Structured(count=2, n=1))

    assert actual.any(dim=1).tolist() == [True, False, True, False]


def test_a_block_of_both_signs_is_not_weak(tmp_path: Path) -> None:
    """A block of 5 and -5 ranks highest, although its mean is 0."""
    weight = torch.tensor([[5.0, -5, 1, 1], [-5, 5, 1, 1]])

    assert pruned(tmp_path, weight, Block(2, 2, count=1)).tolist() == [[5, -5, 0, 0], [-5, 5, 0, 0]]


def test_half_of_the_blocks_are_pruned(tmp_path: Path) -> None:
    """Blocks are ranked separately: half of them become zero."""
    weight = torch.arange(1.0, 65.0).view(8, 8)

    alive = pruned(tmp_path, weight, Block(4, 4, amount=0.5)).view(2, 4, 2, 4).ne(0).sum((1, 3))

    assert alive.tolist() == [[0, 0], [16, 16]]


@pytest.mark.parametrize("shape", [(1, 1), (1, 3), (2, 5), (3, 7)])
def test_small_tensors_are_pruned_in_part(shape: tuple[int, int], tmp_path: Path) -> None:
    """2:4 on columns that are not a multiple of 4, and half of a few weights, leave weights and raise no error."""
    weight = torch.arange(1.0, shape[0] * shape[1] + 1).view(shape)

    assert pruned(tmp_path, weight, TopK(2, 4)).any()
    assert int((pruned(tmp_path, weight, L1(amount=0.5)) == 0).sum()) == round(weight.numel() / 2)


def test_a_convolution_can_have_a_pattern(tmp_path: Path) -> None:
    """A convolution is grouped along its input channels, at each position of the kernel."""
    weight = torch.randn(4, 8, 3, 3, generator=torch.Generator().manual_seed(0))

    kept = pruned(tmp_path, weight, TopK(2, 4)).ne(0).view(4, 2, 4, 3, 3).sum(2)

    assert kept.eq(2).all()


def test_equal_weights_conform_to_the_pattern(tmp_path: Path) -> None:
    """A group of four equal weights keeps two, where a threshold would keep all four."""
    assert pruned(tmp_path, torch.ones(2, 8), TopK(2, 4)).tolist() == [[1, 1, 0, 0, 1, 1, 0, 0]] * 2


def test_a_row_that_sums_to_zero_is_not_counted_as_zero(tmp_path: Path) -> None:
    """A row counts as zero only if each of its weights is zero."""
    pruned(tmp_path, torch.tensor([[3.0, -3.0], [0.1, 0.1]]), Threshold(0.5))

    (row,) = json.loads((tmp_path / "r.json").read_text())["tensors"]
    assert (row["zero_rows"], row["zero_cols"]) == (1, 0)


def test_a_mask_can_be_applied_to_another_checkpoint(tmp_path: Path) -> None:
    """The mask file of a run prunes the same weights of another checkpoint."""
    weight, mask = torch.randn(20, 20, generator=torch.Generator().manual_seed(1)), tmp_path / "mask.safetensors"
    first = pruned(tmp_path, weight, L1(amount=0.5), mask_out=mask)

    assert torch.equal(pruned(tmp_path, torch.ones(20, 20), Mask(str(mask), any_base=True)), (first != 0).float())


def test_counts_above_2_to_the_24_are_exact(tmp_path: Path) -> None:
    """A count of 16,777,217, which float32 cannot represent, is exact."""
    weight = torch.from_numpy(np.arange(5000 * 3400, dtype=np.float32).reshape(5000, 3400) + 1)

    assert int((pruned(tmp_path, weight, Global(count=16_777_217)) == 0).sum()) == 16_777_217


def test_pruning_again_prunes_remaining_weights_or_reports_zero(tmp_path: Path) -> None:
    """With of="remaining" a second run prunes half of the rest; else the report says that it pruned none."""
    once = pruned(tmp_path, torch.arange(1.0, 17.0).view(4, 4), L1(amount=0.5))

    assert int((pruned(tmp_path, once, L1(amount=0.5), of="remaining") == 0).sum()) == 12
    pruned(tmp_path, once, L1(amount=0.5))
    assert json.loads((tmp_path / "r.json").read_text())["totals"]["selected"]["pruned"] == 0


def test_a_pattern_without_a_match_is_an_error(tmp_path: Path) -> None:
    """A run that selects no tensor fails."""
    with pytest.raises(SelectionError, match="matches none"):
        pruned(tmp_path, torch.ones(2, 2), L1(amount=0.5), include=("layers.*",))


def test_the_reported_sparsity_is_measured(tmp_path: Path) -> None:
    """A percentile of 60 of equal weights zeroes all of them, and the report says 100 %, not 60 %."""
    pruned(tmp_path, torch.ones(10, 10), Percentile(60))

    assert json.loads((tmp_path / "r.json").read_text())["totals"]["selected"]["sparsity_after"] == 1.0


def test_a_run_without_an_output_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The exit code is 2 if the output cannot be written."""
    save_file({"w.weight": torch.ones(4, 4)}, tmp_path / "in.safetensors")

    code = main(["l1", str(tmp_path / "in.safetensors"), "--amount", "0.5", "-o", str(tmp_path / "no" / "out")])

    assert code == 2
    assert "no" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()
