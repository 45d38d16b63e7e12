"""Many tensors, in one buffer or where they lie, are ranked, pruned and counted as each of them alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from kernels.test_torch_tally import statistics, weights
from support.triton import DEVICE, INSTALLED, triton_ops

from prunecli.dtypes import FLOATS
from prunecli.kernels.tally import Shared
from prunecli.kernels.torch_many import fits, many_tensors
from prunecli.kernels.torch_ops import TorchOps

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prunecli.dtypes import Float

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # Triton's interpreter computes with NumPy

SHAPES = ((8, 256), (33, 100), (5, 8), (3, 1024), (1500,), (1,), (1024,), (2, 2048))

FEW = ((33, 100), (5, 8), (1,), (1024,))
"""For searches of many steps, which Triton's interpreter computes slowly."""


def backends() -> list[TorchOps]:
    """Return plain torch, and the Triton kernels where Triton is installed."""
    return [TorchOps("cpu"), *([triton_ops()] if INSTALLED and DEVICE == "cpu" else [])]


def tensors(dtype: Float, shapes: Sequence[tuple[int, ...]]) -> list[Any]:
    """Return flat tensors of the shapes; some rows and columns are zero."""
    made = []
    for seed, shape in enumerate(shapes):
        x = weights(dtype, int(np.prod(shape)), seed).reshape(shape)
        if len(shape) > 1:
            x[..., 2] = 0
            x[0] = 0
        made.append(torch.from_numpy(x.flatten()))
    return made


@pytest.mark.parametrize("name", FLOATS)
def test_ranks_cuts_and_counts_are_those_of_each_tensor(name: str) -> None:
    """The ranks are exact, the first of equals are pruned, and every number equals that of a tally."""
    dtype = FLOATS[name]
    for ops in backends():
        shapes = SHAPES if ops.fused is None or dtype.itemsize == 1 else FEW
        wanted, xs = [statistics(dtype, shape) for shape in shapes], tensors(dtype, shapes)
        assert all(fits(each) for each in wanted)
        alone, many = [x.clone() for x in xs], many_tensors(ops, xs, dtype, wanted)
        ranks = [(len(x) + 1) // 2 for x in xs]
        found = many.ranked(ranks)
        for x, rank, ranked in zip(alone, ranks, found, strict=True):
            y = ops.magnitudes(x, dtype)
            assert (int(y.sort().values[rank - 1]), int((y < ranked.bits).sum())) == (ranked.bits, ranked.less)
            assert int((y == ranked.bits).sum()) == ranked.equal

        many.prune([each.bits for each in found], [r - each.less for r, each in zip(ranks, found, strict=True)])
        many.store()

        for x, own, rank, each, stats, count in zip(xs, alone, ranks, found, wanted, many.counts(), strict=True):
            tally = TorchOps("cpu").tally(stats, Shared())
            tally.prune(own, TorchOps("cpu").cut(own, dtype, each.bits, rank - each.less), 0, write=True)
            assert own.tolist() == x.tolist()
            assert tally.counts() == count


def test_groups_of_many_tensors() -> None:
    """Each group of each tensor keeps its largest."""
    dtype = FLOATS["BF16"]
    shapes = [(4, 64), (3, 1028), (7, 4)]
    for ops in backends():
        xs = [torch.from_numpy(weights(dtype, int(np.prod(shape)), 1)) for shape in shapes]
        alone, many = (
            [x.clone() for x in xs],
            many_tensors(ops, xs, dtype, [statistics(dtype, shape) for shape in shapes]),
        )
        rule = ops.groups(0, 4 * 64, (64, 1), 4, 2)
        assert rule is not None

        many.prune_groups(rule)
        many.store()

        for x, own, count in zip(xs, alone, many.counts(), strict=True):
            kept = ops.keep_largest(ops.magnitudes(own, dtype), 0, 4, 1, 4, 2)
            own.masked_fill_((kept == 0) & (ops.magnitudes(own, dtype) != 0), 0)
            assert own.tolist() == x.tolist()
            assert count.two_four
