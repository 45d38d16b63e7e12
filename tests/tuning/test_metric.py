"""The metric in the output of an evaluation command."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunecli.errors import UsageError
from prunecli.tuning.metric import compile_pattern, find_metric, name_in

if TYPE_CHECKING:
    from decimal import Decimal


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("accuracy 0.98", "0.98"),
        ("0.1\n0.2\n", "0.2"),
        ("top1=.5, top5: +0.75.", "0.75"),
        ("98.4%", "0.984"),
        ("98.4 % right", "0.984"),
        ("loss 1e-3", "0.001"),
        ("(-7)", "-7"),
        ("0.98 (443/450) of model-3.v2 in /tmp/4/x5.pth at 12:30:05 on 2024-05-01", "0.98"),
        ("\x1b[32m0.98\x1b[0m", "0.98"),
        ("\r10 done\r0.98", "0.98"),
        ("nan", "NaN"),
        ("-inf", "-Infinity"),
        ("1e999999999", "Infinity"),
        ("1e-99999999999999999999", "0"),
        ("10,0.912", "0.912"),
        ("1,234.5", None),
        ("no number: v1.2.3 x86", None),
        ("", None),
    ],
)
def test_the_metric_is_the_last_number_that_stands_alone(text: str, expected: str | None) -> None:
    """Words, paths, versions, dates and grouped digits hold no metric; a percentage is divided by 100 exactly."""
    metric = find_metric(text)

    assert expected == (None if metric is None else str(metric.value))


@given(st.decimals(allow_nan=False, allow_infinity=False, places=6, min_value=-(10**6), max_value=10**6))
def test_numbers_that_python_prints_are_read_exactly(value: Decimal) -> None:
    """A decimal or a float that Python prints is read with the same value."""
    assert find_metric(f"1 2\nresult: {value}\n").value == value  # type: ignore[union-attr]
    assert float(find_metric(f"x {float(value)}").value) == float(value)  # type: ignore[union-attr]


@given(st.text(), st.integers(-999, 999))
def test_any_text_may_precede_the_metric(text: str, number: int) -> None:
    """The number on the last line is the metric after any text, and every line is safe for a terminal."""
    before = find_metric(text)
    last = find_metric(f"{text}\nscore {number}")

    assert before is None or before.line.isprintable()
    assert last is not None
    assert (last.value, last.line) == (number, f"score {number}")


@pytest.mark.parametrize(("pattern", "expected"), [(r"acc (\S+)", "0.6"), (r"acc \S+", "0.6"), (r"^none", None)])
def test_a_pattern_selects_another_number(pattern: str, expected: str | None) -> None:
    """With a pattern, the metric is the number in its last match, or in the first group of that match."""
    metric = find_metric("acc 0.5 loss 2\nacc 0.6 loss 1\n", compile_pattern(pattern))

    assert expected == (None if metric is None else str(metric.value))


def test_a_malformed_pattern_is_an_error() -> None:
    """A pattern that is not a regular expression raises UsageError."""
    with pytest.raises(UsageError, match="not a regular expression"):
        compile_pattern("(")


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("accuracy 0.98", "accuracy"),
        ("{}: 0.0% zeros, 443 of 450 right, accuracy 0.9844", "accuracy"),
        ("epoch 3 | val loss: 1.25", "val loss"),
        ("top-1 acc = 71.2%", "top-1 acc"),
        ("mAP@50=0.61", "mAP@50"),
        ("0.98", "metric"),
        ("", "metric"),
        ("7 8", "metric"),
        ("x" * 5000 + " 1", "x" * 31),
    ],
)
def test_a_metric_has_the_name_before_it(line: str, name: str) -> None:
    """The words before the last number name it on an axis."""
    assert name_in(line) == name
