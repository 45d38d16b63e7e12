"""Recipes: several strategies in one run, each for its own tensors."""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING

from prunecli.errors import Argument, UsageError
from prunecli.selection.select import Selector
from prunecli.values import dataclass

if TYPE_CHECKING:
    from prunecli.strategies.strategy import Strategy
    from prunecli.strategies.strip import Strip


@dataclass(frozen=True, slots=True)
class Rule:
    """One strategy and the tensors it prunes.

    Args:
        strategy: The strategy.
        selector: Chooses its tensors; by default all matrices and kernels named `weight`.
    """

    strategy: Strategy
    selector: Selector = field(default_factory=Selector)


@dataclass(frozen=True, slots=True)
class Recipe:
    """Rules that are applied in order. If two match a tensor, the later one applies to the weights still unpruned.

    Args:
        rules: The rules, at least one.
        path: The file that the recipe was read from, for the report.
        strip: What is dropped from the checkpoint besides, in the same pass.

    Raises:
        UsageError: The recipe is empty, a rule is not a `Rule`, or a strategy prunes biases as well.
    """

    rules: tuple[Rule, ...]
    path: str = ""
    strip: Strip | None = None

    def __post_init__(self) -> None:
        """Check the rules."""
        if not self.rules:
            raise UsageError("a recipe has at least one rule", hint="Recipe((Rule(L1(amount=0.5)),))")
        for number, rule in enumerate(self.rules, 1):
            if not isinstance(rule, Rule):
                raise UsageError(
                    f"rule {number} is not a Rule but {rule!r}", hint="prunecli.Rule(prunecli.L1(amount=0.5))"
                )
            if rule.strategy.prunes_bias:
                raise UsageError(
                    f"rule {number}: a recipe cannot prune biases along with their tensors",
                    hint=(
                        "prune with ",
                        Argument("with_bias", True),
                        " first, then run the recipe with ",
                        Argument("of", "remaining"),
                    ),
                )

    @property
    def input_files(self) -> tuple[str, ...]:
        """The files that the recipe and its strategies read, which no output may overwrite."""
        files = tuple(path for rule in self.rules for path in rule.strategy.input_files)
        return (*files, self.path) if self.path else files

    def describe(self) -> dict[str, object]:
        """Return the recipe, for the report."""
        strip = {} if self.strip is None else {"strip": self.strip.describe()}
        return {"name": "recipe", "path": self.path, **strip, "rules": [_describe_rule(rule) for rule in self.rules]}


def _describe_rule(rule: Rule) -> dict[str, object]:
    patterns = {"include": list(rule.selector.include), "exclude": list(rule.selector.exclude)}
    return {**rule.strategy.describe(), **{name: value for name, value in patterns.items() if value}}
