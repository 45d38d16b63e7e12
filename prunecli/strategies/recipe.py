"""recipe."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from prunecli.errors import UsageError
from prunecli.selection.select import Selector
from prunecli.strategies.unstructured import Structured

if TYPE_CHECKING:
    from prunecli.strategies.unstructured import Strategy


@dataclass(frozen=True, slots=True)
class Rule:
    """One strategy and the tensors it is for."""

    strategy: Strategy
    rules: Selector = field(default_factory=Selector)


@dataclass(frozen=True, slots=True)
class Recipe:
    """Rules that are followed in order; `path` names the file they came from, for the report."""

    rules: tuple[Rule, ...]
    path: str = ""

    def __post_init__(self) -> None:
        """Refuse an empty recipe, and what no rule can do."""
        if not self.rules:
            raise UsageError("a recipe has at least one rule", hint='rule = [{strategy = "l1", amount = 0.5}]')
        for number, rule in enumerate(self.rules, 1):
            if not isinstance(rule, Rule):
                raise UsageError(
                    f"rule {number} is no Rule but {rule!r}", hint="prunecli.Rule(prunecli.L1(amount=0.5))"
                )
            if isinstance(rule.strategy, Structured) and rule.strategy.with_bias:
                raise UsageError(
                    f"rule {number}: biases cannot follow in a recipe",
                    hint="prune structured CKPT --with-bias first, and then the recipe with --of remaining",
                )

    def describe(self) -> dict[str, object]:
        """Return the recipe, for the report."""
        return {"name": "recipe", "path": self.path, "rules": [_described(rule) for rule in self.rules]}


def _described(rule: Rule) -> dict[str, object]:
    asked = {"include": list(rule.rules.include), "exclude": list(rule.rules.exclude)}
    return {**rule.strategy.describe(), **{key: value for key, value in asked.items() if value}}
