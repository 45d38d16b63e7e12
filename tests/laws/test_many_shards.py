"""A checkpoint may have more shards than a process may have open files."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np
import pytest
from safetensors.numpy import save_file
from support.runs import names_in

from prunecli import load_mask

if TYPE_CHECKING:
    from pathlib import Path

    from support.runs import Forks

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the limits are those of POSIX")


def write_shards(folder: Path, count: int) -> Path:
    """Write `count` numbered shards of a small weight, and return the folder."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    for number in range(1, count + 1):
        weight = generator.standard_normal((4, 16), dtype=np.float32)
        save_file({f"{number}.weight": weight}, folder / f"m-{number:05}-of-{count:05}.safetensors")
    return folder


@pytest.mark.parametrize(
    ("count", "limit"),
    [(40, 32), (120, 64), pytest.param(3000, 64, marks=pytest.mark.slow)],
)
def test_more_shards_than_descriptors(forks: Forks, tmp_path: Path, count: int, limit: int) -> None:
    """All commands read and write them; the output is what a process without a limit writes."""
    folder = write_shards(tmp_path / "m", count)
    out, mask, free = tmp_path / "out", tmp_path / "mask.safetensors", tmp_path / "free"
    limits = {"limits": {"RLIMIT_NOFILE": limit}}

    for words in (
        ["global", folder, "--amount", "0.5", "-o", out, "--mask-out", mask, "-q"],
        ["global", folder, "--amount", "0.5", "-o", out, "--scores", folder, "-f", "-q"],
        ["inspect", folder],
        ["scan", folder],
        ["check", out, "--min-sparsity", "0.5"],
    ):
        ran = forks.run(words, **limits)
        assert (ran.code, ran.err) == (0, ""), words
    assert forks.run(["diff", folder, out], **limits).code == 1
    assert forks.run(["global", folder, "--amount", "0.5", "-o", free, "-q"]).code == 0
    assert names_in(out) == names_in(folder)
    assert all((out / name).read_bytes() == (free / name).read_bytes() for name in names_in(free))
    assert len(load_mask(mask)) == count
