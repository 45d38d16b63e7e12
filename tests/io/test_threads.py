"""The pool returns results in order, raises the first error, and starts no task after it."""

from __future__ import annotations

import importlib
import os
import threading
import time
from concurrent.futures import Future
from typing import TYPE_CHECKING, NoReturn

import pytest

from prunecli.io import threads
from prunecli.io.threads import BACKLOG, Pool, Stopped, Tasks, Worker, results
from prunecli.kernels.backend import has_native
from prunecli.kernels.numpy_ops import NumpyOps
from prunecli.kernels.torch_ops import TorchOps

if TYPE_CHECKING:
    from pathlib import Path


def done(outcome: object) -> Future[object]:
    """Return a future that has ended with `outcome`, a result or an error."""
    future: Future[object] = Future()
    if isinstance(outcome, BaseException):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
    return future


def fail(_: Worker, message: str = "real") -> NoReturn:
    """Raise an error."""
    raise ValueError(message)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_results_come_in_the_order_of_the_tasks(count: int) -> None:
    """Results are in the order of submission, whichever task ends first."""

    def work(_: Worker, number: int) -> int:
        time.sleep(0.002 * (number % 3))
        return number * number

    with Pool(count, None) as pool:
        futures = [pool.submit(work, number) for number in range(20)]
        assert [number * number for number in range(20)] == results(futures)


def test_one_thread_works_in_order() -> None:
    """Tasks start in the order of submission."""
    seen: list[int] = []
    with Pool(1, None) as pool:
        results([pool.submit(lambda _, number: seen.append(number), number) for number in range(30)])

    assert list(range(30)) == seen


def test_no_tasks_have_no_results() -> None:
    """Waiting for nothing returns nothing."""
    assert results([]) == []


def test_an_error_of_a_task_is_raised() -> None:
    """The end of the pool raises the exception of the task."""
    with pytest.raises(ValueError, match="real"), Pool(2, None) as pool:
        results([pool.submit(fail)])


@pytest.mark.parametrize("error", [ValueError("real"), Stopped()])
def test_waiting_ends_at_the_first_error(error: BaseException) -> None:
    """If a task failed, waiting ends at once with Stopped."""
    never: Future[object] = Future()

    with pytest.raises(Stopped):
        results([done(1), never, done(error)])


def test_the_first_of_several_errors_is_raised() -> None:
    """If several tasks fail, the first error is raised."""

    def fail_later(_: Worker, pool: Pool) -> NoReturn:
        pool.stopped.wait(5)
        fail(_, "later")

    def submit_all(pool: Pool) -> None:
        later = [pool.submit(fail_later, pool) for _ in range(3)]
        results([*later, pool.submit(fail, "first")])

    with pytest.raises(ValueError, match="first"), Pool(4, None) as pool:
        submit_all(pool)


def test_stopped_does_not_replace_the_error() -> None:
    """Tasks that end with Stopped because another one failed do not replace its error."""

    def wait_for_the_end(_: Worker, pool: Pool) -> NoReturn:
        pool.stopped.wait(5)
        raise Stopped

    def submit_all(pool: Pool) -> None:
        waiting = [pool.submit(wait_for_the_end, pool) for _ in range(2)]
        results([*waiting, pool.submit(fail)])

    for _ in range(5):
        with pytest.raises(ValueError, match="real"), Pool(3, None) as pool:
            submit_all(pool)


def test_an_error_ends_further_submissions() -> None:
    """An error during the submission of more tasks is raised by the pool."""

    def submit_all(pool: Pool) -> None:
        for _ in range(1000):
            pool.submit(fail)
            time.sleep(0.001)

    with pytest.raises(ValueError, match="real"), Pool(1, None) as pool:
        submit_all(pool)


def test_an_error_drops_waiting_tasks() -> None:
    """After an error no task starts."""
    started: list[int] = []
    gate = threading.Event()

    def wait_and_fail(_: Worker) -> None:
        gate.wait(5)
        fail(_)

    def submit_all(pool: Pool) -> None:
        futures = [pool.submit(wait_and_fail)]
        futures += [pool.submit(lambda _, number: started.append(number), number) for number in range(BACKLOG - 1)]
        gate.set()
        results(futures)

    with pytest.raises(ValueError, match="real"), Pool(1, None) as pool:
        submit_all(pool)

    assert started == []
    assert pool.stopped.is_set()


def test_an_interrupt_of_the_submitter_stops_the_work() -> None:
    """An interrupt during submission is raised after the running tasks end; the others are dropped."""
    started, gate = [], threading.Event()

    def work(_: Worker, number: int) -> None:
        started.append(number)
        gate.wait(0.05)

    def submit_all(pool: Pool) -> None:
        for number in range(BACKLOG):
            pool.submit(work, number)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), Pool(1, None) as pool:
        submit_all(pool)

    assert len(started) <= 2


def test_the_end_of_the_block_waits_for_all_tasks() -> None:
    """Without an error all tasks have ended when the block ends."""
    finished: list[int] = []

    def work(_: Worker, number: int) -> None:
        time.sleep(0.005)
        finished.append(number)

    with Pool(2, None) as pool:
        for number in range(12):
            pool.submit(work, number)

    assert sorted(finished) == list(range(12))


