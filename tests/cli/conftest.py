"""Fixtures of the command line's tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support.command_line import in_this_process, save_two_layers

if TYPE_CHECKING:
    from pathlib import Path

    from support.command_line import Prune


@pytest.fixture
def prune(capfd: pytest.CaptureFixture[str]) -> Prune:
    """Return a function that runs the command line in this process."""
    return in_this_process(capfd)


@pytest.fixture
def ckpt(tmp_path: Path) -> Path:
    """Write a safetensors file of two matrices and a bias into a directory of its own."""
    folder = tmp_path / "work"
    folder.mkdir()
    return save_two_layers(folder / "ckpt.safetensors")
