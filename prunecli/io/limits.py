"""The number of threads that a run may use."""

from __future__ import annotations

from prunecli.errors import Argument, UsageError

MAX_THREADS = 1024
"""The most threads: each has buffers of its own, and a system runs out of threads."""


def check_threads(threads: int) -> None:
    """Raise UsageError unless `threads` is 0 to MAX_THREADS."""
    if not 0 <= threads <= MAX_THREADS:
        hint = Argument("threads", max(0, min(threads, MAX_THREADS)))
        raise UsageError(f"the number of threads is 0 to {MAX_THREADS}, not {threads:g}", hint=hint)
