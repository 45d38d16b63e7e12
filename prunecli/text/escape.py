"""How values out of a file appear in text: names made harmless, sizes made readable.

A name in a checkpoint is data: it may hold line breaks, terminal commands or characters that reverse the
reading order. It reaches a message, a table or a terminal through `shown` only.
"""

from __future__ import annotations


def shown(name: str) -> str:
    r"""Return `name` with every character that is not printable as a backslash escape (\n, \x1b, \u202e).

    Printable text, backslashes included, stays as it is, so `shown(shown(name)) == shown(name)`. Square
    brackets stay too: who prints through Rich must wrap the result in `rich.text.Text`.
    """
    if name.isprintable():
        return name
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in name)


def shown_bytes(count: int) -> str:
    """Return `count` bytes for reading: "512 bytes", "1.5 kB", "2.0 GB" (powers of 1000)."""
    if count < 1000:
        return f"{count} bytes"
    size = float(count)
    for unit in ("kB", "MB", "GB", "TB"):
        size /= 1000
        if size < 999.95:
            return f"{size:.1f} {unit}"
    return f"{size:,.0f} TB"
