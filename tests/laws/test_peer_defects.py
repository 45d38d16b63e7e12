"""Mistakes that other pruners make, each as a test that holds this one to do better."""

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
from prunecli.strategies.unstructured import L1, Block, Global, Percentile, Structured, Threshold

if TYPE_CHECKING:
    from pathlib import Path

    from prunecli.strategies.unstructured import Strategy


def pruned(folder: Path, weight: torch.Tensor, strategy: Strategy, **options: Any) -> torch.Tensor:  # noqa: ANN401
    """Return what `strategy` makes of one tensor in a safetensors file."""
    save_file({"w.weight": weight}, folder / "in.safetensors")
    out = folder / "out.safetensors"
    prune(folder / "in.safetensors", strategy, output=out, reports=(folder / "r.json",), force=True, **options)
    return load_file(out)["w.weight"]


@pytest.mark.parametrize("make", [L1, Global, Structured, lambda amount: Block(2, 2, amount=amount)])
def test_nothing_asked_prunes_nothing_and_all_asked_everything(make: Any, tmp_path: Path) -> None:  # noqa: ANN401
    """0 % does not take one all the same, and 100 % neither fails nor leaves one."""
    weight = torch.arange(1.0, 13.0).view(3, 4)

    assert torch.equal(pruned(tmp_path, weight, make(amount=0.0)), weight)
    assert not pruned(tmp_path, weight, make(amount=1.0)).any()


@pytest.mark.parametrize(("amount", "gone"), [(0.25, 2), (0.35, 4), (0.45, 4), (0.15, 2), (0.05, 0)])
def test_amounts_are_rounded_half_to_even(amount: float, gone: int, tmp_path: Path) -> None:
    """Neither cut off nor rounded up: k of 10 is what Python's and torch's `round` say."""
    assert int((pruned(tmp_path, torch.arange(1.0, 11.0).view(2, 5), L1(amount=amount)) == 0).sum()) == gone


def test_equals_at_the_cut_do_not_overshoot(tmp_path: Path) -> None:
    """A tensor of two bf16 values loses half of its weights, not all that equal the threshold."""
    weight = torch.full((64, 64), 0.5, dtype=torch.bfloat16)
    weight[0, 0] = 1.0

    for strategy in (L1(amount=0.5), Global(amount=0.5)):
        assert int((pruned(tmp_path, weight, strategy) == 0).sum()) == 2048


def test_a_pruned_weight_is_plus_zero_even_if_it_was_infinite(tmp_path: Path) -> None:
    """Multiplying by a mask would leave -0.0, and NaN where infinity was."""
    weight = torch.tensor([[-1.0, -torch.inf, torch.nan, 2.0]])

    found = pruned(tmp_path, weight, L1(amount=1.0))

    assert found.view(torch.int32).tolist() == [[0, 0, 0, 0]]


def test_norms_of_16_bit_rows_do_not_collapse(tmp_path: Path) -> None:
    """Sums in bf16 stop growing at 256 ones; rows of 1,000 and of 1,001 ones still rank by length."""
    weight = torch.zeros(4, 1024, dtype=torch.bfloat16)
    for row, ones in enumerate((1002, 1000, 1003, 1001)):
        weight[row, :ones] = 1

    found = pruned(tmp_path, weight, Structured(count=2, n=1))

    assert found.any(dim=1).tolist() == [True, False, True, False]


def test_a_block_of_both_signs_is_not_weak(tmp_path: Path) -> None:
    """A tile of 5 and -5 has a mean of 0, and is the strongest."""
    weight = torch.tensor([[5.0, -5, 1, 1], [-5, 5, 1, 1]])

    assert pruned(tmp_path, weight, Block(2, 2, count=1)).tolist() == [[5, -5, 0, 0], [-5, 5, 0, 0]]


def test_each_block_has_an_answer_of_its_own(tmp_path: Path) -> None:
    """Half of the tiles go, not all or none."""
    weight = torch.arange(1.0, 65.0).view(8, 8)

    alive = pruned(tmp_path, weight, Block(4, 4, amount=0.5)).view(2, 4, 2, 4).ne(0).sum((1, 3))

    assert alive.tolist() == [[0, 0], [16, 16]]


