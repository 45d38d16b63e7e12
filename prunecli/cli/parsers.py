"""Parsers of option values.

Each raises UsageError in words that hold for a recipe as well; `name` is the name of the argument.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from prunecli.errors import Argument, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable


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


def number(name: str, example: float) -> Callable[[str], float]:
    """Return the parser of a number."""

    def parse(text: str) -> float:
        try:
            return float(text)
        except ValueError:
            raise UsageError(f"{name} takes a number, not {text!r}", hint=Argument(name, example)) from None

    return parse


def whole(name: str, example: int, *, least: int | None = None) -> Callable[[str], int]:
    """Return the parser of a whole number, which is `least` or more."""

    def parse(text: str) -> int:
        hint = Argument(name, example)
        try:
            value = int(text)
        except ValueError:
            raise UsageError(f"{name} takes a whole number, not {text!r}", hint=hint) from None
        if least is not None and value < least:
            raise UsageError(f"{name} takes {least} or more, not {value}", hint=hint)
        return value

    return parse


def parse_pattern(text: str) -> tuple[int, int]:
    """Return (2, 4) for "2:4"."""
    pair = _pair(text, ":")
    if pair is None:
        raise UsageError(f"the pattern is K:G, which keeps K of every G, not {text!r}", hint=Argument("pattern", "2:4"))
    return pair


def parse_shape(text: str) -> tuple[int, int]:
    """Return (4, 8) for "4x8"."""
    pair = _pair(text, "x")
    if pair is None:
        raise UsageError(
            f"the shape is RxC, the rows and columns of a block, not {text!r}", hint=Argument("shape", "4x4")
        )
    return pair


def _pair(text: str, separator: str) -> tuple[int, int] | None:
    first, _, second = text.partition(separator)
    if not (first.isascii() and first.isdigit() and second.isascii() and second.isdigit()):
        return None
    return int(first), int(second)
