"""Parsers of option values.

Each raises UsageError in words that hold for a recipe as well; `name` is the name of the argument.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from prunecli.errors import Argument, UsageError
from prunecli.text.escape import quoted, shortened
from prunecli.text.nearest import nearest_choice, nearest_number, nearest_whole, two_numbers

if TYPE_CHECKING:
    from collections.abc import Callable

VARIED = ("amount", "slope")
"""The arguments of strategies that a sweep can vary."""

_DIGITS = 9
"""The most digits of a number in a pattern or a shape."""


def amount(text: str) -> float:
    """Return the fraction that "0.5" or "50%" means; a bare 1 could mean a part or a number, and is refused."""
    from prunecli.strategies.amounts import parse_amount

    return parse_amount(text)


def fraction(name: str) -> Callable[[str], float]:
    """Return the parser of a part of the weights: 0.5, 50%, or a bare 1 for all."""

    def parse(text: str) -> float:
        from prunecli.strategies.amounts import parse_amount

        return parse_amount(text, name, allow_whole=True)

    return parse


def varied(text: str) -> str:
    """Return the name of the number that a sweep varies: amount or slope."""
    if text not in VARIED:
        raise UsageError(
            f"a sweep varies amount or slope, not {quoted(text)}",
            hint=Argument("vary", nearest_choice(text, VARIED, "amount")),
        )
    return text


def number(name: str, example: float) -> Callable[[str], float]:
    """Return the parser of a number."""

    def parse(text: str) -> float:
        try:
            return float(text)
        except ValueError:
            hint = Argument(name, nearest_number(text, example))
            raise UsageError(f"{name} takes a number, not {quoted(text)}", hint=hint) from None

    return parse


def color(text: str) -> str:
    """Return "auto", "always" or "never"; UsageError for another word."""
    choices = ("auto", "always", "never")
    if text not in choices:
        hint = Argument("color", nearest_choice(text, choices, "auto"))
        raise UsageError(f"color is auto, always or never, not {quoted(text)}", hint=hint)
    return text


def percentile(text: str) -> float:
    """Return the percentile that "90" or "90%" means; "0.9" could mean 90 or 0.9%, and is refused."""
    value = number("q", 60)(text.removesuffix("%").rstrip())
    if 0 < value < 1 and not text.endswith("%"):
        raise UsageError(
            f"the percentile is 0 to 100, so {text} could mean {100 * value:g} or {value:g}%",
            hint=Argument("q", f"{100 * value:g}"),
        )
    return value


def whole(name: str, example: int, *, least: int | None = None, most: int | None = None) -> Callable[[str], int]:
    """Return the parser of a whole number, which is `least` or more and `most` or less."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:  # also for more digits than Python converts
            hint = Argument(name, _within(nearest_whole(text, example) or example, least, most))
            if name == "count" and re.fullmatch(r"0?\.\d+|\d+(\.\d*)?%", text):
                hint = Argument("amount", text)
            raise UsageError(f"{name} takes a whole number, not {quoted(text)}", hint=hint) from None
        if value != _within(value, least, most):
            wanted = f"{least} or more" if most is None else f"{least or 0} to {most}"
            hint = Argument(name, _within(value, least, most))
            raise UsageError(f"{name} takes {wanted}, not {shortened(text, 40)}", hint=hint)
        return value

    return parse


def parse_pattern(text: str) -> tuple[int, int]:
    """Return (2, 4) for "2:4"."""
    pair = _pair(text, ":")
    if pair is not None and pair[0] <= pair[1]:
        return pair
    keep, group = sorted(two_numbers(text) or (2, 4))
    hint = Argument("pattern", f"{keep}:{group}" if 0 < keep < group else "2:4")
    if pair is None:
        raise UsageError(f"the pattern is K:G, which keeps K of every G, not {quoted(text)}", hint=hint)
    raise UsageError(f"cannot keep {pair[0]} of every {pair[1]}: keep 0 to {pair[1]}", hint=hint)


def parse_shape(text: str) -> tuple[int, int]:
    """Return (4, 8) for "4x8"."""
    pair = _pair(text, "x")
    if pair is None or 0 in pair:
        rows, cols = two_numbers(text) or (4, 4)
        raise UsageError(
            f"the shape is RxC, the rows and columns of a block, at least one of each, not {quoted(text)}",
            hint=Argument("shape", f"{max(rows, 1)}x{max(cols, 1)}"),
        )
    return pair


def _pair(text: str, separator: str) -> tuple[int, int] | None:
    first, _, second = text.partition(separator)
    if not (first.isascii() and first.isdigit() and second.isascii() and second.isdigit()):
        return None
    if max(len(first), len(second)) > _DIGITS:
        return None
    return int(first), int(second)


def _within(value: int, least: int | None, most: int | None) -> int:
    """Return the allowed number that is nearest to `value`."""
    if least is not None:
        value = max(value, least)
    return value if most is None else min(value, most)
