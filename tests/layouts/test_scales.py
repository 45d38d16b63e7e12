"""Scales are matched with codes by name, shape and dtype, and what does not fit is refused with the reason."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.scaled import KINDS

from prunecli.checkpoint import OUTSIDE, Span, TensorInfo, row_major
from prunecli.layout import CODE, MATRIX, SCALE, TensorLayout
from prunecli.layouts.scales import STRIDED_LIMIT, with_scales


def tensor(name: str, shape: tuple[int, ...], dtype: str = "F8_E4M3", **values: object) -> TensorInfo:
    """Return a contiguous tensor."""
    return TensorInfo(name, dtype, shape, row_major(shape), 0, Span(0, 1 << 30), **values)  # type: ignore[arg-type]


def matched(codes: TensorInfo, *scales: TensorInfo) -> TensorInfo:
    """Return the codes with their scale."""
    return with_scales([codes, *scales])[0]


def reason(codes: TensorInfo, *scales: TensorInfo) -> str | None:
    """Return why the codes cannot be pruned."""
    return matched(codes, *scales).unprunable_reason


@pytest.mark.parametrize("kind", KINDS)
def test_every_element_has_an_entry(kind: str) -> None:
    """The grid of the match has as many entries as the scale, and a block has the size that it must have."""
    shapes = KINDS[kind]

    found = matched(tensor("x.weight", shapes.codes), tensor("x.weight_scale", shapes.scale, "F32"))

    assert found.scale is not None
    stacks = found.numel // (found.scale.rows * found.scale.cols)
    assert stacks * found.scale.grid[0] * found.scale.grid[1] == found.scale.tensor.numel
    assert (found.layout.role, found.value_dtype, found.codes.scale) == (CODE, "F64", None)


def test_scales_are_no_weights() -> None:
    """A scale has the role of one, and no pattern can select it."""
    _, scale = with_scales([tensor("x.weight", (4, 4)), tensor("x.scale", (4,), "F32")])

    assert (scale.layout.role, scale.unprunable_reason) == (SCALE, "a scale, not a weight")


@pytest.mark.parametrize(
    ("shape", "outputs", "scale", "block"),
    [
        ((60, 60), 0, (60,), (1, 60)),
        ((60, 60), 1, (60,), (60, 1)),
        ((60, 40), 0, (40,), (60, 1)),
        ((3, 50, 50), 1, (3, 50), (1, 50)),
        ((3, 50, 50), 2, (3, 50), (50, 1)),
        ((3, 50, 3), 1, (3, 50, 3), (1, 1)),
    ],
)
def test_a_vector_belongs_to_the_outputs(
    shape: tuple[int, ...], outputs: int, scale: tuple[int, ...], block: tuple[int, int]
) -> None:
    """Entries per output are matched by the layout; else by the only dimension of this length, if there is one."""
    layout = TensorLayout(MATRIX, outputs, None, evidence="test", proven=True)

    found = matched(tensor("x.weight", shape, layout=layout), tensor("x.weight_scale", scale, "F32"))

    assert found.scale is not None
    assert found.scale.block == block or (found.scale.rows == 1 and found.scale.block[1] == block[1])


@pytest.mark.parametrize(
    ("sizes", "counts", "block"),
    [
        ((7168, 2112), (56, 17), (128, 128)),
        ((300, 200), (3, 2), (128, 128)),
        ((300, 320), (5, 5), (64, 64)),
        ((100, 1000), (1, 8), (100, 128)),
        ((96, 120), (4, 5), (24, 24)),
        ((64, 4096), (64, 128), (1, 32)),
        ((64, 48), (2, 3), (32, 16)),
    ],
)
def test_the_size_of_blocks(sizes: tuple[int, int], counts: tuple[int, int], block: tuple[int, int]) -> None:
    """128 and other powers of two may be cut off at the edges; other blocks fit exactly."""
    found = matched(tensor("x.weight", sizes), tensor("x.weight_scale_inv", counts, "F32"))

    assert found.scale is not None
    assert found.scale.block == block


@pytest.mark.parametrize(
    ("shape", "scale"),
    [
        ((50, 70), (3,)),
        ((50, 70), (70, 50)),
        ((50, 70), (0,)),
        ((50, 70), (7, 11)),
        ((50, 70), (51, 1)),
        ((50, 70), (1, 1, 2)),
        ((50, 70), (10**12, 1)),
        ((3, 40, 24), (2, 3, 2)),
        ((3, 40, 24), (3, 25)),
        ((30, 30, 20), (30,)),
        ((20, 10, 3, 3), (2, 1, 3, 1)),
        ((), (2,)),
    ],
)
def test_shapes_that_do_not_fit_are_refused(shape: tuple[int, ...], scale: tuple[int, ...]) -> None:
    """A scale of another shape makes the tensor unprunable, and the reason names it."""
    layout = TensorLayout(MATRIX, None, None) if len(shape) == 3 else None
    codes = tensor("x.weight", shape) if layout is None else tensor("x.weight", shape, layout=layout)

    why = reason(codes, tensor("x.weight_scale", scale, "F32"))

    assert why is not None
    assert why.startswith("its scale 'x.weight_scale' ")


@pytest.mark.parametrize("dtype", ["I32", "U8", "F8_E4M3", "C64"])
def test_dtypes_that_are_no_scales_are_refused(dtype: str) -> None:
    """Integers and codes cannot be multiplied by."""
    why = reason(tensor("x.weight", (50, 70)), tensor("x.weight_scale", (50,), dtype))

    assert why == f"its scale 'x.weight_scale' is {dtype}, and BF16, F16, F32, F64, F8_E8M0 are known"


def test_large_scales_with_other_strides_are_refused() -> None:
    """A strided scale is read whole for every run, so it must be small; an unreadable one has its own reason."""
    n = STRIDED_LIMIT
    codes, scale = tensor("x.weight", (2 * n, 2)), tensor("x.weight_scale", (2 * n, 1), "F32")

    assert reason(codes, scale) is None
    assert reason(codes, replace(scale, strides=(3, 1))) == "its scale 'x.weight_scale' is not contiguous"
    small = tensor("x.weight_scale", (4, 1), "F32")
    assert reason(tensor("x.weight", (4, 2)), replace(small, strides=(3, 1))) is None
    expanded = replace(small, unprunable_reason="expanded view")
    assert "cannot be read: expanded view" in str(reason(tensor("x.weight", (4, 2)), expanded))


def test_the_first_name_counts() -> None:
    """Transformer Engine stores a scale and its inverse: codes are multiplied by the inverse."""
    codes = tensor("x.weight", (4, 4))

    found = matched(codes, tensor("x.weight_scale", (), "F32"), tensor("x.weight_scale_inv", (), "F32"))

    assert found.scale is not None
    assert found.scale.tensor.name == "x.weight_scale_inv"


def test_other_tensors_are_left_alone() -> None:
    """Other dtypes, plain FP8, empty tensors, and tensors outside the state_dict have no scale."""
    tensors = [
        tensor("a.weight", (4, 4), "BF16"),
        tensor("a.weight_scale", (4,), "F32"),
        tensor("b.weight", (4, 4)),
        tensor("c.weight", (4, 0)),
        tensor("c.weight_scale", (4,), "F32"),
        tensor("d.weight", (4, 4), unprunable_reason=OUTSIDE),
        tensor("d.weight_scale", (4,), "F32"),
        tensor("e.weight", (4, 4)),
        tensor("e.weight_scale", (4,), "F32", unprunable_reason=OUTSIDE),
    ]

    assert list(with_scales(tensors)) == tensors
    assert all(t.scale is None for t in with_scales(tensors))
