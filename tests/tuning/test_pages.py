"""The pages and the figure of a sweep: one row for each trial, below the right headings."""

from __future__ import annotations

from decimal import Decimal

import pytest
from support.pages import Page

from prunecli.tuning.pages import draw_metric, search_page, sweep_page
from prunecli.tuning.search import Attempt, MetricGoal, SearchResult
from prunecli.tuning.sweep import SweepPoint
from prunecli.tuning.trial_file import Trial

POINTS = [
    SweepPoint(None, Trial(None, 0, 100, Decimal("0.9"), "accuracy: 0.9", 1.5), None),
    SweepPoint(0.3, Trial({}, 30, 100, Decimal("0.8"), "accuracy: 0.8", 1.25), Decimal("-0.1")),
    SweepPoint(0.6, Trial({}, 60, 100, Decimal("NaN"), "accuracy: nan", 2.0), None),
]


def test_each_number_is_below_its_heading() -> None:
    """The table has the sparsity, the metric and its change for each amount."""
    page = sweep_page(POINTS, "m.pth", "amount", ("prune", "sweep"))

    text = "".join(Page(page).text.split())  # cells have no spaces between them
    assert "amountsparsitymetricchangesecondsline" in text
    assert "unpruned0.0%0.9-1.5accuracy:0.9" in text
    assert "amount0.330.0%0.8-0.11.2accuracy:0.8" in text
    assert "amount0.660.0%nan-2.0accuracy:nan" in text


@pytest.mark.parametrize(("higher_is_better", "allowed"), [(True, "allowed: 0.85"), (False, "allowed: 0.95")])
def test_the_page_of_a_search_has_the_metric_that_is_allowed(higher_is_better: bool, allowed: str) -> None:  # noqa: FBT001
    """A line is drawn at the worst metric within the limit, below that of a score and above that of a loss."""
    unpruned, trial = POINTS[0].trial, POINTS[1].trial
    result = SearchResult(unpruned, (Attempt(0.3, trial, Decimal("0.1"), within=False),), complete=True)

    page = search_page(result, "m.pth", MetricGoal(Decimal("0.05"), higher_is_better), ())

    assert ">unpruned: 0.9</text>" in page
    assert f">{allowed}</text>" in page


def test_the_figure_has_the_name_of_the_metric() -> None:
    """The axes are the sparsity and the metric by its name, and the level of the unpruned checkpoint is drawn."""
    pytest.importorskip("matplotlib")

    figure = draw_metric([point.trial for point in POINTS], "a title", ".svg", 0.85).decode()

    for text in ("a title", "accuracy", "weights that are zero", "unpruned", "allowed"):
        assert text in figure
