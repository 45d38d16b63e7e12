"""A small thread pool. Tasks start in the order of submission; each thread has its own buffers and kernels."""

from __future__ import annotations

import os
import threading
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from copy import copy
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from prunecli.io.limits import MAX_THREADS
from prunecli.kernels.backend import has_native
from prunecli.kernels.ops import Array, Ops, is_tensor
from prunecli.kernels.pages import pages
from prunecli.kernels.transfers import Transfers

if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable, Iterable, Iterator
    from types import TracebackType

    from typing_extensions import Self

    from prunecli.kernels.numpy_ops import NumpyOps

T = TypeVar("T")

NUMPY_THREADS = 4
"""The most threads that are used by default with NumPy's kernels: more of them wait for the interpreter lock."""

CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")
"""The CPU time that a container may use: microseconds and period, or "max" (control groups, version 2)."""

KEPT_BUFFER = 3 << 25
"""Larger read buffers are freed after their use: they hold tensors that are not contiguous."""

BACKLOG = 4
"""Submitted tasks that wait per thread: enough to keep all threads busy, few enough to stop soon."""


class Stopped(Exception):  # noqa: N818 - it reports no error, only that another one stopped the work
    """Another task failed or the user interrupted the run, so this task ends without a result."""


class _Current(threading.local):
    """The event of the pool whose task this thread does."""

    stopped: threading.Event | None = None


_current = _Current()


def is_stopped() -> bool:
    """Return whether this thread does the task of a pool that was stopped, so that it need not wait for more."""
    return _current.stopped is not None and _current.stopped.is_set()


class Worker:
    """The resources of one thread: kernels with their scratch memory, and read buffers that grow as needed."""

    def __init__(self, device: str | None, compute_lock: threading.Lock | None = None) -> None:
        """Compute on `device`, or on the CPU for None. The threads of a pool share a `compute_lock`."""
        self._compute_lock, self._has_lock = compute_lock or threading.Lock(), False
        self.is_compiled = device is None and has_native()
        self._takes_small_steps = device is None and not self.is_compiled
        if device is not None:
            self.ops: Ops = _device_ops(device)
        else:
            self.ops = _native_ops() if self.is_compiled else self.host
        self._transfers = None if device is None else Transfers(device)
        self._memory: dict[int, mmap.mmap | memoryview] = {}
        self._by_device: dict[str, Ops] = {}

    @cached_property
    def host(self) -> NumpyOps:
        """NumPy's kernels."""
        return _numpy_ops()

    @cached_property
    def scoring(self) -> NumpyOps:
        """NumPy's kernels for scores, which are computed while `host` holds the weights' magnitudes."""
        return _numpy_ops()

    def ops_of(self, x: Array) -> Ops:
        """Return the kernels for an array: those of the run for host memory, and those of its device otherwise."""
        if not is_tensor(x):
            return self.ops
        device = str(x.device)
        ops = self._by_device.get(device)
        if ops is None:
            ops = self._by_device[device] = _device_ops(device)
        return ops

    @contextmanager
    def computing(self, *, small: bool) -> Iterator[None]:
        """Hold the compute lock if NumPy's steps are `small`, so that one thread computes at a time; I/O overlaps.

        For steps of a few microseconds, contention for the interpreter lock costs more than the steps. Compiled kernels
        take one step where NumPy takes twenty.
        """
        if not small or not self._takes_small_steps:
            yield
            return
        with self._compute_lock:
            self._has_lock = True
            try:
                yield
            finally:
                self._has_lock = False

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Release the compute lock, if this thread holds it, while it waits for another thread."""
        has_lock = self._has_lock
        if has_lock:
            self._compute_lock.release()
        try:
            yield
        finally:
            if has_lock:
                self._compute_lock.acquire()

    def buffer(self, size: int, slot: int = 0) -> memoryview:
        """Return `size` bytes of page-aligned memory; every call for a `slot` may return the same memory."""
        self.wait()  # what was read into it before may still be on its way to the device
        if size > KEPT_BUFFER:
            self._memory.pop(slot, None)
            return memoryview(pages(size))
        memory = self._memory.get(slot)
        if memory is None or len(memory) < size:
            # At least the size of a window, so that it seldom grows; from mmap, because it must start at a page.
            memory = self._memory[slot] = self._allocate(max(size, 1 << 21))
        return memoryview(memory)[:size]

    def _allocate(self, size: int) -> mmap.mmap | memoryview:
        locked = None if self._transfers is None else self._transfers.memory(size)
        return pages(size) if locked is None else locked

    def wait(self) -> None:
        """Wait until copies between the buffers and the device are done."""
        if self._transfers is not None:
            self._transfers.wait()


def _device_ops(device: str) -> Ops:
    from prunecli.kernels.torch_ops import TorchOps  # noqa: PLC0415 - for devices only

    return TorchOps(device)


def _numpy_ops() -> NumpyOps:
    from prunecli.kernels.numpy_ops import NumpyOps  # noqa: PLC0415 - compiled kernels need no NumPy

    return NumpyOps()


def _native_ops() -> Ops:
    from prunecli.kernels.native_ops import NativeOps  # noqa: PLC0415 - it needs the library

    return NativeOps()


class Pool:
    """A pool of threads for tasks that are functions of a `Worker`.

    Use it as `with Pool(threads, device) as pool`: the end of the block waits for all tasks. After an error it drops
    the tasks that have not started, waits for the others, and raises the first error.
    """

    def __init__(self, threads: int, device: str | None) -> None:
        """Start `threads` threads that compute on `device` (None: the CPU)."""
        self.threads, self._device = threads, device
        self._local, self._compute_lock = threading.local(), threading.Lock()
        self._free_places = threading.Semaphore(threads * BACKLOG)
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="prune")
        self.stopped = threading.Event()
        self._errors: list[BaseException] = []

    def __enter__(self) -> Self:
        """Return the pool."""
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for all tasks, or after an error for those that have started."""
        if error_type is not None:
            self.stopped.set()
        self._executor.shutdown(wait=True, cancel_futures=error_type is not None)
        if isinstance(error, Stopped) and self.error is not None:
            raise self.error

    @property
    def error(self) -> BaseException | None:
        """The first error of a task."""
        return self._errors[0] if self._errors else None

    def part(self, threads: int) -> Self:
        """Return this pool for `Tasks` that leave all but `threads` of its threads to other tasks."""
        part = copy(self)
        part.threads = threads
        return part

    def submit(self, work: Callable[..., T], *args: object) -> Future[T]:
        """Submit `work(worker, *args)`; blocks while the backlog is full. Stopped after an error of any task."""
        self._free_places.acquire()
        if self.stopped.is_set():
            self._free_places.release()
            raise Stopped
        return self._executor.submit(self._run, work, *args)

    def _run(self, work: Callable[..., T], *args: object) -> T:
        _current.stopped = self.stopped
        try:
            return work(self._worker(), *args)
        except BaseException as error:
            if not isinstance(error, Stopped):
                self._errors.append(error)
            self.stopped.set()
            raise
        finally:
            self._free_places.release()

    def _worker(self) -> Worker:
        if self.stopped.is_set():
            raise Stopped
        worker: Worker | None = getattr(self._local, "worker", None)
        if worker is None:
            worker = self._local.worker = Worker(self._device, self._compute_lock)
        return worker


