"""The pool: results in order, the first real error and no other, and nothing begun after a failure."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from typing import TYPE_CHECKING, NoReturn

import pytest

from prunecli.io.threads import BACKLOG, Pool, Stopped, Tasks, Worker, results
from prunecli.kernels.numpy_ops import NumpyOps
from prunecli.kernels.torch_ops import TorchOps

if TYPE_CHECKING:
    from collections.abc import Callable


def done(outcome: object) -> Future[object]:
    """Make a future that has ended, in an error if that is what `outcome` is."""
    future: Future[object] = Future()
    if isinstance(outcome, BaseException):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
    return future


def fail(_: Worker, message: str = "real") -> NoReturn:
    """Fail."""
    raise ValueError(message)


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_results_come_in_the_order_of_the_tasks(threads: int) -> None:
    """Whatever finishes first, each task's result stands where the task was handed in."""

    def work(_: Worker, number: int) -> int:
        time.sleep(0.002 * (number % 3))
        return number * number

    with Pool(threads, None) as pool:
        futures = [pool.submit(work, number) for number in range(20)]
        assert [number * number for number in range(20)] == results(futures)


def test_one_thread_works_in_order() -> None:
    """Tasks begin in the order in which they were handed in."""
    seen: list[int] = []
    with Pool(1, None) as pool:
        results([pool.submit(lambda _, number: seen.append(number), number) for number in range(30)])

    assert list(range(30)) == seen


def test_no_tasks_have_no_results() -> None:
    """Waiting for nothing returns nothing."""
    assert results([]) == []


def test_a_failure_surfaces_as_itself() -> None:
    """The task's own exception comes out of the pool."""
    with pytest.raises(ValueError, match="real"), Pool(2, None) as pool:
        results([pool.submit(fail)])


@pytest.mark.parametrize("error", [ValueError("real"), Stopped()])
def test_results_of_a_failure_stop(error: BaseException) -> None:
    """Where any task failed, waiting ends at once and in Stopped: the pool says why."""
    never: Future[object] = Future()

    with pytest.raises(Stopped):
        results([done(1), never, done(error)])


def test_the_first_of_several_errors_is_raised() -> None:
    """Of tasks that fail one after the other, the first failure comes out, not the last."""

    def fail_later(_: Worker, pool: Pool) -> NoReturn:
        pool.stopped.wait(5)
        fail(_, "later")

    def hand_in(pool: Pool) -> None:
        later = [pool.submit(fail_later, pool) for _ in range(3)]
        results([*later, pool.submit(fail, "first")])

    with pytest.raises(ValueError, match="first"), Pool(4, None) as pool:
        hand_in(pool)


def test_giving_up_does_not_hide_the_reason() -> None:
    """Tasks that stop because another one failed do not put Stopped in the place of its error."""

    def wait_for_the_end(_: Worker, pool: Pool) -> NoReturn:
        pool.stopped.wait(5)
        raise Stopped

    def hand_in(pool: Pool) -> None:
        waiting = [pool.submit(wait_for_the_end, pool) for _ in range(2)]
        results([*waiting, pool.submit(fail)])

    for _ in range(5):
        with pytest.raises(ValueError, match="real"), Pool(3, None) as pool:
            hand_in(pool)


def test_an_error_reaches_whoever_still_submits() -> None:
    """A failure noticed while handing in more work leaves the pool as the failure."""

    def hand_in(pool: Pool) -> None:
        for _ in range(1000):
            pool.submit(fail)
            time.sleep(0.001)

    with pytest.raises(ValueError, match="real"), Pool(1, None) as pool:
        hand_in(pool)


def test_a_failure_drops_what_has_not_begun() -> None:
    """After an error no task begins any more."""
    began: list[int] = []
    gate = threading.Event()

    def wait_and_fail(_: Worker) -> None:
        gate.wait(5)
        fail(_)

    def hand_in(pool: Pool) -> None:
        futures = [pool.submit(wait_and_fail)]
        futures += [pool.submit(lambda _, number: began.append(number), number) for number in range(BACKLOG - 1)]
        gate.set()
        results(futures)

    with pytest.raises(ValueError, match="real"), Pool(1, None) as pool:
        hand_in(pool)

    assert began == []
    assert pool.stopped.is_set()


