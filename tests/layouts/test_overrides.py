"""Layouts that the user states: their words, their errors, and what they change in a selection."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from prunecli.checkpoint import Checkpoint, Span, TensorInfo, row_major
from prunecli.cli.hints import as_options, as_toml
from prunecli.errors import SelectionError, UsageError
from prunecli.layouts.decide import with_layouts
from prunecli.layouts.overrides import ORDERS, parse_layout
from prunecli.selection.select import Selector, select

if TYPE_CHECKING:
    from prunecli.layout import TensorLayout


def stated(shape: tuple[int, ...], order: str, name: str = "a.weight") -> TensorLayout:
    """Return the layout of a selected tensor of this name and shape, stated as `order`."""
    tensor = TensorInfo(name, "F32", shape, row_major(shape), 0, Span(0, 1 << 30))
    checkpoint = with_layouts(Checkpoint(Path("a"), "zip", (), (tensor,)))
    (target,) = select(checkpoint, Selector(layout={"*": order})).targets
    return target.tensor.layout


@pytest.mark.parametrize(
    ("shape", "order", "dims"),
    [
        ((4, 8), "out-in", (0, 1, None)),
        ((4, 8), "in-out", (1, 0, None)),
        ((4, 8, 3, 3), "out-in", (0, 1, None)),
        ((4, 8, 3, 3), "in-out", (1, 0, None)),
        ((2, 4, 8), "experts", (1, 2, 0)),
        ((2, 4, 8), "experts-in-out", (2, 1, 0)),
    ],
)
def test_the_stated_order_gives_the_dimensions(
    shape: tuple[int, ...], order: str, dims: tuple[int, int, int | None]
) -> None:
    """Outputs, inputs and experts are those of the stated order, which counts as proven."""
    layout = stated(shape, order)

    assert (layout.outputs, layout.inputs, layout.experts) == dims
    assert layout.proven
    assert "stated" in layout.evidence


def test_stated_experts_keep_an_order_that_is_proven() -> None:
    """`experts` alone says nothing about outputs and inputs, so a decided order stays."""
    experts = {"e.experts.gate_up_proj": (4, 8, 32), "e.experts.down_proj": (4, 16, 8)}
    tensors = tuple(
        TensorInfo(n, "F32", s, row_major(s), i, Span(0, 1 << 30)) for i, (n, s) in enumerate(experts.items())
    )

    selection = select(with_layouts(Checkpoint(Path("a"), "zip", (), tensors)), Selector(layout={"*": "experts"}))

    assert [target.tensor.layout.words for target in selection.targets] == ["experts in-out"] * 2


def test_a_tensor_stated_to_be_experts_is_selected() -> None:
    """A stack without `weight` in its name is a weight once it is stated to be a stack of experts."""
    assert stated((2, 4, 8), "experts", "ffn.w13").role == "experts"


def test_the_last_pattern_counts() -> None:
    """Of two patterns that match a tensor the later one decides."""
    tensor = TensorInfo("a.weight", "F32", (4, 8), (8, 1), 0, Span(0, 1 << 30))
    selector = Selector(layout={"*": "in-out", "a.*": "out-in"})

    (target,) = select(Checkpoint(Path("a"), "zip", (), (tensor,)), selector).targets

    assert target.tensor.layout.words == "out-in"


@pytest.mark.parametrize(("shape", "order"), [((4,), "in-out"), ((4, 8), "experts"), ((4, 8), "experts-in-out")])
def test_a_layout_needs_enough_dimensions(shape: tuple[int, ...], order: str) -> None:
    """A vector has no inputs, and a matrix is no stack."""
    with pytest.raises(
        SelectionError, match=rf"'a.weight' has {len(shape)} dimensions?, too few for the layout {order}"
    ):
        stated(shape, order)


def test_a_pattern_may_match_vectors_too() -> None:
    """A pattern over a module states the layout of its weight; the bias has none to state."""
    tensors = tuple(
        TensorInfo(name, "F32", shape, row_major(shape), file, Span(0, 1 << 30))
        for file, (name, shape) in enumerate({"up.bias": (8,), "up.weight": (8, 8, 3, 3)}.items())
    )

    (target,) = select(Checkpoint(Path("a"), "zip", (), tensors), Selector(layout={"up.*": "in-out"})).targets

    assert target.tensor.layout.words == "in-out"


def test_a_pattern_that_matches_nothing_is_an_error() -> None:
    """A layout for a tensor that is not there is a mistake, and the message names the pattern."""
    tensor = TensorInfo("a.weight", "F32", (4, 8), (8, 1), 0, Span(0, 1 << 30))

    with pytest.raises(SelectionError, match=r"layout pattern 'c_\*' matches none of 1 tensors"):
        select(Checkpoint(Path("a"), "zip", (), (tensor,)), Selector(layout={"c_*": "in-out"}))


@pytest.mark.parametrize("order", ORDERS)
def test_the_text_of_the_option_is_a_pattern_and_an_order(order: str) -> None:
    """The order is after the last `=`, because a regular expression may have others."""
    assert parse_layout(f"re:(?=x)={order}") == ("re:(?=x)", order)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("*.c_fc", "--layout '*.c_fc=in-out'"),
        ("in-out", "--layout '*=in-out'"),
        ("=in-out", "--layout '*=in-out'"),
        ("a=in_out", "--layout a=in-out"),
        ("a=expert", "--layout a=experts"),
        ("a=outin", "--layout a=out-in"),
    ],
)
def test_a_wrong_text_gets_the_nearest_right_one(text: str, hint: str) -> None:
    """The hint is the option as it was probably meant, spelled for the command line and for recipes."""
    with pytest.raises(UsageError) as caught:
        parse_layout(text)

    assert caught.value.hint_as(as_options) == hint
    assert caught.value.hint_as(as_toml) == f'layout = ["{hint.removeprefix("--layout ").strip(chr(39))}"]'
