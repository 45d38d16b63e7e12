"""Depths of tensors by their names, and the ramp over them: exact totals and an arithmetic progression."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import examples

import prunecli
from prunecli.errors import UsageError
from prunecli.strategies.allocation import allocate, allocate_ramp
from prunecli.strategies.depth import layer_depths

if TYPE_CHECKING:
    from collections.abc import Sequence

LAYERS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 200)), min_size=1, max_size=9)
SLOPES = st.floats(-1, 1)


@pytest.mark.parametrize(
    ("names", "depths"),
    [
        (["conv1.weight", "conv2.weight", "fc.weight"], [0, 1, 2]),
        (["conv10.weight", "conv2.weight"], [1, 0]),
        (["h.10.attn.weight", "h.10.mlp.weight", "h.2.attn.weight", "h.2.mlp.weight"], [1, 1, 0, 0]),
        (["layer1.0.a.weight", "layer1.1.a.weight", "layer2.0.a.weight"], [0, 1, 2]),
        (["embed.weight", "layers.1.q.weight", "layers.0.q.weight", "lm_head.weight"], [0, 2, 1, 3]),
        (["encoder.0.weight", "decoder.0.weight", "encoder.1.weight"], [0, 2, 1]),
        (["layers.0.experts.3.w1.weight", "layers.0.experts.2.w1.weight"], [0, 0]),
        (["fc.weight_orig", "fc.weight_ih_l0"], [0, 0]),
        (["weight"], [0]),
        (["0.weight", "1.weight"], [0, 1]),
        (["a." + "9" * 5000 + ".weight", "a.1.weight"], [0, 1]),
        ([], []),
    ],
)
def test_depths(names: Sequence[str], depths: Sequence[int]) -> None:
    """A layer is the name up to its first number; numbers have their order, other names that of the file."""
    assert layer_depths(names) == depths


@settings(max_examples=examples(200))
@given(LAYERS, st.floats(0, 1), SLOPES)
def test_a_ramp_is_exact_and_a_progression(layers: list[tuple[int, int]], amount: float, slope: float) -> None:
    """The counts add up, and each is within one of its share of one clamped arithmetic progression."""
    depths, remaining = [depth for depth, _ in layers], [weights for _, weights in layers]

    counts = allocate_ramp(depths, remaining, amount, slope)

    assert sum(counts) == round(amount * sum(remaining))
    assert all(0 <= count <= rest for count, rest in zip(counts, remaining, strict=True))
    # The first fraction of a layer that is neither full nor empty lies in an interval; all intervals meet.
    low, high = Fraction(-10), Fraction(10)
    for depth, rest, count in zip(depths, remaining, counts, strict=True):
        step = Fraction(slope) * depth
        if rest and count < rest:
            high = min(high, Fraction(count + 1, rest) - step)
        if rest and count > 0:
            low = max(low, Fraction(count - 1, rest) - step)
    assert low <= high


@settings(max_examples=examples(50))
@given(LAYERS, st.floats(0, 1))
def test_a_ramp_without_slope_is_uniform(layers: list[tuple[int, int]], amount: float) -> None:
    """A slope of 0 gives the counts of the allocation "uniform"."""
    depths, remaining = [depth for depth, _ in layers], [weights for _, weights in layers]

    assert allocate_ramp(depths, remaining, amount, 0.0) == allocate(
        "uniform", [(rest,) for rest in remaining], remaining, amount
    )


def test_a_ramp_of_equal_layers_is_the_published_one() -> None:
    """Of L equal layers, layer i loses amount - slope * (L - 1) / 2 + slope * i."""
    assert allocate_ramp(range(5), [1000] * 5, 0.5, 0.1) == [300, 400, 500, 600, 700]
    assert allocate_ramp(range(5), [1000] * 5, 0.5, -0.1) == [700, 600, 500, 400, 300]
    assert allocate_ramp(range(3), [100] * 3, 0.5, 1.0) == [0, 50, 100]


@pytest.mark.parametrize(
    ("allocation", "slope", "message"),
    [
        ("ramp", None, "a ramp needs a slope"),
        ("erk", 0.1, "a slope belongs to the allocation ramp"),
        (None, 0.1, "a slope belongs to the allocation ramp"),
        ("ramp", 1.5, "the slope is -1 to 1, not 1.5"),
        ("ramp", float("nan"), "the slope is -1 to 1, not nan"),
    ],
)
def test_wrong_slopes(allocation: str | None, slope: float | None, message: str) -> None:
    """A ramp and a slope go together, and a slope is -1 to 1."""
    with pytest.raises(UsageError, match=message):
        prunecli.L1(amount=0.5, allocate=allocation, slope=slope)
