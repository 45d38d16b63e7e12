"""Search: the amount that is found, and the checkpoint that is written."""

from __future__ import annotations

import shutil
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.evaluation import density_command, density_of, globally, names, zeros

import prunecli
from prunecli.errors import OutputError, SelectionError, UsageError
from prunecli.strategies.unstructured import Global
from prunecli.tuning.evaluate import EvaluationError
from prunecli.tuning.search import AmountGrid, Attempt, MetricGoal, bisect, search
from prunecli.tuning.trial_file import Trial
from prunecli.tuning.watch import NoWatch

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def ignore(_: Attempt) -> None:
    """Do nothing."""


# --- bisection


class FakeTrials:
    """Trials of a model whose metric is a function of the amount."""

    def __init__(self, metric: Callable[[float], float]) -> None:
        """Keep the function and record the amounts that are tried."""
        self.metric, self.amounts = metric, list[float]()

    def unpruned(self, _: Global) -> Trial:
        """Return the trial of the unpruned model."""
        return Trial(None, 0, 100, Decimal(str(self.metric(0.0))), "", 0.0)

    def of(self, strategy: Global) -> Trial:
        """Return the trial of an amount."""
        amount = strategy.amount or 0.0
        self.amounts.append(amount)
        return Trial({}, round(100 * amount), 100, Decimal(str(self.metric(amount))), "", 0.0)


@given(st.floats(0, 0.999), st.sampled_from([0.5, 0.1, 0.03, 0.01, 0.001]))
def test_bisection_finds_the_edge(edge: float, tolerance: float) -> None:
    """If the metric falls at an edge, the largest multiple of the tolerance before it is found in log2 attempts."""
    fake: Any = FakeTrials(lambda amount: float(amount <= edge))
    grid = AmountGrid(tolerance)

    result = bisect(fake, globally, MetricGoal(Decimal("0.5")), grid, ignore, NoWatch())

    multiples = [round(i * tolerance, 12) for i in range(1, grid.count)]
    assert max((a for a in multiples if a <= edge), default=None) == (result.best and result.best.amount)
    assert min((a for a in multiples if a > edge), default=None) == (result.beyond and result.beyond.amount)
    assert result.complete
    assert 2 ** (len(result.attempts) - 1) <= grid.count


@given(
    st.lists(st.sampled_from([0.0, 0.4, 1.0, float("nan"), float("inf")]), min_size=10, max_size=10), st.integers(1, 9)
)
def test_the_result_was_measured(metrics: list[float], tries: int) -> None:
    """For any metric, the best amount was tried and is within the limit, and the tries are not exceeded."""
    fake: Any = FakeTrials(lambda amount: metrics[round(10 * amount)] if amount else 1.0)

    result = bisect(fake, globally, MetricGoal(Decimal("0.5")), AmountGrid(0.1, tries), ignore, NoWatch())

    assert len(fake.amounts) <= tries
    if result.best is not None:
        assert result.best.amount in fake.amounts
        assert metrics[round(10 * result.best.amount)] == 1.0


# --- search with a function


@pytest.mark.parametrize(("drop", "expected"), [(0.25, 250), (0.5, 500), (0.987, 980), (0.01, 10)])
def test_the_largest_amount_within_the_drop_is_written(ckpt: Path, drop: float, expected: int) -> None:
    """With the density as the metric, as many weights are zero as the drop allows, equality included."""
    result = prunecli.search(ckpt, globally, density_of, max_drop=drop)

    assert result.best is not None
    assert result.best.amount == expected / 1000
    assert zeros(ckpt.with_name("c.pruned.safetensors")) == expected
    assert result.report is not None
    assert result.report.selected.zeros_after == expected
    assert names(ckpt.parent) == {"c.safetensors", "c.pruned.safetensors", "c.pruned.safetensors.report.json"}


def test_nothing_is_written_without_an_amount_within_the_drop(ckpt: Path) -> None:
    """If every amount exceeds the limit, there is no best attempt, no report and no file."""
    result = search(ckpt, globally, density_of, max_drop=0)

    assert (result.best, result.report) == (None, None)
    assert names(ckpt.parent) == {"c.safetensors"}


def test_a_loss_may_rise_by_the_drop(ckpt: Path) -> None:
    """For a loss, the limit is on its rise."""
    result = search(ckpt, globally, lambda path: 7 - density_of(path), max_drop=0.3, higher_is_better=False)

    assert result.best is not None
    assert result.best.amount == 0.3


