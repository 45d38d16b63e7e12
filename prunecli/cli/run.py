"""The command `prune run`: follow the rules of a recipe."""

from __future__ import annotations

from typing import Annotated, Any

from typer import Argument


def run(
    recipe: Annotated[str, Argument(metavar="RECIPE.toml", help="Rules in order, see below.")],
) -> Any:  # noqa: ANN401 - a Recipe, whose module an evaluated annotation would import
    """Zero the weights that the rules of a recipe choose.

    Each rule has patterns and one of the other pruning commands. If two rules match a tensor, the later one applies to
    the weights still unpruned.
    """
    from prunecli.cli.recipe_file import read_recipe

    return read_recipe(recipe)
