"""Amounts as text and as numbers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunecli import UsageError
from prunecli.strategies.amounts import check_amount, parse_amount, to_float32


@pytest.mark.parametrize(
    ("text", "value"),
    [("0.5", 0.5), ("50%", 0.5), ("1.0", 1.0), ("100%", 1.0), ("0", 0.0), ("33.3%", 0.333), ("99.9%", 0.999)],
)
def test_fractions_and_percentages_are_amounts(text: str, value: float) -> None:
    """A percentage is divided in decimal, so 33.3% is the float of 0.333."""
    assert value == parse_amount(text)
    assert value == parse_amount(text, allow_whole=True)


@given(st.floats(0, 1))
def test_every_fraction_is_read_back_from_its_text(value: float) -> None:
    """The text of a float from 0 to 1 parses to that float."""
    assert value == parse_amount(repr(value), allow_whole=True)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("1", "count=1 for the number, amount='100%' for all of them"),
        ("+50", "count=50 for the number, amount='50%' for that part of them"),
        ("500", "count=500 for the number"),
    ],
)
def test_a_bare_whole_number_is_ambiguous(text: str, hint: str) -> None:
    """A whole number could be a part or a number of weights; the hint spells each meaning."""
    with pytest.raises(UsageError, match=r"the amount \d+ could mean a part or a number of weights") as error:
        parse_amount(text)

    assert hint == error.value.hint


def test_a_sparsity_of_one_is_no_number_of_weights() -> None:
    """`allow_whole` accepts a bare 1, and proposes the percentage for a number above it."""
    assert parse_amount("1", "min_sparsity", allow_whole=True) == 1.0
    with pytest.raises(UsageError, match=r"the min sparsity is 0 to 1 \(or 0% to 100%\), not 60") as error:
        parse_amount("60", "min_sparsity", allow_whole=True)

    assert error.value.hint == "min_sparsity='60%' or min_sparsity=0.6"


@pytest.mark.parametrize("text", ["", "%", "much", "0,5", "-0.1", "1.5", "101%", "nan", "snan", "-inf%", "1e400"])
def test_other_text_is_refused(text: str) -> None:
    """Text that is no number from 0 to 1 is a usage error with an example as its hint."""
    with pytest.raises(UsageError, match="the amount is") as error:
        parse_amount(text)

    assert "amount=" in (error.value.hint or "")


@pytest.mark.parametrize(("amount", "count"), [(None, None), (0.5, 3)])
def test_an_amount_or_a_count_is_needed(amount: float | None, count: int | None) -> None:
    """Neither and both are refused."""
    with pytest.raises(UsageError, match="either an amount or a count is needed"):
        check_amount(amount, count)


@given(st.floats(0, 2.0**100, width=32))
def test_float32_values_round_to_themselves(value: float) -> None:
    """Rounding to float32 keeps every float32."""
    assert value == to_float32(value)
