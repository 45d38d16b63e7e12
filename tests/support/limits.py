"""Limits on CPU time, which do not depend on what else the machine does."""

from __future__ import annotations

import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def cpu_limit(seconds: float) -> Iterator[None]:
    """Fail the test if the block takes more than `seconds` of CPU time of this process. Call it in the main thread."""

    def fail(*_: object) -> NoReturn:
        message = f"the block took more than {seconds} s of CPU time"
        raise AssertionError(message)

    before = signal.signal(signal.SIGPROF, fail)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
