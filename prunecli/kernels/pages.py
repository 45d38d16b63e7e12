"""Memory that starts at a page and goes back to the system when it is freed; an allocator could keep it."""

from __future__ import annotations

import mmap
import sys
from contextlib import suppress

HUGE = 1 << 21
"""From so many bytes on, memory is asked for in large pages, which are not mapped and cleared one by one."""


def pages(size: int) -> mmap.mmap:
    """Return `size` bytes (1 or more) of zeros."""
    if sys.platform == "win32":
        return mmap.mmap(-1, size)
    # Not what Python asks for by default: pages of shared memory cost twice as much.
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if sys.platform == "linux" and size >= HUGE:
        with suppress(OSError):  # this kernel has none
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memory
