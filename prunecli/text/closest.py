"""Find the names that are most similar to a misspelled one."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_LIMIT = 10_000  # names that are compared: difflib takes seconds for more


def closest(name: str, names: Iterable[str], count: int = 1, *, cutoff: float = 0.6) -> list[str]:
    """Return at most `count` of the first 10,000 `names` that are similar to `name`, the most similar first.

    `cutoff` is the smallest similarity, from 0 (anything) to 1 (equal).
    """
    import difflib  # noqa: PLC0415 - only errors need it

    return difflib.get_close_matches(name, list(islice(names, _LIMIT)), count, cutoff)
