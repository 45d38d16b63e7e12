"""Tensors are pruned and counted where they lie by kernels that find them by their addresses, as each of them alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from kernels.test_torch_tally import weights
from support.triton import DEVICE, triton_ops

from prunecli.dtypes import FLOATS
from prunecli.kernels.tally import Shared, Statistics
from prunecli.kernels.torch_in_place import TensorsInPlace
from prunecli.kernels.torch_ops import TorchOps
from prunecli.layout import SliceView, slice_view

if TYPE_CHECKING:
    from prunecli.dtypes import Float

pytest.importorskip("triton", reason="Triton is not installed")
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # Triton's interpreter computes with NumPy

SHAPES = ((8, 256), (33, 100), (40, 3, 3, 3), (3, 2048), (3, 1500), (70, 3, 9), (5, 1), (9, 64))
"""Rows of whole blocks, longer ones, others, kernels, more rows than are looked at first, and columns of one entry."""


def statistics(dtype: Float, shape: tuple[int, ...]) -> Statistics:
    """Return what is counted about a kernel or a matrix: its outputs come first, and then its inputs."""
    groups = shape[1], int(np.prod(shape[2:]))
    return Statistics(dtype, int(np.prod(shape)), slice_view(shape, 0), slice_view(shape, 1), groups=groups)


def made(dtype: Float, shape: tuple[int, ...], seed: int) -> Any:  # noqa: ANN401 - a tensor
    """Return flat weights with a zero row and a zero column."""
    x = weights(dtype, int(np.prod(shape)), seed).reshape(shape)
    x[-1] = 0
    x[:, 0] = 0
    return torch.from_numpy(x.flatten())


def pruned_alone(x: Any, keep: Any, dtype: Float, shape: tuple[int, ...]) -> Any:  # noqa: ANN401 - tensors
    """Prune a tensor on the host with plain torch and return its counts."""
    tally = TorchOps("cpu").tally(statistics(dtype, shape), Shared())
    tally.prune(x, keep, 0, write=True)
    return tally.counts()


CASES = [("BF16", shape) for shape in SHAPES] + [("F32", (33, 100)), ("F8_E4M3FNUZ", (9, 64))]


@pytest.mark.parametrize(("name", "shape"), CASES, ids=str)
def test_slices(name: str, shape: tuple[int, ...]) -> None:
    """Slices along the first two dimensions lose their weights, and every number equals that of a tally."""
    dtype, plain = FLOATS[name], TorchOps("cpu")
    for dim in (0, 1):
        view = slice_view(shape, dim)
        xs = [made(dtype, shape, seed) for seed in (1, 2)]
        flags = [(torch.arange(view.total) % (2 + at) > 0).to(torch.int8) for at in range(2)]
        alone = [x.clone() for x in xs]
        expected = [
            pruned_alone(x, plain.keep_slices(x, 0, view, bytes(own.numpy().view(np.uint8))), dtype, shape)
            for x, own in zip(alone, flags, strict=True)
        ]
        for given in (flags, [bytes(own.numpy().view(np.uint8)) for own in flags]):
            there = [x.to(DEVICE, copy=True) for x in xs]
            many = TensorsInPlace(triton_ops(), there, dtype, [statistics(dtype, shape)] * 2)
            many.prune_slices([own if isinstance(own, bytes) else own.to(DEVICE) for own in given], view)
            assert many.counts() == expected
            assert [x.tolist() for x in there] == [x.tolist() for x in alone]


def test_stacks_of_slices() -> None:
    """Slices of a stack of matrices follow each other: each matrix has its own."""
    dtype, view = FLOATS["BF16"], SliceView(3, 1, 5, 40)
    x = torch.from_numpy(weights(dtype, 600, 4))
    flags = (torch.arange(15) % 4 > 0).to(torch.int8)
    own, there = x.clone(), x.to(DEVICE, copy=True)
    stats = statistics(dtype, (15, 40))
    expected = pruned_alone(own, TorchOps("cpu").keep_slices(own, 0, view, bytes(flags.numpy())), dtype, (15, 40))
    many = TensorsInPlace(triton_ops(), [there], dtype, [stats])
    many.prune_slices([flags.to(DEVICE)], view)
    assert (many.counts(), there.tolist()) == ([expected], own.tolist())


@pytest.mark.parametrize("name", ["BF16", "F64"])
def test_cuts_of_tensors_of_all_shapes_and_strides(name: str) -> None:
    """Tensors with gaps are copied and copied back; lengths need not be multiples of anything."""
    dtype, plain = FLOATS[name], TorchOps("cpu")
    cut = dtype.encode(0.011)
    for shapes in (SHAPES[1:5], SHAPES[:1]):
        xs = [made(dtype, shape, 7) for shape in shapes]
        alone = [x.clone() for x in xs]
        expected = [
            pruned_alone(x, plain.cut(x, dtype, cut, 0), dtype, shape) for x, shape in zip(alone, shapes, strict=True)
        ]
        there = [x.to(DEVICE, copy=True) for x in xs]
        gaps = xs[0].reshape(shapes[0]).to(DEVICE).T.contiguous().T
        many = TensorsInPlace(
            triton_ops(), [*there, gaps], dtype, [statistics(dtype, shape) for shape in (*shapes, shapes[0])]
        )
        many.prune([cut] * (len(xs) + 1), [0] * (len(xs) + 1))
        many.store()
        assert many.counts() == [*expected, expected[0]]
        assert [x.tolist() for x in there] == [x.tolist() for x in alone]
        assert gaps.flatten().tolist() == alone[0].tolist()


def test_a_copy_is_pruned_and_the_tensor_is_not() -> None:
    """With `copy` only the numbers are wanted."""
    dtype = FLOATS["F32"]
    x = made(dtype, (8, 256), 1).to(DEVICE)
    before = x.clone()
    many = TensorsInPlace(triton_ops(), [x], dtype, [statistics(dtype, (8, 256))], copy=True)
    many.prune([dtype.top + 1], [0])
    many.store()
    assert torch.equal(x, before)
    assert many.counts()[0].zeros_after == 8 * 256


def test_ties_of_one_tensor_are_not_those_of_another() -> None:
    """A tensor without ties to prune keeps all weights equal to its cut, next to tensors that lose some."""
    dtype = FLOATS["BF16"]
    xs = [torch.full((size,), 300, dtype=torch.int16, device=DEVICE) for size in (1500, 2048, 40)]
    many = TensorsInPlace(triton_ops(), xs, dtype, [statistics(dtype, (len(x) // 4, 4)) for x in xs])
    many.prune([300] * 3, [0, 1030, 0])
    assert [int((x == 0).sum()) for x in xs] == [0, 1030, 0]
    assert int((xs[1][:1030] == 0).sum()) == 1030


def test_one_weight_keeps_its_row_and_its_column() -> None:
    """Columns are looked at to their last row."""
    dtype = FLOATS["F32"]
    x = torch.zeros((70, 5), dtype=torch.int32)
    x[60, 3] = dtype.encode(1.0)
    many = TensorsInPlace(triton_ops(), [x.flatten().to(DEVICE)], dtype, [statistics(dtype, (70, 5))])
    many.prune([0], [0])
    (counts,) = many.counts()
    assert (counts.dead_outputs, counts.dead_inputs) == (69, 4)


@pytest.mark.parametrize("alive", [2, 3])
def test_a_group_of_a_kernel_has_two_weights_or_more(alive: int) -> None:
    """Of the groups of 4 inputs at one place of a kernel, one with three weights breaks the pattern."""
    dtype = FLOATS["BF16"]
    x = torch.zeros((3, 6, 5), dtype=torch.int16)
    x[2, :alive, 4] = dtype.encode(1.0)
    many = TensorsInPlace(triton_ops(), [x.flatten().to(DEVICE)], dtype, [statistics(dtype, (3, 6, 5))])
    many.prune([0], [0])
    assert many.counts()[0].two_four is (alive == 2)
