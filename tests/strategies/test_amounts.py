"""Amounts as text and as numbers, counts, and exact cuts."""

from __future__ import annotations

from math import inf, nan
from typing import TYPE_CHECKING, Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import examples
from torch.nn.utils.prune import _compute_nparams_toprune

from prunecli import (
    Block,
    Global,
    MinSparsity,
    Percentile,
    Random,
    RandomStructured,
    Structured,
    Threshold,
    TopK,
    UsageError,
)
from prunecli.plans import Cut, OrderStatistic
from prunecli.strategies.amounts import check_amount, exact_cuts, parse_amount, resolve_count, to_float32

if TYPE_CHECKING:
    from collections.abc import Callable

WRONG = cast("Any", "x")


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


@given(st.integers(0, 10**6))
def test_a_percentage_is_the_fraction_with_the_point_moved(millionths: int) -> None:
    """Moving the decimal point by two digits changes no bit."""
    assert parse_amount(f"{millionths / 10**4:.4f}%") == parse_amount(f"{millionths / 10**6:.6f}")


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("1", "amount='100%' for all of them, count=1 for one"),
        ("+50", "amount='50%'"),
        ("500", "count=500"),
    ],
)
def test_a_bare_whole_number_is_ambiguous(text: str, hint: str) -> None:
    """A whole number could be a part or a number of weights; the hint has the likelier meaning, or both."""
    with pytest.raises(UsageError, match=r"the amount \+?\d+ could mean .* weights") as error:
        parse_amount(text)

    assert hint == error.value.hint


def test_a_sparsity_of_one_is_no_number_of_weights() -> None:
    """`allow_whole` accepts a bare 1, and proposes the percentage for a number above it."""
    assert parse_amount("1", "min_sparsity", allow_whole=True) == 1.0
    with pytest.raises(UsageError, match=r"the min sparsity is 0 to 1 \(or 0% to 100%\), not 60") as error:
        parse_amount("60", "min_sparsity", allow_whole=True)

    assert error.value.hint == "min_sparsity='60%'"


@pytest.mark.parametrize("text", ["", "%", "much", "0,5", "-0.1", "1.5", "101%", "nan", "snan", "-inf%", "1e400"])
def test_other_text_is_refused(text: str) -> None:
    """Text that is no number from 0 to 1 is a usage error with an example as its hint."""
    with pytest.raises(UsageError, match="the amount is") as error:
        parse_amount(text)

    assert "amount=" in (error.value.hint or "")


@given(st.floats(0, 2.0**100, width=32))
def test_float32_values_round_to_themselves(value: float) -> None:
    """Rounding to float32 keeps every float32."""
    assert value == to_float32(value)


# --- counts


@settings(max_examples=examples(100))
@given(numel=st.integers(0, 10_000), amount=st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])))
def test_an_amount_is_rounded_as_torch_rounds_it(numel: int, amount: float) -> None:
    """The count is torch.nn.utils.prune's number for a fraction, half to even."""
    expected = _compute_nparams_toprune(amount, numel)  # type: ignore[no-untyped-call]

    assert expected == resolve_count(amount, None, numel)


def test_halves_are_rounded_to_the_even_count() -> None:
    """Half of 5 is 2 and half of 7 is 4."""
    assert [resolve_count(0.5, None, numel) for numel in (1, 3, 5, 7, 9)] == [0, 2, 2, 4, 4]


def test_a_count_is_at_most_the_number_of_weights() -> None:
    """A count up to the number of weights is the result; the error for a larger one has that number."""
    assert [resolve_count(None, count, 10) for count in (0, 1, 10)] == [0, 1, 10]
    with pytest.raises(UsageError, match="10 selected weights"):
        resolve_count(None, 11, 10)


@pytest.mark.parametrize(
    ("amount", "count"), [(None, None), (0.5, 3), (-0.1, None), (1.1, None), (nan, None), (inf, None), (None, -1)]
)
def test_amounts_out_of_range_are_refused(amount: float | None, count: int | None) -> None:
    """Two amounts, none, an amount outside 0 to 1 and a negative count are usage errors with a hint."""
    with pytest.raises(UsageError) as caught:
        check_amount(amount, count)

    assert caught.value.hint
    with pytest.raises(UsageError):
        Global(amount, count)


@pytest.mark.parametrize(("amount", "count"), [(0.0, None), (1.0, None), (1e-300, None), (None, 0)])
def test_amounts_at_the_ends_are_accepted(amount: float | None, count: int | None) -> None:
    """0, 1 and a count of 0 are valid."""
    check_amount(amount, count)


# --- exact cuts


def statistic(rank: int, less: int, equals: tuple[int | None, ...], hits: tuple[bool, ...]) -> OrderStatistic:
    """Make an order statistic at pattern 10 for every member."""
    return OrderStatistic(rank, 1.5, less, sum(equal or 0 for equal in equals), (10,) * len(hits), hits, equals)


@pytest.mark.parametrize("ties", [1, 2, 3, 4, 5])
def test_a_cut_through_equals_prunes_earlier_members_first(ties: int) -> None:
    """Ties are given to the members in order, to each at most its number of equals."""
    equals = (2, 0, 3, 1)
    expected = [0, 0, 0, 0]
    for _ in range(ties):
        expected[next(at for at in range(4) if expected[at] < equals[at])] += 1

    cuts = exact_cuts(statistic(100 + ties, 100, equals, (True, False, True, True)))

    assert expected == [cut.ties for cut in cuts] == [cut.equal_pruned for cut in cuts]
    assert [cut.bits for cut in cuts] == [10] * 4
    assert list(equals) == [cut.equal for cut in cuts]


def test_a_cut_that_prunes_all_equals_has_no_ties() -> None:
    """A member whose dtype has the value is cut above its pattern, another one at the next pattern."""
    cuts = exact_cuts(statistic(106, 100, (2, 0, 3, 1), (True, False, True, True)))

    assert [cut.bits for cut in cuts] == [11, 10, 11, 11]
    assert [cut.ties for cut in cuts] == [0] * 4
    assert [cut.value for cut in cuts] == [1.5] * 4


def test_equals_that_were_not_counted_are_unknown() -> None:
    """Where no cut goes through equals, their number per member may be None, also in the cut."""
    (cut,) = exact_cuts(OrderStatistic(5, 1.5, 4, 1, (10,), (True,), (None,)))

    assert Cut(11, value=1.5) == cut


@pytest.mark.parametrize(
    ("make", "hint"),
    [
        (lambda: Threshold(WRONG), "thr=0.1"),
        (lambda: Percentile(WRONG), "q=60"),
        (lambda: Global(0.5, min_per_tensor=WRONG), "min_per_tensor=0.1"),
        (lambda: Structured(0.5, n=WRONG), "n=2"),
        (lambda: Structured(0.5, dim=WRONG), "dim=0"),
        (lambda: TopK(WRONG, 4), "keep=2"),
        (lambda: TopK(2, WRONG), "group=4"),
        (lambda: TopK(2, 4, dim=WRONG), "dim=0"),
        (lambda: Block(WRONG, 4, 0.5), "rows=4"),
        (lambda: Random(0.5, seed=WRONG), "seed=0"),
        (lambda: RandomStructured(0.5, seed=WRONG), "seed=0"),
        (lambda: MinSparsity(WRONG), "0.5 for one half"),
    ],
)
def test_a_value_of_another_type_is_refused_when_the_strategy_is_made(make: Callable[[], object], hint: str) -> None:
    """What is no number is an error with a hint, before anything is read."""
    with pytest.raises(UsageError, match="number, not ") as error:
        make()

    assert error.value.hint == hint
