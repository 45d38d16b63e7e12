"""The values that describe a checkpoint."""

from __future__ import annotations

from dataclasses import fields, replace

from prunecli.checkpoint import Span, TensorInfo
from prunecli.layout import EMBEDDING, TensorLayout

TENSOR = TensorInfo(
    "a.weight", "F32", (3, 4), (4, 1), 2, Span(8, 64), 1, big_endian=True, unprunable_reason="why", key="a"
)


def test_the_number_of_elements_follows_from_the_shape() -> None:
    """It is that of the new shape after a replacement, whatever is passed."""
    assert TENSOR.numel == 12
    assert replace(TENSOR, shape=(5, 2), strides=(2, 1)).numel == 10
    assert replace(TENSOR, numel=7).numel == 12
    assert TensorInfo("a", "F32", (), (), 0, Span(0, 4)).numel == 1


def test_a_copy_with_another_layout_or_dtype_keeps_all_else() -> None:
    """Only the named field differs."""
    layout = TensorLayout(EMBEDDING, 0, 1)

    for other, name in ((TENSOR.with_layout(layout), "layout"), (TENSOR.with_dtype("F64"), "dtype")):
        assert [f.name for f in fields(TENSOR) if getattr(other, f.name) != getattr(TENSOR, f.name)] == [name]
    assert TENSOR.with_dtype("F32") is TENSOR
