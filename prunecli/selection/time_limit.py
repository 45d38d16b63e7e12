"""A limit on the time that a regular expression takes: some need longer than a life for a short name."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

SECONDS = 5.0
"""The CPU time that one pattern may take for all names."""


class TooSlowError(Exception):
    """The time is over."""


@contextmanager
def limited_time() -> Iterator[None]:
    """Raise TooSlowError in the block after SECONDS of CPU time.

    Python checks for signals while it matches a regular expression. Signals reach the main thread only, and a program
    may have a timer of its own: there is no limit then.
    """
    if not _is_free():
        yield
        return
    before = signal.signal(signal.SIGVTALRM, _stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def _is_free() -> bool:
    """Return whether this thread can have a timer, and no other code uses it."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "ITIMER_VIRTUAL"):
        return False
    is_default = signal.getsignal(signal.SIGVTALRM) is signal.SIG_DFL
    return is_default and signal.getitimer(signal.ITIMER_VIRTUAL)[0] == 0


def _stop(_: int, __: FrameType | None) -> None:
    raise TooSlowError
