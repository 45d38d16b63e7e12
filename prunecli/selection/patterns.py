"""patterns."""

from __future__ import annotations

import difflib
import re
from fnmatch import translate
from itertools import islice
from typing import TYPE_CHECKING

from prunecli.errors import SelectionError
from prunecli.text.escape import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from prunecli.checkpoint import TensorInfo


_NEAR_LIMIT = 10_000  # difflib takes seconds over more names than this


def _matching_any(option: str, patterns: Iterable[str], tensors: Sequence[TensorInfo]) -> dict[int, str]:
    """Map the index of each tensor that a pattern matches to the first such pattern."""
    found: dict[int, str] = {}
    for pattern in patterns:
        for i in matching(option, pattern, tensors):
            found.setdefault(i, pattern)
    return found


def matching(option: str, pattern: str, tensors: Sequence[TensorInfo]) -> list[int]:
    """Return the places of the tensors that a pattern of `option` matches; SelectionError where it matches none."""
    matches = _matcher(option, pattern)
    found = [i for i, tensor in enumerate(tensors) if matches(tensor.name)]
    if not found:
        near = _near(pattern, [t.name for t in tensors])
        raise SelectionError(
            f"{option} {pattern!r} matches none of {len(tensors)} tensors",
            hint=f"the nearest names: {', '.join(near)}" if near else None,
        )
    return found


def _matcher(option: str, pattern: str) -> Callable[[str], object]:
    if not pattern.startswith("re:"):
        glob = re.compile(translate(pattern))
        return lambda name: name == pattern or glob.match(name)
    try:
        return re.compile(pattern[3:]).search
    except re.error as error:
        where = "" if error.pos is None else f" at position {error.pos} after `re:`"
        raise SelectionError(
            f"{option} {pattern!r} is no regular expression: {error.msg}{where}",
            hint=f"a glob needs no prefix: {option} '*.weight'",
        ) from None


def _near(pattern: str, names: Iterable[str]) -> list[str]:
    wanted = re.sub(r"[*?\[\]^$\\()|+]", "", pattern.removeprefix("re:")).lower()
    some = {name.lower(): name for name in islice(names, _NEAR_LIMIT)}
    inside = [key for key in some if wanted and wanted in key]
    near = inside[:3] or difflib.get_close_matches(wanted, some, n=3, cutoff=0.2) or list(some)[:3]
    return [f"`{printable(some[key])}`" for key in near]
