"""Child processes of tests, which import this checkout."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from support.paths import ROOT

if TYPE_CHECKING:
    from pathlib import Path


def environment(**variables: str) -> dict[str, str]:
    """Return the environment of this process with `variables`, and with the checkout first on Python's path."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, **variables}


def start_python(*arguments: str | Path, **options: Any) -> subprocess.Popen[Any]:  # noqa: ANN401 - those of Popen
    """Start Python with `arguments`; `options` are those of `subprocess.Popen`."""
    return subprocess.Popen([sys.executable, *map(str, arguments)], **{"env": environment(), **options})


def run_python(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[Any]:  # noqa: ANN401 - those of run
    """Run Python with `arguments` to its end and capture both outputs; `options` are those of `subprocess.run`."""
    options = {"env": environment(), "capture_output": True, **options}
    return subprocess.run([sys.executable, *map(str, arguments)], check=False, **options)
