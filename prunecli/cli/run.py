"""The command that follows a recipe: rules, each with a strategy and the tensors it is for."""

from __future__ import annotations

from typing import Annotated, Any

from typer import Argument


def run(
    recipe: Annotated[str, Argument(metavar="RECIPE.toml", help="Rules in order; see the README for their form.")],
) -> Any:  # noqa: ANN401 - a Recipe: naming its room would import it at every start
    """Zero what the rules of a recipe choose.

    Each rule has patterns and one of the other commands; where rules meet, later ones count what is left.
    """
    from prunecli.cli.recipe_file import read_recipe

    return read_recipe(recipe)
