"""Names from files as text."""

from __future__ import annotations

import pytest

from prunecli.text.escape import listed, printable, shortened


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("plain.weight", "plain.weight"),
        ("größe 層", "größe 層"),
        ("a\nb", r"a\nb"),
        ("\x1b[0m", r"\x1b[0m"),
        ("\u202e\u200b\u2028", r"\u202e\u200b\u2028"),
        ("\udc80", r"\udc80"),
        ("\x00\x7f\x9b", r"\x00\x7f\x9b"),
        (r"a\n", r"a\n"),
    ],
)
def test_characters_that_do_not_print_become_escapes(name: str, text: str) -> None:
    """Each such character becomes its escape, and escaping twice changes nothing."""
    assert text == printable(name)
    assert text == printable(printable(name))


def test_a_long_text_keeps_its_ends() -> None:
    """A text over the limit shows its beginning, its end and its length."""
    assert shortened("a" * 9, 9) == "a" * 9
    assert shortened("begin" + "x" * 990 + "end", 12) == "beginxxx\u2026end (998 characters)"


def test_a_list_counts_the_names_after_the_limit() -> None:
    """The first names are listed and the others counted."""
    assert listed(["a", "b"], 2) == "a, b"
    assert listed(["a", "b", "c", "d"], 2) == "a, b and 2 more"