def test_an_error_of_the_submitter_stops_the_work() -> None:
    """An interrupt where tasks are handed in lets running ones end, drops the others, and is what comes out."""
    began, gate = [], threading.Event()

    def work(_: Worker, number: int) -> None:
        began.append(number)
        gate.wait(0.05)

    def hand_in(pool: Pool) -> None:
        for number in range(BACKLOG):
            pool.submit(work, number)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), Pool(1, None) as pool:
        hand_in(pool)

    assert len(began) <= 2


def test_leaving_waits_for_all() -> None:
    """Without an error every task is done when the block ends."""
    finished: list[int] = []

    def work(_: Worker, number: int) -> None:
        time.sleep(0.005)
        finished.append(number)

    with Pool(2, None) as pool:
        for number in range(12):
            pool.submit(work, number)

    assert sorted(finished) == list(range(12))


def test_only_so_many_tasks_wait() -> None:
    """Handing in blocks while the backlog is full, so that memory and the time to stop are bounded."""
    handed_in, gate = [], threading.Event()

    def submit_all(pool: Pool) -> None:
        for number in range(20):
            pool.submit(lambda _: gate.wait(5))
            handed_in.append(number)

    with Pool(1, None) as pool:
        submitter = threading.Thread(target=submit_all, args=(pool,))
        submitter.start()
        time.sleep(0.1)
        waiting = len(handed_in)
        gate.set()
        submitter.join()

    assert waiting <= 2 * BACKLOG
    assert len(handed_in) == 20


def test_each_thread_has_a_worker_of_its_own() -> None:
    """A thread meets the same worker every time, and no two threads share one."""
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
    """A worker gives exactly the bytes asked for, and they can be written."""
    worker = Worker(None)

    for size in sizes:
        view = worker.buffer(size)
        assert len(view) == size
        view[:] = bytes(size)


@pytest.mark.parametrize(("device", "kind"), [(None, NumpyOps), ("cpu", TorchOps)])
def test_a_worker_computes_where_it_was_told(device: str | None, kind: Callable[..., object]) -> None:
    """Without a device NumPy computes, else torch."""
    assert isinstance(Worker(device).ops, kind)  # type: ignore[arg-type] # both are classes


@pytest.mark.parametrize("threads", [1, 3])
def test_tasks_are_begun_in_order_and_all_done(threads: int) -> None:
    """Threads take the next task of what was handed in first; waiting ends when none is left."""
    begun: list[tuple[str, int]] = []
    with Pool(threads, None) as pool:
        tasks = Tasks(pool)
        for name in "ab":
            tasks.each(lambda _, *item: begun.append(item), [(name, number) for number in range(50)])
        tasks.wait()

    assert [(name, number) for name in "ab" for number in range(50)] == (begun if threads == 1 else sorted(begun))


def test_a_task_that_fails_ends_the_others() -> None:
    """What was not begun never is, and the error is the one that the pool raises."""
    begun: list[int] = []

    def work(_: Worker, number: int) -> None:
        begun.append(number)
        if number == 3:
            raise ValueError("real")

    def run() -> None:
        with Pool(2, None) as pool:
            tasks = Tasks(pool)
            tasks.each(work, ((number,) for number in range(1000)))
            tasks.wait()

    with pytest.raises(ValueError, match="real"):
        run()
    assert len(begun) < 1000


def test_nothing_to_do_is_done() -> None:
    """Waiting for no task returns."""
    with Pool(2, None) as pool:
        tasks = Tasks(pool)
        tasks.wait()
        tasks.each(fail, [])
        tasks.wait()


def test_small_steps_are_taken_one_thread_at_a_time() -> None:
    """In turn nobody else computes; who waits for another lets it have its turn; large steps wait for nobody."""
    inside: list[int] = []
    most: list[int] = []
    second = threading.Event()

    def work(worker: Worker, number: int) -> None:
        with worker.in_turn(small=True):
            inside.append(number)
            most.append(len(inside))
            inside.remove(number)
            if number == 0:
                with worker.giving_way():
                    assert second.wait(5)
            elif number == 1:
                second.set()

    with Pool(3, None) as pool:
        results([pool.submit(work, number) for number in range(60)])

    assert set(most) == {1}


def test_a_turn_ends_with_an_error_too() -> None:
    """The next one has its turn, and giving way outside a turn changes nothing."""
    worker = Worker(None)
    with pytest.raises(ValueError, match="real"), worker.in_turn(small=True):
        fail(worker)

    with worker.giving_way(), worker.in_turn(small=True):
        pass
    with worker.in_turn(small=False), worker.in_turn(small=True):
        pass
