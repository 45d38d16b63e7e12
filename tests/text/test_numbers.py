"""Numbers as text."""

from __future__ import annotations

import pytest

from prunecli.text.numbers import counted, format_bytes, format_shape, magnitude, number, percent


@pytest.mark.parametrize(
    ("fraction", "text"),
    [
        (None, "-"),
        (0.0, "0.0%"),
        (1e-6, "<0.1%"),
        (0.5, "50.0%"),
        (0.9994, "99.9%"),
        (0.99999, ">99.9%"),
        (1.0, "100.0%"),
    ],
)
def test_percent_never_rounds_to_none_or_all(fraction: float | None, text: str) -> None:
    """0.0% and 100.0% mean exactly that."""
    assert text == percent(fraction)


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1500, "1.5 kB"), (999_960, "1.0 MB"), (2 * 10**9, "2.0 GB")],
)
def test_sizes_are_decimal_with_a_unit(count: int, text: str) -> None:
    """Sizes are powers of 1000, with the unit in the text."""
    assert text == format_bytes(count)


def test_shapes_and_counts() -> None:
    """Shapes are joined by x, counts have commas and their noun, unknown values are a dash."""
    assert (format_shape((16, 3, 3)), format_shape(())) == ("16x3x3", "scalar")
    assert (number(1234), number(None), magnitude(0.25), magnitude(None)) == ("1,234", "-", "0.25", "-")
    assert [counted(n, "entry", "entries") for n in (0, 1, 1234)] == ["0 entries", "1 entry", "1,234 entries"]
