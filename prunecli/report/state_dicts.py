"""Which state_dicts of a file are taken and which are left alone, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prunecli.layouts.copies import is_ema
from prunecli.text.escape import listed, printable, quoted
from prunecli.text.name_ranges import grouped
from prunecli.text.numbers import counted, plural

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prunecli.selection.copies import LeftAlone

_NAMED = 4  # keys that a line lists before it counts the rest


def taken_in_words(verb: str, keys: Sequence[str], parts: Sequence[str], left: Sequence[LeftAlone]) -> str:
    """Return a line about the state_dicts of a file: which are taken, and what other weights there are.

    `keys` are those that are taken one by one, `parts` those that are taken together as the top of the file. The line
    is empty for a file that is one state_dict.
    """
    if not keys and not left and len(parts) < 2:
        return ""
    taken = [printable(quoted(key)) for key in keys or parts]
    how = ", each ranked separately" if len(keys) > 1 else ", as one state_dict" if len(parts) > 1 and not keys else ""
    others = [f"{printable(quoted(one.key))} ({_size(one)})" for one in left]
    named = f"{verb} {listed(taken, _NAMED)}{how}" if taken else f"{verb} the top of the file"
    return f"{named}; left alone: {listed(others, _NAMED)}" if others else named


def _size(one: LeftAlone) -> str:
    return f"{counted(one.tensors, 'tensor')}, {counted(one.weights, 'weight')}"


def ema_left(left: Sequence[LeftAlone]) -> tuple[str, ...]:
    """Return the keys of the EMA copies among the state_dicts that are left alone."""
    return tuple(one.key for one in left if is_ema(one.key))


def ema_warning(keys: Sequence[str]) -> str:
    """Return a sentence about EMA copies at `keys`, which loaders prefer, and which are not pruned."""
    names = listed([printable(quoted(key)) for key in keys], _NAMED)
    verb = plural(len(keys), "is an EMA copy of the weights, which", "are EMA copies of the weights, which")
    return f"{names} {verb} loaders prefer: {plural(len(keys), 'it is', 'they are')} not pruned"


def masters_warning(names: Sequence[str]) -> str:
    """Return a sentence about copies of the weights in an optimizer, by their full names."""
    ranges = [printable(quoted(name)) for name, _ in grouped(names, lambda name: name, lambda _: None)]
    subject = (
        f"{counted(len(names), 'tensor')} of the optimizer {plural(len(names), 'holds', 'hold')} the weights as well"
    )
    return (
        f"{subject}, in fp32 and not pruned ({listed(ranges, 2)}): training that resumes from the output takes these, "
        "and the pruned weights come back"
    )
