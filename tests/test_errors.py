"""Hints: arguments and calls in the spelling of Python, of the command line and of recipes."""

from __future__ import annotations

from functools import partial

import pytest

from prunecli.cli.hints import as_options, as_toml
from prunecli.errors import Argument, Call, Hint, PruneError, SameCall, UsageError


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


@pytest.mark.parametrize(
    ("words", "command"),
    [
        (["l1", "d", "--amount", "0.5"], "prune l1 'd/a b' --amount 0.5"),
        (["l1", "./d/", "-o", "out dir"], "prune l1 'd/a b' -o 'out dir'"),
        (["l1", "c.pth", "--scores=d"], "prune l1 c.pth '--scores=d/a b'"),
        (["l1", "c.pth", "--scores", "d", "-i", "d"], "prune l1 c.pth --scores 'd/a b' -i d"),
        (["l1", "c.pth"], "'d/a b'"),
        ([], "'d/a b'"),
    ],
    ids=str,
)
def test_the_same_call_with_another_path_is_the_whole_command(words: list[str], command: str) -> None:
    """The command line is repeated with the path replaced; without that path in it, the path alone is named."""
    error = PruneError("x", hint=SameCall("d", "d/a b"))

    assert (error.hint, command) == ("'d/a b'", error.hint_as(partial(as_options, words=words)))
