"""The right arguments that are nearest to wrong ones, for hints."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import TYPE_CHECKING

from prunecli.errors import Argument
from prunecli.text.nearest import nearest_choice

if TYPE_CHECKING:
    from collections.abc import Sequence


def nearest_amount(text: str) -> float | str:
    """Return the amount that is nearest to `text`, as a fraction or a percentage; 0.5 where it has no number.

    It is 0.5 beyond 100% too: a hint that zeroes all weights ruins the model.
    """
    compact = re.sub(r"[\s_]", "", text[:40].lower()).replace(",", ".")
    match = re.fullmatch(r"[-+]?(\d{0,9}\.?\d{0,9})(?:/(\d{1,9}))?(%|percent|pct)?", compact, re.ASCII)
    if match is None or not match[1].strip(".") or match[2] == "0" or len(text) > 40:
        return 0.5
    value = Decimal(match[1]) / int(match[2] or 1)
    if match[3] is None and value <= 1:
        return float(value)
    return f"{value:f}%" if value <= 100 else 0.5


def nearest_fraction(amount: float) -> float:
    """Return the fraction that is nearest to `amount`: 0.5 for 50, 0.1 for -0.1, and 0.5 beyond 100."""
    size = abs(amount)
    if size <= 1:
        return size
    return size / 100 if size <= 100 else 0.5


def nearest_percentile(q: float) -> Argument:
    """Return `q` without its sign; 60 beyond 100."""
    near = abs(q) if abs(q) <= 100 else 60.0
    return Argument("q", int(near) if near.is_integer() else near)


def nearest_limits(least: float, most: float) -> tuple[Argument, Argument]:
    """Return the limits per tensor, in order and within 0 to 1."""
    low, high = sorted((nearest_fraction(least), nearest_fraction(most)))
    return Argument("min_per_tensor", low), Argument("max_per_tensor", high)


def nearest_of(name: str, value: object, choices: Sequence[str], default: str) -> Argument:
    """Return the argument with the choice that `value` resembles, or with `default`."""
    return Argument(name, nearest_choice(value, choices, default))
