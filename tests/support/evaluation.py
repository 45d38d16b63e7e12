"""A small checkpoint and cheap evaluation commands for the tests of search and sweep."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING

import numpy as np
from safetensors.numpy import load_file, save_file

from prunecli.strategies.unstructured import Global

if TYPE_CHECKING:
    from pathlib import Path

PYTHON = f"{shlex.quote(sys.executable)} -I -S"
"""Python without site packages, which starts in a few milliseconds."""

READ_WEIGHTS = """
import json, sys
data = open(sys.argv[1], "rb").read()
head = 8 + int.from_bytes(data[:8], "little")
start, stop = json.loads(data[8:head])["fc.weight"]["data_offsets"]
w = [data[i : i + 4] != bytes(4) for i in range(head + start, head + stop, 4)]
density = sum(w) / len(w)
"""
"""Reads the matrix of the checkpoint without NumPy; `density` is the fraction of weights that are not zero."""


def save_weights(tmp_path: Path) -> Path:
    """Write 1,000 different weights into a new folder and return the path of the checkpoint."""
    folder = tmp_path / "work"
    folder.mkdir()
    weights = (np.random.default_rng(0).permutation(1000) + 1).astype(np.float32)
    save_file({"fc.weight": weights.reshape(20, 50), "fc.bias": weights[:20]}, folder / "c.safetensors")
    return folder / "c.safetensors"


def globally(amount: float) -> Global:
    """Return the global strategy of an amount."""
    return Global(amount=amount)


def density_of(path: Path) -> float:
    """Return the fraction of the matrix's weights that are not zero, as a Python evaluation."""
    weights = load_file(path)["fc.weight"]
    return float(np.count_nonzero(weights) / weights.size)


def zeros(path: Path) -> int:
    """Return how many weights of the matrix are zero."""
    return int((load_file(path)["fc.weight"] == 0).sum())


def names(folder: Path) -> set[str]:
    """Return the names in `folder`."""
    return {path.name for path in folder.iterdir()}


def python_command(script: str) -> str:
    """Return an evaluation command that runs a Python script."""
    return f"{PYTHON} -c {shlex.quote(script)} {{}}"


def density_command(expression: str = "density") -> str:
    """Return an evaluation command that prints an expression of `density`."""
    return python_command(f"{READ_WEIGHTS}print({expression})")


def counting_command(ckpt: Path, then: str = "") -> str:
    """Return a command that prints the density and adds a line to a log; `then` is code that runs before it prints."""
    script = ckpt.parent.parent / "count.py"
    log = ckpt.parent.parent / "log"
    script.write_text(f"{READ_WEIGHTS}\nopen({str(log)!r}, 'a').write(sys.argv[1] + '\\n')\n{then}\nprint(density)\n")
    return f"{PYTHON} {shlex.quote(str(script))} {{}}"


def evaluations(ckpt: Path) -> int:
    """Return how often the counting command ran since the last call."""
    log = ckpt.parent.parent / "log"
    lines = log.read_text().splitlines() if log.exists() else []
    log.unlink(missing_ok=True)
    return len(lines)
