"""Names that differ only in a number, told in one line: model.layers.{0..79}.mlp.up_proj.weight.

Knows names and whatever must be equal for two of them to share a line; nothing about tensors or printing.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Sequence

T = TypeVar("T")

_DIGITS = 20  # a part of more digits is no index
_RUNS = 4  # runs of numbers that are written out; of more only the first and the last


def grouped(items: Iterable[T], name: Callable[[T], str], alike: Callable[[T], Hashable]) -> list[tuple[str, list[T]]]:
    """Put together the items whose names differ in numeric parts only and that `alike` gives one value for.

    Returns (name, items) in the order of the first of each; a name that stands alone is its own.
    """
    groups: dict[Hashable, list[T]] = {}
    for item in items:
        groups.setdefault((_template(name(item)), alike(item)), []).append(item)
    return [(joined([name(item) for item in group]), group) for group in groups.values()]


def joined(names: Sequence[str]) -> str:
    """Return one name for `names`, which differ in numeric parts only: a.{0..3}.b, a.{0..2,7}.b, or the only one."""
    columns = zip(*(name.split(".") for name in names), strict=True)
    return ".".join(_part(list(dict.fromkeys(column))) for column in columns)


def _template(name: str) -> tuple[str | None, ...]:
    return tuple(None if _is_number(part) else part for part in name.split("."))


def _is_number(part: str) -> bool:
    """Say whether a part is an index: digits that int gives back as they are."""
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