@pytest.mark.parametrize("shape", [(1, 1), (1, 3), (2, 5), (3, 7)])
def test_small_tensors_are_neither_wiped_nor_an_error(shape: tuple[int, int], tmp_path: Path) -> None:
    """2:4 on columns that are no multiple of 4, and half of a handful of weights."""
    weight = torch.arange(1.0, shape[0] * shape[1] + 1).view(shape)

    assert pruned(tmp_path, weight, TopK(2, 4)).any()
    assert int((pruned(tmp_path, weight, L1(amount=0.5)) == 0).sum()) == round(weight.numel() / 2)


def test_a_kernel_can_have_a_pattern(tmp_path: Path) -> None:
    """Convolutions are grouped along their input channels, at each place."""
    weight = torch.randn(4, 8, 3, 3, generator=torch.Generator().manual_seed(0))

    kept = pruned(tmp_path, weight, TopK(2, 4)).ne(0).view(4, 2, 4, 3, 3).sum(2)

    assert kept.eq(2).all()


def test_equal_weights_conform_to_the_pattern(tmp_path: Path) -> None:
    """A threshold would keep all four of four equals."""
    assert pruned(tmp_path, torch.ones(2, 8), TopK(2, 4)).tolist() == [[1, 1, 0, 0, 1, 1, 0, 0]] * 2


def test_a_row_that_sums_to_zero_is_not_counted_as_zero(tmp_path: Path) -> None:
    """All-zero rows are found by looking at each weight."""
    pruned(tmp_path, torch.tensor([[3.0, -3.0], [0.1, 0.1]]), Threshold(0.5))

    (row,) = json.loads((tmp_path / "r.json").read_text())["tensors"]
    assert (row["zero_rows"], row["zero_cols"]) == (1, 0)


def test_masks_outlive_the_run(tmp_path: Path) -> None:
    """The mask of a run is a file, and prunes the same weights of another checkpoint."""
    weight, mask = torch.randn(20, 20, generator=torch.Generator().manual_seed(1)), tmp_path / "mask.safetensors"
    first = pruned(tmp_path, weight, L1(amount=0.5), mask_out=mask)

    assert torch.equal(pruned(tmp_path, torch.ones(20, 20), Mask(str(mask))), (first != 0).float())


def test_counts_above_2_to_the_24_are_exact(tmp_path: Path) -> None:
    """float32 cannot count to 16,777,217."""
    weight = torch.from_numpy(np.arange(5000 * 3400, dtype=np.float32).reshape(5000, 3400) + 1)

    assert int((pruned(tmp_path, weight, Global(count=16_777_217)) == 0).sum()) == 16_777_217


def test_pruning_again_is_no_silent_nothing(tmp_path: Path) -> None:
    """After half is zero, half of what is left goes when it is asked for; else the report says that none did."""
    once = pruned(tmp_path, torch.arange(1.0, 17.0).view(4, 4), L1(amount=0.5))

    assert int((pruned(tmp_path, once, L1(amount=0.5), of="remaining") == 0).sum()) == 12
    pruned(tmp_path, once, L1(amount=0.5))
    assert json.loads((tmp_path / "r.json").read_text())["totals"]["selected"]["pruned"] == 0


def test_matching_nothing_is_an_error(tmp_path: Path) -> None:
    """No success without a pruned weight."""
    with pytest.raises(SelectionError, match="matches none"):
        pruned(tmp_path, torch.ones(2, 2), L1(amount=0.5), include=("layers.*",))


def test_what_is_reported_is_measured(tmp_path: Path) -> None:
    """A percentile of 60 of equal weights zeroes all of them, and the report says so rather than 60 %."""
    pruned(tmp_path, torch.ones(10, 10), Percentile(60))

    assert json.loads((tmp_path / "r.json").read_text())["totals"]["selected"]["sparsity_after"] == 1.0


def test_no_file_no_success(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 0 means that the output is there."""
    save_file({"w.weight": torch.ones(4, 4)}, tmp_path / "in.safetensors")

    code = main(["l1", str(tmp_path / "in.safetensors"), "--amount", "0.5", "-o", str(tmp_path / "no" / "out")])

    assert code == 2
    assert "no" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()
