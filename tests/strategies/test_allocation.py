"""Shares of an amount: exact totals, bounds, and Erdos-Renyi-Kernel as it was published."""

from __future__ import annotations

from fractions import Fraction
from math import prod
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from support import SHARED

from prunecli.errors import UsageError
from prunecli.formats.open import open_checkpoint
from prunecli.selection.select import Selector, select
from prunecli.strategies.allocation import ALLOCATIONS, allocate

if TYPE_CHECKING:
    from collections.abc import Sequence

Shapes = list[tuple[int, ...]]

RESNET: Shapes = [(64, 3, 7, 7), (64, 64, 1, 1), (256, 64, 1, 1), (512, 512, 3, 3), (2048, 1024, 1, 1), (1000, 2048)]

SHAPES = st.lists(st.lists(st.integers(1, 12), min_size=1, max_size=4).map(tuple), min_size=1, max_size=8)


def numels(shapes: Sequence[tuple[int, ...]]) -> list[int]:
    """Return how many weights each has."""
    return [prod(shape) for shape in shapes]


def room_of_uniform_plus(shapes: Sequence[tuple[int, ...]], left: Sequence[int]) -> int:
    """Return how many weights uniform+ may take."""
    kernels = [at for at, shape in enumerate(shapes) if len(shape) > 2]
    matrices = [at for at, shape in enumerate(shapes) if len(shape) == 2]
    kept = left[kernels[0]] if kernels else 0
    return sum(left) - kept - (left[matrices[-1]] - left[matrices[-1]] * 4 // 5 if matrices else 0)


def published_erk(shapes: Sequence[tuple[int, ...]], sparsity: float) -> list[float]:
    """Return the sparsities by the formula of rigl's `get_sparsities_erdos_renyi`, kernel dims included, power 1."""
    sizes = np.array(numels(shapes))
    zeros = np.floor(sparsity * sizes)
    raw = np.array([np.sum(shape) / np.prod(shape) for shape in shapes])
    dense = np.zeros(len(shapes), bool)
    while True:
        epsilon = ((sizes - zeros)[~dense].sum() - zeros[dense].sum()) / (raw * sizes)[~dense].sum()
        if raw[~dense].max() * epsilon <= 1:
            return [0.0 if whole else float(1 - epsilon * part) for whole, part in zip(dense, raw, strict=True)]
        dense |= raw == raw[~dense].max()


@settings(max_examples=200, deadline=None)
@given(st.data(), SHAPES, st.sampled_from(ALLOCATIONS), st.floats(0, 1))
def test_the_total_is_exact_and_no_tensor_gives_more_than_it_has(
    data: st.DataObject, shapes: Shapes, kind: str, amount: float
) -> None:
    """For any shapes, amount and weights left: round(amount * left) go, 0 to all of each."""
    left = [data.draw(st.integers(0, size)) for size in numels(shapes)]
    total = round(amount * sum(left))
    assume(kind != "uniform+" or total <= room_of_uniform_plus(shapes, left))

    counts = allocate(kind, shapes, left, amount)

    assert total == sum(counts)
    assert all(0 <= count <= rest for count, rest in zip(counts, left, strict=True))


@settings(max_examples=100, deadline=None)
@given(SHAPES, st.floats(0, 1))
def test_uniform_takes_the_same_share_of_each(shapes: Shapes, amount: float) -> None:
    """Each count is within one of its exact share."""
    sizes = numels(shapes)
    total = round(amount * sum(sizes))

    for count, size in zip(allocate("uniform", shapes, sizes, amount), sizes, strict=True):
        assert abs(count - Fraction(total * size, sum(sizes))) < 1


def test_equal_remainders_go_to_the_first() -> None:
    """Two of four equal tensors round up: the first two."""
    assert allocate("uniform", [(3,)] * 4, [3] * 4, 0.5) == [2, 2, 1, 1]


@pytest.mark.parametrize("amount", [0.1, 0.5, 0.8, 0.9, 0.98])
def test_erk_on_a_resnet_is_what_rigl_computes(amount: float) -> None:
    """The counts follow the published densities, but for the rounding that makes the total exact."""
    counts = allocate("erk", RESNET, numels(RESNET), amount)

    for count, size, sparsity in zip(counts, numels(RESNET), published_erk(RESNET, amount), strict=True):
        assert count == pytest.approx(size * sparsity, abs=len(RESNET))


@pytest.mark.skipif(not (SHARED / "checkpoints").is_dir(), reason="needs the shared checkpoints")
@pytest.mark.parametrize("name", ["resnet20-12fca82f.th", "taef2_decoder.pth", "TinyPeLLM-pytorch_model.bin"])
def test_erk_on_real_shapes(name: str) -> None:
    """Real models get the published densities too."""
    targets = select(open_checkpoint(SHARED / "checkpoints" / name), Selector()).targets
    shapes = [target.tensor.shape for target in targets]

    for amount in (0.3, 0.7, 0.95):
        counts = allocate("erk", shapes, numels(shapes), amount)
        for count, size, sparsity in zip(counts, numels(shapes), published_erk(shapes, amount), strict=True):
            assert count == pytest.approx(size * sparsity, abs=len(shapes))


@settings(max_examples=100, deadline=None)
@given(SHAPES, st.floats(0.01, 0.99))
def test_erk_on_any_shapes(shapes: Shapes, amount: float) -> None:
    """What is kept is in proportion to sum(shape) / prod(shape), where it is not everything."""
    counts = allocate("erk", shapes, numels(shapes), amount)
    parts = [
        (size - count, sum(shape))
        for count, size, shape in zip(counts, numels(shapes), shapes, strict=True)
        if count > 1  # fewer may be rounding of a dense tensor
    ]

    for kept, dims in parts:
        assert all(abs(kept / dims - other / theirs) <= 1 / dims + 1 / theirs for other, theirs in parts)


def test_uniform_plus_keeps_the_ends() -> None:
    """The first convolution stays whole, the last matrix keeps a fifth, the others share the rest evenly."""
    sizes = numels(RESNET)

    counts = allocate("uniform+", RESNET, sizes, 0.9)

    assert counts[0] == 0
    assert counts[-1] == sizes[-1] * 4 // 5
    rates = [count / size for count, size in zip(counts[1:-1], sizes[1:-1], strict=True)]
    assert max(rates) - min(rates) < 1e-3
    assert sum(counts) == round(0.9 * sum(sizes))


def test_uniform_plus_spares_the_last_matrix_only_where_it_must() -> None:
    """Below 80 % the last matrix gives as much as the others."""
    counts = allocate("uniform+", [(10, 10, 3), (100, 10), (50, 20)], [300, 1000, 1000], 0.3)

    assert counts == [0, 345, 345]


def test_the_last_matrix_is_the_last_of_two_dimensions() -> None:
    """A vector or kernel after it does not take its place."""
    assert allocate("uniform+", [(10, 10), (10, 10), (5,)], [100, 100, 5], 180 / 205) == [95, 80, 5]


def test_uniform_plus_says_what_would_do_where_it_cannot() -> None:
    """The refusal names how many can go, and its hint is an amount that works."""
    with pytest.raises(UsageError, match="prunes at most 80 of 200 weights, not 120") as error:
        allocate("uniform+", [(10, 5, 2), (10, 10)], [100, 100], 0.6)

    assert error.value.hint == "amount=0.4 or allocate='erk'"
    assert sum(allocate("uniform+", [(10, 5, 2), (10, 10)], [100, 100], 0.4)) == 80


@pytest.mark.parametrize("kind", ALLOCATIONS)
def test_nothing_and_empty_tensors(kind: str) -> None:
    """No tensors, empty ones and single numbers are no trouble; an empty tensor gives nothing."""
    assert allocate(kind, [], [], 0.5) == []
    assert allocate(kind, [(0, 4), (3, 0)], [0, 0], 1.0) == [0, 0]
    assert sum(allocate(kind, [(), (5,), (0,)], [1, 5, 0], 0.5)) == 3


def test_all_goes_and_nothing_goes() -> None:
    """The ends of the range are exact for every shape."""
    for kind in ("uniform", "erk"):
        assert allocate(kind, RESNET, numels(RESNET), 1.0) == numels(RESNET)
        assert allocate(kind, RESNET, numels(RESNET), 0.0) == [0] * len(RESNET)


def test_amounts_are_fractions_of_the_remaining_weights() -> None:
    """A tensor that is half pruned already counts by its remaining weights."""
    assert allocate("uniform", [(4, 5), (10,)], [10, 10], 0.5) == [5, 5]


@pytest.mark.parametrize(
    ("kind", "amount", "told"),
    [
        ("erk", 1.5, "the amount is 0 to 1"),
        ("erk", -0.1, "the amount is 0 to 1"),
        ("erk", float("nan"), "the amount is 0 to 1"),
        ("lamp\x1b", 0.5, r"the allocation is uniform, erk or uniform\+, not 'lamp\\x1b'"),
    ],
)
def test_wrong_requests(kind: str, amount: float, told: str) -> None:
    """What is no amount or no kind is refused with what would be one."""
    with pytest.raises(UsageError, match=told):
        allocate(kind, [(2, 2)], [4], amount)
