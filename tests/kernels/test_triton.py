"""The Triton kernels, on a GPU or run by Triton's interpreter, equal plain torch on the host bit for bit."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kernels.test_torch_tally import statistics, weights
from support.triton import DEVICE, triton_ops

from prunecli.dtypes import FLOATS
from prunecli.kernels import fused_tables
from prunecli.kernels.squares import square_sum
from prunecli.kernels.tally import Shared
from prunecli.kernels.torch_blocks import Blocks, Cut, Groups
from prunecli.kernels.torch_ops import TorchOps
from prunecli.kernels.torch_squares import sum_of_table
from prunecli.kernels.torch_tables import Table

pytest.importorskip("triton", reason="Triton is not installed")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),  # the interpreter computes with NumPy
]

KERNELS = (
    "triton_ops", "triton_blocks", "triton_moments", "triton_folds", "triton_random", "triton_ranks", "triton_slices",
)  # fmt: skip
"""The modules with kernels."""

SCRIPT = Path(__file__).parents[2] / "scripts" / "triton_kernels.py"


def rules(ops: TorchOps, x: Any, name: str) -> list[Any]:  # noqa: ANN401 - a tensor
    """Return rules of every kind."""
    dtype = FLOATS[name]
    middle = int(ops.magnitudes(x, dtype).flatten().sort().values[len(x) // 2])
    flags = torch.arange(len(x)) % 3 == 0
    cuts = [Cut(0), Cut(middle), Cut(dtype.top + 1), ops.cut(x, dtype, middle, 1)]
    return [
        *cuts,
        flags,
        -flags.to(torch.int8),
        Groups(2, 4),
        Groups(3, 8),
        Groups(8, 32),
        Groups(0, 16),
        Groups(9, 16),
    ]


def there(keep: Any) -> Any:  # noqa: ANN401 - a rule
    """Return a rule on the device of the kernels."""
    if isinstance(keep, Cut):
        return Cut(keep.bits, None if keep.limit is None else keep.limit.to(DEVICE))
    return keep if isinstance(keep, Groups) else keep.to(DEVICE)


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_blocks_are_pruned_and_counted(name: str, seed: int) -> None:
    """Every number of every block, and every weight, is the same."""
    dtype, plain, fused = FLOATS[name], TorchOps("cpu"), triton_ops()
    x = torch.from_numpy(weights(dtype, 2 * 1024 + 96, seed, tiny=seed == 1))
    if seed == 2:
        x[1024:2048] = 0
        x[2048:] = dtype.finite_max
    if not dtype.negative_zero_is_nan:
        x[[3, 9, 1023]] = torch.tensor([dtype.finite_max + 1, dtype.top, dtype.top], dtype=x.dtype)
    for keep in rules(plain, x, name):
        # Those of one seed begin at an address that is no multiple of 16.
        copy = x.to(DEVICE, copy=True) if seed else torch.cat([x[:1], x]).to(DEVICE)[1:]
        runs, keeps = [x.clone(), copy], (keep, there(keep))
        first, second = (
            ops.prune_blocks(run, kept, dtype) for ops, run, kept in zip((plain, fused), runs, keeps, strict=True)
        )
        assert torch.equal(runs[0], runs[1].cpu())
        for field in fields(Blocks):
            one, other = getattr(first, field.name), getattr(second, field.name)
            assert one.tolist() == other.tolist(), (field.name, keep)


@pytest.mark.parametrize("shape", [(8, 256), (33, 100), (2, 70, 300), (3, 2048), (80, 8), (300, 2)], ids=str)
def test_tallies_are_equal(shape: tuple[int, ...]) -> None:
    """Dead rows and columns are the same, too."""
    for name in ("BF16", "F32", "F8_E4M3FNUZ"):
        dtype = FLOATS[name]
        x = weights(dtype, int(np.prod(shape)), 1).reshape(shape)
        x[..., 1] = 0
        x[1] = 0
        counts = []
        for ops in (TorchOps("cpu"), triton_ops()):
            tally, run = (
                ops.tally(statistics(dtype, shape), Shared()),
                torch.from_numpy(x.copy()).flatten().to(ops.device),
            )
            tally.prune(run, ops.cut(run, dtype, dtype.encode(0.011), 0), 0, write=True)
            counts.append(tally.counts())
        assert counts[0] == counts[1]
        assert counts[0].dead_outputs or len(shape) == 3


@pytest.mark.parametrize("integer", [np.int16, np.int32, np.int64])
@pytest.mark.parametrize("row", [1, 7, 32, 1500])
def test_rows_lose_their_smallest(integer: type[np.signedinteger], row: int) -> None:
    """Marks of pruned weights, equals and rows of any length are treated alike."""
    rows = np.random.default_rng(row).integers(-1, 9, (9, row)).astype(integer)
    rows[0], rows[1], rows[2] = np.iinfo(integer).max, -1, np.arange(row)
    y = torch.from_numpy(rows).flatten()

    for wanted in (lambda n: n // 2, lambda n: 0 * n, lambda n: n):
        kept = [ops.keep_rows(y.to(ops.device), row, wanted).tolist() for ops in (TorchOps("cpu"), triton_ops())]
        assert kept[0] == kept[1]


@pytest.mark.parametrize("name", ["BF16", "F32", "F64", "F8_E5M2", "F8_E4M3FNUZ"])
def test_brackets_are_counted(name: str) -> None:
    """Numbers below and inside equal those of plain torch, for narrow and wide brackets."""
    dtype, plain, fused = FLOATS[name], TorchOps("cpu"), triton_ops()
    x = torch.from_numpy(weights(dtype, 5000, 1))
    y = plain.magnitudes(x, dtype)
    middle = int(y.sort().values[2500])
    ends = (5, middle + 1, min(middle + 300, dtype.top + 1), dtype.top + 1)
    for low, high, shift in zip(
        (0, middle, max(middle - 9, 0), 0), ends, (0, 0, 2, 8 * y.element_size() - 9), strict=True
    ):
        expected = plain.bracket(x, dtype, low, high, shift)
        assert expected.tolist() == fused.bracket(x.to(DEVICE), dtype, low, high, shift).tolist()
        for ops in (plain, fused):
            assert expected.tolist() == ops.bracket(y.to(ops.device), dtype, low, high, shift, marked=True).tolist()


@pytest.mark.parametrize("name", ["BF16", "F32", "F64", "F8_E4M3FNUZ"])
def test_tensors_in_a_table_are_counted(name: str) -> None:
    """Each tensor has its own bracket, and numbers of its own or of its group; samples are what lies there."""
    dtype, plain, fused = FLOATS[name], TorchOps("cpu"), triton_ops()
    kernels: Any = fused.fused and fused.fused.ranks
    xs = [torch.from_numpy(weights(dtype, size, seed)) for seed, size in enumerate((5000, 7, 1024, 40 * 1024 + 3))]
    table = Table(torch, [x.to(DEVICE) for x in xs])
    ys = [plain.magnitudes(x, dtype) for x in xs]
    lows = [int(y.sort().values[len(y) // 2]) for y in ys]
    for patterns in (0, 1, 8):
        counts = kernels.narrow(table, torch.tensor(lows, device=DEVICE), patterns, dtype).tolist()
        assert counts == [
            plain.bracket(x, dtype, low, low + 8, 0).tolist()[: 1 + patterns] for x, low in zip(xs, lows, strict=True)
        ]

    shift = dtype.top.bit_length() - 7
    size = 2 + (dtype.top >> shift)
    bounds = [[0] * 4, [dtype.top] * 4, [shift] * 4, [0, 0, size, size]]
    each = [plain.bracket(x, dtype, 0, dtype.top + 1, shift) for x in xs]
    expected = torch.cat([each[0] + each[1], each[2] + each[3]]).tolist()
    assert kernels.bins(table, bounds, 2 * size, dtype).tolist() == expected

    bounds[3], size = [0, size - 1, 2 * size - 2, 3 * size - 3], size - 1
    expected = torch.cat([own[1:] for own in each]).tolist()
    assert kernels.bins(table, bounds, 4 * size, dtype, below=False).tolist() == expected

    inside = [int(((low <= y) & (y <= low + 99)).sum()) for low, y in zip(lows, ys, strict=True)]
    firsts = [0, *np.cumsum(inside)[:-1].tolist()]
    bounds = [lows, [low + 99 for low in lows], [0] * 4, firsts, inside]
    listed = kernels.listed(table, bounds, sum(inside), dtype).split(inside)
    for low, y, own in zip(lows, ys, listed, strict=True):
        assert own.sort().values.tolist() == (y[(low <= y) & (y <= low + 99)] - low + 1).sort().values.tolist()

    if dtype.itemsize <= 4:
        for above in (0, lows[0], dtype.finite_max + 1):
            sums = kernels.squares(table, [above] * 4, dtype).cpu().numpy()
            taken = [y[y >= above].numpy() for y in ys]
            assert [sum_of_table(own, dtype, halves=True) for own in sums] == [square_sum(own, dtype) for own in taken]

    first = xs[3].to(DEVICE)
    places = np.array([[first.data_ptr(), first.data_ptr() + 9 * dtype.itemsize], [127, 2]])
    y = ys[3].tolist()
    assert kernels.sample(first, places, dtype).tolist() == [y[:128], y[9:11] + y[11:12] * 126]


@pytest.mark.parametrize("name", ["BF16", "F32"])
def test_a_program_counts_many_blocks(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers of 32 blocks of equals fit, and those of each tensor are stored where it ends."""
    monkeypatch.setattr(fused_tables, "PROGRAMS", 1)
    dtype, fused, sizes = FLOATS[name], triton_ops(), (33 * 1024, 5, 3 * 1024 + 1)
    kernels: Any = fused.fused and fused.fused.ranks
    integer = {2: torch.int16, 4: torch.int32}[dtype.itemsize]
    for pattern in (0, 3, 4, 7):
        table = Table(torch, [torch.full((size,), 100 + pattern, dtype=integer, device=DEVICE) for size in sizes])
        lows = torch.full((3,), 100, device=DEVICE)
        expected = [[0, *(size * (place == pattern) for place in range(8))] for size in sizes]
        assert kernels.narrow(table, lows, 8, dtype).tolist() == expected
        assert kernels.narrow(table, lows + 8, 0, dtype).flatten().tolist() == list(sizes)
        found = kernels.bins(table, [[99] * 3, [110] * 3, [0] * 3, [0, 13, 26]], 39, dtype).tolist()
        assert [found[at + 1 + pattern + 1] for at in (0, 13, 26)] == list(sizes)
        assert sum(found) == sum(sizes)


@pytest.mark.parametrize("steps", [1, 13, 200])
def test_random_numbers_are_those_of_plain_torch(steps: int) -> None:
    """Any place of the streams of any keys is the same."""
    keys = torch.tensor([[-1, 5], [1 << 62, -7], [0, 0]])
    firsts = torch.tensor([0, 1 << 40, 12345])
    for own in (keys, keys[:1]):
        expected, found = (
            ops.random_rows(own.to(ops.device), firsts.to(ops.device), steps).tolist()
            for ops in (TorchOps("cpu"), triton_ops())
        )
        assert expected == found


@pytest.mark.skipif(sys.platform != "linux", reason="Triton's assembler is in its package for Linux alone")
def test_a_gpu_runs_them() -> None:
    """Each kernel becomes machine code of an H100 whose threads keep all but a word in registers."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, str(SCRIPT), "--json", "--arch", "90", "--dtypes", "BF16", "F32", "F8_E4M3FNUZ"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr
    compiled = {title.split()[0]: row for title, row in json.loads(done.stdout).items()}
    modules = (importlib.import_module(f"prunecli.kernels.{name}") for name in KERNELS)
    names = {name for module in modules for name in vars(module) if name.endswith("_kernel")}
    assert set(compiled) == names
