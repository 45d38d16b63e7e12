"""Options that take a value: a function for each type of value.

`flags` are the flags, separated by spaces; `metavar` is the value's name in the help. The flag is always given:
Typer 0.27 would take a metavar that equals the parameter's name for the flag. `panel` is the title under which the help
lists the option; without one it is among the command's own options.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from typer import Option

from prunecli.cli import parsers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def text_option(
    flags: str,
    metavar: str,
    description: str,
    *,
    panel: str | None = None,
    **settings: Any,  # noqa: ANN401 - Typer's own
) -> Any:  # noqa: ANN401
    """Return an option with any text as its value; a metavar such as `keep|zero` lists the values that it completes."""
    if "|" in metavar:
        settings.setdefault("autocompletion", _choices(metavar.split("|")))
    return Option(*flags.split(), metavar=metavar, help=description, rich_help_panel=panel, **settings)


def flag_option(flags: str, description: str, *, panel: str | None = None) -> Any:  # noqa: ANN401
    """Return an option without a value."""
    return Option(*flags.split(), help=description, rich_help_panel=panel)


def fraction_option(flags: str, metavar: str, description: str, *, panel: str | None = None) -> Any:  # noqa: ANN401
    """Return an option for a part of the weights, 0 to 1."""
    return text_option(flags, metavar, description, panel=panel, parser=parsers.fraction(_name(flags)))


def number_option(flags: str, metavar: str, example: float, description: str) -> Any:  # noqa: ANN401
    """Return an option for a number; its hint proposes `example`."""
    return text_option(flags, metavar, description, parser=parsers.number(_name(flags), example))


def whole_option(
    flags: str,
    metavar: str,
    example: int,
    description: str,
    *,
    panel: str | None = None,
    envvar: str | None = None,
    **limits: int,
) -> Any:  # noqa: ANN401
    """Return an option for a whole number; `limits` are the `least` and the `most` it can be."""
    parser = parsers.whole(_name(flags), example, **limits)
    return text_option(flags, metavar, description, panel=panel, parser=parser, envvar=envvar)


def _name(flags: str) -> str:
    """Return the name of the argument, which messages use."""
    return flags.rsplit(maxsplit=1)[-1].lstrip("-").replace("-", "_")


def _choices(values: Sequence[str]) -> Callable[[str], list[str]]:
    """Return the function that completes one of `values`."""

    def complete(incomplete: str) -> list[str]:
        return [value for value in values if value.startswith(incomplete)]

    return complete
