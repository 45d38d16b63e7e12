"""`check`: the conditions agree with torch in every container, and findings name the tensors that fail."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import CONTAINERS, SHARED, bits, chosen, examples, make_checkpoint, make_weights
from support.layouts import most_of_four, tensors
from support.small import write

import prunecli
from prunecli.errors import CheckpointError, SelectionError, UsageError
from prunecli.inspection.check import check
from prunecli.inspection.conditions import (
    Finite,
    GroupPattern,
    MaxSparsity,
    MinSparsity,
    NoAllZero,
    OnlyZerosAdded,
    SameStructure,
)
from prunecli.inspection.findings import Finding
from prunecli.layout import TensorLayout

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from support import Weights

    from prunecli.checkpoint import Checkpoint, TensorInfo


def sparse_weights() -> Weights:
    """Return weights of which every second is zero, of either sign."""
    weights = make_weights(3)
    for name in chosen(weights):
        flat = weights[name].reshape(-1)
        flat[::2] = 0.0
        flat[::4] = -0.0
    return weights


def store(folder: Path, **tensors: torch.Tensor) -> Path:
    """Write tensors as safetensors; a double underscore in a name is a dot."""
    return write(folder, {name.replace("__", "."): t for name, t in tensors.items()})


def failed(findings: Sequence[Finding]) -> list[str | None]:
    """Return the tensors that fail."""
    return [finding.tensor for finding in findings if not finding.holds]


def test_an_open_checkpoint_is_checked_without_opening_it_again(tmp_path: Path) -> None:
    """The public function takes a path or an open checkpoint, and gives the same findings."""
    path = store(tmp_path, w__weight=torch.zeros(2, 2))

    findings = prunecli.check(path, [MinSparsity(0.5), NoAllZero()])

    assert [finding.condition for finding in findings] == [MinSparsity(0.5), NoAllZero()]
    assert [finding.holds for finding in findings] == [True, False]
    assert prunecli.check(prunecli.open_checkpoint(path), [MinSparsity(0.5), NoAllZero()]) == findings


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        (MinSparsity(0.5), r"the conditions are a list, not MinSparsity\("),
        ("finite", "the conditions are a list, not 'finite'"),
        (["finite"], "'finite' is no condition"),
        ([None], "None is no condition"),
    ],
)
def test_wrong_conditions_are_one_sentence(tmp_path: Path, conditions: object, message: str) -> None:
    """What is no list of conditions is refused, with a list as the hint."""
    with pytest.raises(UsageError, match=message) as raised:
        check(tmp_path / "m.safetensors", conditions)  # type: ignore[arg-type]

    assert raised.value.hint == "pass a list such as [MinSparsity(0.5), Finite()]"


def test_a_check_needs_a_condition(tmp_path: Path) -> None:
    """Without a condition nothing is checked, which is an error."""
    with pytest.raises(UsageError, match="needs a condition"):
        check(store(tmp_path, w__weight=torch.zeros(2, 2)), [])


# --- zeros


def test_zeros_equal_those_of_torch_in_every_container(container: str, tmp_path: Path) -> None:
    """A bound equal to the sparsity holds as a minimum and as a maximum; a bound beyond it fails."""
    weights = sparse_weights()
    path = make_checkpoint(container, tmp_path, weights)
    names = chosen(weights)
    zeros, numel = sum(int((weights[n] == 0).sum()) for n in names), sum(weights[n].numel() for n in names)

    def holds(fraction: float, *, upper: bool) -> bool:
        (finding,) = check(path, [MaxSparsity(fraction) if upper else MinSparsity(fraction)])
        assert f"({zeros:,} of {numel:,}" in finding.got
        return finding.holds

    assert holds(zeros / numel, upper=False)
    assert holds(zeros / numel, upper=True)
    assert not holds((zeros + len(names) + 1) / numel, upper=False)
    assert not holds((zeros - len(names) - 1) / numel, upper=True)


def test_each_tensor_can_have_its_own_bound(tmp_path: Path) -> None:
    """A bound on each tensor names those that fail, even if all tensors together are within it."""
    path = store(tmp_path, a__weight=torch.zeros(4, 4), b__weight=torch.ones(4, 4))

    (together,) = check(path, [MinSparsity(0.5)])
    each = check(path, [MinSparsity(0.5, each=True)])

    assert together.holds
    assert failed(each) == ["b.weight"]
    assert failed(check(path, [MaxSparsity(0.5, each=True)])) == ["a.weight"]
    assert check(path, [MaxSparsity(1.0, each=True)]) == (
        Finding(MaxSparsity(1.0, each=True), True, None, "each at most 100%", "100.0% (16 of 16) at most, in a.weight"),
    )


def test_a_bound_may_have_a_pattern(tmp_path: Path) -> None:
    """A bound with a pattern is over the matching tensors together; a pattern that matches nothing is an error."""
    path = store(tmp_path, enc__weight=torch.zeros(4, 4), dec__weight=torch.ones(4, 4))

    assert failed(check(path, [MinSparsity(1.0, include="enc.*")])) == []
    assert failed(check(path, [MinSparsity(0.1, include="re:^dec")])) == [None]
    with pytest.raises(SelectionError, match=r"the max sparsity pattern 'encoder\.\*' matches none"):
        check(path, [MaxSparsity(0.1, include="encoder.*")])


def test_the_fnuz_nan_is_no_zero(tmp_path: Path) -> None:
    """The bit pattern of -0.0 is NaN in the fnuz formats: no zero, and not finite."""
    patterns = torch.tensor([[0x80, 0x00, 0x01, 0x7F]], dtype=torch.uint8)
    path = store(tmp_path, w__weight=patterns.view(torch.float8_e4m3fnuz))

    zero, finite = check(path, [MaxSparsity(0.25), Finite()])

    assert zero.got == "25.0% (1 of 4)"
    assert (finite.holds, finite.got) == (False, "1 NaN or infinite, first at [0, 0]")


# --- groups


def test_the_first_overfull_group_is_named(tmp_path: Path) -> None:
    """The finding has the position and the non-zeros of the first overfull group, and the number of such groups."""
    w = torch.zeros(3, 10)
    w[1, 4:7] = 1
    w[2, 8:] = 1
    path = store(tmp_path, w__weight=w)

    (finding,) = check(path, [GroupPattern(2, 4)])
    tail, *_ = check(path, [GroupPattern(1, 4)])

    assert (finding.tensor, finding.got) == ("w.weight", "3 at [1, 4:8]; 1 of 9 groups")
    assert tail.got == "3 at [1, 4:8]; 2 of 9 groups"
    assert failed(check(path, [GroupPattern(3, 4)])) == []
    assert check(path, [GroupPattern(1, 2, dim=0)])[0].holds is True
    assert check(path, [GroupPattern(1, 2, dim=-2)])[0].holds is True


def test_a_checkpoint_pruned_by_topk_conforms(container: str, tmp_path: Path) -> None:
    """A checkpoint pruned with `TopK` meets the same pattern along the same dimension, in every container."""
    from prunecli.api import prune
    from prunecli.strategies.semi_structured import TopK

    path = make_checkpoint(container, tmp_path)
    output = tmp_path / f"out{path.suffix}"
    prune(path, TopK(2, 7, dim=0), output=output, reports=())

    assert failed(check(output, [GroupPattern(2, 7, dim=0)])) == []
    assert failed(check(path, [GroupPattern(2, 7, dim=0)])) != []


def with_layout(path: Path, layout: TensorLayout) -> Checkpoint:
    """Open a checkpoint and give all of its tensors a layout."""
    checkpoint = prunecli.open_checkpoint(path)
    return replace(checkpoint, tensors=tuple(replace(tensor, layout=layout) for tensor in checkpoint.tensors))


@settings(max_examples=examples(60), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tensor=tensors(fewest=2, most=400), density=st.sampled_from([0.2, 0.4, 0.6]), seed=st.integers(0, 99))
def test_groups_run_along_the_inputs(tensor: TensorInfo, density: float, seed: int, tmp_path: Path) -> None:
    """For every layout, 2:4 holds if no group along the inputs of one output has more; too few inputs have no group."""
    w = (np.random.default_rng(seed).random(tensor.shape) < density).astype(np.float32)
    checkpoint = with_layout(store(tmp_path, w__weight=torch.from_numpy(w)), tensor.layout)

    first, *_ = check(checkpoint, [GroupPattern(2, 4)], include=["*"])

    most = most_of_four(w, tensor.layout)
    assert first.holds == (most is not None and most <= 2)
    assert first.got.startswith("n/a: no tensor has 4 inputs") == (most is None)
    if most is not None:
        assert first.wanted == f"at most 2 of every 4 along inputs (dim {tensor.layout.inputs})"
        if most > 2:
            assert first.got.startswith(f"{count_at(w, first.got)} at ")


def count_at(w: NDArray[np.float32], got: str) -> int:
    """Return the non-zeros at the position of a finding: "3 at [1, 4:8]; ..."."""
    places = got.split("[")[1].split("]", maxsplit=1)[0].split(", ")
    index = tuple(slice(*map(int, place.split(":"))) if ":" in place else int(place) for place in places)
    return int(np.count_nonzero(w[index]))


def test_the_text_names_the_dimension_and_its_meaning(tmp_path: Path) -> None:
    """A failure names the dimension and its meaning; a given dimension is named with its meaning as well."""
    path = store(tmp_path, w__weight=torch.ones(8, 8))
    checkpoint = with_layout(path, TensorLayout("matrix", 1, 0))

    texts = [check(checkpoint, [GroupPattern(2, 4, dim)])[0].wanted for dim in (None, 0, 1, -1)]

    inputs, outputs = "along inputs (dim 0)", "along outputs (dim 1)"
    assert texts == [f"at most 2 of every 4 {along}" for along in (inputs, inputs, outputs, outputs)]


def test_a_dimension_shorter_than_a_group_is_neither_met_nor_failed(tmp_path: Path) -> None:
    """Tensors that are shorter than a group are counted; if all are, the condition fails with a sentence."""
    long, short = torch.zeros(5, 8), torch.ones(8, 3)
    path = store(tmp_path, a__weight=long, b__weight=short)

    (both,) = check(path, [GroupPattern(2, 4)])
    (alone,) = check(path, [GroupPattern(2, 4)], include=["b.weight"])
    (given,) = check(path, [GroupPattern(2, 4, dim=1)], include=["b.weight"])

    assert (both.holds, both.got) == (True, "0 of 10 groups have more; n/a to 1 tensor with fewer than 4 inputs")
    assert (alone.holds, alone.tensor, alone.got) == (False, None, "n/a: no tensor has 4 inputs")
    assert (given.holds, given.got) == (False, "n/a: no tensor has 4 weights along dim 1")
    assert check(path, [GroupPattern(2, 4, dim=0)], include=["b.weight"])[0].tensor == "b.weight"


def test_a_pattern_along_inputs_that_nothing_proves_says_so(tmp_path: Path) -> None:
    """Square kernels may be transposed, so the result depends on an assumption; a stated layout is none."""
    kernel = torch.ones(4, 4, 2, 2)
    kernel[:2] = 0  # 2:4 along dim 0 alone
    path = tmp_path / "up.pth"
    torch.save({"up.weight": kernel, "fc.weight": torch.tensor([[0.0, 0, 1, 1]])}, path)

    (assumed,) = check(path, [GroupPattern(2, 4)])
    (stated,) = check(path, [GroupPattern(2, 4)], layout={"up.weight": "in-out"})
    (loose,) = check(path, [GroupPattern(4, 4)])

    assert (assumed.holds, assumed.got.endswith("; the layout is assumed")) == (False, True)
    assert (stated.holds, stated.got) == (True, "0 of 17 groups have more")
    assert loose.got == "0 of 17 groups have more; the layout of up.weight is assumed"


@pytest.mark.parametrize(("keep", "group"), [(5, 4), (-1, 4), (1, 0), (1, 40000)])
def test_an_impossible_group_pattern_is_an_error(keep: int, group: int) -> None:
    """K of every G needs 0 <= K <= G and 1 <= G <= 32,767."""
    with pytest.raises(UsageError, match="is not K of every G"):
        GroupPattern(keep, group)


def test_a_dim_that_a_tensor_lacks_is_an_error(tmp_path: Path) -> None:
    """A pattern along a dimension that a tensor lacks raises SelectionError."""
    path = store(tmp_path, w__weight=torch.ones(4, 4))

    with pytest.raises(SelectionError, match="no dim 2"):
        check(path, [GroupPattern(2, 4, dim=2)])


# --- other conditions on weights


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e5m2])
def test_nonfinite_weights_are_counted_and_located(dtype: torch.dtype, tmp_path: Path) -> None:
    """NaN and infinities of either sign are counted in every dtype, and the first one has its indices."""
    w = torch.ones(3, 4)
    w[1, 2], w[2, 0], w[2, 3] = math.nan, -math.inf, math.inf
    path = store(tmp_path, w__weight=w.to(dtype), v__weight=torch.ones(2, 2))

    (finding,) = check(path, [Finite()])

    assert (finding.tensor, finding.got) == ("w.weight", "3 NaN or infinite, first at [1, 2]")


def test_an_all_zero_tensor_is_named(tmp_path: Path) -> None:
    """NoAllZero fails for zeros of either sign, and holds if one weight is not zero."""
    one = torch.zeros(5, 5)
    one[4, 4] = 1e-45
    path = store(tmp_path, a__weight=-torch.zeros(2, 2), b__weight=one)

    assert failed(check(path, [NoAllZero()])) == ["a.weight"]
    assert failed(check(path, [NoAllZero()], exclude=["a.*"])) == []


# --- comparisons with another checkpoint


@pytest.mark.parametrize("other", sorted(CONTAINERS))
def test_the_structure_is_independent_of_the_container(other: str, tmp_path: Path) -> None:
    """Names, dtypes and shapes are compared across containers; a prefix or a tied name is a difference."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    ours, theirs = make_checkpoint("zip", tmp_path / "a"), make_checkpoint(other, tmp_path / "b")

    findings = check(ours, [SameStructure(theirs), OnlyZerosAdded(theirs)])

    alike = not CONTAINERS[other].prefix and not CONTAINERS[other].tied
    assert all(finding.holds for finding in findings) == alike


