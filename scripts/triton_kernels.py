"""Compile every Triton kernel for a GPU that need not be there, and print what each one takes on it.

Triton has the compiler and the assembler of NVIDIA in its package, so that this needs no GPU and no driver:

    python scripts/triton_kernels.py [--arch 90]

A line has a kernel, its constants, the registers of a thread, and bytes that did not fit into registers.
The exit code is 1 if a kernel cannot be compiled, or keeps more than SPILLED bytes elsewhere.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas

from prunecli.dtypes import FLOATS, Float
from prunecli.kernels import fused_folds, fused_random, fused_ranks, torch_fused
from prunecli.kernels.torch_blocks import Cut, Groups
from prunecli.kernels.torch_ops import TorchOps
from prunecli.kernels.torch_tables import KernelRule, Table
from prunecli.layout import SliceView

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SPILLED = 4
"""The most bytes of a thread that may be kept in memory. The assembler keeps a word there to use fewer registers."""

NAMED = (
    "MODE", "TIES", "GROUP", "WIDTH", "FNUZ", "SHIFT", "NORM", "INNER", "SIZE", "MARKED", "MANY",
    "ALIGNED", "HIGH", "WIDE",
)  # fmt: skip
"""The constants that are printed."""


class Target:
    """A driver of one GPU, as far as the compiler asks."""

    def __init__(self, arch: int) -> None:
        """Take the compute capability, times ten."""
        self._target = GPUTarget("cuda", arch, 32)

    def get_current_target(self) -> GPUTarget:
        """Return the kind of GPU."""
        return self._target

    def get_current_device(self) -> int:
        """Return its number."""
        return 0

    def get_current_stream(self, _: int) -> int:
        """Return the number of a queue that nothing is put into."""
        return 0


def compile_only(kernels: dict[str, Any]) -> None:
    """Let a call of a kernel compile it and change nothing; `kernels` takes what is compiled, by name."""

    def launches(function: Any, grid: tuple[int, ...]) -> Callable[..., None]:  # noqa: ANN401 - what Triton makes of one
        def call(*arguments: Any, **constants: Any) -> None:  # noqa: ANN401 - those of any kernel
            shown = (f"{name}={constants[name]}" for name in NAMED if name in constants)
            kernels[" ".join([function.__name__, *shown])] = function.warmup(*arguments, grid=grid, **constants)

        return call

    triton.JITFunction.__getitem__ = launches


def calls(fused: fused_folds.FusedFolds, dtype: Float) -> Iterator[Callable[[], object]]:
    """Yield calls that need every kernel, with every group of constants, for a dtype."""
    integer = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]
    x, limit = torch.zeros(1 << 14, dtype=integer), torch.zeros(1, dtype=torch.int64)
    flags = torch.zeros(len(x), dtype=torch.bool)
    groups = [Groups(group // 2, group) for group in torch_fused.GROUPS]
    for keep in (Cut(9), Cut(9, limit), flags, *groups):
        yield partial(fused.prune_blocks, x, keep, dtype)
    yield from calls_of_tables(fused, x, dtype)
    yield partial(fused.count, x, limit, dtype)
    marks = TorchOps("cpu").magnitudes(x, dtype)
    for low, high, shift in ((3, 4, 0), (3, 3 + fused_ranks.NARROW, 0), (3, 100, 2)):
        yield partial(fused.ranks.bracket, x, dtype, low, high, shift, marked=False)
        yield partial(fused.ranks.bracket, marks, dtype, low, high, shift, marked=True)
    yield partial(fused.random_rows, torch.zeros(1, 2).long(), torch.zeros(4).long(), 128)
    random = fused_random.FusedRandom(torch)
    yield partial(random.ranked, [5, 7], 5000, 2500, "cpu")
    yield partial(random.kept, [5, 7], [9, 9], (0, 5000), "cpu")
    yield lambda: fused.joined(fused.moments(x, dtype, 1.0, 2)[0])
    for norm in fused_folds.NORMS:
        for shape in ((4, 4096, 1), (4, 64, 64), (1024, 16, 1)):
            yield partial(fused.fold, x, dtype, norm, shape, shape[1])
    matrix = SliceView(1, 1, 64, 256)
    yield partial(fused.slice_norms, [x, x], dtype, matrix, 2.0)
    for block in ((4, 4), (3, 5), (16, 64)):
        yield partial(fused.block_norms, [x], dtype, matrix, block)
    yield partial(fused.spread, torch.zeros((2, 1024), dtype=torch.int8), matrix, (4, 4))
    yield partial(fused.smallest, torch.zeros((2, torch_fused.ROW_LIMIT + 1), dtype=torch.float64), 9)
    blocks = fused.prune_blocks(x, Cut(9), dtype)
    for view in (SliceView(1, 1, 64, 256), SliceView(1, 64, 256, 1)):
        alive = torch.zeros(view.slices, dtype=torch.bool)
        yield partial(fused.slices.mark_alive, alive, x, 0, view, dtype, blocks)
    for row in (16, 1024, torch_fused.ROW_LIMIT):
        rows = marks.reshape(-1, row)
        wanted, kept = torch.zeros(len(rows), dtype=torch.int64), torch.zeros(rows.shape, dtype=torch.bool)
        yield partial(fused.keep_rows, rows, wanted, kept)


def calls_of_tables(fused: torch_fused.Fused, x: torch.Tensor, dtype: Float) -> Iterator[Callable[[], object]]:
    """Yield calls for tensors that are found by their addresses, whose lengths are multiples of 16 or not."""
    numbers, views = torch.zeros(2, dtype=torch.int64), [SliceView(1, 1, 64, 128), SliceView(1, 8, 32, 32)]
    for size in (1 << 13, 1 << 13 | 1):
        table = Table(torch, [x[:size]] * 2)
        slices = KernelRule(3, flags=x.view(torch.int8), slices=(128, 64), each=64)
        for rule in (KernelRule(0, cuts=numbers, limits=numbers), slices):
            yield partial(fused.prune, x[:size], rule, dtype, table)
        yield partial(fused.ranks.narrow, table, numbers, 1, dtype)
        for below in (False, True):
            yield partial(fused.ranks.bins, table, [[0, 0]] * 4, 9, dtype, below=below)
        yield partial(fused.ranks.listed, table, [[0, 0]] * 5, 9, dtype)
        if dtype.itemsize <= 4:
            yield partial(fused.ranks.squares, table, [0, 0], dtype)
    yield partial(fused.ranks.sample, x, np.zeros((2, 9), np.int64), dtype)
    yield partial(fused.limits, table, numbers, numbers, numbers, dtype)
    yield partial(fused.slices.overfull, table, slice(0, 2), (32, 9), dtype)
    yield partial(fused.count, x, numbers, dtype, table)
    for view in views:
        yield partial(fused.slices.alive, table, slice(0, 2), view, dtype, numbers)


def assembled(kernel: Any, arch: int) -> dict[str, int]:  # noqa: ANN401 - what Triton compiled
    """Return the registers of a thread, bytes in memory for want of registers, and bytes shared by a program."""
    with tempfile.TemporaryDirectory() as directory:
        source = Path(directory, "kernel.ptx")
        source.write_text(kernel.asm["ptx"], "ascii")
        command = [get_ptxas(arch).path, "-v", f"--gpu-name=sm_{arch}{'a' * (arch >= 90)}", str(source)]
        done = subprocess.run([*command, "-o", "/dev/null"], capture_output=True, text=True, check=True)
    numbers = {name: re.search(rf"(\d+) {name}", done.stderr) for name in ("registers", "bytes spill stores")}
    found = {name.removesuffix(" stores"): int(match[1]) if match else 0 for name, match in numbers.items()}
    return found | {"bytes shared": kernel.metadata.shared}


def main() -> int:
    """Compile and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--arch", type=int, default=90, help="compute capability, times ten: 80 is an A100, 90 an H100")
    parser.add_argument("--dtypes", nargs="+", choices=FLOATS, default=list(FLOATS))
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    triton.runtime.driver.set_active(Target(arguments.arch))
    fused, compiled = fused_folds.FusedFolds(torch), dict[str, Any]()
    compile_only(compiled)
    for name in arguments.dtypes:
        for call in calls(fused, FLOATS[name]):
            call()
    table = {title: assembled(kernel, arguments.arch) for title, kernel in compiled.items()}
    if arguments.json:
        print(json.dumps(table))
    else:
        for title, row in table.items():
            print(title, *(f"{value} {name}" for name, value in row.items()), sep="  ")
    return int(any(row["bytes spill"] > SPILLED for row in table.values()))


if __name__ == "__main__":
    sys.exit(main())
