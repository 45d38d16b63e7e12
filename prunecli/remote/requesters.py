"""Threads that make requests. A program ends without waiting for them, because a server may never answer."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from queue import SimpleQueue
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

AT_ONCE = 8
"""Requests that are under way at the same time."""


class Requesters(Generic[T]):
    """Up to AT_ONCE threads, started as tasks come."""

    def __init__(self) -> None:
        """Start no thread yet."""
        self._tasks: SimpleQueue[tuple[Future[T], Callable[[], T]] | None] = SimpleQueue()
        self._threads = 0

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Return the future result of `work()`."""
        future: Future[T] = Future()
        self._tasks.put((future, work))
        if self._threads < AT_ONCE:
            self._threads += 1
            threading.Thread(target=self._run, name="prune-request", daemon=True).start()
        return future

    def _run(self) -> None:
        while (task := self._tasks.get()) is not None:
            future, work = task
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(work())
            except BaseException as error:  # noqa: BLE001 - the one who waits for the result gets it
                future.set_exception(error)
            del task, future, work  # the result is large

    def close(self) -> None:
        """End the threads when their tasks are done."""
        for _ in range(self._threads):
            self._tasks.put(None)
