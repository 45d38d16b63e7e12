"""Checkpoints for tests that interrupt runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from safetensors.numpy import save_file
from support.runs import command

from prunecli.cli.main import main

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def big(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write 32 MiB of weights, 16 windows, into a directory of their own."""
    path = tmp_path_factory.mktemp("big") / "big.safetensors"
    generator = np.random.default_rng(0)
    save_file({f"l{i}.weight": generator.standard_normal((1024, 1024), dtype=np.float32) for i in range(8)}, path)
    return path


@pytest.fixture(scope="session")
def expected(big: Path) -> bytes:
    """Return the output of a run that is not interrupted."""
    output = big.with_name("expected")
    assert main([*command(big, output), "--report", str(big.with_name("expected.json"))]) == 0
    return output.read_bytes()


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Write 6 MiB of weights into a directory of their own."""
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "small.safetensors"
    save_file({"fc.weight": np.random.default_rng(0).standard_normal((1536, 1024), dtype=np.float32)}, path)
    return path


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Name an output in an empty directory."""
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "pruned.safetensors"


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a file of 8 MiB and a directory of two such shards and a configuration."""
    folder = tmp_path_factory.mktemp("inputs")
    generator = np.random.default_rng(0)
    (folder / "directory").mkdir()
    for name in ("file", *(f"directory/model-{i:05}-of-00002.safetensors" for i in (1, 2))):
        names = [f"{name}.{i}.weight" for i in range(2)]
        save_file({n: generator.standard_normal((1024, 1024), dtype=np.float32) for n in names}, folder / name)
    (folder / "directory" / "config.json").write_text("{}")
    return folder
