"""Hints: arguments and calls in the spelling of Python, of the command line and of recipes."""

from __future__ import annotations

import pytest

from prunecli.cli.hints import as_options, as_toml
from prunecli.errors import Argument, Call, Hint, UsageError


@pytest.mark.parametrize(
    ("hint", "python", "options", "toml"),
    [
        (None, None, None, None),
        ("run it again", "run it again", "run it again", "run it again"),
        (Argument("amount", 0.5), "amount=0.5", "--amount 0.5", "amount = 0.5"),
        (
            (Argument("keep", 2), Argument("group", 4)),
            "keep=2, group=4",
            "--keep 2 --group 4",
            "keep = 2 and group = 4",
        ),
        (
            (Argument("amount", 0.5), " or ", Argument("count", 10)),
            "amount=0.5 or count=10",
            "--amount 0.5 or --count 10",
            "amount = 0.5 or count = 10",
        ),
        (
            ("leave out ", Argument("with_bias", value=True)),
            "leave out with_bias=True",
            "leave out --with-bias",
            "leave out with_bias = true",
        ),
        (Argument("exclude", ["a b", "c"]), "exclude=['a b', 'c']", "-x 'a b' -x c", 'exclude = ["a b", "c"]'),
        (
            Call("inspect", ("a b.pth",), (Argument("key", "x"),)),
            "prunecli.inspect('a b.pth', key='x')",
            "prune inspect 'a b.pth' --key x",
            "prune inspect 'a b.pth' --key x",
        ),
    ],
)
def test_a_hint_is_spelled_for_its_place(
    hint: Hint | None, python: str | None, options: str | None, toml: str | None
) -> None:
    """The same hint is a Python call, options of a command, or keys of a recipe."""
    error = UsageError("wrong", hint=hint)

    assert (python, options, toml) == (
        error.hint,
        error.hint_as(as_options, " "),
        error.hint_as(as_toml, " and "),
    )
