"""`python -m prunecli`, and the `prune` command."""

from __future__ import annotations

import gc
import os
import sys

GARBAGE = 5_000_000
"""The number of new objects after which Python collects garbage."""


def main() -> None:
    """Run the command line and exit with its code."""
    _occupy_descriptors()
    # Modules and tensors are many objects that are never garbage: to search them again and again takes 10 % of a run.
    gc.set_threshold(GARBAGE)
    # NumPy's linear algebra starts a thread per core when it is imported; our dot products use one thread.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        from prunecli.cli.main import main as run  # noqa: PLC0415 - after the environment is set

        code = run()
    except KeyboardInterrupt:  # while modules were being imported
        code = 130
    # Otherwise Python searches all objects for garbage before it exits, which is 15 % of a small run.
    gc.freeze()
    sys.exit(code)


def _occupy_descriptors() -> None:
    """Open /dev/null where a standard stream is closed, so that no checkpoint gets its descriptor."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(fd, True)
    os.close(fd)


def _leave_out_current_folder() -> None:
    """Remove the current folder, which `python -m` puts first, from the places of modules.

    A file `numpy.py` that came with a checkpoint would be run there. A folder with this package stays.
    """
    is_safe = sys.flags.isolated or getattr(sys.flags, "safe_path", False)  # safe_path: from Python 3.11
    try:
        here = os.getcwd()  # noqa: PTH109 - a module `pathlib` would be imported from there
    except OSError:  # the folder is gone
        return
    if not is_safe and sys.path[0] == here and __file__ != f"{here}{os.sep}prunecli{os.sep}__main__.py":
        del sys.path[0]


if __name__ == "__main__":
    _leave_out_current_folder()
    main()
