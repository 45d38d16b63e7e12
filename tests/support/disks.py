"""Small filesystems in memory, for tests of full and read-only disks."""

from __future__ import annotations

import shutil
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def mount(path: Path, *options: str) -> bool:
    """Mount a filesystem at `path`, and return whether that was possible."""
    if shutil.which("mount") is None:
        return False
    return subprocess.run(["mount", *options, str(path)], capture_output=True, check=False).returncode == 0


@contextmanager
def small_disk(path: Path, megabytes: int) -> Iterator[Path]:
    """Mount a filesystem of so many MiB at the directory `path`, made if it is missing; skip the test if that fails."""
    path.mkdir(exist_ok=True)
    if not mount(path, "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs"):
        pytest.skip("mounting a tmpfs needs root")
    yield path
    subprocess.run(["umount", str(path)], check=True)