class InlinePool(Pool):
    """A pool without threads: a task is done in the calling thread, while it is submitted."""

    def __init__(self, device: str | None) -> None:
        """Compute on `device` (None: on the CPU)."""
        self.threads, self.stopped, self._errors = 1, threading.Event(), []
        self._inline = Worker(device)

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Do nothing: all tasks are done."""

    def submit(self, work: Callable[..., T], *args: object) -> Future[T]:
        """Return the result of `work(worker, *args)`."""
        future: Future[T] = Future()
        future.set_result(work(self._inline, *args))
        return future


class Tasks:
    """Tasks without results, which each thread takes from a shared iterator.

    Submitting tasks one by one would cost more than short tasks do, and would keep a future for each of them.
    """

    def __init__(self, pool: Pool) -> None:
        """Work with the threads of `pool`."""
        self._pool = pool
        self._next_lock = threading.Lock()
        self._takers: list[Future[None]] = []

    def each(self, work: Callable[..., None], items: Iterable[tuple[object, ...]]) -> None:
        """Call `work(worker, *item)` for each of `items`, after the items of earlier calls; returns at once."""
        iterator = iter(items)
        self._takers = [taker for taker in self._takers if not taker.done() or taker.exception()]
        self._takers += [self._pool.submit(self._take, work, iterator) for _ in range(self._pool.threads)]

    def _take(self, worker: Worker, work: Callable[..., None], iterator: Iterator[tuple[object, ...]]) -> None:
        while True:
            if self._pool.stopped.is_set():
                raise Stopped
            with self._next_lock:
                item = next(iterator, None)
            if item is None:
                return
            work(worker, *item)

    def wait(self) -> None:
        """Wait for all tasks. Stopped if one failed; the end of the pool's block then raises its error."""
        results(self._takers)


def results(futures: Iterable[Future[T]]) -> list[T]:
    """Wait for all futures and return their results.

    Stopped if one failed; the end of the pool's block then raises its error.
    """
    futures = list(futures)
    if not all(future.done() for future in futures):
        wait(futures, return_when=FIRST_EXCEPTION)
    if any(future.done() and (future.cancelled() or future.exception()) for future in futures):
        raise Stopped
    return [future.result() for future in futures]


def default_threads() -> int:
    """Return the number of threads that suits the machine: one per CPU, and two that wait for the disk."""
    return min(available_cpus() + 2, MAX_THREADS if has_native() else NUMPY_THREADS)


def available_cpus() -> int:
    """Return the number of CPUs this process may use: its affinity, limited by its control group's quota."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = CPU_QUOTA.read_text(encoding="utf-8").split()
        return min(cpus, max(1, -(-int(quota) // int(period))))
    except (OSError, ValueError):  # there is no such file, or the quota is "max"
        return cpus
