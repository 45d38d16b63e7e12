"""The Triton kernels that fold and rank, on a GPU or run by Triton's interpreter, equal the host bit for bit."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from kernels.test_torch_tally import weights
from support.launches import count_launches
from support.triton import DEVICE

import prunecli
from prunecli.api import prune_state_dict
from prunecli.dtypes import FLOATS
from prunecli.engine import device_norms, together
from prunecli.kernels import norms, torch_folds, torch_in_place
from prunecli.kernels.folds import Numbers
from prunecli.kernels.torch_views import of_blocks
from prunecli.layout import SliceView

pytest.importorskip("triton", reason="Triton is not installed")

from prunecli.kernels import fused_folds
from prunecli.kernels.fused_folds import FusedFolds, first_sums

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from prunecli.dtypes import Float
    from prunecli.strategies.strategy import Strategy

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),  # the interpreter computes with NumPy
]

FOLDS = ((1, 1, 1), (2, 5000, 1), (2, 100, 3), (70, 8, 1), (1, 4, 1030), (1, 90, 20))

VIEWS = (
    SliceView(1, 1, 10, 24), SliceView(2, 3, 10, 4), SliceView(2, 12, 10, 1), SliceView(1, 1, 3, 2100),
    SliceView(2, 1, 7, 33),
)  # fmt: skip

BLOCKS = ((4, 4), (3, 5), (100, 1), (1, 100), (40, 2100))


def kernels() -> Any:  # noqa: ANN401 - FusedFolds
    """Return the calls of the kernels."""
    return FusedFolds(torch)


def on_host(x: NDArray[Any], dtype: Float) -> Numbers:
    """Return weights on the host."""
    return Numbers(lambda first, stop: x[first:stop], dtype)


@pytest.mark.parametrize("name", FLOATS)
def test_folds_are_those_of_plain_torch(name: str) -> None:
    """Every part of every shape has the same bits, for each norm."""
    dtype, fused = FLOATS[name], kernels()
    numbers = Numbers(lambda _, __: None, dtype)
    for shape in FOLDS:
        x = torch.from_numpy(weights(dtype, int(np.prod(shape)), 2))
        for n, most in ((1.0, 9999), (2.0, 4), (2.0, 70), (inf, 3), (-inf, 33)):
            part = min(most, shape[1])
            own = torch_folds._folded(fused.fold(x.to(DEVICE), dtype, n, shape, part), n).cpu()
            expected = torch_folds.fold(x, numbers, n, shape, part)
            assert expected.flatten().tolist() == own.flatten().tolist(), (shape, n, part)


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize(("rows", "length"), [(1, 5000), (3, 2048), (4, 1), (2, 2049)])
@pytest.mark.parametrize("scale", [1.0, 2.0**-600])
def test_moments_are_folded_in_pieces(name: str, rows: int, length: int, scale: float) -> None:
    """The fold of the pieces is that of plain torch, for signed numbers and their squares; the others do not count."""
    dtype, fused = FLOATS[name], kernels()
    x = torch.from_numpy(weights(dtype, rows * length, 1, tiny=False))
    numbers = Numbers(lambda first, stop: x[first:stop], dtype)

    pieces = fused.moments(x.to(DEVICE), dtype, scale, rows)

    sums = fused.joined(pieces[:2].reshape(2 * rows, -1))
    assert sums.shape == (2 * rows, 1)
    found = torch.cat([sums.reshape(2, rows), pieces[2].sum(1)[None]]).T.cpu()
    assert found.tolist() == torch_folds.plain_moments(x, numbers, scale, rows).tolist()


@pytest.mark.parametrize("name", ["BF16", "F32", "F8_E4M3FNUZ", "F64"])
@pytest.mark.parametrize("view", VIEWS, ids=str)
def test_norms_of_two_tensors_are_those_of_the_host(name: str, view: SliceView) -> None:
    """Tensors at any address, the second one at an odd place, have the norms of the host."""
    dtype, size = FLOATS[name], view.total * view.size
    both = weights(dtype, 2 * size + 1, 3)
    parts = both[:size], both[size + 1 :]
    there = torch.from_numpy(both).to(DEVICE)
    arrays = [there[:size], there[size + 1 :]]

    for n in (1.0, 2.0, inf, -inf):
        found = kernels().slice_norms(arrays, dtype, view, n).reshape(2, -1).cpu().numpy()
        for own, x in zip(found, parts, strict=True):
            assert own.tobytes() == np.asarray(norms.slice_norms(on_host(x, dtype), view, n)).tobytes(), n
    for block in BLOCKS if view.before == 1 else ():
        found = kernels().block_norms(arrays, dtype, view, block).reshape(2, -1).cpu().numpy()
        for own, x in zip(found, parts, strict=True):
            assert own.tobytes() == np.asarray(norms.block_norms(on_host(x, dtype), view, block)).tobytes(), block


@pytest.mark.parametrize("limit", [1 << 14, 0])
@pytest.mark.parametrize("length", [1, 300, 1500])
def test_the_smallest_of_rows_are_those_of_the_host(limit: int, length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of equals the first ones are pruned, whether a program ranks a row or digits are counted."""
    monkeypatch.setattr(fused_folds, "ROW_LIMIT", limit)
    rng = np.random.default_rng(length)
    rows = np.sqrt(rng.integers(0, 7, (3, length)).astype(np.float64))
    rows[1], rows[2, ::3] = rng.random(length), inf

    for k in {0, 1, length // 2 + 1, length}:
        flags, largest = kernels().smallest(torch.from_numpy(rows.copy()).to(DEVICE), k)
        for row, own, value in zip(rows, flags.cpu().numpy(), largest.tolist(), strict=True):
            assert (own.tobytes(), value if k else None) == norms.smallest_norms(row, k)


@pytest.mark.parametrize("view", [SliceView(1, 1, 10, 24), SliceView(2, 1, 7, 1030)], ids=str)
@pytest.mark.parametrize("block", [(4, 4), (3, 5), (100, 1), (1, 2000)], ids=str)
def test_flags_of_blocks_are_repeated_for_their_weights(view: SliceView, block: tuple[int, int]) -> None:
    """Each weight of two tensors gets the flag of its block."""
    number = view.stacks * -(-view.slices // block[0]) * -(-view.after // block[1])
    flags = torch.from_numpy(np.random.default_rng(0).integers(0, 2, (2, number)).astype(np.int8))

    found = kernels().spread(flags.to(DEVICE), view, block).cpu()

    expected = [of_blocks(torch, row, 0, view.total * view.size, view, block) for row in flags]
    assert torch.equal(found, torch.cat(expected))


@pytest.mark.parametrize("use", torch_folds.CHECKS)
def test_kernels_are_checked_before_they_are_used(use: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels with other results are not used, nor are those that cannot be compiled."""
    numbers = torch.arange(600, device=DEVICE)
    assert torch_folds.CHECKS[use](kernels(), numbers)

    monkeypatch.setattr(torch_folds, "fused", lambda _: kernels())
    assert torch_folds.folding.__wrapped__(DEVICE, use) is not None
    for name in ("_pieces", "moments", "block_norms", "by_digits"):
        monkeypatch.setattr(FusedFolds, name, lambda *_, **__: numbers[:200].double())
    assert torch_folds.folding.__wrapped__(DEVICE, use) is None


STRATEGIES = (
    prunecli.Structured(amount=0.5), prunecli.Structured(count=3, dim=1, n=1), prunecli.Structured(amount=0.0),
    prunecli.Structured(amount=0.5, with_bias=True), prunecli.Block(2, 3, amount=0.5), prunecli.Block(4, 4, count=0),
)  # fmt: skip


@pytest.mark.skipif(DEVICE != "cpu", reason="where there is a GPU, the kernels take no tensors of the host")
@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_plans_from_the_kernels_are_those_of_the_host(strategy: Strategy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights, biases and reports are the same for tensors as if on a device, small or large, alone or together."""
    torch.manual_seed(0)
    shapes = {"a": (12, 40), "b": (12, 40), "c": (5, 7), "d": (20, 60)}
    live = {f"{name}.weight": torch.randn(shape).to(torch.bfloat16) for name, shape in shapes.items()}
    live |= {f"{name}.bias": torch.randn(shape[0]) for name, shape in shapes.items()}
    host = {name: x.clone() for name, x in live.items()}
    expected = prune_state_dict(host, strategy)

    monkeypatch.setattr(device_norms, "SMALL", 1000)
    launches = count_launches(monkeypatch)
    for module in (torch_folds, torch_in_place, together):
        monkeypatch.setattr(module, "folding", lambda *_: kernels())
    with launches:
        found = prune_state_dict(live, strategy)

    assert all(torch.equal(live[name], x) for name, x in host.items())
    assert [row.cut for row in found.rows] == [row.cut for row in expected.rows]


def test_the_memory_for_first_sums_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is stored first is as much as said: nearly all weights of narrow kernels, and of flat long blocks."""
    stored: list[int] = []
    real = FusedFolds._pieces
    monkeypatch.setattr(FusedFolds, "_pieces", lambda *a: (stored.append((own := real(*a)).numel()), own)[1])
    views = [*VIEWS, SliceView(1, 40, 3, 2), SliceView(1, 70, 9, 1)]
    cases: list[tuple[SliceView, tuple[int, int] | None]] = [(view, None) for view in views]
    cases += [(view, block) for view in views if view.before == 1 for block in ((1, 2100), (2, 1200), (40, 2100))]

    for view, block in cases:
        x = torch.zeros(view.total * view.size, dtype=torch.int16, device=DEVICE)
        stored[:] = [0]
        if block is None:
            kernels().slice_norms([x], FLOATS["BF16"], view, 2.0)
        else:
            kernels().block_norms([x], FLOATS["BF16"], view, block)
        assert stored[:2][-1] == first_sums(view, block), (view, block)
