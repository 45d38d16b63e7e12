"""Bounds on sparsity and the gates of a run."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.utils import prune as torch_prune

from prunecli.errors import UsageError
from prunecli.report.gates import Bound, Count, Gates, failures
from prunecli.report.model import Report, Row


def row(name: str, numel: int, zeros: int | None, *, selected: bool = True) -> Row:
    """Return the row of a tensor."""
    return Row(name, "F32", (numel,), numel, selected=selected, zeros_after=zeros)


def report(*rows: Row) -> Report:
    """Return a report over `rows`."""
    return Report(rows, {"name": "l1"}, "in.pth", "torch zip", 1, "0")


# --- bounds


@given(st.integers(1, 200), st.floats(0, 1))
def test_the_result_of_an_amount_meets_the_same_bound(numel: int, amount: float) -> None:
    """A tensor that torch pruned by an amount meets the lower and the upper bound of that amount."""
    weights = torch.arange(1.0, numel + 1)
    mask = torch_prune.L1Unstructured(amount).compute_mask(weights, torch.ones_like(weights)) if amount else weights
    zeros = int((mask == 0).sum())
    count = [Count("w", zeros, numel)]

    assert Bound(amount).holds(count) or zeros == 0
    assert Bound(amount, upper=True).holds(count) or zeros == numel


@given(st.lists(st.integers(1, 50), min_size=1, max_size=8), st.floats(0, 1))
def test_tensors_that_hold_one_by_one_hold_together(numels: list[int], fraction: float) -> None:
    """Rounding in each tensor does not add up to a failure of all together."""
    for upper in (False, True):
        bound = Bound(fraction, upper)
        counts = [Count("w", bound.zeros([numel]), numel) for numel in numels]

        assert bound.holds(counts)


@given(st.integers(1, 10**9), st.floats(0, 1), st.integers(0, 10**9))
def test_a_bound_is_off_by_less_than_one_weight(numel: int, fraction: float, zeros: int) -> None:
    """The number of zeros that a bound requires differs from the exact fraction by less than one weight."""
    zeros = min(zeros, numel)
    exact = Fraction(fraction) * numel

    assert Bound(fraction).holds([Count("w", zeros, numel)]) == (zeros >= Bound(fraction).zeros([numel]))
    assert abs(Bound(fraction).zeros([numel]) - exact) < 1 + Fraction(numel, 2**52)
    assert abs(Bound(fraction, upper=True).zeros([numel]) - exact) < 1 + Fraction(numel, 2**52)


@pytest.mark.parametrize("numel", [1, 3, 7, 1000])
def test_rounding_never_allows_all_or_none(numel: int) -> None:
    """In any tensor a lower bound above 0 requires a zero, and an upper bound below 1 a weight that is not zero."""
    assert not Bound(1e-9).holds([Count("w", 0, numel)])
    assert not Bound(1 - 1e-9, upper=True).holds([Count("w", numel, numel)])
    assert Bound(1.0).zeros([numel]) == numel
    assert Bound(0.0, upper=True).zeros([numel]) == 0


@given(st.integers(1, 10**7), st.data())
def test_a_failure_never_reads_like_a_success(numel: int, data: st.DataObject) -> None:
    """The percentage of a failure differs from the bound, and the missing weights are counted."""
    fraction = data.draw(st.sampled_from([0.5, 0.8, 0.999]))
    zeros = data.draw(st.integers(0, numel))
    bound, count = Bound(fraction), [Count("w", zeros, numel)]

    got = bound.got(count)

    if not bound.holds(count):
        assert float(got.split("%")[0]) != 100 * fraction
        assert f"; {bound.zeros([numel]) - zeros:,} too few)" in got


def test_a_near_miss_has_enough_digits() -> None:
    """A percentage that would round to the bound, to 0% or to 100% gets more digits."""
    assert Bound(0.8).got([Count("w", 79_999, 100_000)]) == "79.999% (79,999 of 100,000; 1 too few)"
    assert Bound(0.5).got([Count("w", 99_999, 100_000)]) == "99.999% (99,999 of 100,000)"
    assert Bound(0.5).got([Count("w", 1, 100_000)]) == "0.001% (1 of 100,000; 49,999 too few)"


# --- gates


def test_no_gates_no_failures() -> None:
    """A run without gates passes."""
    assert failures(report(row("w", 10, 10)), Gates()) == ()


def test_each_failed_gate_is_a_sentence() -> None:
    """A gate over all tensors has one sentence, the gate of each tensor one per failing tensor."""
    rows = report(row("a.weight", 100, 90), row("b.weight", 100, 10), row("c.bias", 100, None, selected=False))

    assert failures(rows, Gates(0.6, 1.0, 0.8)) == (
        "at least 60% of the selected weights must be zero, not 50.0% (100 of 200; 20 too few)",
        "at most 80% of a.weight may be zero, not 90.0% (90 of 100; 10 too many)",
    )
    assert failures(rows, Gates(max_sparsity=0.4)) == (
        "at most 40% of the selected weights may be zero, not 50.0% (100 of 200; 20 too many)",
    )


def test_a_gate_that_is_met_exactly_is_passed() -> None:
    """Both bounds include the fraction itself."""
    assert failures(report(row("w", 10, 5)), Gates(0.5, 0.5, 0.5)) == ()


def test_names_in_failures_are_harmless() -> None:
    """A name from a file cannot command a terminal."""
    (sentence,) = failures(report(row("a\x1b[2J", 10, 10)), Gates(max_tensor_sparsity=0.5))

    assert " of a\\x1b[2J may be zero" in sentence


@pytest.mark.parametrize(
    "gates", [{"min_sparsity": 1.5}, {"max_sparsity": -0.1}, {"max_tensor_sparsity": float("nan")}]
)
def test_gates_are_fractions(gates: dict[str, float]) -> None:
    """A number outside 0 to 1 is an error."""
    with pytest.raises(UsageError, match="0 to 1"):
        Gates(**gates)


@pytest.mark.parametrize("gates", [{"max_sparsity": 0.4}, {"max_tensor_sparsity": 0.4}])
def test_gates_that_contradict_each_other_are_an_error(gates: dict[str, float]) -> None:
    """A lower bound above an upper bound is an error, and the hint is a bound that can be met."""
    with pytest.raises(UsageError, match="at least 50% zero and at most 40%") as caught:
        Gates(min_sparsity=0.5, **gates)
    assert caught.value.hint == "min_sparsity=0.4, or less"
