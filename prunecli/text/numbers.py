"""Numbers as text: counts, percentages, magnitudes, sizes and shapes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def format_shape(shape: Sequence[int]) -> str:
    """Return a shape as "16x3x3", or "scalar"."""
    return "x".join(map(str, shape)) or "scalar"


def magnitude(value: float | None) -> str:
    """Return a magnitude with 6 digits, "-" if it is None."""
    return "-" if value is None else f"{value:.6g}"


def number(count: int | None) -> str:
    """Return a count with commas between the thousands, "-" if it is None."""
    return "-" if count is None else f"{count:,}"


def percent(fraction: float | None) -> str:
    """Return a fraction (0-1) as a percentage; only exactly none and exactly all read 0.0% and 100.0%."""
    if fraction is None:
        return "-"
    text = f"{100 * fraction:.1f}%"
    if text == "0.0%" and fraction > 0:
        return "<0.1%"
    return ">99.9%" if text == "100.0%" and fraction < 1 else text


def plural(count: int, one: str, many: str | None = None) -> str:
    """Return the form of a word for `count`: `one`, or `many` (by default `one` with an s)."""
    return one if count == 1 else many or f"{one}s"


def counted(count: int, one: str, many: str | None = None) -> str:
    """Return a count and its noun: "1 tensor", "1,200 tensors"."""
    return f"{count:,} {plural(count, one, many)}"


def duration(seconds: float) -> str:
    """Return a time for reading: "0.06 s", "12 s", "3 min 20 s", "2 h 5 min"."""
    if seconds < 9.995:
        return f"{seconds:.2f} s"
    whole = round(seconds)
    if whole < 100:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest} s" if minutes < 100 else f"{minutes // 60:,} h {minutes % 60} min"


def time_left(seconds: float) -> str:
    """Return an estimated time for reading, in whole seconds, 1 or more: "8 s", "3 min 20 s"."""
    return duration(max(round(seconds), 1)).replace(".00 s", " s")


def format_bytes(count: int) -> str:
    """Return `count` bytes for reading: "512 bytes", "1.5 kB", "2.0 GB" (powers of 1000)."""
    if count < 1000:
        return f"{count} bytes"
    size = float(count)
    for unit in ("kB", "MB", "GB", "TB"):
        size /= 1000
        # A larger number would round to 1000.0.
        if size < 999.95:
            return f"{size:.1f} {unit}"
    return f"{size:,.0f} TB"
