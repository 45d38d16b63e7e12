"""Recipes as values."""

from __future__ import annotations

import pytest

from prunecli import UsageError
from prunecli.strategies.mask import Mask
from prunecli.strategies.recipe import Recipe, Rule
from prunecli.strategies.unstructured import L1


def test_a_strategy_is_not_a_rule() -> None:
    """A strategy in place of a rule is refused, and the hint makes a rule of it."""
    with pytest.raises(UsageError, match="rule 1 is not a Rule but L1"):
        Recipe((L1(amount=0.5),))  # type: ignore[arg-type] # the error under test


def test_a_recipe_reads_the_files_of_its_strategies() -> None:
    """The mask files of its rules and its own file must not be overwritten."""
    recipe = Recipe((Rule(L1(amount=0.5)), Rule(Mask("m.safetensors"))), "r.toml")

    assert recipe.input_files == ("m.safetensors", "r.toml")