def test_a_function_and_a_command_give_the_same_result(ckpt: Path) -> None:
    """A Python function and a command line that measure the same have the same attempts and write the same bytes."""
    by_function = search(
        ckpt, globally, density_of, max_drop=0.3, tolerance=0.1, output=ckpt.with_name("a.safetensors")
    )
    by_command = search(
        ckpt, globally, density_command(), max_drop=0.3, tolerance=0.1, output=ckpt.with_name("b.safetensors")
    )

    assert [(a.amount, a.drop, a.within) for a in by_function.attempts] == [
        (a.amount, a.drop, a.within) for a in by_command.attempts
    ]
    assert ckpt.with_name("a.safetensors").read_bytes() == ckpt.with_name("b.safetensors").read_bytes()


def test_the_observer_receives_every_attempt(ckpt: Path) -> None:
    """The observer gets the unpruned checkpoint first, then each attempt in order."""
    attempts: list[Attempt] = []

    result = search(ckpt, globally, density_of, max_drop=0.3, tolerance=0.25, dry_run=True, on_attempt=attempts.append)

    assert attempts[0] == Attempt(0.0, result.unpruned, Decimal(0), within=True)
    assert tuple(attempts[1:]) == result.attempts
    assert names(ckpt.parent) == {"c.safetensors"}


def test_a_metric_that_never_changes_gives_a_warning(ckpt: Path) -> None:
    """If no amount changes the metric, a warning says which number was read."""
    result = search(ckpt, globally, lambda _: 3, max_drop=0.1, dry_run=True)

    (warning,) = result.warnings
    assert 'is 3 in "3.0" the metric?' in warning


def test_exceptions_of_the_function_are_passed_on(ckpt: Path) -> None:
    """An exception that the function raises reaches the caller, and no candidate stays."""

    def evaluate(_: Path) -> float:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        search(ckpt, globally, evaluate, max_drop=0.1)
    assert names(ckpt.parent) == {"c.safetensors"}


def test_the_unpruned_metric_must_be_finite(ckpt: Path) -> None:
    """No drop can be measured from NaN."""
    with pytest.raises(EvaluationError, match="the unpruned checkpoint's metric is NaN"):
        search(ckpt, globally, lambda _: float("nan"), max_drop=0.1)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"max_drop": -1}, UsageError, "the largest drop is a number of 0 or more"),
        ({"max_drop": float("nan")}, UsageError, "the largest drop is a number of 0 or more"),
        ({"max_drop": 1, "tolerance": 0}, UsageError, "the tolerance is more than 0"),
        ({"max_drop": 1, "tolerance": float("nan")}, UsageError, "the tolerance is more than 0"),
        ({"max_drop": 1, "tries": 0}, UsageError, "the number of tries is 1 or more"),
        ({"max_drop": 1, "output": "no/such/folder"}, OutputError, "there is no directory"),
        ({"max_drop": 1, "include": ["nomatch"]}, SelectionError, "matches none"),
    ],
)
def test_wrong_arguments_are_found_before_the_first_evaluation(
    ckpt: Path, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    """An argument out of range raises an error and evaluates nothing."""
    paths: list[Path] = []

    with pytest.raises(error, match=message):
        search(ckpt, globally, lambda path: paths.append(path) or 0.0, **arguments)  # type: ignore[func-returns-value]
    assert paths == []
    assert names(ckpt.parent) == {"c.safetensors"}


@pytest.mark.parametrize("argument", ["", "model.safetensors.index.json"])
def test_a_directory_of_shards_is_searched(ckpt: Path, argument: str) -> None:
    """The evaluation gets a complete directory, or its index if the user named that, and the result is a directory."""
    shards = ckpt.parent / "model"
    shards.mkdir()
    shutil.move(ckpt, shards / "model.safetensors")
    (shards / "config.json").write_text("{}")
    index = '{"metadata": {}, "weight_map": {"fc.weight": "model.safetensors", "fc.bias": "model.safetensors"}}'
    (shards / "model.safetensors.index.json").write_text(index)
    paths: list[Path] = []

    def evaluate(path: Path) -> float:
        paths.append(path)
        return density_of((path.parent if argument else path) / "model.safetensors")

    search(shards / argument, globally, evaluate, max_drop=0.25, output=shards.with_name("out"))

    assert {path.name for path in paths} == {argument or "model"}
    assert zeros(shards.with_name("out") / "model.safetensors") == 250
    assert names(shards.with_name("out")) == names(shards)
