"""What the filesystem of an open file is."""

from __future__ import annotations

import os
from pathlib import Path

MOUNTS = Path("/proc/self/mountinfo")
"""The mounted filesystems, a line for each: among others its device number and, after a dash, its kind."""


def is_in_memory(fd: int) -> bool:
    """Return whether `fd` is on a tmpfs.

    To allocate its pages takes as long as to write them, and by one thread. One thread at a time can write to a file.
    """
    device = os.fstat(fd).st_dev
    number = f" {os.major(device)}:{os.minor(device)} "
    try:
        with MOUNTS.open(encoding="utf-8", errors="replace") as mounts:
            return any(number in line and " - tmpfs " in line for line in mounts)
    except OSError:
        return False
