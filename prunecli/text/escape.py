"""How values out of a file appear in text: names made harmless, sizes made readable.

A name in a checkpoint is data: it may hold line breaks, terminal commands or characters that reverse the
reading order. It reaches a message, a table or a terminal through `shown` only.
"""

from __future__ import annotations


def printable(name: str) -> str:
    r"""Return `name` with every character that is not printable as a backslash escape (\n, \x1b, \u202e).

    Printable text, backslashes included, stays as it is, so `printable(printable(name)) == printable(name)`. Square
    brackets stay too: who prints through Rich must wrap the result in `rich.text.Text`.
    """
    if name.isprintable():
        return name
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in name)


def quoted(name: str) -> str:
    """Quote a name found in a file for a message: control characters escaped, long ones cut."""
    return repr(name if len(name) <= 120 else f"{name[:120]}...")
