"""The slices that have a non-zero, against NumPy, whatever the chunks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import examples
from support.layouts import canonical, layouts_of, pieces, tensors, zero_inputs, zero_outputs

from prunecli.kernels import alive_slices
from prunecli.kernels.alive_slices import AliveSlices
from prunecli.layout import SliceView

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from prunecli.checkpoint import TensorInfo


def dead_slices(view: SliceView | None, flat: NDArray[np.int32], parts: Sequence[tuple[int, int]], objects: int) -> int:
    """Add the parts to several objects in turn, merge them, and return the number of dead slices."""
    assert view is not None
    found = [AliveSlices(view) for _ in range(objects)]
    for number, (start, stop) in enumerate(parts):
        found[number % objects].add(start, flat[start:stop])
    first, *others = found
    for other in others:
        first.merge(other)
    return first.dead


def with_dead_slices(tensor: TensorInfo, density: float, seed: int) -> NDArray[np.int32]:
    """Return random magnitudes with some outputs and inputs that are zero."""
    random = np.random.default_rng(seed)
    array = np.where(random.random(tensor.shape) < density, random.integers(1, 9, tensor.shape), 0).astype(np.int32)
    for dim in {tensor.layout.outputs, tensor.layout.inputs} - {None}:
        dead = np.flatnonzero(random.random(tensor.shape[dim or 0]) < 0.3)
        np.moveaxis(array, dim or 0, 0)[dead] = 0
    return array


@settings(max_examples=examples(250))
@given(tensor=tensors(fewest=2), seed=st.integers(0, 99), data=st.data())
def test_dead_outputs_and_inputs_equal_those_of_numpy(tensor: TensorInfo, seed: int, data: st.DataObject) -> None:
    """For every layout, cut and number of objects, dead outputs and inputs are counted, in each expert for itself."""
    array = with_dead_slices(tensor, data.draw(st.sampled_from([0.05, 0.5, 1.0])), seed)
    parts, objects = data.draw(st.composite(pieces)(array.size)), data.draw(st.integers(1, 3))

    for view, wanted in (
        (tensor.layout.output_view(tensor.shape), zero_outputs(array, tensor.layout)),
        (tensor.layout.input_view(tensor.shape), zero_inputs(array, tensor.layout)),
    ):
        if view is not None:
            assert dead_slices(view, array.reshape(-1), parts, objects) == wanted


@pytest.mark.parametrize("shape", [(70, 300), (300, 70), (3, 3, 40, 50), (5, 40, 300), (40, 300, 9)])
@pytest.mark.parametrize("part", [1 << 9, 1 << 12, 1 << 16])
def test_long_runs_and_many_cycles(shape: tuple[int, ...], part: int) -> None:
    """Long runs whose only non-zero is at their end, and slices that are alive in the last cycle, are found."""
    for layout in layouts_of(shape):
        if layout.outputs is None or layout.groups > 2:
            continue
        array = np.zeros(shape, np.int32)
        indices = canonical(np.arange(array.size).reshape(shape), layout)
        array.reshape(-1)[indices[:, 1::2, -1, -1].ravel()] = 7
        parts = [(low, min(low + part, array.size)) for low in range(0, array.size, part)]

        outputs = dead_slices(layout.output_view(shape), array.reshape(-1), parts, 2)
        inputs = dead_slices(layout.input_view(shape), array.reshape(-1), parts, 2)

        assert (outputs, inputs) == (zero_outputs(array, layout), zero_inputs(array, layout))


def test_a_complete_stack_is_not_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """After every input of an expert has a non-zero, its later weights are not searched, those of others are."""
    alive = AliveSlices(SliceView(stacks=2, before=64, slices=5, after=1))
    alive.add(0, np.ones(5 * 40, np.int32))
    searched: list[int] = []
    original = alive_slices._cycles_alive
    monkeypatch.setattr(alive_slices, "_cycles_alive", lambda y: searched.append(y.size) or original(y))

    alive.add(5 * 40, np.zeros(5 * 30, np.int32))

    assert sum(searched) == 5 * 6
    assert alive.dead == 5
