"""Run the command line in this process, in a process of its own, or in a shell."""

from __future__ import annotations

import shlex
import subprocess
import sys
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from safetensors.numpy import save_file

from prunecli.cli.main import main
from support.children import run_python

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

HALF = ("--amount", "0.5")


class Ran(NamedTuple):
    """The exit code, the standard output and the standard error of a run."""

    code: int
    out: str
    err: str


class Prune(Protocol):
    """`prune("global", path, ...)` runs the command line in this process."""

    def __call__(self, *args: str | Path) -> Ran:
        """Run it with `args`."""


def in_this_process(capfd: pytest.CaptureFixture[str]) -> Prune:
    """Return a function that runs the command line in this process."""

    def run(*args: str | Path) -> Ran:
        capfd.readouterr()
        code = main([str(arg) for arg in args])
        return Ran(code, *capfd.readouterr())

    return run


def save_two_layers(path: Path, prefix: str = "") -> Path:
    """Write two matrices without ties or zeros, and a bias, to a safetensors file."""
    values = (np.random.default_rng(0).permutation(100) + 1).astype(np.float32) / np.float32(100)
    tensors = {"fc1.weight": values[:64].reshape(8, 8), "fc2.weight": -values[64:96].reshape(4, 8)}
    save_file({prefix + k: v for k, v in tensors.items()} | {prefix + "fc2.bias": values[96:]}, path)
    return path


def process(*args: str | Path, **options: object) -> subprocess.CompletedProcess[bytes]:
    """Run the command line in a process of its own; `options` are those of `subprocess.run`."""
    return run_python("-m", "prunecli", *args, **options)


def shell(line: str) -> subprocess.CompletedProcess[bytes]:
    """Run `line` in a shell in which `prune` is the command line."""
    line = f'prune() {{ {shlex.quote(sys.executable)} -m prunecli "$@"; }}; {line}'
    return subprocess.run(["bash", "-c", line], capture_output=True, check=False)


def listing(folder: Path) -> set[str]:
    """Return the names in `folder`."""
    return {path.name for path in folder.iterdir()}
