"""Warnings about runs in which less becomes zero than the request asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from support.small import write

from prunecli.api import prune
from prunecli.errors import Argument, Notice
from prunecli.strategies.recipe import Recipe, Rule
from prunecli.strategies.semi_structured import TopK
from prunecli.strategies.structured import Block, Structured
from prunecli.strategies.thresholds import Threshold
from prunecli.strategies.unstructured import L1, Global, Percentile, Random

if TYPE_CHECKING:
    from pathlib import Path

    from prunecli.strategies.strategy import Strategy

REMAINING = (Argument("of", "remaining"), " takes the amount of the weights that are not zero yet")


def warnings(path: Path, strategy: Strategy | Recipe, **options: Any) -> list[tuple[str, Any]]:  # noqa: ANN401
    """Return the warnings of a dry run, each with its hint."""
    report = prune(path, strategy, dry_run=True, **options)
    return [(str(one), one.hint_parts if isinstance(one, Notice) else None) for one in report.warnings]


def half_zero(folder: Path) -> Path:
    """Write a matrix of 8 x 10 whose rows are half zero, and one of 8 x 5 without zeros."""
    generator = torch.Generator().manual_seed(0)
    a, b = torch.rand((8, 10), generator=generator) + 1, torch.rand((8, 5), generator=generator) + 1
    a[:, ::2] = 0
    return write(folder, {"a.weight": a, "b.weight": b})


@pytest.mark.parametrize(
    ("strategy", "pruned", "asked"),
    [
        (L1(amount=0.5), 0, 40),
        (L1(amount=0.3), 0, 24),
        (L1(amount=0.95), 36, 76),
        (L1(count=41), 1, 41),
        (L1(amount=0.5, scope="row"), 0, 40),
        (L1(count=6, scope="row"), 8, 48),
        (Percentile(52), 2, 42),
    ],
)
def test_zeros_that_use_up_the_amount_are_counted(tmp_path: Path, strategy: Strategy, pruned: int, asked: int) -> None:
    """If at least half of the requested weights are zero already, one warning has the numbers and the way out."""
    (found,) = warnings(half_zero(tmp_path), strategy, include=["a.weight"])

    become = "weight becomes" if pruned == 1 else "weights become"
    sentence = "40 of the 80 weights of a.weight are already zero and count as pruned"
    assert found == (f"{sentence}: {pruned} {become} zero, not {asked}", REMAINING)


def test_tensors_that_are_ranked_together_are_counted_together(tmp_path: Path) -> None:
    """`Global` ranks all tensors; `L1` warns about the tensors with such zeros only."""
    path = half_zero(tmp_path)

    (together,), (alone,) = warnings(path, Global(amount=0.5)), warnings(path, L1(amount=0.5))

    start = "40 of the 120 weights of a.weight and 1 other tensor are already zero and count as pruned: "
    assert together == (f"{start}20 weights become zero, not 60", REMAINING)
    assert alone[0].startswith("40 of the 80 weights of a.weight are already zero")


def test_fixed_filters_that_dominate_are_named(tmp_path: Path) -> None:
    """A bank of filters with more weights than the rest is named, and the hint leaves it out."""
    bank, dense = torch.eye(40), torch.rand(8, 8) + 1
    path = write(tmp_path, {"mel.weight": bank, "fc.weight": dense})

    (found, hint), *_ = warnings(path, Global(amount=0.9))

    assert found.startswith("1,600 of the 1,664 selected weights are those of mel.weight, over 90% zero before: fixed")
    assert hint == (Argument("exclude", ["mel.weight"]), " leaves them out")
    assert warnings(path, Global(amount=0.9), exclude=["mel.weight"]) == []


def test_a_pruned_model_has_no_fixed_filters(tmp_path: Path) -> None:
    """Tensors of zeros are no reason to warn where the others are pruned as well, are larger, or are missing."""
    bank, pruned, dense = torch.eye(40), torch.rand(8, 8) + 1, torch.rand(80, 80) + 1
    pruned[:, ::2] = 0

    for tensors in ({"a": bank, "b": pruned}, {"a": bank, "b": dense}, {"a": bank}):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        path = write(folder, {f"{name}.weight": t for name, t in tensors.items()})
        assert not [text for text, _ in warnings(path, Global(amount=0.9)) if "fixed filters" in text]


@pytest.mark.parametrize("amount", [0.9, 1.0])
def test_few_zeros_are_no_reason_to_warn(tmp_path: Path, amount: float) -> None:
    """If most of the requested weights become zero there is no warning but that tensors become all zero."""
    path = half_zero(tmp_path)

    assert [text for text, _ in warnings(path, Global(amount=amount)) if "already" in text] == []
    assert warnings(path, Threshold(1.5)) == []


@pytest.mark.parametrize("strategy", [L1(amount=0.5), Global(amount=0.5), Percentile(50), Structured(amount=0.5)])
def test_the_way_out_works(tmp_path: Path, strategy: Strategy) -> None:
    """With amounts of the remaining weights something is pruned and there is no warning."""
    options = {"include": ["a.weight"], "of": "remaining"}

    assert prune(half_zero(tmp_path), strategy, dry_run=True, **options).selected.pruned  # type: ignore[arg-type]
    assert warnings(half_zero(tmp_path), strategy, **options) == []


@pytest.mark.parametrize(
    ("strategy", "options", "sentence", "hint"),
    [
        (L1(amount=0.0), {}, "nothing is pruned: the request is for 0 of 120 weights", None),
        (Random(amount=0.001), {}, "nothing is pruned: the request is for 0 of 120 weights", None),
        (Threshold(0.5), {}, "nothing is pruned: the rule (|w| <= 0.5) chooses no weight that is not zero; the", None),
        (TopK(5, 10), {"include": ["a.weight"]}, "nothing is pruned: the rule (keeps 5 of every 10 inputs)", None),
        (
            Recipe((Rule(Threshold(0.5)), Rule(Threshold(0.25)))),
            {},
            "nothing is pruned: the rule (|w| <= 0.5, then |w| <= 0.25) chooses no weight",
            None,
        ),
    ],
)
def test_a_run_that_zeroes_nothing_says_why(
    tmp_path: Path,
    strategy: Strategy,
    options: dict[str, Any],
    sentence: str,
    hint: Any,  # noqa: ANN401
) -> None:
    """One warning names the rule and, for a threshold, the smallest magnitude."""
    (found,) = warnings(half_zero(tmp_path), strategy, **options)

    assert (found[0].startswith(sentence), found[1]) == (True, hint)
    if isinstance(strategy, Threshold):
        smallest = min(float(t[t > 0].min()) for t in read(tmp_path).values())
        assert f"the smallest magnitude is {smallest:.6g}, in " in found[0]


def read(folder: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of the file."""
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def test_slices_that_are_zero_already_use_up_the_amount(tmp_path: Path) -> None:
    """Structured and block pruning of a file that is pruned alike says so and names the way out."""
    w = torch.ones(8, 8)
    w[:4] = 0
    path = write(tmp_path, {"a.weight": w})

    for strategy in (Structured(amount=0.5), Block(2, 2, amount=0.5)):
        (found,) = warnings(path, strategy)
        assert found[0].startswith("nothing is pruned: the rule (")
        assert found[0].endswith("; 32 of 64 weights were zero before")
        assert found[1] == REMAINING


