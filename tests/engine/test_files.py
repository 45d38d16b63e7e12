"""The digests of a run, and the memory that it frees."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import pytest
from support import DEMO

from prunecli import L1, Block, Structured, Threshold, prune
from prunecli.engine import run

if TYPE_CHECKING:
    from pathlib import Path

    from prunecli.strategies.strategy import Strategy

MODEL = DEMO / "digits_conv.safetensors"


@pytest.mark.parametrize("dry_run", [False, True])
def test_digests_are_the_sha256_of_the_files(dry_run: bool, tmp_path: Path) -> None:  # noqa: FBT001
    """With `sha256` the report has the SHA-256 of the input and, if one is written, of the output."""
    output = tmp_path / "out.safetensors"

    report = prune(MODEL, Threshold(0.03), output=output, sha256=True, dry_run=dry_run)

    assert hashlib.sha256(MODEL.read_bytes()).hexdigest() == report.input_sha256
    assert report.output_sha256 == (None if dry_run else hashlib.sha256(output.read_bytes()).hexdigest())


@pytest.mark.parametrize("strategy", [Block(rows=2, cols=2, amount=0.5), Structured(amount=0.5), L1(0.5)])
def test_memory_of_planning_is_freed(strategy: Strategy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a run no batch holds counts, and no plan holds a mask of slices or blocks."""
    batches: list[Any] = []
    results: list[run.RunResult] = []
    plan_batches, execute = run.plan_batches, run.Run.execute

    def recorded_batches(*args: Any) -> Any:  # noqa: ANN401
        batches.extend(plan_batches(*args))
        return batches

    def recorded_result(*args: Any) -> run.RunResult:  # noqa: ANN401
        results.append(execute(*args))
        return results[-1]

    monkeypatch.setattr(run, "plan_batches", recorded_batches)
    monkeypatch.setattr(run.Run, "execute", recorded_result)

    prune(MODEL, strategy, output=tmp_path / "out.safetensors")

    (result,) = results
    assert batches
    state = [getattr(batch, name, []) for batch in batches for name in ("_searches", "_small", "_measured")]
    assert [part for part in state if part] == []
    assert [len(getattr(plan, "alive", b"")) for plan in result.plans.values()] == [0] * len(result.tensors)
