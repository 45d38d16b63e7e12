"""Whether a stream gets colours, and the few that messages use. Tables are coloured by Rich, see `tables`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import TextIO

RED, YELLOW, DIM, BOLD = "31", "33", "2", "1"
"""Escape codes: of errors, of warnings, of hints, and of titles."""


def uses_colour(stream: TextIO | None) -> bool:
    """Return whether text for `stream` is coloured: on a terminal, unless the environment decides otherwise.

    NO_COLOR forbids colours, FORCE_COLOR asks for them everywhere, and a terminal with TERM=dumb has none.
    """
    if stream is None or os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR", "0") not in {"", "0"}:
        return True
    return stream.isatty() and os.environ.get("TERM") not in {None, "dumb", ""}


def painted(text: str, code: str, stream: TextIO | None) -> str:
    """Return `text` with an escape code around it if `stream` gets colours."""
    return f"\x1b[{code}m{text}\x1b[0m" if text and uses_colour(stream) else text
