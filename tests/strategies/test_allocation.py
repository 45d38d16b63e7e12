"""Allocation of an amount over tensors: exact totals, limits, and Erdos-Renyi-Kernel as it was published."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from math import prod
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from support import SHARED, examples

import prunecli
from prunecli.checkpoint import Span, TensorInfo, row_major
from prunecli.errors import UsageError
from prunecli.formats.open import open_checkpoint
from prunecli.layout import TensorLayout
from prunecli.selection.select import Selector, select
from prunecli.strategies.allocation import BY_SHAPES, allocate, matrix_shape

if TYPE_CHECKING:
    from collections.abc import Sequence

Shapes = list[tuple[int, ...]]

RESNET: Shapes = [(64, 3, 7, 7), (64, 64, 1, 1), (256, 64, 1, 1), (512, 512, 3, 3), (2048, 1024, 1, 1), (1000, 2048)]

SHAPES = st.lists(st.lists(st.integers(1, 12), min_size=1, max_size=4).map(tuple), min_size=1, max_size=8)


def numels(shapes: Sequence[tuple[int, ...]]) -> list[int]:
    """Return the number of weights of each tensor."""
    return [prod(shape) for shape in shapes]


def limit_of_uniform_plus(shapes: Sequence[tuple[int, ...]], remaining: Sequence[int]) -> int:
    """Return the most weights that uniform+ can prune."""
    kernels = [at for at, shape in enumerate(shapes) if len(shape) > 2]
    matrices = [at for at, shape in enumerate(shapes) if len(shape) == 2]
    kept = remaining[kernels[0]] if kernels else 0
    return sum(remaining) - kept - (remaining[matrices[-1]] - remaining[matrices[-1]] * 4 // 5 if matrices else 0)


def published_erk(shapes: Sequence[tuple[int, ...]], sparsity: float) -> list[float]:
    """Return the sparsities by the formula of rigl's `get_sparsities_erdos_renyi`, with kernel dims, power 1."""
    sizes = np.array(numels(shapes))
    zeros = np.floor(sparsity * sizes)
    raw = np.array([np.sum(shape) / np.prod(shape) for shape in shapes])
    dense = np.zeros(len(shapes), bool)
    while True:
        epsilon = ((sizes - zeros)[~dense].sum() - zeros[dense].sum()) / (raw * sizes)[~dense].sum()
        if raw[~dense].max() * epsilon <= 1:
            return [0.0 if whole else float(1 - epsilon * part) for whole, part in zip(dense, raw, strict=True)]
        dense |= raw == raw[~dense].max()


@settings(max_examples=examples(200))
@given(st.data(), SHAPES, st.sampled_from(BY_SHAPES), st.floats(0, 1))
def test_the_total_is_exact_and_no_count_exceeds_its_tensor(
    data: st.DataObject, shapes: Shapes, name: str, amount: float
) -> None:
    """For any shapes and remaining weights the counts add up to round(amount * remaining)."""
    remaining = [data.draw(st.integers(0, size)) for size in numels(shapes)]
    total = round(amount * sum(remaining))
    assume(name != "uniform+" or total <= limit_of_uniform_plus(shapes, remaining))

    counts = allocate(name, shapes, remaining, amount)

    assert total == sum(counts)
    assert all(0 <= count <= rest for count, rest in zip(counts, remaining, strict=True))


@settings(max_examples=examples(100))
@given(SHAPES, st.floats(0, 1))
def test_uniform_prunes_the_same_fraction_of_each(shapes: Shapes, amount: float) -> None:
    """Each count is within one of its exact share."""
    sizes = numels(shapes)
    total = round(amount * sum(sizes))

    for count, size in zip(allocate("uniform", shapes, sizes, amount), sizes, strict=True):
        assert abs(count - Fraction(total * size, sum(sizes))) < 1


def test_equal_remainders_are_rounded_up_in_order() -> None:
    """Of four equal tensors the first two are rounded up."""
    assert allocate("uniform", [(3,)] * 4, [3] * 4, 0.5) == [2, 2, 1, 1]


def check_published_erk(shapes: Shapes, amount: float) -> None:
    """Compare the counts with the published densities, except for rounding to an exact total."""
    counts = allocate("erk", shapes, numels(shapes), amount)

    for count, size, sparsity in zip(counts, numels(shapes), published_erk(shapes, amount), strict=True):
        assert count == pytest.approx(size * sparsity, abs=len(shapes))


@pytest.mark.parametrize("amount", [0.1, 0.5, 0.8, 0.9, 0.98])
def test_erk_on_a_resnet_is_what_rigl_computes(amount: float) -> None:
    """The shapes of a ResNet get the published densities."""
    check_published_erk(RESNET, amount)


@pytest.mark.skipif(not (SHARED / "checkpoints").is_dir(), reason="needs the shared checkpoints")
@pytest.mark.parametrize("name", ["resnet20-12fca82f.th", "taef2_decoder.pth", "TinyPeLLM-pytorch_model.bin"])
def test_erk_on_real_shapes(name: str) -> None:
    """Shapes of real models get the published densities."""
    targets = select(open_checkpoint(SHARED / "checkpoints" / name), Selector()).targets
    shapes = [target.tensor.shape for target in targets]

    for amount in (0.3, 0.7, 0.95):
        check_published_erk(shapes, amount)


