"""A batch of tensors is written while the next one is read to plan it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
import torch
from support.small import write

import prunecli
from prunecli.engine import rank_planner
from prunecli.engine.apply import Applier
from prunecli.engine.measured_planner import MeasuredBatch
from prunecli.engine.rank_planner import RankBatch
from prunecli.io.threads import Pool, Tasks, Worker

if TYPE_CHECKING:
    from pathlib import Path

    from prunecli.strategies.strategy import Strategy

TENSORS, BYTES = 6, 1 << 16


@pytest.mark.parametrize(
    ("strategy", "batch"),
    [
        (prunecli.L1(amount=0.5), RankBatch),
        (prunecli.Structured(amount=0.5), MeasuredBatch),
        (prunecli.Block(2, 2, amount=0.5), MeasuredBatch),
    ],
)
def test_a_batch_is_written_while_the_next_is_planned(
    strategy: Strategy, batch: type[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A window is written before the next batch is planned; when that is begun, all but the last batch are written."""
    monkeypatch.setattr(rank_planner, "BATCH_BYTES", BYTES)
    monkeypatch.setattr("prunecli.engine.run.HOST_WINDOW", BYTES)
    written, write_more, started, late = [0], threading.Condition(), [0], []
    start, finish, apply = batch.start, batch.finish, Applier.apply

    def start_and_look(self: Any, pool: Pool) -> None:  # noqa: ANN401 - a batch
        late.append(started[0] - 2 - written[0] > 0)
        started[0] += 1
        start(self, pool)

    def finish_later(self: Any, pool: Pool) -> None:  # noqa: ANN401 - a batch
        with write_more:
            assert write_more.wait_for(lambda: written[0] >= started[0] - 1, 10)
        finish(self, pool)

    def apply_and_count(*arguments: Any) -> None:  # noqa: ANN401 - of a method
        apply(*arguments)
        with write_more:
            written[0] += 1
            write_more.notify_all()

    monkeypatch.setattr(batch, "start", start_and_look)
    monkeypatch.setattr(batch, "finish", finish_later)
    monkeypatch.setattr(Applier, "apply", apply_and_count)
    path = write(tmp_path, {f"{n}.weight": torch.randn(128, BYTES // 512) for n in range(TENSORS)})

    prunecli.prune(path, strategy, output=tmp_path / "out.safetensors", threads=2)

    assert started == [TENSORS]
    assert not any(late)


def test_tasks_of_a_part_of_a_pool_leave_a_thread() -> None:
    """Tasks that never end in a part of a pool do not keep others from starting."""
    gate = threading.Event()

    def block(_: Worker, number: int) -> None:
        assert gate.wait(10), number

    with Pool(3, None) as pool:
        blocked, others = Tasks(pool.part(2)), Tasks(pool)
        blocked.each(block, [(number,) for number in range(9)])
        others.each(lambda _, last: gate.set() if last else None, [(False,), (True,)])
        others.wait()
        blocked.wait()

    assert gate.is_set()


def test_an_error_in_a_part_of_a_pool_is_raised() -> None:
    """The end of the pool's block raises it, and no task of the whole pool starts after it."""

    def fail(_: Worker) -> None:
        message = "real"
        raise ValueError(message)

    def work(tasks: Tasks) -> None:
        tasks.each(fail, [()])
        tasks.wait()

    with pytest.raises(ValueError, match="real"), Pool(2, None) as pool:
        work(Tasks(pool.part(1)))
