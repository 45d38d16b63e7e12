"""The choice of tensors: the default rule, patterns, ties and overlaps."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from prunecli.checkpoint import OUTSIDE, Checkpoint, CheckpointFile, Span, TensorInfo, row_major
from prunecli.errors import SelectionError
from prunecli.layouts.decide import with_layouts
from prunecli.selection import aliases
from prunecli.selection import select as selection_module
from prunecli.selection.select import Selection, Selector, select

if TYPE_CHECKING:
    from types import FrameType


def tensor(  # noqa: PLR0913  - a test names only the values that matter to it
    name: str,
    shape: tuple[int, ...] = (4, 6),
    *,
    dtype: str = "F32",
    start: int | None = None,
    strides: tuple[int, ...] | None = None,
    offset: int = 0,
    storage: int = 10_000,
    file: int = 0,
    unprunable_reason: str | None = None,
) -> TensorInfo:
    """Make a tensor; without `start` it gets a storage of its own, at a position computed from its name."""
    place = (1 + int.from_bytes(name.encode(), "big")) * 10_000 if start is None else start
    steps = row_major(shape) if strides is None else strides
    return TensorInfo(
        name, dtype, shape, steps, file, Span(place, storage), offset, unprunable_reason=unprunable_reason
    )


def chosen(*tensors: TensorInfo, **rules: object) -> Selection:
    """Select among `tensors` by Selector(**rules)."""
    files = (CheckpointFile(Path("a.pth"), 0), CheckpointFile(Path("b.pth"), 0))
    checkpoint = with_layouts(Checkpoint(Path("a.pth"), "zip", files, tensors))
    return select(checkpoint, Selector(**rules))  # type: ignore[arg-type]


def names(selection: Selection) -> list[str]:
    """Return the names of the targets in order."""
    return [target.tensor.name for target in selection.targets]


def reasons(selection: Selection) -> dict[str, str]:
    """Map each skipped name to its reason."""
    return {skip.tensor.name: skip.reason for skip in selection.skipped}


# --- the default rule


@pytest.mark.parametrize(
    "name",
    [
        "weight",
        "conv1.weight",
        "lstm.weight_ih_l0",
        "lstm.weight_hh_l0_reverse",
        "cell.weight_hh",
        "attn.in_proj_weight",
        "o_lstm._token_embedder._char_embedding_weights",
    ],
)
def test_default_selects_weight_words(name: str) -> None:
    """A matrix whose last name part has `weight` or `weights` as a word is selected."""
    assert names(chosen(tensor(name))) == [name]


@pytest.mark.parametrize(
    ("other", "why"),
    [
        (tensor("fc.bias"), "not a weight by name"),
        (tensor("weight.table"), "not a weight by name"),
        (tensor("fc.preweight"), "not a weight by name"),
        (tensor("fc.weight_mask"), "mask"),
        (tensor("fc.weight_orig"), "fold it first"),
        (tensor("fc.weight_g"), "weight_norm"),
        (tensor("fc.weight_u"), "spectral_norm"),
        (tensor("fc.weight_v"), "weight_norm"),
        (tensor("fc.weight_scale"), "scale"),
        (tensor("fc.weight_scale_inv"), "scale"),
        (tensor("fc.weight_zero_point"), "zero point"),
        (tensor("fc.parametrizations.weight.original0"), "parametrization"),
        (tensor("fc.parametrizations.weight.original"), "parametrization"),
        (tensor("b.weight", (4,)), "fewer than 2 dimensions"),
        (tensor("b.weight", dtype="I64"), "I64 holds integers, not weights"),
        (tensor("b.weight", dtype="BOOL"), "BOOL holds booleans, not weights"),
        (tensor("b.weight", dtype="F4"), "F4 holds packed"),
        (tensor("b.weight", (0, 6)), "empty"),
        (tensor("b.weight", unprunable_reason="it is quantized"), "it is quantized"),
        (tensor("b.weight", (4, 6), strides=(0, 1)), "expanded"),
        (tensor("b.weight", (3, 3), strides=(1, 1)), "expanded"),
    ],
    ids=lambda value: value.name if isinstance(value, TensorInfo) else value,
)
def test_default_skips_other_tensors_with_a_reason(other: TensorInfo, why: str) -> None:
    """Biases, parts of reparametrised weights, scales, vectors, integers, empty and expanded tensors are skipped."""
    selection = chosen(tensor("a.weight"), other)

    assert names(selection) == ["a.weight"]
    assert why in reasons(selection)[other.name]


def test_the_reason_names_the_reparametrisation() -> None:
    """weight_orig with weight_mask is of torch.nn.utils.prune, with weight_u of spectral_norm."""
    pruned = chosen(tensor("a.weight"), tensor("fc.weight_orig"), tensor("fc.weight_mask"))
    spectral = chosen(tensor("a.weight"), tensor("fc.weight_orig"), tensor("fc.weight_u", (4,)))

    assert "torch.nn.utils.prune" in reasons(pruned)["fc.weight_orig"]
    assert "torch.nn.utils.prune" in reasons(pruned)["fc.weight_mask"]
    assert "spectral_norm" in reasons(spectral)["fc.weight_orig"]


def test_selection_keeps_checkpoint_order() -> None:
    """Targets and skipped tensors are in checkpoint order."""
    selection = chosen(
        *(tensor(n, (4, 6)[: 2 - n.count("bias")]) for n in ("z.weight", "z.bias", "a.weight", "a.bias"))
    )

    assert names(selection) == ["z.weight", "a.weight"]
    assert list(reasons(selection)) == ["z.bias", "a.bias"]


def test_min_numel_skips_small_tensors() -> None:
    """A tensor with fewer elements than min_numel is skipped; one with exactly as many is selected."""
    selection = chosen(tensor("a.weight", (4, 6)), tensor("b.weight", (4, 5)), min_numel=24)

    assert names(selection) == ["a.weight"]
    assert reasons(selection) == {"b.weight": "fewer than 24 weights"}


# --- patterns


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("enc*", ["enc.0.weight", "enc.0.bias"]),
        ("*.bias", ["enc.0.bias", "dec.bias"]),
        ("dec.bia?", ["dec.bias"]),
        ("[d]ec.*", ["dec.bias"]),
        ("re:^enc.*weight$", ["enc.0.weight"]),
        (r"re:\d", ["enc.0.weight", "enc.0.bias"]),
    ],
)
def test_include_replaces_the_name_rule(pattern: str, expected: list[str]) -> None:
    """An include pattern replaces the rule on names, and matches dots."""
    tensors = (tensor("enc.0.weight"), tensor("enc.0.bias", (4,)), tensor("dec.bias", (4,)))

    assert names(chosen(*tensors, include=(pattern,), min_dim=1)) == expected


def test_include_takes_vectors_that_it_names_in_full() -> None:
    """A pattern that matches a vector among others skips it; its full name, or the glob for this name, selects it."""
    tensors = (tensor("enc.0.weight"), tensor("enc.0.bias", (4,)), tensor("h[0].bias", (4,)))

    assert names(chosen(*tensors, include=("enc*",))) == ["enc.0.weight"]
    assert names(chosen(*tensors, include=("enc*", "enc.0.bias"))) == ["enc.0.weight", "enc.0.bias"]
    assert names(chosen(*tensors, include=("h[[]0].bias",))) == ["h[0].bias"]
    with pytest.raises(SelectionError, match="fewer than 2 dimensions"):
        chosen(*tensors, include=("*.bias",))


def test_glob_matches_the_whole_name_and_case() -> None:
    """A glob is not a substring search, and it is case-sensitive."""
    with pytest.raises(SelectionError, match="matches none of 1 tensors"):
        chosen(tensor("fc.weight"), include=("weight",))
    with pytest.raises(SelectionError, match="matches none of 1 tensors"):
        chosen(tensor("fc.weight"), include=("FC.*",))


def test_include_selects_parts_of_reparametrised_weights() -> None:
    """A part of a reparametrised weight is pruned if a pattern names it."""
    assert names(chosen(tensor("fc.weight_orig"), include=("fc.weight_orig",))) == ["fc.weight_orig"]


def test_min_dim_holds_under_include() -> None:
    """An explicit min_dim applies to included tensors too."""
    tensors = (tensor("fc.weight"), tensor("fc.bias", (4,)))

    assert names(chosen(*tensors, include=("*",), min_dim=2)) == ["fc.weight"]


def test_exclude_beats_include() -> None:
    """A tensor that both patterns match is excluded, and the reason has the pattern. A name matches itself."""
    tensors = (tensor("a.weight"), tensor("b.weight"), tensor("w[0].weight"))

    selection = chosen(*tensors, include=("*",), exclude=("b*", "w[0].weight"))

    assert names(selection) == ["a.weight"]
    assert reasons(selection) == {"b.weight": "excluded by 'b*'", "w[0].weight": "excluded by 'w[0].weight'"}


@pytest.mark.parametrize("rules", [{"include": ("conv9.weight",)}, {"exclude": ("re:conv9",)}])
def test_pattern_that_matches_nothing_names_the_nearest(rules: dict[str, object]) -> None:
    """A pattern without a match is an error, for exclude as for include; the hint has near names."""
    with pytest.raises(SelectionError, match="matches none of 2 tensors") as caught:
        chosen(tensor("conv1.weight"), tensor("fc.bias"), **rules)

    assert "`conv1.weight`" in str(caught.value.hint)


def test_bad_regular_expression_is_located() -> None:
    """The error for an invalid regular expression has the position."""
    with pytest.raises(SelectionError, match="unterminated character set at position 1 after"):
        chosen(tensor("a.weight"), include=("re:a[b",))


@pytest.mark.parametrize(
    "other", [tensor("n", dtype="I64"), tensor("n", unprunable_reason="it is sparse"), tensor("n", (0,))]
)
def test_include_of_only_unprunable_tensors_says_why(other: TensorInfo) -> None:
    """A pattern cannot select tensors that cannot be pruned: matching only such tensors is an error."""
    with pytest.raises(SelectionError, match=r"cannot be pruned: `n` \((I64 holds|it is sparse|it is empty)"):
        chosen(tensor("a.weight"), other, include=("*weight", "n"))


def test_include_ignores_unprunable_tensors_among_others() -> None:
    """A pattern that also matches integers prunes the floating-point ones."""
    selection = chosen(tensor("bn.weight"), tensor("bn.num", (), dtype="I64"), include=("bn.*",))

    assert names(selection) == ["bn.weight"]


def test_empty_selection_counts_the_reasons() -> None:
    """The error for an empty selection counts the reasons and proposes to leave out the pattern that excludes all."""
    with pytest.raises(SelectionError, match=r"all 3 are skipped \(2 x not a weight by name; 1 x excluded") as caught:
        chosen(tensor("a.weight"), tensor("b.bias"), tensor("c.bias"), exclude=("a*",))

    assert caught.value.hint == "leave out exclude=['a*']"


def test_no_tensors_is_an_error() -> None:
    """A checkpoint without tensors cannot be pruned."""
    with pytest.raises(SelectionError, match="the checkpoint holds none"):
        chosen()


def test_names_in_errors_are_escaped() -> None:
    """A terminal command in a name is escaped."""
    with pytest.raises(SelectionError) as caught:
        chosen(tensor("a\x1b[31m.weight"), include=("b",))

    assert "\x1b" not in f"{caught.value}{caught.value.hint}"
    assert r"a\x1b[31m.weight" in str(caught.value.hint)


# --- tied tensors


@pytest.mark.parametrize(
    ("shape", "strides"), [((4, 6), (6, 1)), ((6, 4), (1, 6)), ((4, 1, 6), (6, 99, 1)), ((24,), (1,))]
)
def test_same_elements_are_tied(shape: tuple[int, ...], strides: tuple[int, ...]) -> None:
    """Equal, transposed and reshaped views of the same elements make one target with aliases."""
    head = tensor("head.weight", shape, strides=strides, start=0)

    (target,) = chosen(tensor("emb.weight", start=0), head).targets

    assert (target.tensor.name, target.aliases) == ("emb.weight", ("head.weight",))


def test_alias_outside_the_rule_is_listed_once() -> None:
    """A tied tensor that the rule does not choose is an alias, not a skipped tensor."""
    selection = chosen(tensor("table", start=0), tensor("emb.weight", start=0))

    assert names(selection) == ["emb.weight"]
    assert selection.targets[0].aliases == ("table",)
    assert selection.skipped == ()


def test_skipped_tied_tensors_name_the_first_of_them() -> None:
    """Each skipped name of a tied tensor has an entry, and all but the first, of the state_dict if any, name it."""
    first = tensor("moment", start=0, unprunable_reason=OUTSIDE)
    rest = tensor("emb.table", start=0), tensor("head.bias", start=0, shape=(24,), strides=(1,))

    selection = chosen(tensor("a.weight"), first, *rest, tensor("b.bias", start=500))

    tied = {skipped.tensor.name: skipped.tied_to for skipped in selection.skipped}
    assert tied == {"moment": "emb.table", "emb.table": None, "head.bias": "emb.table", "b.bias": None}


@pytest.mark.parametrize(
    ("alias", "why"),
    [
        (tensor("head.weight", start=0), "tied to head.weight, which is excluded"),
        (tensor("x", start=0, unprunable_reason="it is pinned"), "tied to x, which cannot be pruned: it is pinned"),
    ],
)
def test_one_alias_protects_the_tied_tensor(alias: TensorInfo, why: str) -> None:
    """An alias that is excluded or cannot be pruned protects the whole tensor, and the reason names the alias."""
    selection = chosen(tensor("a.weight"), tensor("emb.weight", start=0), alias, tensor("head"), exclude=("head*",))

    assert names(selection) == ["a.weight"]
    assert reasons(selection)["emb.weight"] == why


@pytest.mark.parametrize(
    "other",
    [
        tensor("b.weight", start=0, file=1),
        tensor("b.weight", start=96),
        tensor("b.weight", start=0, offset=24),
    ],
)
def test_neighbours_are_not_tied(other: TensorInfo) -> None:
    """Another file, the next storage and the next elements of one storage are different tensors."""
    assert names(chosen(tensor("a.weight", start=0), other)) == ["a.weight", "b.weight"]


# --- overlaps


@pytest.mark.parametrize(
    "other",
    [
        tensor("b.bias", (2, 6), start=0, offset=6),
        tensor("b.weight", (4, 6), start=0, offset=1),
        tensor("b.weight", (4, 6), start=0, dtype="F16"),
        tensor("b.bias", (2,), start=0, offset=23),
        tensor("b.bias", (4, 3), strides=(6, 1), start=0),
    ],
)
def test_partly_overlapping_views_are_refused(other: TensorInfo) -> None:
    """A target that shares some elements with another tensor, selected or not, is an error that names both."""
    with pytest.raises(SelectionError, match=r"`a.weight` and `b\.\w+`") as caught:
        chosen(tensor("a.weight", start=0), other)

    assert "exclude=['a.weight'" in str(caught.value.hint)


def test_overlap_with_a_longer_tensor_is_found() -> None:
    """An overlap is found if other tensors begin between the two."""
    small = [tensor(f"x{i}", (2,), start=0, offset=2 * i) for i in range(3)]

    with pytest.raises(SelectionError, match=r"`table` and `a\.weight`"):
        chosen(tensor("table", start=0), *small, tensor("a.weight", (2, 3), start=0, offset=12))


def test_overlap_of_skipped_tensors_is_no_error() -> None:
    """Overlapping views may be skipped."""
    views = (tensor("x", start=0), tensor("y", start=0, offset=3))

    assert names(chosen(tensor("a.weight"), *views)) == ["a.weight"]


@pytest.mark.parametrize(("shape", "row"), [((8, 5), 10), ((8, 5, 3, 3), 90), ((5, 8), 10)])
def test_column_slices_do_not_overlap(shape: tuple[int, ...], row: int) -> None:
    """base[:, :5] and base[:, 5:] interleave in the file and are both pruned."""
    strides = (1, row) if shape[0] == 5 else (row, *row_major(shape)[1:])
    left = tensor("left.weight", shape, strides=strides, start=0)
    right = tensor("right.weight", shape, strides=strides, start=0, offset=row // 2)

    assert names(chosen(left, right)) == ["left.weight", "right.weight"]


def test_overlapping_columns_are_refused() -> None:
    """base[:, :6] and base[:, 5:] share a column."""
    left = tensor("left.weight", (8, 6), strides=(10, 1), start=0)
    right = tensor("right.weight", (8, 5), strides=(10, 1), start=0, offset=5)

    with pytest.raises(SelectionError, match=r"`left.weight` and `right.weight`"):
        chosen(left, right)


def lines_run(n: int) -> int:
    """Return how many lines of the selection are executed for `n` interleaved columns of one matrix."""
    tensors = [tensor(f"{i}.weight", (2, 1), strides=(n, 1), start=0, offset=i, storage=8 * n) for i in range(n)]
    files, count = {aliases.__file__, selection_module.__file__}, 0

    def trace(frame: FrameType, event: str, _: object) -> object:
        nonlocal count
        count += event == "line"
        return trace if frame.f_code.co_filename in files else None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        selection = chosen(*tensors)
    finally:
        sys.settrace(before)
    assert len(selection.targets) == n
    return count


def test_the_work_grows_with_the_number_of_tensors() -> None:
    """Four times as many interleaved tensors take about four times as many steps, not sixteen."""
    assert lines_run(400) < 5 * lines_run(100)
