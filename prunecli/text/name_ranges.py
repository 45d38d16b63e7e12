"""Names that differ only in numbers, merged into one: model.layers.{0..79}.mlp.up_proj.weight.

It works on strings only and knows nothing about tensors.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Sequence

    from prunecli.text.tables import View

T = TypeVar("T")

FOLDED_FROM = 40
"""The number of tensors above which similar names share a line."""

_DIGITS = 20  # a part with more digits does not count as an index
_RUNS = 4  # runs of numbers that are written out; of more, only the first and the last


def lines_of(
    items: Sequence[T], name: Callable[[T], str], alike: Callable[[T], Hashable], view: View
) -> list[tuple[str, list[T]]]:
    """Return (name, items) for each line of a table: similar names share a line if there are many items.

    Each item has its own line where `view` asks for single ones.
    """
    if view.top is not None or view.every or len(items) <= FOLDED_FROM:
        return [(name(item), [item]) for item in items]
    return grouped(items, name, alike)


def grouped(items: Iterable[T], name: Callable[[T], str], alike: Callable[[T], Hashable]) -> list[tuple[str, list[T]]]:
    """Group the items whose names differ only in numeric parts and whose value of `alike` is equal.

    Returns (merged name, items) in the order of each group's first item.
    """
    groups: dict[Hashable, list[T]] = {}
    for item in items:
        groups.setdefault((_template(name(item)), alike(item)), []).append(item)
    return [(joined([name(item) for item in group]), group) for group in groups.values()]


def joined(names: Sequence[str]) -> str:
    """Return one name for `names`, which differ only in numeric parts: a.{0..3}.b or a.{0..2,7}.b."""
    columns = zip(*(name.split(".") for name in names), strict=True)
    return ".".join(_part(list(dict.fromkeys(column))) for column in columns)


def _template(name: str) -> tuple[str | None, ...]:
    return tuple(None if _is_number(part) else part for part in name.split("."))


@lru_cache(maxsize=4096)
def _is_number(part: str) -> bool:
    """Return whether a part is an index: digits without leading zeros, so that the number gives the same text."""
    return part.isascii() and part.isdigit() and len(part) <= _DIGITS and str(int(part)) == part


def _part(parts: Sequence[str]) -> str:
    if len(parts) == 1:
        return parts[0]
    numbers = sorted(map(int, parts))
    starts = [numbers[0], *(b for a, b in pairwise(numbers) if b > a + 1)]
    ends = [*(a for a, b in pairwise(numbers) if b > a + 1), numbers[-1]]
    runs = [str(a) if a == b else f"{a}..{b}" for a, b in zip(starts, ends, strict=True)]
    if len(runs) > _RUNS:
        runs = [runs[0], "...", runs[-1]]
    return "{" + ",".join(runs) + "}"
