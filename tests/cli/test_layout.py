"""Layouts on the command line: the warning about an assumption, the option that overrules it, and where it is shown."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Prune = Callable[..., tuple[int, str, str]]


@pytest.fixture(params=["pth", "safetensors"])
def square(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Save a square transposed convolution, whose layout nothing proves."""
    path = tmp_path / f"up.{request.param}"
    weights = {f"up.{name}": value for name, value in nn.ConvTranspose2d(8, 8, 3).state_dict().items()}
    (save_file if request.param == "safetensors" else torch.save)(weights, path)
    return path


@pytest.mark.parametrize(
    "words",
    [
        "structured --amount 50%",
        "structured --amount 50% --dim 0 --with-bias",
        "random --amount 50% --structured",
        "topk --pattern 2:4",
        "l1 --amount 50% --scope row",
        "block --amount 50% --shape 2x2",
    ],
)
def test_an_assumed_layout_that_matters_is_said(words: str, square: Path, prune: Prune) -> None:
    """One warning names the assumption, and its hint has the option that overrules it; stated, nothing is said."""
    command, *options = words.split()

    _, _, assumed = prune(command, square, *options, "-n")
    code, _, stated = prune(command, square, *options, "-n", "--layout", "up.weight=out-in")

    assert assumed.count("nothing in the file proves") == 1
    assert "hint: for the other order: --layout up.weight=in-out" in assumed
    assert (code, stated) == (0, "")


@pytest.mark.parametrize("words", ["l1 --amount 50%", "structured --amount 50% --dim 1", "topk --pattern 2:4 --dim 1"])
def test_an_assumed_layout_that_has_no_effect_is_not_said(words: str, square: Path, prune: Prune) -> None:
    """Without outputs and inputs, or with a dimension for all tensors, there is nothing to warn about."""
    command, *options = words.split()

    assert prune(command, square, *options, "-n")[2] == ""


def test_the_stated_layout_decides_what_is_pruned(square: Path, prune: Prune) -> None:
    """With inputs first, half of the outputs (dim 1) and their biases are pruned; the report has the stated layout."""
    output = square.with_name(f"out{square.suffix}")

    code, text, _ = prune(
        "structured", square, "--amount", "50%", "--with-bias", "--layout", "up.*=in-out", "-o", output, "--json"
    )

    rows = {row["name"]: row for row in json.loads(text)["tensors"]}
    assert code == 0
    assert (rows["up.weight"]["outputs"], rows["up.weight"]["inputs"]) == (1, 0)
    assert rows["up.weight"]["zero_rows"] == 4
    assert rows["up.bias"]["pruned"] == 4


def test_a_rule_of_a_recipe_states_a_layout(square: Path, prune: Prune) -> None:
    """`layout` of a rule is the option; the option of the command line wins over it."""
    recipe = square.with_name("recipe.toml")
    recipe.write_text('[[rule]]\nstrategy = "structured"\namount = "50%"\nlayout = ["up.*=in-out"]\n')

    own = json.loads(prune("run", recipe, square, "-n", "--json")[1])
    overruled = json.loads(prune("run", recipe, square, "-n", "--json", "--layout", "up.*=out-in")[1])

    assert [row["outputs"] for row in own["tensors"] if row["name"] == "up.weight"] == [1]
    assert [row["outputs"] for row in overruled["tensors"] if row["name"] == "up.weight"] == [0]


def test_inspect_and_check_take_stated_layouts(square: Path, prune: Prune) -> None:
    """A 2:4 pattern along dim 0 holds for inputs first, and only then; inspect shows the stated order."""
    output = square.with_name(f"out{square.suffix}")
    prune("topk", square, "--pattern", "2:4", "--layout", "*=in-out", "-o", output)

    assert prune("check", output, "--pattern", "2:4", "--layout", "*=in-out")[0] == 0
    assert prune("check", output, "--pattern", "2:4")[0] == 1
    assert "in-out" in prune("inspect", output, "--layout", "*=in-out")[1]
    assert "in-out" not in prune("inspect", output)[1]


@pytest.mark.parametrize(
    ("value", "hint"),
    [("up.weight", "--layout up.weight=in-out"), ("up.weight=inout", "--layout up.weight=in-out")],
)
def test_a_wrong_layout_is_refused_with_the_right_one(value: str, hint: str, square: Path, prune: Prune) -> None:
    """The hint is the command line as it was meant."""
    code, _, errors = prune("structured", square, "--amount", "50%", "--layout", value)

    assert code == 2
    assert f"hint: prune structured {square} --amount 50% {hint}" in errors
