"""`python -m prunecli`, and the `prune` command."""

from __future__ import annotations

import os


def main() -> None:
    """Run the command line."""
    # NumPy's linear algebra starts a thread per core when it is imported; the dot products here use one.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from prunecli.cli import app  # noqa: PLC0415 - after the environment is set

    app(prog_name="prune")


if __name__ == "__main__":
    main()
