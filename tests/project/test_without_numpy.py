"""The common strategies compute with the compiled kernels alone: their runs never import NumPy."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from support import make_checkpoint

from prunecli.kernels.native.library import library

if TYPE_CHECKING:
    from pathlib import Path

COMMANDS = (
    "threshold --thr 0.05",
    "percentile --q 60",
    "l1 --amount 0.5",
    "l1 --amount 0.5 --scope row",
    "global --amount 0.5 --mask-out {mask}",
    "topk --pattern 2:4",
)

CODE = """
import sys
from prunecli.cli.main import main
for line in sys.argv[1:]:
    assert main(line.split()) == 0, line
print(sorted({"numpy", "torch"} & set(sys.modules)))
"""


def imported(kernels: str, lines: list[str]) -> str:
    """Run command lines in one new process with these kernels; return the list that it prints of large libraries."""
    environment = {**os.environ, "PRUNECLI_KERNELS": kernels}
    command = [sys.executable, "-c", CODE, *lines]
    run = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    return run.stdout.splitlines()[-1] if run.returncode == 0 else run.stderr


@pytest.mark.skipif(library() is None, reason="the compiled kernels are not built")
@pytest.mark.parametrize("container", ["safetensors", "zip"])
def test_compiled_kernels_need_no_numpy(container: str, tmp_path: Path) -> None:
    """With compiled kernels NumPy is not imported; with NumPy's kernels it is, and the files have the same bytes."""
    checkpoint = make_checkpoint(container, tmp_path)
    found, written = [], []
    for kernels in ("native", "numpy"):
        folder = tmp_path / kernels
        folder.mkdir()
        lines = [
            f"{command.format(mask=folder / 'mask.safetensors')} {checkpoint} -o {folder / str(number)} -q --no-report"
            for number, command in enumerate(COMMANDS)
        ]
        found.append(imported(kernels, lines))
        written.append({path.name: path.read_bytes() for path in folder.iterdir()})

    assert found == ["[]", "['numpy']"]
    assert len(written[0]) == len(COMMANDS) + 1
    assert written[0] == written[1]