def test_an_amount_that_rounds_to_no_slice_has_one_reason(tmp_path: Path) -> None:
    """The warning of the strategy is the only one, and proposes a number of slices."""
    path = write(tmp_path, {"a.weight": torch.ones(8, 8)})

    ((text, hint),) = warnings(path, Structured(amount=0.05))

    assert "rounds to 0" in text
    assert hint == (Argument("include", ["a.weight"]), Argument("count", 1), " prunes one of it")


def test_names_in_warnings_are_escaped(tmp_path: Path) -> None:
    """A control character of a tensor's name does not reach the terminal."""
    w = torch.ones(4, 4)
    w[:2] = 0
    path = write(tmp_path, {"a\x1b[31m.weight": w})

    for strategy in (L1(amount=0.5), Threshold(0.5)):
        assert "\x1b" not in warnings(path, strategy)[0][0]


def test_a_mask_is_no_zero_of_the_input(tmp_path: Path) -> None:
    """With a mask, amounts are of the weights that it keeps, so zeros of the input are no reason to warn."""
    path = half_zero(tmp_path)
    prune(path, L1(amount=0.25), mask_out=tmp_path / "mask.safetensors", dry_run=True)

    found = warnings(path, L1(amount=0.9), mask_in=tmp_path / "mask.safetensors")

    assert [text for text, _ in found if "already zero" in text] == []