def test_submission_blocks_while_the_backlog_is_full() -> None:
    """A full backlog blocks further submissions, so that the number of waiting tasks is bounded."""
    submitted, gate = [], threading.Event()

    def submit_all(pool: Pool) -> None:
        for number in range(20):
            pool.submit(lambda _: gate.wait(5))
            submitted.append(number)

    with Pool(1, None) as pool:
        submitter = threading.Thread(target=submit_all, args=(pool,))
        submitter.start()
        time.sleep(0.1)
        waiting = len(submitted)
        gate.set()
        submitter.join()

    assert waiting <= 2 * BACKLOG
    assert len(submitted) == 20


def test_each_thread_has_a_worker_of_its_own() -> None:
    """A thread always gets the same worker, and no two threads share one."""
    pairs: set[tuple[int, int]] = set()
    workers = []

    def work(worker: Worker) -> None:
        time.sleep(0.002)
        workers.append(worker)
        pairs.add((threading.get_ident(), id(worker)))

    with Pool(3, None) as pool:
        results([pool.submit(work) for _ in range(30)])

    assert len(pairs) == len({thread for thread, _ in pairs}) == len({worker for _, worker in pairs})


@pytest.mark.parametrize("sizes", [(10, 5_000_000, 10), (0, 1, 3 << 20)])
def test_the_buffer_grows(sizes: tuple[int, ...]) -> None:
    """A buffer has exactly the requested size and can be written to."""
    worker = Worker(None)

    for size in sizes:
        view = worker.buffer(size)
        assert len(view) == size
        view[:] = bytes(size)


def test_a_worker_computes_on_its_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker computes with the compiled kernels, without them with NumPy, and with torch if it has a device."""
    if has_native():
        assert isinstance(Worker(None).ops, importlib.import_module("prunecli.kernels.native_ops").NativeOps)
    assert isinstance(Worker("cpu").ops, TorchOps)
    monkeypatch.setattr(threads, "has_native", lambda: False)
    assert isinstance(Worker(None).ops, NumpyOps)


@pytest.mark.parametrize("count", [1, 3])
def test_tasks_start_in_order_and_all_end(count: int) -> None:
    """Threads take the tasks in order; waiting ends when there are no more."""
    started: list[tuple[str, int]] = []
    with Pool(count, None) as pool:
        tasks = Tasks(pool)
        for name in "ab":
            tasks.each(lambda _, *item: started.append(item), [(name, number) for number in range(50)])
        tasks.wait()

    assert [(name, number) for name in "ab" for number in range(50)] == (started if count == 1 else sorted(started))


def test_a_failing_task_ends_the_others() -> None:
    """After an error no more tasks start, and the pool raises the error."""
    started: list[int] = []

    def work(_: Worker, number: int) -> None:
        started.append(number)
        if number == 3:
            raise ValueError("real")

    def run() -> None:
        with Pool(2, None) as pool:
            tasks = Tasks(pool)
            tasks.each(work, ((number,) for number in range(1000)))
            tasks.wait()

    with pytest.raises(ValueError, match="real"):
        run()
    assert len(started) < 1000


def test_waiting_for_no_tasks_returns() -> None:
    """Waiting returns if there are no tasks."""
    with Pool(2, None) as pool:
        tasks = Tasks(pool)
        tasks.wait()
        tasks.each(fail, [])
        tasks.wait()


def test_small_steps_run_in_one_thread_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only one thread holds the compute lock, and it releases the lock while it waits for another thread."""
    monkeypatch.setattr(threads, "has_native", lambda: False)
    inside: list[int] = []
    most: list[int] = []
    second = threading.Event()

    def work(worker: Worker, number: int) -> None:
        with worker.computing(small=True):
            inside.append(number)
            most.append(len(inside))
            inside.remove(number)
            if number == 0:
                with worker.waiting():
                    assert second.wait(5)
            elif number == 1:
                second.set()

    with Pool(3, None) as pool:
        results([pool.submit(work, number) for number in range(60)])

    assert set(most) == {1}


def test_an_error_releases_the_compute_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    """After an error the lock is free, and `waiting` without the lock changes nothing."""
    monkeypatch.setattr(threads, "has_native", lambda: False)
    worker = Worker(None)
    with pytest.raises(ValueError, match="real"), worker.computing(small=True):
        fail(worker)

    with worker.waiting(), worker.computing(small=True):
        pass
    with worker.computing(small=False), worker.computing(small=True):
        pass


@pytest.mark.parametrize(
    ("quota", "expected"),
    [
        (None, 8),
        ("max 100000\n", 8),
        ("150000 100000\n", 2),
        ("10000 100000\n", 1),
        ("1600000 100000\n", 8),
        ("nonsense\n", 8),
    ],
)
def test_the_quota_of_a_container_limits_the_cpus(
    quota: str | None, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The CPUs are those of the affinity, and at most those that the control group's quota pays for."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(threads, "CPU_QUOTA", tmp_path / "cpu.max")
    if quota is not None:
        (tmp_path / "cpu.max").write_text(quota)

    assert expected == threads.available_cpus()


@pytest.mark.parametrize(("native", "expected"), [(True, 18), (False, 4)])
def test_the_default_is_two_more_than_the_cpus(*, native: bool, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """All CPUs are used, and two threads wait for the disk; NumPy's kernels do not scale as far."""
    monkeypatch.setattr(threads, "available_cpus", lambda: 16)
    monkeypatch.setattr(threads, "has_native", lambda: native)

    assert expected == threads.default_threads()
