"""Patterns over tensor names: shell globs, and regular expressions after the prefix `re:`.

A glob matches a whole dotted name, and `*` matches dots too. A regular expression is searched in the name. If several
state_dicts are taken, a pattern matches the name inside the state_dict or the whole name, which starts with the key.
"""

from __future__ import annotations

import re
from fnmatch import translate
from glob import escape
from typing import TYPE_CHECKING

from prunecli.checkpoint import OUTSIDE
from prunecli.errors import Argument, SelectionError
from prunecli.layouts.other_names import is_other_by_name
from prunecli.selection.time_limit import SECONDS, TooSlowError, limited_time
from prunecli.text.closest import closest
from prunecli.text.escape import printable, quoted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from prunecli.checkpoint import TensorInfo
    from prunecli.errors import Hint

_MOST_PARTS = 16
"""The most patterns that one text is taken apart into."""


def matching_any(argument: str, patterns: Iterable[str], tensors: Sequence[TensorInfo]) -> dict[int, str]:
    """Return the index of each tensor that a pattern matches, with the first such pattern."""
    matched: dict[int, str] = {}
    for pattern in patterns:
        for i in matching(argument, pattern, tensors):
            matched.setdefault(i, pattern)
    return matched


def matching(
    argument: str, pattern: str, tensors: Sequence[TensorInfo], aliases: Sequence[Sequence[str]] | None = None
) -> list[int]:
    """Return the indices of the tensors whose name, or one of their `aliases`, matches `pattern`.

    `argument` is the name of the argument in messages. Raises SelectionError if the pattern is malformed or matches
    nothing.
    """
    others = aliases or [()] * len(tensors)
    names = [(*_own_names(tensor), *more) for tensor, more in zip(tensors, others, strict=True)]
    matches = _matcher(argument, pattern)
    try:
        with limited_time():
            matched = [i for i, candidates in enumerate(names) if any(map(matches, candidates))]
    except TooSlowError:
        message = f"the {_words(argument)} pattern {quoted(pattern)} takes more than {SECONDS:g} seconds to match"
        raise SelectionError(message, hint="a glob such as '*.weight' has no repetitions within repetitions") from None
    if not matched:
        raise SelectionError(
            f"the {_words(argument)} pattern {quoted(pattern)} matches none of {len(tensors)} tensors",
            hint=_hint_for_nothing(argument, pattern, tensors),
        )
    return matched


def _hint_for_nothing(argument: str, pattern: str, tensors: Sequence[TensorInfo]) -> Hint | None:
    """Return the patterns that were meant by several in one text, or the names that are nearest to `pattern`."""
    names = [tensor.name for tensor in tensors]
    parts = [part for part in re.split(r"[,;\s]+", pattern) if part]
    is_list = argument in {"include", "exclude"} and 1 < len(parts) <= _MOST_PARTS
    if is_list and all(any(map(re.compile(translate(part)).match, names)) for part in parts):
        return Argument(argument, [printable(part) for part in parts])
    nearest = _nearest(pattern, names, only_weights=argument == "include")
    return f"the nearest names: {', '.join(nearest)}" if nearest else None


def exact_pattern(name: str) -> str:
    """Return the glob that matches `name` alone."""
    return printable(escape(name))


def _own_names(tensor: TensorInfo) -> tuple[str, ...]:
    """Return the name of a tensor, and the name inside its state_dict if that is one of several that are taken."""
    taken_with_others = tensor.key and tensor.unprunable_reason != OUTSIDE
    return (tensor.local_name, tensor.name) if taken_with_others else (tensor.name,)


def _words(argument: str) -> str:
    return argument.replace("_", " ")


def _matcher(argument: str, pattern: str) -> Callable[[str], object]:
    if not pattern.startswith("re:"):
        # A name with brackets matches itself too, although a glob reads brackets as a set of characters.
        glob = re.compile(translate(pattern))
        return lambda name: name == pattern or glob.match(name)
    try:
        return re.compile(pattern[3:]).search
    except (re.error, RecursionError, OverflowError) as error:
        # The compiler calls itself for each nested group, and a repetition has at most 4 billion times.
        reason = "it has too many groups within groups" if isinstance(error, RecursionError) else str(error)
        if isinstance(error, re.error):
            reason = error.msg + ("" if error.pos is None else f" at position {error.pos} after `re:`")
        raise SelectionError(
            f"the {_words(argument)} pattern {quoted(pattern)} is not a regular expression: {reason}",
            hint="a glob such as '*.weight' needs no prefix",
        ) from None


def _nearest(pattern: str, names: Sequence[str], *, only_weights: bool) -> list[str]:
    """Return up to three names that contain the pattern's text or resemble it.

    With `only_weights` names such as `scales` are left out, unless the pattern has almost their text.
    """
    text = re.sub(r"[*?\[\]^$\\()|+]", "", pattern.removeprefix("re:")).lower()
    by_key = {name.lower(): name for name in names}
    containing = [key for key in by_key if text and text in key]
    weights = [key for key, name in by_key.items() if not (only_weights and is_other_by_name(name))]
    nearest = containing or closest(text, by_key, 3, cutoff=0.8) or closest(text, weights, 3, cutoff=0.2) or weights
    nearest = nearest[:3]
    return [f"`{printable(by_key[key])}`" for key in nearest]
