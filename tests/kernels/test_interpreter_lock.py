"""Compiled kernels hold no interpreter lock: another thread runs while one computes."""

from __future__ import annotations

import sys
from ctypes import c_int32, c_int64, c_uint64, c_void_p
from threading import Barrier, Event, Thread
from typing import TYPE_CHECKING

import pytest

from prunecli.kernels.native.library import address, function, library

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TRIES = 200
"""A thread may be scheduled too late, but not every time."""


@pytest.fixture
def no_switches() -> Iterator[None]:
    """Let a thread keep the interpreter lock until it releases it by itself."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("no_switches")
@pytest.mark.skipif(library() is None, reason="there are no compiled kernels")
def test_a_thread_runs_while_another_one_is_in_a_kernel() -> None:
    """A thread that waits for the interpreter lock gets it before the kernel ends."""
    kernel = function("count_equal_16", (c_void_p, c_int64, c_int32, c_uint64), c_int64)
    weights = bytearray(1 << 25)
    place, size = address(weights), len(weights) // 2
    assert any(_runs_during(lambda: kernel(place, size, 0, 1)) for _ in range(TRIES))


@pytest.mark.usefixtures("no_switches")
def test_a_thread_does_not_run_while_another_one_keeps_the_lock() -> None:
    """The same measurement of work in Python, which keeps the lock, shows no other thread."""
    assert not any(_runs_during(lambda: sum(range(1000))) for _ in range(20))


def _runs_during(work: Callable[[], object]) -> bool:
    """Return whether a second thread runs between the begin and the end of `work` in the first."""
    done: list[str] = []
    seen: list[bool] = []
    both, begun = Barrier(2), Event()

    def watch() -> None:
        both.wait()
        begun.wait()
        seen.append(not done)

    watcher = Thread(target=watch)
    watcher.start()
    both.wait()
    begun.set()
    work()
    done.append("done")
    watcher.join()
    return seen[0]
