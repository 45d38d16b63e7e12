"""Sweep: the points that are measured, their bars and the amounts that text names."""

from __future__ import annotations

from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.evaluation import density_of, globally, names

import prunecli
from prunecli.errors import UsageError
from prunecli.strategies.unstructured import Global
from prunecli.tuning.search import search
from prunecli.tuning.sweep import SweepPoint, parse_amounts, sweep
from prunecli.tuning.sweep_text import bars

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_every_amount_has_a_point(ckpt: Path) -> None:
    """The unpruned checkpoint comes first, then each amount in order; the checkpoint itself does not change."""
    before, observed = ckpt.read_bytes(), list[SweepPoint]()

    points = prunecli.sweep(ckpt, globally, density_of, amounts=[0.5, 0.25], on_point=observed.append)

    assert [(p.amount, p.trial.zeros, p.trial.metric, p.change) for p in points] == [
        (None, 0, 1, None),
        (0.5, 500, Decimal("0.5"), Decimal("-0.5")),
        (0.25, 250, Decimal("0.75"), Decimal("-0.25")),
    ]
    assert observed == points
    assert ckpt.read_bytes() == before
    assert names(ckpt.parent) == {"c.safetensors"}


@pytest.mark.parametrize("metric", [float("nan"), float("-inf")])
def test_a_metric_that_is_not_finite_has_no_change(ckpt: Path, metric: float) -> None:
    """A point whose metric is not finite is part of the result, without a change."""
    _, point = sweep(ckpt, globally, lambda path: 1.0 if density_of(path) == 1 else metric, amounts=[0.5])

    assert not point.trial.metric.is_finite()
    assert point.change is None


@pytest.mark.parametrize("amount", [-0.1, 1.5, float("nan")])
def test_an_amount_out_of_range_is_an_error(ckpt: Path, amount: float) -> None:
    """Amounts are 0 to 1."""
    with pytest.raises(UsageError, match="the amount is 0 to 1"):
        sweep(ckpt, globally, density_of, amounts=[amount])


@given(st.lists(st.integers(0, 1000), min_size=1))
def test_amounts_are_ascending_without_duplicates(thousandths: list[int]) -> None:
    """Fractions and percentages of the same amount are one amount."""
    texts = [f"{n / 1000}" for n in thousandths] + [f"{n / 10}%" for n in thousandths]

    assert parse_amounts(",".join(texts)) == tuple(sorted({n / 1000 for n in thousandths}))


@given(st.lists(st.decimals(allow_nan=True, min_value=-(10**9), max_value=10**9) | st.just(Decimal("NaN")), max_size=9))
def test_bars_rise_with_the_metric(metrics: list[Decimal]) -> None:
    """A larger metric never has the shorter bar, no bar is too wide, and NaN has none."""
    lengths = [len(bar) for bar in bars(metrics, 30)]

    assert len(lengths) == len(metrics)
    assert all(0 <= n <= 30 for n in lengths)
    pairs = sorted((float(m), n) for m, n in zip(metrics, lengths, strict=True) if m.is_finite())
    assert [n for _, n in pairs] == sorted(n for _, n in pairs)
    assert all(n == 0 for m, n in zip(metrics, lengths, strict=True) if m.is_nan())


@pytest.mark.parametrize("amounts", [0.5, "0.5", [50], ["x"], [None], [float("nan")]])
def test_wrong_amounts_are_one_sentence(ckpt: Path, amounts: object) -> None:
    """Amounts that are no list of numbers from 0 to 1 are refused before any work, with a list as the hint."""
    with pytest.raises(UsageError) as raised:
        sweep(ckpt, lambda amount: Global(amount=amount), lambda _: 1.0, amounts=amounts)  # type: ignore[arg-type]

    assert raised.value.hint == "amounts=[0.5, 0.8]"


@pytest.mark.parametrize("strategy", ["global", 0.5, None, Global(amount=0.5)])
@pytest.mark.parametrize("run", [sweep, partial(search, max_drop=0.1)])
def test_a_strategy_in_place_of_a_function_is_refused(ckpt: Path, run: Callable[..., object], strategy: object) -> None:
    """The hint is a function from an amount to the strategy."""
    with pytest.raises(UsageError, match="a function from an amount to a strategy is needed") as raised:
        run(ckpt, strategy, lambda _: 1.0)

    assert raised.value.hint == "lambda amount: prunecli.Global(amount=amount)"


def test_a_drop_that_is_no_number_is_refused(ckpt: Path) -> None:
    """The largest drop is a number."""
    with pytest.raises(UsageError, match="the largest drop is a number"):
        search(ckpt, Global, lambda _: 1.0, max_drop="x")  # type: ignore[arg-type]
