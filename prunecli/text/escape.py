"""Names and sentences from files as text: escaped, shortened, listed.

A name in a checkpoint is data: it may hold line breaks, terminal commands or characters that reverse the reading
order. Every name passes through `printable` before it reaches a message, a table or a terminal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def printable(name: str) -> str:
    r"""Return `name` with every character that is not printable as a backslash escape (\n, \x1b, \u202e).

    Printable text, backslashes included, stays as it is, so `printable(printable(name)) == printable(name)`. Square
    brackets stay too: code that prints through Rich wraps the result in `rich.text.Text`.
    """
    if name.isprintable():
        return name
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in name)


def quoted(name: str) -> str:
    """Return a name from a file in quotes for a message: control characters escaped, cut after 120 characters."""
    return repr(name if len(name) <= 120 else f"{name[:120]}...")


def shortened(text: str, limit: int) -> str:
    """Return `text`, or its two ends and its length if it has more than `limit` characters."""
    if len(text) <= limit:
        return text
    return f"{text[: limit * 2 // 3]}\u2026{text[-limit // 4 :]} ({len(text):,} characters)"


def listed(names: Sequence[str], limit: int) -> str:
    """Return the first `limit` names and the number of the others: "a, b and 7 more"."""
    more = f" and {len(names) - limit:,} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def encodable(text: str) -> bool:
    """Return whether UTF-8 can encode `text`: JSON and pickles can have half a surrogate pair, which it cannot."""
    return text.isascii() or not any("\ud800" <= c <= "\udfff" for c in text)
