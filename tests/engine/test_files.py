"""How many threads the engine takes, which digests it tells, and what it lets go of."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from prunecli import L1, Block, Structured, Threshold, prune
from prunecli.engine import planner as planning
from prunecli.engine import run as running

if TYPE_CHECKING:
    from collections.abc import Callable

    from prunecli import Report
    from prunecli.strategies.unstructured import Strategy

DEMO = Path(__file__).parents[2] / "demo" / "digits_conv.safetensors"


@pytest.mark.parametrize("dry_run", [False, True])
def test_digests_are_those_of_the_files(dry_run: bool, tmp_path: Path) -> None:  # noqa: FBT001
    """`sha256` puts the SHA-256 of the input, and of the output where there is one, into the report."""
    output = tmp_path / "out.safetensors"

    report = prune(DEMO, Threshold(0.03), output=output, sha256=True, dry_run=dry_run)

    assert hashlib.sha256(DEMO.read_bytes()).hexdigest() == report.input_sha256
    assert report.output_sha256 == (None if dry_run else hashlib.sha256(output.read_bytes()).hexdigest())


@pytest.mark.parametrize("strategy", [Block(rows=2, cols=2, amount=0.5), Structured(amount=0.5), L1(0.5)])
def test_what_led_to_a_cut_is_let_go(strategy: Strategy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a run nothing is held that grows with the weights: no answer for each tile, no search."""
    batches: list[planning.Batch] = []
    finish, runs = planning.Planner.finish, []
    monkeypatch.setattr(
        planning.Planner, "finish", lambda own, pool, batch: (batches.append(batch), finish(own, pool, batch))
    )
    monkeypatch.setattr(running.Run, "report", _noting(runs, running.Run.report))

    prune(DEMO, strategy, output=tmp_path / "out.safetensors")

    (run,) = runs
    assert all(not (batch.searches or batch.small or batch.measured) for batch in batches)
    assert [len(getattr(plan, "alive", b"")) for plan in run._plans.values()] == [0] * len(run.targets)


def _noting(runs: list[running.Run], report: Callable[..., Report]) -> Callable[..., Report]:
    def noted(run: running.Run, *args: Any) -> Report:  # noqa: ANN401
        runs.append(run)
        return report(run, *args)

    return noted
