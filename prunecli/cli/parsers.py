"""parsers."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING

from prunecli.errors import UsageError
from prunecli.text.escape import printable

if TYPE_CHECKING:
    from collections.abc import Callable


def sparsity(option: str) -> Callable[[str], float]:
    """Return the parser of an option that takes a sparsity: "0.5" or "50%" become 0.5; UsageError for other text."""

    def parse(text: str) -> float:
        digits = text.removesuffix("%").strip()
        try:
            value = Decimal(digits)
        except InvalidOperation:
            raise UsageError(
                f"{option} takes a fraction or a percentage, not {text!r}", hint=f"{option} 50%, or {option} 0.5"
            ) from None
        # a decimal point moved in binary would make 33.3% another number than 0.333
        value = value if digits == text.strip() or not value.is_finite() else value.scaleb(-2)
        if value.is_nan() or not 0 <= value <= 1:
            meant = value if value.is_finite() and 1 < value <= 100 else Decimal(50)
            hint = f"{option} {meant:f}%, or {option} {meant / 100:f}"
            raise UsageError(f"{option} is 0 to 1, or 0% to 100%, not {text}", hint=hint)
        return float(value)

    return parse


def number(option: str, example: str) -> Callable[[str], float]:
    """Return the parser of an option that takes a number; it raises UsageError for other text."""

    def parse(text: str) -> float:
        try:
            return float(text)
        except ValueError:
            raise UsageError(f"{option} takes a number, not {text!r}", hint=f"{option} {example}") from None

    return parse


def whole(option: str, example: str, *, least: int | None = None) -> Callable[[str], int]:
    """Return the parser of an option that takes a whole number, `least` or more; UsageError for other text."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise UsageError(f"{option} takes a whole number, not {text!r}", hint=f"{option} {example}") from None
        if least is not None and value < least:
            raise UsageError(f"{option} is {least} or more, not {value}", hint=f"{option} {example}")
        return value

    return parse


def fraction(option: str) -> Callable[[str], float]:
    """Return the parser of an option that takes a part of something: 0.5, or 50%; UsageError for other text."""

    def parse(text: str) -> float:
        value = number(option, "0.5")(text.removesuffix("%"))
        value = _hundredth(text.removesuffix("%"), value) if text.endswith("%") else value
        if not 0 <= value <= 1:
            raise UsageError(f"{option} is 0 to 1 (or 0% to 100%), not {printable(text)}", hint=f"{option} 0.5")
        return value

    return parse


def parse_amount(text: str) -> float:
    """Return the fraction that "0.5", "50%" or "1.0" means; UsageError for a bare whole number and other text."""
    digits = text.removesuffix("%")
    value = number("--amount", "0.5, or --amount 50%")(digits)
    if text.endswith("%"):
        return _hundredth(digits, value)
    whole_number = digits.strip().removeprefix("+")
    if whole_number.isdecimal() and value:
        raise _ambiguous(whole_number)
    return value


def _hundredth(digits: str, value: float) -> float:
    """Return a hundredth of what `digits` say, in decimal: 99.9% is 0.999, and not the next number."""
    try:
        return float(Decimal(digits).scaleb(-2))
    except InvalidOperation:
        return value / 100


def _ambiguous(digits: str) -> UsageError:
    part = f", --amount {digits}% for that part of them" if 1 < int(digits) <= 100 else ""
    part = ", --amount 100% for all of them" if int(digits) == 1 else part
    return UsageError(
        f"--amount {digits} could mean a part or a number of weights", hint=f"--count {digits} for the number{part}"
    )


def parse_pattern(text: str) -> tuple[int, int]:
    """Return (2, 4) for "2:4"; UsageError for other text."""
    pair = _pair(text, ":")
    if pair is None:
        raise UsageError(f"--pattern is K:G, keep K of every G, not {text!r}", hint="--pattern 2:4")
    return pair


def parse_shape(text: str) -> tuple[int, int]:
    """Return (4, 8) for "4x8"; UsageError for other text."""
    pair = _pair(text, "x")
    if pair is None:
        raise UsageError(f"--shape is RxC, rows and columns of a tile, not {text!r}", hint="--shape 4x4")
    return pair


def _pair(text: str, between: str) -> tuple[int, int] | None:
    first, _, second = text.partition(between)
    if not (first.isascii() and first.isdigit() and second.isascii() and second.isdigit()):
        return None
    return int(first), int(second)
