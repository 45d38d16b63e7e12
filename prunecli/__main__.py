"""`python -m prunecli`, and the `prune` command."""

from __future__ import annotations

import gc
import os
import sys

GARBAGE = 50_000
"""The number of new objects after which Python collects garbage."""


def main() -> None:
    """Run the command line and exit with its code."""
    _occupy_descriptors()
    # Modules are many objects that are never garbage: collecting among them again and again is 10 % of a small run.
    gc.set_threshold(GARBAGE)
    # NumPy's linear algebra starts a thread per core when it is imported; our dot products use one thread.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        from prunecli.cli.main import main as run  # noqa: PLC0415 - after the environment is set

        code = run()
    except KeyboardInterrupt:  # while modules were being imported
        code = 130
    sys.exit(code)


def _occupy_descriptors() -> None:
    """Open /dev/null where a standard stream is closed, so that no checkpoint gets its descriptor."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(fd, True)
    os.close(fd)


if __name__ == "__main__":
    main()
