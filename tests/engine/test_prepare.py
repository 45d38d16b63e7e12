"""Requests that do not fit: side inputs, counts, strategies, and biases that follow their rows."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from support.pruning import pruned, same, stored

from prunecli import CheckpointError, SelectionError, UsageError
from prunecli.errors import Argument
from prunecli.strategies.strategy import Strategy
from prunecli.strategies.structured import Block, RandomStructured, Structured
from prunecli.strategies.unstructured import L1, Global, Random


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scores": "x", "act_norms": "y"}, "scores and activation norms cannot be combined"),
        ({"mask_in": "x", "of": "remaining"}, "an input mask already says which weights remain"),
        ({"of": "zeros"}, "amounts are of all or of remaining weights, not of 'zeros'"),
    ],
)
def test_inputs_that_exclude_each_other_are_refused(options: dict[str, str], message: str, tmp_path: Path) -> None:
    """They are refused before any file is opened."""
    with pytest.raises(UsageError, match=message):
        pruned(tmp_path, {"a.weight": torch.ones(2, 2)}, L1(amount=0.5), **options)


@pytest.mark.parametrize("option", ["scores", "act_norms", "mask_in"])
def test_side_inputs_are_files(option: str, tmp_path: Path) -> None:
    """A pipe is refused without being opened, and the message for a missing file starts with its purpose."""
    kind = {"scores": "scores", "act_norms": "activation norms", "mask_in": "mask"}[option]
    os.mkfifo(tmp_path / "pipe")

    for path, says in ((tmp_path / "pipe", "not .*pipe"), ("-", "not standard input"), ("missing", "there is no file")):
        with pytest.raises(CheckpointError, match=f"^{kind}: .*{says}"):
            pruned(tmp_path, {"a.weight": torch.ones(2, 2)}, L1(amount=0.5), **{option: path})


def test_one_error_names_all_missing_tensors(tmp_path: Path) -> None:
    """The hint leaves out every tensor without scores, not the first alone."""
    weights = {f"{name}.weight": torch.ones(2, 2) for name in "abc"}
    scores = stored(tmp_path, "scores", {"b.weight": torch.ones(2, 2)})

    with pytest.raises(CheckpointError, match=r"no scores for 'a.weight' and 1 more in ") as refused:
        pruned(tmp_path, weights, L1(amount=0.5), scores=scores)

    assert refused.value.hint == "exclude=['a.weight', 'c.weight'] leaves those tensors as they are"


def test_hints_exclude_exactly_the_missing_tensor(tmp_path: Path) -> None:
    """The proposed pattern excludes that tensor alone, also where its name has characters of a glob."""
    weights = {"w[0]'s.weight": torch.ones(2, 2), "b.weight": torch.ones(2, 2)}
    scores = stored(tmp_path, "scores", {"b.weight": torch.ones(2, 2)})

    with pytest.raises(CheckpointError) as refused:
        pruned(tmp_path, weights, L1(amount=0.5), scores=scores)

    (exclude, _) = refused.value.hint_parts  # type: ignore[misc] # a tuple
    assert isinstance(exclude, Argument)
    actual = pruned(tmp_path, weights, L1(amount=1.0), scores=scores, **{exclude.name: exclude.value})
    assert same(actual, {"w[0]'s.weight": torch.ones(2, 2), "b.weight": torch.zeros(2, 2)})


@pytest.mark.parametrize("strategy", [L1(amount=0.5, scope="row"), Block(2, 2, amount=0.5), Structured(amount=0.5)])
def test_a_scalar_has_no_rows(strategy: Strategy, tmp_path: Path) -> None:
    """A tensor without dimensions is refused by name before any weight is read; the hint does not propose dim -1."""
    with pytest.raises(SelectionError, match=r"'a.weight' has 0 dimensions, so it has no outputs") as refused:
        pruned(tmp_path, {"a.weight": torch.tensor(1.0)}, strategy, include=("a.weight",))

    assert refused.value.hint == "exclude=['a.weight'] leaves it out"


@pytest.mark.parametrize("make", [L1, Global, Structured, Random, RandomStructured])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"amount": 1}, "the amount 1 could mean a part or a number of weights"),
        ({"amount": True}, "the amount True could mean a part or a number of weights"),
        ({"amount": "0.5"}, "the amount is a number from 0 to 1, not '0.5'"),
        ({"count": 1.5}, "the count is a whole number, not 1.5"),
        ({"count": 1.0}, "the count is a whole number, not 1.0"),
    ],
)
def test_amounts_that_torch_reads_otherwise_are_refused(make: Any, arguments: dict[str, Any], message: str) -> None:  # noqa: ANN401
    """In torch the amount 1 is one weight and 1.0 is all; here a whole number is a count."""
    with pytest.raises(UsageError, match=message):
        make(**arguments)


def test_values_that_are_not_strategies_are_refused(tmp_path: Path) -> None:
    """The name of a strategy is not a strategy."""
    with pytest.raises(UsageError, match="a strategy is needed, not 'l1'"):
        pruned(tmp_path, {"a.weight": torch.ones(2, 2)}, "l1")  # type: ignore[arg-type] # that is the point


@pytest.mark.parametrize("strategy", [L1(count=7), Random(count=7)])
def test_a_count_that_is_too_large_gets_a_possible_one_as_hint(strategy: Strategy, tmp_path: Path) -> None:
    """The message names the smallest tensor, not the first."""
    weights = {"a.weight": torch.ones(2, 3), "b.weight": torch.ones(2, 2), "c.weight": torch.ones(4, 2)}

    with pytest.raises(UsageError, match=r"the count 7 is more than the 4 weights of 'b.weight'") as refused:
        pruned(tmp_path, weights, strategy)

    assert refused.value.hint == "count=4"


def test_biases_are_pruned_with_their_rows(tmp_path: Path) -> None:
    """`with_bias` zeroes the bias of each pruned row; biases of another length and excluded ones are kept."""
    weights = {
        "a.weight": torch.tensor([[1.0, 1], [2, 2], [3, 3], [4, 4]]),
        "a.bias": torch.ones(4),
        "b.weight": torch.eye(2),
        "b.bias": torch.ones(3),
        "c.weight": torch.tensor([[1.0], [2.0]]),
        "c.bias": torch.ones(2),
    }

    actual = pruned(tmp_path, weights, Structured(amount=0.5, with_bias=True), exclude=("c.bias",))

    assert actual["a.bias"].tolist() == [0, 0, 1, 1]
    assert actual["b.bias"].tolist() == [1, 1, 1]
    assert actual["c.bias"].tolist() == [1, 1]
    assert actual["c.weight"].tolist() == [[0], [2]]


@pytest.mark.parametrize("option", ["scores", "act_norms", "mask_in"])
def test_biases_follow_rows_that_are_ranked_by_a_file(option: str, tmp_path: Path) -> None:
    """A file without biases ranks the rows, and the biases are pruned with them."""
    weights = {"a.weight": torch.tensor([[1.0, 1], [2, 2], [3, 3]]), "a.bias": torch.ones(3)}
    file = {
        "scores": torch.tensor([[3.0, 3], [1, 1], [2, 2]]),
        "act_norms": torch.ones(2),
        "mask_in": torch.tensor([[1.0, 1], [1, 0], [1, 1]]),
    }[option]

    actual = pruned(
        tmp_path,
        weights,
        Structured(count=1, with_bias=True),
        **{option: stored(tmp_path, "file", {"a.weight": file})},
    )

    expected = {"scores": [1, 0, 1], "act_norms": [0, 1, 1], "mask_in": [0, 1, 1]}[option]
    assert actual["a.bias"].tolist() == expected
    kept = torch.tensor(expected)[:, None] * (file if option == "mask_in" else 1)
    assert torch.equal(actual["a.weight"], weights["a.weight"] * kept)


def test_missing_biases_are_an_error(tmp_path: Path) -> None:
    """`with_bias` is an error where no tensor has a bias of that length."""
    with pytest.raises(SelectionError, match="no selected tensor has a bias with one entry per output"):
        pruned(tmp_path, {"a.weight": torch.eye(3)}, Structured(amount=0.5, with_bias=True))


def test_a_bias_belongs_to_the_outputs(tmp_path: Path) -> None:
    """`with_bias` takes the dim of the outputs, and no other."""
    weights = {"a.weight": torch.tensor([[1.0, 2], [3, 4]]), "a.bias": torch.ones(2)}

    with pytest.raises(UsageError, match=r"the bias of 'a\.weight' belongs to its outputs, not to slices") as refused:
        pruned(tmp_path, weights, Structured(amount=0.5, dim=1, with_bias=True))

    assert refused.value.hint == "leave out dim=1 to prune outputs"
    actual = pruned(tmp_path, weights, Structured(amount=0.5, dim=-2, with_bias=True))
    assert actual["a.bias"].tolist() == [0, 1]
