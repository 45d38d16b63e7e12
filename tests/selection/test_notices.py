"""The warnings about a selection."""

from __future__ import annotations

from pathlib import Path

from prunecli.checkpoint import Checkpoint, Span, TensorInfo, row_major
from prunecli.layouts.decide import with_layouts
from prunecli.selection.notices import assumed_notices, left_out_notice, stacks_fact, unscaled_notice
from prunecli.selection.select import Selection, Selector, select


def selected(*tensors: tuple[str, tuple[int, ...], str]) -> Selection:
    """Select among tensors of these names, shapes and dtypes."""
    infos = [TensorInfo(n, d, s, row_major(s), 0, Span(i << 40, 1 << 40)) for i, (n, s, d) in enumerate(tensors)]
    return select(with_layouts(Checkpoint(Path("a"), "zip", (), tuple(infos))), Selector())


def test_the_largest_tensor_that_is_left_out_for_its_name_is_named() -> None:
    """More weights skipped for their names than selected are a warning with the largest and the reason."""
    notice = left_out_notice(
        selected(("a.weight", (4, 4), "F32"), ("big.matrix", (8, 8), "F32"), ("m.matrix", (2, 2), "F32"))
    )

    assert notice is not None
    assert "more weights are left out for their names (68) than selected (16)" in notice
    assert "'big.matrix' (64): not a weight by name" in notice


def test_vectors_constants_and_integers_are_not_counted() -> None:
    """Biases, transforms, tables of integers and as many weights as are selected are no reason to warn."""
    assert left_out_notice(selected(("a.weight", (4, 4), "F32"), ("stft.weight", (99, 1, 9), "F32"))) is None
    assert left_out_notice(selected(("a.weight", (4, 4), "F32"), ("loss.weight", (9, 99), "F32"))) is None
    assert left_out_notice(selected(("a.weight", (4, 4), "F32"), ("b.matrix", (4, 4), "F32"))) is None
    assert left_out_notice(selected(("a.weight", (4, 4), "F32"), ("a.bias", (99,), "F32"))) is None
    assert left_out_notice(selected(("a.weight", (4, 4), "F32"), ("table", (9, 9), "I64"))) is None


def test_kernels_and_stacks_without_evidence_are_named() -> None:
    """The warning has the assumption, and its hint has the option for the other order; matrices are not named."""
    square = selected(("fc.weight", (4, 4), "F32"), ("up.weight", (4, 4, 3, 3), "F32"))
    stack = selected(("x.experts.w9", (4, 8, 8), "F32"))

    (kernel,) = assumed_notices(target.tensor for target in square.targets)
    (experts,) = assumed_notices(target.tensor for target in stack.targets)

    assert "of up.weight counts outputs: assumed are outputs in dim 0 and inputs in dim 1" in kernel
    assert "{'up.weight': 'in-out'}" in str(kernel.hint_parts)
    assert "'experts-in-out'" in str(experts.hint_parts)
    assert assumed_notices(t.tensor for t in square.targets if "up" not in t.tensor.name) == ()


def test_kernels_and_stacks_have_warnings_of_their_own() -> None:
    """Each names its own tensors with their own dimensions, and its hint matches a name with brackets."""
    both = selected(("x.experts.w9", (4, 8, 8), "F32"), ("u[0].weight", (4, 4, 3, 3), "F32"))

    kernels, stacks = assumed_notices(target.tensor for target in both.targets)

    assert "of u[0].weight counts outputs: assumed are outputs in dim 0 and inputs in dim 1" in kernels
    assert "{'u[[]0].weight': 'in-out'}" in str(kernels.hint_parts)
    assert "of x.experts.w9 counts outputs: assumed are outputs in dim 1 and inputs in dim 2" in stacks


def test_codes_whose_scale_does_not_fit_are_named() -> None:
    """FP8 tensors that are left out for their scale are a warning; a scale that fits is none."""
    notice = unscaled_notice(
        selected(("a.weight", (4, 4), "F8_E4M3"), ("a.weight_scale", (3,), "F32"), ("b.weight", (4, 4), "F32"))
    )
    stack = selected(("x.experts.w9", (4, 8, 8), "F8_E4M3"), ("x.experts.w9_scale", (4, 1, 1), "F32"))
    (assumed,) = assumed_notices(target.tensor for target in stack.targets)

    assert notice is not None
    assert "1 tensor of FP8 codes (16 weights) cannot be pruned" in notice
    assert "'a.weight': its scale 'a.weight_scale' has the shape [3], which does not fit [4, 4]" in notice
    assert unscaled_notice(stack) is None
    assert "'experts-in-out'" in str(assumed.hint_parts)


def test_many_names_are_counted() -> None:
    """After three names the rest are counted."""
    kernels = [(f"k{i}.weight", (4, 4, 3, 3), "F32") for i in range(5)]

    (notice,) = assumed_notices(target.tensor for target in selected(*kernels).targets)

    assert "k0.weight, k1.weight, k2.weight and 2 more" in notice


def test_stacks_of_experts_are_counted() -> None:
    """The fact names the first stack and its number of experts, and counts the stacks."""
    one = selected(("l.0.experts.w1", (4, 8, 8), "F32"), ("fc.weight", (4, 4), "F32"))
    two = selected(("l.0.experts.w1", (4, 8, 8), "F32"), ("l.0.experts.w2", (4, 8, 8), "F32"))

    assert stacks_fact(t.tensor for t in one.targets) == "'l.0.experts.w1' (4 experts) is a stack of expert matrices"
    assert stacks_fact(t.tensor for t in two.targets) == (
        "2 tensors are stacks of expert matrices, such as 'l.0.experts.w1' (4 experts)"
    )
    assert stacks_fact(t.tensor for t in one.targets[1:] if "fc" in t.tensor.name) is None
