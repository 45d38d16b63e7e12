"""A few threads that work through tasks in the order they were handed in, each with memory of its own."""

from __future__ import annotations

import mmap
import os
import threading
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from prunecli.kernels.numpy_ops import NumpyOps
from prunecli.kernels.ops import Ops
from prunecli.kernels.squares import Squares
from prunecli.kernels.torch_ops import TorchOps

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import TracebackType

    from typing_extensions import Self

T = TypeVar("T")

THREADS_LIMIT = 4
"""More threads than this wait for the one writer that a file has; one more than CPUs are used, to wait for the disk."""

CPU_QUOTAS = ("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")
"""Where below CGROUPS a container sees the CPU time it may use, in microseconds per period: version 2, version 1."""

CGROUPS = Path("/sys/fs/cgroup")

BACKLOG = 4
"""Tasks waiting per thread: enough to keep all busy, few enough to stop soon."""


class Stopped(Exception):  # noqa: N818 - it reports no error, only that another one stopped the work
    """Another task failed or the user interrupted: give up quietly."""


class Worker:
    """What one thread owns: kernels with their scratch memory, and a read buffer that grows to what is asked."""

    def __init__(self, device: str | None, turn: threading.Lock | None = None) -> None:
        """Compute on `device`, or with NumPy where it is None; the threads of a pool share a `turn`."""
        self._turn, self._has_turn = turn or threading.Lock(), False
        self.host = NumpyOps()
        self.scoring = NumpyOps()
        self.squares = Squares(self.host)
        self.ops: Ops = self.host if device is None else TorchOps(device)
        self._memory: dict[int, mmap.mmap] = {}

    @contextmanager
    def in_turn(self, *, small: bool) -> Iterator[None]:
        """Let nobody else compute meanwhile if the steps are `small`; reading and writing go on beside.

        Between steps of a few microseconds threads wait for each other, and wake each other, longer than the steps
        take: they are faster one at a time.
        """
        if not small:
            yield
            return
        with self._turn:
            self._has_turn = True
            try:
                yield
            finally:
                self._has_turn = False

    @contextmanager
    def giving_way(self) -> Iterator[None]:
        """Let the others have their turn while this one waits for them."""
        held = self._has_turn
        if held:
            self._turn.release()
        try:
            yield
        finally:
            if held:
                self._turn.acquire()

    def buffer(self, size: int, slot: int = 0) -> memoryview:
        """Return `size` bytes of page-aligned memory, the same each time for one `slot`."""
        held = self._memory.get(slot)
        if held is None or len(held) < size:
            held = self._memory[slot] = mmap.mmap(-1, max(size, 1 << 21))
        return memoryview(held)[:size]


class Pool:
    """`with Pool(threads, device) as pool`: tasks are functions of a `Worker`; leaving waits for all or stops all."""

    def __init__(self, threads: int, device: str | None) -> None:
        """Start `threads` threads that compute on `device` (None: NumPy)."""
        self.threads, self._device = threads, device
        self._local, self._turn = threading.local(), threading.Lock()
        self._room = threading.Semaphore(threads * BACKLOG)
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="prune")
        self._error: BaseException | None = None
        self.stopped = threading.Event()

    def __enter__(self) -> Self:
        """Give the pool itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Drop what has not begun if something failed, and wait for what has."""
        if kind is not None:
            self.stopped.set()
        self._executor.shutdown(wait=True, cancel_futures=kind is not None)
        if isinstance(error, Stopped) and self._error is not None:
            raise self._error

    def submit(self, work: Callable[..., T], *args: object) -> Future[T]:
        """Hand in `work(worker, *args)`; waits while too many tasks are waiting."""
        self._room.acquire()
        if self.stopped.is_set():
            self._room.release()
            raise Stopped
        return self._executor.submit(self._run, work, *args)

    def _run(self, work: Callable[..., T], *args: object) -> T:
        try:
            return work(self._worker(), *args)
        except BaseException as error:
            if self._error is None and not isinstance(error, Stopped):
                self._error = error
            self.stopped.set()
            raise
        finally:
            self._room.release()

    def _worker(self) -> Worker:
        if self.stopped.is_set():
            raise Stopped
        worker: Worker | None = getattr(self._local, "worker", None)
        if worker is None:
            worker = self._local.worker = Worker(self._device, self._turn)
        return worker


class Tasks:
    """Tasks without results, which the threads take one after the other: however many there are, none is kept.

    Nobody hands them over one by one: two threads that wake each other for every task do little else.
    """

    def __init__(self, pool: Pool) -> None:
        """Work with the threads of `pool`."""
        self._pool = pool
        self._turn = threading.Lock()
        self._takers: list[Future[None]] = []

    def each(self, work: Callable[..., None], items: Iterable[tuple[object, ...]]) -> None:
        """Do `work(worker, *item)` for each of `items`, after what was handed in before; returns at once."""
        waiting = iter(items)
        self._takers = [taker for taker in self._takers if not taker.done() or taker.exception()]
        self._takers += [self._pool.submit(self._take, work, waiting) for _ in range(self._pool.threads)]

    def _take(self, worker: Worker, work: Callable[..., None], waiting: Iterator[tuple[object, ...]]) -> None:
        while True:
            if self._pool.stopped.is_set():
                raise Stopped
            with self._turn:
                item = next(waiting, None)
            if item is None:
                return
            work(worker, *item)

    def wait(self) -> None:
        """Wait for all; Stopped if one failed: the pool raises why when it is left."""
        results(self._takers)


def results(futures: Iterable[Future[T]]) -> list[T]:
    """Wait for all and return what they returned; Stopped if one failed: the pool raises why when it is left."""
    futures = list(futures)
    wait(futures, return_when=FIRST_EXCEPTION)
    if any(future.done() and (future.cancelled() or future.exception()) for future in futures):
        raise Stopped
    return [future.result() for future in futures]


def default_threads() -> int:
    """Return how many threads suit the machine: one more than CPUs, to wait for the disk, up to a limit."""
    return min(available_cpus() + 1, THREADS_LIMIT)


def available_cpus() -> int:
    """Return how many CPUs this process may use: its affinity, and its control group's quota rounded up."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for names in CPU_QUOTAS:
        try:
            quota, period = " ".join((CGROUPS / name).read_text(encoding="ascii") for name in names).split()
        except (OSError, ValueError):
            continue
        if quota.isdigit():  # else "max" or -1: no limit
            return min(cpus, max(1, -(-int(quota) // int(period))))
    return cpus