@settings(max_examples=examples(100))
@given(SHAPES, st.floats(0.01, 0.99))
def test_erk_on_any_shapes(shapes: Shapes, amount: float) -> None:
    """Densities below 1 are proportional to sum(shape) / prod(shape)."""
    counts = allocate("erk", shapes, numels(shapes), amount)
    parts = [
        (size - count, sum(shape))
        for count, size, shape in zip(counts, numels(shapes), shapes, strict=True)
        if count > 1  # fewer may be rounding of a dense tensor
    ]

    for kept, dims in parts:
        assert all(abs(kept / dims - other / theirs) <= 1 / dims + 1 / theirs for other, theirs in parts)


def test_uniform_plus_protects_the_first_and_the_last_layer() -> None:
    """The first convolution stays dense, the last matrix keeps a fifth, the others get the same fraction."""
    sizes = numels(RESNET)

    counts = allocate("uniform+", RESNET, sizes, 0.9)

    assert counts[0] == 0
    assert counts[-1] == sizes[-1] * 4 // 5
    rates = [count / size for count, size in zip(counts[1:-1], sizes[1:-1], strict=True)]
    assert max(rates) - min(rates) < 1e-3
    assert sum(counts) == round(0.9 * sum(sizes))


def test_uniform_plus_limits_the_last_matrix_only_above_80_percent() -> None:
    """Below 80 % the last matrix gets the same fraction as the others."""
    counts = allocate("uniform+", [(10, 10, 3), (100, 10), (50, 20)], [300, 1000, 1000], 0.3)

    assert counts == [0, 345, 345]


def test_the_last_matrix_has_two_dimensions() -> None:
    """A vector or kernel after it is not the last matrix."""
    assert allocate("uniform+", [(10, 10), (10, 10), (5,)], [100, 100, 5], 180 / 205) == [95, 80, 5]


def test_uniform_plus_proposes_a_possible_amount() -> None:
    """The error has the largest possible number, and its hint an amount that works."""
    with pytest.raises(UsageError, match="prunes at most 80 of 200 weights, not 120") as error:
        allocate("uniform+", [(10, 5, 2), (10, 10)], [100, 100], 0.6)

    assert error.value.hint == "amount=0.4 or allocate='erk'"
    assert sum(allocate("uniform+", [(10, 5, 2), (10, 10)], [100, 100], 0.4)) == 80


@pytest.mark.parametrize("name", BY_SHAPES)
def test_no_tensors_and_empty_tensors(name: str) -> None:
    """No tensors, empty tensors and scalars are valid; the count of an empty tensor is 0."""
    assert allocate(name, [], [], 0.5) == []
    assert allocate(name, [(0, 4), (3, 0)], [0, 0], 1.0) == [0, 0]
    assert sum(allocate(name, [(), (5,), (0,)], [1, 5, 0], 0.5)) == 3


def test_a_stack_of_experts_is_matrices() -> None:
    """A stack of 4 matrices is pruned as 4 matrices are; it can be the last matrix, and is no convolution."""
    stack = TensorInfo("e", "F32", (4, 30, 20), row_major((4, 30, 20)), 0, Span(0, 9600))
    stack = replace(stack, layout=TensorLayout("experts", 1, 2, 0))
    shapes = [(50, 30), matrix_shape(stack)]

    apart = allocate("erk", [(50, 30), *[(30, 20)] * 4], [1500, *[600] * 4], 0.7)
    assert allocate("erk", shapes, [1500, 2400], 0.7) == [apart[0], sum(apart[1:])]
    assert allocate("uniform+", shapes, [1500, 2400], 0.85) == [1395, 1920]
    assert matrix_shape(replace(stack, layout=TensorLayout("kernel", 0, 1))) == (4, 30, 20)


def test_all_and_no_weights() -> None:
    """The amounts 0 and 1 are exact for every shape."""
    for name in ("uniform", "erk"):
        assert allocate(name, RESNET, numels(RESNET), 1.0) == numels(RESNET)
        assert allocate(name, RESNET, numels(RESNET), 0.0) == [0] * len(RESNET)


def test_amounts_are_fractions_of_the_remaining_weights() -> None:
    """A tensor that is half pruned already counts by its remaining weights."""
    assert allocate("uniform", [(4, 5), (10,)], [10, 10], 0.5) == [5, 5]


@pytest.mark.parametrize("amount", [1.5, -0.1, float("nan")])
def test_invalid_amounts_are_refused(amount: float) -> None:
    """An amount that is not 0 to 1 is a usage error."""
    with pytest.raises(UsageError, match="the amount is 0 to 1"):
        allocate("erk", [(2, 2)], [4], amount)


def test_an_unknown_allocation_is_refused() -> None:
    """The message lists the names, and shows control characters as text."""
    with pytest.raises(UsageError, match=r"the allocation is uniform, erk, uniform\+ or ramp, not 'lamp\\x1b'"):
        prunecli.L1(amount=0.5, allocate="lamp\x1b")
