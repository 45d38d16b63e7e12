"""The option `--color`, which every command has."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

from prunecli.cli import parsers
from prunecli.cli.command_list import RUNNING
from prunecli.cli.value_options import text_option

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Color = Annotated[
    str,
    text_option(
        "--color",
        "auto|always|never",
        "Use colours: on a terminal (auto), everywhere, or nowhere.",
        panel=RUNNING,
        parser=parsers.color,
    ),
]

_VARIABLES = ("NO_COLOR", "FORCE_COLOR")


@contextmanager
def chosen_colour(words: Sequence[str]) -> Iterator[None]:
    """Apply the last `--color` of a command line to this process, its messages about that line included.

    The option is what the environment variables of the same meaning are, which Rich and the user's evaluation read.
    """
    before = {name: os.environ.get(name) for name in _VARIABLES}
    if (choice := _choice(words)) is not None:
        for name, value in zip(_VARIABLES, ("1", None) if choice == "never" else (None, "1"), strict=True):
            _set(name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            _set(name, value)


def _choice(words: Sequence[str]) -> str | None:
    """Return "never" or "always" if that is what the words choose."""
    chosen = None
    for index, word in enumerate(words):
        flag, equals, value = word.partition("=")
        if flag == "--color":
            chosen = value if equals else next(iter(words[index + 1 :]), None)
    return chosen if chosen in {"never", "always"} else None


def _set(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value
