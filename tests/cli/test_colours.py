"""`--color`, NO_COLOR and FORCE_COLOR: messages and tables."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from support.command_line import HALF

if TYPE_CHECKING:
    from pathlib import Path

    from support.command_line import Prune

RED, YELLOW, DIM, END = "\x1b[31m", "\x1b[33m", "\x1b[2m", "\x1b[0m"


def test_messages_have_the_colour_of_their_kind(prune: Prune, ckpt: Path) -> None:
    """An error and a failure are red, a warning is yellow, a hint is dim; the option holds for wrong lines, too."""
    wrong = prune("l1", ckpt, "--amount", "1", "--color", "always").err
    failed = prune("l1", ckpt, *HALF, "-n", "--max-sparsity", "0.1", "--color=always").err

    assert wrong.startswith(f"{RED}error:{END} the amount 1 ")
    assert f"\n{DIM}hint: --amount 100% for all of them, --count 1 for one{END}\n" in wrong
    assert failed.startswith(f"{YELLOW}warning:{END} ")
    assert f"\n{RED}failed:{END} the result" in failed


def test_without_a_terminal_there_is_no_colour(prune: Prune, ckpt: Path) -> None:
    """A pipe gets plain text unless --color or FORCE_COLOR asks for more; --color is stronger than NO_COLOR."""
    plain = prune("check", ckpt, "--finite")

    assert "\x1b" not in plain.out
    assert "\x1b[32mok" in prune("check", ckpt, "--finite", "--color", "always").out
    assert "\x1b[1;31mFAILED\x1b[0m" in prune("check", ckpt, "--min-sparsity", "90%", "--color", "always").out
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FORCE_COLOR", "1")
        assert "\x1b[32mok" in prune("check", ckpt, "--finite").out
        assert prune("check", ckpt, "--finite", "--color", "never") == plain
        patch.setenv("NO_COLOR", "1")
        assert prune("check", ckpt, "--finite") == plain
        assert "\x1b[32mok" in prune("check", ckpt, "--finite", "--color", "always").out
        assert (os.environ["NO_COLOR"], os.environ["FORCE_COLOR"]) == ("1", "1")


def test_titles_of_the_help_are_bold(prune: Prune) -> None:
    """With colours the titles of the help are bold, of all commands and of one."""
    assert "\n\x1b[1mWhich tensors\x1b[0m:\n" in prune("l1", "--help", "--color", "always").out
    assert "\x1b" not in prune("l1", "--help").out


def test_another_word_is_an_error(prune: Prune, ckpt: Path) -> None:
    """The hint is the nearest of the three words."""
    ran = prune("inspect", ckpt, "--color", "allways")

    assert ran.code == 2
    assert "color is auto, always or never, not 'allways'" in ran.err
    assert "--color always" in ran.err
