"""Options that take a value: a function for each type of value.

`flags` are the flags, separated by spaces; `metavar` is the value's name in the help. The flag is always given:
Typer 0.27 would take a metavar that equals the parameter's name for the flag.
"""

from __future__ import annotations

from typing import Any

from typer import Option

from prunecli.cli import parsers


def text_option(flags: str, metavar: str, description: str, **settings: Any) -> Any:  # noqa: ANN401 - Typer's own
    """Return an option with any text as its value."""
    return Option(*flags.split(), metavar=metavar, help=description, **settings)


def fraction_option(flags: str, metavar: str, description: str) -> Any:  # noqa: ANN401
    """Return an option for a part of the weights, 0 to 1."""
    return text_option(flags, metavar, description, parser=parsers.fraction(_name(flags)))


def number_option(flags: str, metavar: str, example: float, description: str) -> Any:  # noqa: ANN401
    """Return an option for a number; its hint proposes `example`."""
    return text_option(flags, metavar, description, parser=parsers.number(_name(flags), example))


def whole_option(flags: str, metavar: str, example: int, description: str, **limits: int) -> Any:  # noqa: ANN401
    """Return an option for a whole number; `limits` are the `least` and the `most` it can be."""
    return text_option(flags, metavar, description, parser=parsers.whole(_name(flags), example, **limits))


def _name(flags: str) -> str:
    """Return the name of the argument, which messages use."""
    return flags.rsplit(maxsplit=1)[-1].lstrip("-").replace("-", "_")