def test_every_difference_in_structure_is_named(tmp_path: Path) -> None:
    """A missing tensor, another dtype, another shape and an extra tensor are one finding each."""
    (tmp_path / "b").mkdir()
    ours = store(tmp_path, a=torch.ones(2, 3), b=torch.ones(2, dtype=torch.float16), new=torch.ones(1))
    theirs = store(tmp_path / "b", a=torch.ones(3, 2), b=torch.ones(2), old=torch.ones(()))

    findings = check(ours, [SameStructure(theirs)])

    assert [(f.tensor, f.wanted, f.got) for f in findings] == [
        ("a", "F32 3x2", "F32 2x3"),
        ("b", "F32 2", "F16 2"),
        ("old", "F32 scalar", "none"),
        ("new", "none", "F32 1"),
    ]
    assert failed(check(ours, [OnlyZerosAdded(theirs)])) == ["a", "b", "old", "new"]


@given(data=st.data())
@settings(max_examples=examples(60))
def test_one_changed_bit_is_found(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Every changed bit fails with its position, also in NaN or a sign, unless the value is zero now."""
    folder = tmp_path_factory.mktemp("bit")
    (folder / "old").mkdir()
    w = torch.randn(4, 5, generator=torch.Generator().manual_seed(data.draw(st.integers(0, 9)))).clamp(min=0)
    changed = w.clone()
    row, col = data.draw(st.integers(0, 3)), data.draw(st.integers(0, 4))
    bits(changed)[row, col] ^= data.draw(st.sampled_from([1 << n for n in range(31)] + [-(1 << 31)]))
    new, old = store(folder, w=changed), store(folder / "old", w=w)

    (finding,) = check(new, [OnlyZerosAdded(old)])

    assert finding.holds == (float(changed[row, col]) == 0)
    if not finding.holds:
        assert finding.got == f"1 of 20 changed otherwise, first at [{row}, {col}]"


def test_patterns_narrow_the_comparison(tmp_path: Path) -> None:
    """`exclude` leaves a tensor out of the comparison; leaving out all tensors is an error."""
    (tmp_path / "b").mkdir()
    ours = store(tmp_path, a=torch.ones(2), b=torch.ones(2))
    theirs = store(tmp_path / "b", a=torch.ones(2), b=torch.ones(3))

    assert failed(check(ours, [SameStructure(theirs)], exclude=["b"])) == []
    with pytest.raises(CheckpointError, match="no tensor to compare"):
        check(ours, [SameStructure(theirs)], exclude=["*"])


# --- real checkpoints


@pytest.mark.skipif(not (SHARED / "checkpoints").is_dir(), reason="the shared checkpoints are not here")
def test_a_checkpoint_that_torch_pruned_and_retrained_is_half_zero() -> None:
    """AaronNet32plus, pruned by torch.nn.utils.prune, has 6,491 zeros in 13,302 weights."""
    path = SHARED / "checkpoints" / "AaronNet32plus.pth"
    loaded = torch.load(path, map_location="cpu", weights_only=True)
    names = [n for n, t in loaded.items() if "weight" in n and t.dim() > 1 and t.is_floating_point()]
    zeros = sum(int((loaded[n] == 0).sum()) for n in names)

    (finding,) = check(path, [MinSparsity(0.45)], include=names)

    assert zeros == 6491
    assert finding == Finding(MinSparsity(0.45), True, None, "at least 45%", "48.8% (6,491 of 13,302)")


def test_groups_of_codes_are_counted(tmp_path: Path) -> None:
    """The pattern of weights that are codes with a scale is that of the codes."""
    codes = torch.tensor([1.0, 0, 0, 2.0]).repeat(128, 32).to(torch.float8_e4m3fn)
    path = write(tmp_path, {"mlp.up_proj.weight": codes, "mlp.up_proj.weight_scale_inv": torch.ones(1, 1)})
    (half,), (quarter,) = check(path, [GroupPattern(2, 4)]), check(path, [GroupPattern(1, 4)])

    assert (half.holds, quarter.holds) == (True, False)
