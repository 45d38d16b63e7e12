"""How a process waits for an exchange of torch.distributed: while torch waits, Python hears no signal."""

from __future__ import annotations

from time import sleep
from typing import Any

from prunecli.text.escape import printable

FIRST_POLL, LAST_POLL = 0.0002, 0.02
"""Seconds between two looks at an exchange: at the start and after some time."""


def wait_for(work: Any) -> None:  # noqa: ANN401 - a torch Work
    """Wait until an exchange is done; RuntimeError if it fails."""
    pause = FIRST_POLL
    while not work.is_completed():
        sleep(pause)
        pause = min(2 * pause, LAST_POLL)
    work.wait()


def first_line(error: Exception) -> str:
    """Return the first line of what torch says about an error."""
    return printable(str(error).splitlines()[0] if str(error) else type(error).__name__)
