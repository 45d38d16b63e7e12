"""The right value that is nearest to a wrong one, for hints."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from prunecli.text.closest import closest

if TYPE_CHECKING:
    from collections.abc import Sequence

_NUMBER = r"[-+]?(?:\d{1,15}(?:[.,]\d{0,15})?|[.,]\d{1,15})(?:e[-+]?\d{1,2})?"
_SCALES = {"": 1, "k": 1_000, "m": 1_000_000, "b": 1_000_000_000}
_LONGEST = 100
"""The most characters of a wrong value that are looked at."""


def nearest_choice(value: object, choices: Sequence[str], default: str) -> str:
    """Return the choice that `value` resembles, or `default` where it resembles none."""
    text = str(value)[:_LONGEST].strip().lower().replace("_", "-")
    near = closest(text, choices, cutoff=0.6)
    return near[0] if near else default


def nearest_number(text: str, default: float) -> float:
    """Return the one number in `text` ("0,1", "L2"), or `default`; a percentage is none."""
    found = re.findall(_NUMBER, text[:_LONGEST], re.ASCII | re.IGNORECASE)
    if len(found) != 1 or "%" in text or len(text) > _LONGEST:
        return default
    value = float(found[0].replace(",", "."))
    return int(value) if value.is_integer() and abs(value) < 1e15 else value


def nearest_whole(text: str, default: int) -> int:
    """Return the whole number nearest to `text` ("2.5", "1e6", "1,000", "10k"), or `default`."""
    compact = re.sub(r"[\s,_']", "", text[:_LONGEST].lower())
    match = re.fullmatch(rf"({_NUMBER})([kmb]?)", compact, re.ASCII)
    if match is None or len(text) > _LONGEST:
        return default
    value = round(float(match[1]) * _SCALES[match[2]])
    return value if abs(value) < 1 << 63 else default


def two_numbers(text: str) -> tuple[int, int] | None:
    """Return the two whole numbers in "2/4", "2 of 4" or "4,8"; one number counts twice; None for other text."""
    found = re.findall(r"\d{1,9}", text[:_LONGEST], re.ASCII)
    return (int(found[0]), int(found[-1])) if 1 <= len(found) <= 2 else None
