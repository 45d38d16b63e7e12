"""Child processes of tests: they import this checkout, and SIGINT interrupts them wherever pytest runs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]


def environment(**variables: str) -> dict[str, str]:
    """Return the environment of this process with `variables`, and with the checkout on Python's path."""
    return {**os.environ, "PYTHONPATH": str(ROOT), **variables}


@contextmanager
def interruptible() -> Iterator[None]:
    """Let processes that start in this block be interrupted by SIGINT.

    A shell starts background jobs with SIGINT ignored, and every child inherits that. A child of a process that
    handles the signal gets the default action instead. Call it in the main thread.
    """
    old = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, old)


def start_python(*arguments: str | Path, **options: Any) -> subprocess.Popen[Any]:  # noqa: ANN401 - those of Popen
    """Start Python with `arguments`; `options` are those of `subprocess.Popen`."""
    with interruptible():
        return subprocess.Popen([sys.executable, *map(str, arguments)], **{"env": environment(), **options})


def run_python(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[Any]:  # noqa: ANN401 - those of run
    """Run Python with `arguments` to its end and capture both outputs; `options` are those of `subprocess.run`."""
    options = {"env": environment(), "capture_output": True, "timeout": 120, **options}
    with interruptible():
        return subprocess.run([sys.executable, *map(str, arguments)], check=False, **options)
