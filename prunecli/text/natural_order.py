"""The order in which people count: layers.2 comes before layers.10, and words stay in their own order."""

from __future__ import annotations

import re
from string import digits
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

_TOKEN = re.compile(r"\d{1,18}|[^\d.]+|\.|\d+", re.ASCII)
_LONGEST = 1000  # characters of a name that are compared


def natural_order(names: Sequence[str]) -> list[int]:
    """Return the indices of `names` in the order to list them.

    Names that begin alike are listed together. Where they begin to differ, numbers are in numeric order, and words in
    the order in which they first appear: a checkpoint has its layers in an order of its own.
    """
    root: dict[str | None, Any] = {}
    keys = [_key(name, root) for name in names]
    return sorted(range(len(names)), key=keys.__getitem__)


def _key(name: str, node: dict[str | None, Any]) -> list[tuple[int, int, str]]:
    """Return the key of a name; `node` holds the words that were seen at each place, with their ranks."""
    key = []
    for token in _TOKEN.findall(name[:_LONGEST]):
        rank, child = node.setdefault(token, (len(node), {}))
        number = int(token) if token[0] in digits and len(token) <= 18 else None
        if number is not None:
            rank = node.setdefault(None, rank)  # all numbers of a place stand where the first one stands
        key.append((rank, number or 0, token))
        node = child
    return key
