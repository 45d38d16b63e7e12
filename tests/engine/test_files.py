"""How many threads the engine takes, which digests it tells, and what it lets go of."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from prunecli import L1, Block, Structured, Threshold, prune
from prunecli.engine import run as running

if TYPE_CHECKING:
    from collections.abc import Callable

    from prunecli import Report
    from prunecli.strategies.strategy import Strategy

DEMO = Path(__file__).parents[2] / "demo" / "digits_conv.safetensors"


@pytest.mark.parametrize("dry_run", [False, True])
def test_digests_are_those_of_the_files(dry_run: bool, tmp_path: Path) -> None:  # noqa: FBT001
    """`sha256` puts the SHA-256 of the input, and of the output where there is one, into the report."""
    output = tmp_path / "out.safetensors"

    report = prune(DEMO, Threshold(0.03), output=output, sha256=True, dry_run=dry_run)

    assert hashlib.sha256(DEMO.read_bytes()).hexdigest() == report.input_sha256
    assert report.output_sha256 == (None if dry_run else hashlib.sha256(output.read_bytes()).hexdigest())


@pytest.mark.parametrize("strategy", [Block(rows=2, cols=2, amount=0.5), Structured(amount=0.5), L1(0.5)])
def test_memory_of_planning_is_freed(strategy: Strategy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a run no batch holds counts, and no plan holds a mask of slices or blocks."""
    batches: list[Any] = []
    runs: list[running.Run] = []
    plan_batches = running.plan_batches

    def noted(*args: Any) -> Any:  # noqa: ANN401
        batches.extend(plan_batches(*args))
        return batches

    monkeypatch.setattr(running, "plan_batches", noted)
    monkeypatch.setattr(running.Run, "report", _noting(runs, running.Run.report))

    prune(DEMO, strategy, output=tmp_path / "out.safetensors")

    (run,) = runs
    assert batches
    state = [getattr(batch, name, []) for batch in batches for name in ("_searches", "_small", "_measured")]
    assert state == [[]] * len(state)
    assert [len(getattr(plan, "alive", b"")) for plan in run._plans.values()] == [0] * len(run.targets)


def _noting(runs: list[running.Run], report: Callable[..., Report]) -> Callable[..., Report]:
    def noted(run: running.Run, *args: Any) -> Report:  # noqa: ANN401
        runs.append(run)
        return report(run, *args)

    return noted
