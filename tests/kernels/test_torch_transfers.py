"""Nothing but counts is copied from a device: a test double adds up what is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from prunecli.dtypes import FLOATS
from prunecli.kernels.tally import Shared, Statistics
from prunecli.kernels.torch_many import ManyTensors
from prunecli.kernels.torch_ops import TorchOps
from prunecli.kernels.torch_tally import counts_of
from prunecli.layout import SliceView
from prunecli.plans import RankGroup
from prunecli.ranking.device_ranks import Held, find_on_devices
from prunecli.ranking.kth_smallest import RankSearch

if TYPE_CHECKING:
    from collections.abc import Callable

COPIES = ("cpu", "numpy", "tolist", "item", "__bool__", "__int__", "__float__", "__array__")

ROWS, COLUMNS = 512, 1024


class Copies:
    """The bytes that were copied to the host, and the number of copies."""

    size = number = 0


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch) -> Copies:
    """Return what counts the copies from now on."""
    counted = Copies()

    def counting(copy: Callable[..., Any]) -> Callable[..., Any]:
        def inner(tensor: Any, *args: Any, **options: Any) -> Any:  # noqa: ANN401 - as the methods
            counted.size += tensor.numel() * tensor.element_size()
            counted.number += 1
            return copy(tensor, *args, **options)

        return inner

    for name in COPIES:
        monkeypatch.setattr(torch.Tensor, name, counting(getattr(torch.Tensor, name)))
    return counted


def statistics(dtype: str) -> Statistics:
    """Return statistics with all numbers of a matrix."""
    views = SliceView(1, 1, ROWS, COLUMNS), SliceView(1, ROWS, COLUMNS, 1)
    return Statistics(FLOATS[dtype], ROWS * COLUMNS, *views, groups=(COLUMNS, 1))


def matrix(dtype: str, seed: int) -> Any:  # noqa: ANN401 - a tensor
    """Return a matrix as flat integers."""
    torch.manual_seed(seed)
    kinds = {"BF16": (torch.bfloat16, torch.int16), "F32": (torch.float32, torch.int32)}
    return torch.randn(ROWS * COLUMNS).to(kinds[dtype][0]).view(kinds[dtype][1])


def rules(ops: TorchOps, x: Any, dtype: str) -> dict[str, Callable[[], Any]]:  # noqa: ANN401 - a tensor
    """Return what every kind of plan asks for."""
    own, view = FLOATS[dtype], SliceView(1, 1, ROWS, COLUMNS)
    y = ops.magnitudes(x, own)
    columns = SliceView(1, ROWS, COLUMNS, 1)
    return {
        "cut": lambda: ops.cut(x, own, own.encode(0.5), 1),
        "groups": lambda: ops.groups(0, len(x), (COLUMNS, 1), 4, 2),
        "long groups": lambda: ops.keep_largest(y, 0, COLUMNS, 1, 32, 8),
        "rows": lambda: ops.keep_rows(y, COLUMNS, lambda n: n // 2),
        "slices": lambda: ops.keep_slices(y, 0, columns, b"\1\0" * (COLUMNS // 2)),
        "blocks": lambda: ops.keep_blocks(y, 0, view, (4, 4), b"\1\0" * (ROWS * COLUMNS // 32)),
    }


@pytest.mark.parametrize("dtype", ["BF16", "F32"])
@pytest.mark.parametrize("rule", ["cut", "groups", "long groups", "rows", "slices", "blocks"])
def test_pruning_copies_counts_alone(copies: Copies, dtype: str, rule: str) -> None:
    """A few kilobytes are copied for a tensor, whatever its size, and all numbers in one copy."""
    ops, x = TorchOps("cpu"), matrix(dtype, 0)
    tally = ops.tally(statistics(dtype), Shared())

    tally.prune(x, rules(ops, x, dtype)[rule](), 0, write=True)
    counts_of([tally])

    assert copies.size < 8 << 10
    assert copies.number < 8


@pytest.mark.parametrize("dtype", ["BF16", "F32"])
def test_ranking_copies_counts_alone(copies: Copies, dtype: str) -> None:
    """A search over several tensors copies ends of brackets and counts."""
    ops = TorchOps("cpu")
    held = [Held(ops, (index,), [matrix(dtype, index)], FLOATS[dtype]) for index in range(3)]
    total = 3 * ROWS * COLUMNS
    search = RankSearch(RankGroup((0, 1, 2), (total // 2,)), [FLOATS[dtype]] * 3, [ROWS * COLUMNS] * 3)

    find_on_devices([(search, held)])

    assert search.statistics()[0].less < total // 2 + 1
    assert copies.size < 128 << 10


def test_many_tensors_take_few_copies(copies: Copies) -> None:
    """The number of copies does not depend on the number of tensors."""
    ops = TorchOps("cpu")
    xs = [matrix("BF16", index) for index in range(6)]
    many = ManyTensors(ops, xs, FLOATS["BF16"], [statistics("BF16")] * 6)

    found = many.ranked([ROWS * COLUMNS // 2] * 6)
    many.prune([each.bits for each in found], [1] * 6)
    many.store()
    many.counts()

    assert copies.number < 12
    assert copies.size < 32 << 10
