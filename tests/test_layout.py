"""The short texts of a layout, and its views of a tensor, against NumPy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from prunecli.layout import SliceView, TensorLayout, assumed_layout

if TYPE_CHECKING:
    from numpy.typing import NDArray

LAYOUTS = {
    "out-in": TensorLayout("matrix", 0, 1),
    "in-out": TensorLayout("kernel", 3, 2),
    "experts out-in": TensorLayout("experts", 1, 2, 0),
    "experts in-out": TensorLayout("experts", 2, 1, 0),
}


@pytest.mark.parametrize("words", LAYOUTS)
def test_words_have_the_order_of_outputs_and_inputs(words: str) -> None:
    """The text has the order of outputs and inputs, and says whether there are experts."""
    assert LAYOUTS[words].words == words


@pytest.mark.parametrize("layout", [assumed_layout(0), assumed_layout(1), TensorLayout("gain", None, None)])
def test_without_inputs_there_is_no_order(layout: TensorLayout) -> None:
    """A scalar, a vector and a gain have no order of outputs and inputs."""
    assert layout.words == "-"


def test_a_label_names_the_role_once() -> None:
    """The label has the role and the order; a stack of experts is not named twice, and a vector has no order."""
    assert [layout.label for layout in LAYOUTS.values()] == [
        "matrix out-in",
        "kernel in-out",
        "experts out-in",
        "experts in-out",
    ]
    assert TensorLayout("code", 1, 2, 0).label == "code experts out-in"
    assert (assumed_layout(1).label, TensorLayout("gain", None, None).label) == ("vector", "gain")


def test_a_dimension_is_named_by_its_meaning() -> None:
    """Outputs, inputs and experts are named; a dimension without a meaning has its number."""
    layout = TensorLayout("experts", 2, 1, 0)

    assert [layout.dim_words(dim) for dim in range(3)] == ["experts (dim 0)", "inputs (dim 1)", "outputs (dim 2)"]
    assert assumed_layout(4).dim_words(2) == "dim 2"


def sums(view: SliceView | None, array: NDArray[np.int64]) -> list[int]:
    """Return the sum of each slice of a view."""
    assert view is not None
    cube = array.reshape(view.stacks, view.before, view.slices, view.after)
    assert (view.total, view.size) == (view.stacks * view.slices, view.before * view.after)
    return cube.sum(axis=(1, 3)).ravel().tolist()  # type: ignore[no-any-return]


def test_views_have_the_outputs_and_inputs_as_slices() -> None:
    """The slices are those along the dimension, within each expert if there are experts."""
    array = np.random.default_rng(0).integers(0, 1000, (3, 4, 5))

    for outputs, inputs in ((1, 2), (2, 1)):
        layout = TensorLayout("experts", outputs, inputs, 0)
        assert sums(layout.output_view(array.shape), array) == array.sum(axis=inputs).ravel().tolist()
        assert sums(layout.input_view(array.shape), array) == array.sum(axis=outputs).ravel().tolist()
    plain = TensorLayout("kernel", 1, 0)
    assert sums(plain.output_view(array.shape), array) == array.sum(axis=(0, 2)).tolist()
    assert sums(plain.input_view(array.shape), array) == array.sum(axis=(1, 2)).tolist()


def test_each_group_of_a_transposed_convolution_has_outputs_of_its_own() -> None:
    """With 2 groups of [6 inputs, 5 outputs of a group], there are 10 outputs, each of 3 inputs."""
    array = np.random.default_rng(0).integers(0, 1000, (6, 5, 4))

    view = TensorLayout("kernel", 1, 0, groups=2).output_view(array.shape)

    assert TensorLayout("kernel", 1, 0, groups=2).input_run(array.shape) == (3, 20)
    assert sums(view, array) == array.reshape(2, 3, 5, 4).sum(axis=(1, 3)).ravel().tolist()
