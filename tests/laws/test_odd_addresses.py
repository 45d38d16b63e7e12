"""Weights at any address, and every instruction set: the same bytes."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
from support import SCRIPTS, STRATEGIES

from prunecli.api import prune
from prunecli.dtypes import FLOATS
from prunecli.kernels.native.library import VARIABLE, level, library

if TYPE_CHECKING:
    from pathlib import Path

DTYPES = ["F64", "F32", "BF16", "F16", "F8_E4M3"]
SHAPE = (48, 133)

AT_LEVEL = f"""
import runpy, sys
from prunecli.kernels.native import library
level = sys.argv.pop(1)
library.level = lambda: level
runpy.run_path({str(SCRIPTS / "digests.py")!r}, run_name="__main__")
"""
"""Run scripts/digests.py with the kernels of one instruction set."""


def checkpoint(path: Path, padding: int) -> bytes:
    """Write a safetensors file whose header is `padding` bytes longer than a multiple of 8; return its weights."""
    random, header, data = np.random.default_rng(0), {}, b""
    for name in DTYPES:
        size = FLOATS[name].itemsize
        usual = random.integers(FLOATS[name].encode(0.25) // 2, FLOATS[name].encode(0.25), SHAPE)
        weights = (usual | random.choice([0, 1 << (8 * size - 1)], SHAPE)) if size < 8 else usual
        start, data = len(data), data + weights.astype(f"u{size}").tobytes()
        header[f"{name}.weight"] = {"dtype": name, "shape": SHAPE, "data_offsets": (start, len(data))}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8 + padding)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return data


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_weights_at_odd_addresses_are_pruned_like_others(strategy: str, tmp_path: Path) -> None:
    """A header of an odd length moves all weights to odd places, where C allows integers of a special type only."""
    results = []
    for padding in (0, 1):
        source, output = tmp_path / f"{padding}.safetensors", tmp_path / f"out{padding}.safetensors"
        size = len(checkpoint(source, padding))
        prune(source, STRATEGIES[strategy], output=output, reports=())
        results.append(output.read_bytes()[-size:])

    assert results[0] == results[1] != source.read_bytes()[-size:]


@pytest.mark.slow
@pytest.mark.skipif(library() is None or level() == "base", reason="this CPU or library has no choice of kernels")
def test_every_instruction_set_writes_the_same_bytes(tmp_path: Path) -> None:
    """The kernels for older CPUs, which this one does not choose, give the results of the chosen ones."""
    source = tmp_path / "w.safetensors"
    checkpoint(source, 1)
    digests = {
        name: subprocess.run(
            [sys.executable, "-c", AT_LEVEL, name, source],
            env={**os.environ, VARIABLE: "native"},
            capture_output=True,
            check=True,
        ).stdout
        for name in ("base", "v3", "v4")[: ("base", "v3", "v4").index(level()) + 1]
    }

    assert len(set(digests.values())) == 1
    assert digests["base"].startswith(b"0 ")
