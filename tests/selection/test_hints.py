"""The hints of a selection that selects nothing: they propose weights, and nothing that would ruin the model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import examples
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm

from prunecli import L1, PruneError, SelectionError, bake, prune_state_dict
from prunecli import prune as zero
from prunecli.checkpoint import Checkpoint, CheckpointFile, Span, TensorInfo, row_major
from prunecli.errors import Argument, Call
from prunecli.layouts.decide import with_layouts
from prunecli.selection.select import Selector, select

if TYPE_CHECKING:
    from collections.abc import Callable

OTHERS = (
    "scales",
    "qzeros",
    "weight_scale",
    "data_mean",
    "stddev",
    "running_var",
    "element_refs",
    "absmax",
    "quant_map",
)
OTHERS += ("g_idx", "bias", "original0", "zero_point", "weight_zero_point", "mean", "std", "_u", "bias_g")


def hint(*tensors: tuple[str, tuple[int, ...], str], **rules: object) -> str:
    """Return the hint of the error for a selection among tensors, given as name, shape and dtype."""
    infos = tuple(
        TensorInfo(name, dtype, shape, row_major(shape), 0, Span(1000 * i, 1000))
        for i, (name, shape, dtype) in enumerate(tensors)
    )
    with pytest.raises(SelectionError) as caught:
        select(
            with_layouts(Checkpoint(Path("a.pth"), "zip", (CheckpointFile(Path("a.pth"), 0),), infos)),
            Selector(**rules),
        )  # type: ignore[arg-type]
    return str(caught.value.hint)


def floats(*names: str) -> list[tuple[str, tuple[int, ...], str]]:
    """Return a float matrix of each name."""
    return [(name, (4, 6), "F32") for name in names]


@pytest.mark.parametrize(
    ("names", "globs"),
    [
        (["a.matrix", "b.matrix", "a.mean"], ["*.matrix"]),
        (["rnn.W_ih", "rnn.W_hh", "rnn.b"], ["*W_*"]),
        (["rnn.W_ih", "rnn.W_hh", "rnn.W_scale"], ["*.W_ih", "*.W_hh"]),
        (["a.q_kernel", "a.k_kernel"], ["*_kernel"]),
        (["kernel", "mean"], ["kernel"]),
        (["q.lora_A", "q.lora_B"], ["*lora_*"]),
        (["a.w[0]", "a.absmax"], ["*.w[[]0]"]),
        (["a.x\u202e", "a.y"], ["*.y"]),
    ],
)
def test_globs_cover_matrices_of_other_names(names: list[str], globs: list[str]) -> None:
    """Where no name is a weight's, the hint is a glob over the last part that matrices have in common."""
    assert hint(*floats(*names)) == f"choose by name, for instance include={globs!r}"


@settings(max_examples=examples(200))
@given(
    st.lists(
        st.tuples(
            st.sampled_from(OTHERS), st.sampled_from([(4, 6), (4,), (2, 2, 2)]), st.sampled_from(["F32", "I32", "F16"])
        ),
        min_size=1,
    )
)
def test_no_hint_has_a_pattern_of_other_tensors(made: list[tuple[str, tuple[int, ...], str]]) -> None:
    """Scales, zero points, biases, statistics and parts of weights are never proposed."""
    assert "include" not in hint(*((f"m{i}.{name}", shape, dtype) for i, (name, shape, dtype) in enumerate(made)))


@pytest.mark.parametrize("pattern", ["*.weights", "xyz"])
def test_a_pattern_without_a_match_does_not_propose_scales(pattern: str) -> None:
    """The nearest names of an include pattern are those of weights."""
    proposed = hint(*floats("a.scales", "a.wheel"), include=(pattern,))

    assert "scales" not in proposed
    assert "`a.wheel`" in proposed


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ({"min_numel": 100}, "min_numel=24"),
        ({"min_dim": 3}, "min_dim=2"),
        ({"exclude": ("a*", "*x*")}, "leave out exclude=['a*', '*x*']"),
    ],
)
def test_a_request_that_leaves_out_all_weights_is_corrected(rules: dict[str, object], expected: str) -> None:
    """The hint is the argument that left out the weights."""
    assert hint(*floats("a.weight", "ax.weight"), ("n", (3,), "F32"), **rules) == expected


def test_packed_weights_are_pruned_before_quantization() -> None:
    """Where most bytes are integer matrices, the hint is to prune the model from before."""
    packed = [("q.qweight", (40, 32), "I32"), ("q.scales", (1, 32), "F16"), ("q.other", (2, 2), "F32")]

    assert hint(*packed) == "prune the model from before quantization, then quantize it again"


def test_an_include_pattern_of_integers_proposes_no_scales() -> None:
    """A pattern that matches only integers has no hint to prune scales."""
    assert (
        hint(("q.qweight", (4, 4), "I32"), ("q.scales", (4, 4), "F16"), include=("*qweight",))
        == "prunecli.inspect('a.pth')"
    )


@pytest.mark.parametrize("pattern", ["bn*", "*bias", "bn.weight*", "*"])
def test_a_pattern_of_gains_and_biases_proposes_weights(pattern: str) -> None:
    """With all vectors that match, statistics, gains and biases would be pruned."""
    vectors = [(f"bn.{name}", (4,), "F32") for name in ("weight", "bias", "running_mean")]
    fewer = {"min_numel": 99} if pattern == "*" else {}

    assert "min_dim" not in hint(*vectors, *floats("fc.weight"), include=[pattern], **fewer)
    assert hint(("mixing", (4,), "F32"), *floats("fc.weight"), include=["mix*"]) == "min_dim=1 takes vectors as well"


def test_a_bare_vector_is_named() -> None:
    """A vector that is saved alone is what the user wants to prune."""
    assert hint(("tensor", (9,), "F32")) == "min_dim=1 takes vectors as well"
    assert hint(("fc.bias", (9,), "F32")) == "prunecli.inspect('a.pth')"


# --- files of torch


def test_an_optimizer_is_not_counted_as_weights(tmp_path: Path) -> None:
    """The moments of Adam, saved next to the weights in a tuple, are no weights that are left out for their names."""
    model = nn.Linear(8, 8)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.rand(1, 8)).sum().backward()
    optimizer.step()
    torch.save((model.state_dict(), optimizer.state_dict()), tmp_path / "a.pth")

    assert not zero(tmp_path / "a.pth", L1(amount=0.5), dry_run=True).warnings


@pytest.mark.filterwarnings("ignore:.*quantize_per_tensor")
def test_a_module_of_quantized_parts_is_pruned_before_quantization(tmp_path: Path) -> None:
    """The packed parameters of torch's quantized modules have names that are no weights'."""
    packed = torch.quantize_per_tensor(torch.rand(4, 4), 0.1, 0, torch.qint8)
    torch.save(
        {"fc._packed_params._packed_params": (packed, torch.rand(4)), "fc.scale": torch.ones(())}, tmp_path / "a"
    )

    with pytest.raises(SelectionError) as caught:
        zero(tmp_path / "a", L1(amount=0.5))

    assert caught.value.hint == "prune the model from before quantization, then quantize it again"


def masked() -> dict[str, torch.Tensor]:
    """Return the state_dict of a layer under torch.nn.utils.prune and a plain one."""
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    prune.l1_unstructured(model[0], "weight", 0.5)
    state: dict[str, torch.Tensor] = model.state_dict()
    return state


def test_tensors_in_memory_are_no_file() -> None:
    """A hint about a state_dict in memory names no file."""
    half = {name: tensor for name, tensor in masked().items() if name.startswith("0.")}

    with pytest.raises(SelectionError) as caught:
        prune_state_dict(half, L1(amount=0.5))
    assert str(caught.value.hint).startswith("call torch.nn.utils.prune.remove(module, 'weight')")
    with pytest.raises(SelectionError) as caught:
        prune_state_dict({"fc.bias": torch.ones(3)}, L1(amount=0.5))
    assert caught.value.hint == "list(state_dict) has the names of all tensors"


@pytest.mark.parametrize("keys", [(), ("G", "D")])
def test_weights_with_masks_next_to_plain_ones_are_warned_about(keys: tuple[str, ...], tmp_path: Path) -> None:
    """The hint folds the weights in the same state_dicts, and then they are plain weights."""
    torch.save({key: masked() for key in keys} or masked(), tmp_path / "a.pth")

    warning, *_ = zero(tmp_path / "a.pth", L1(amount=0.5), dry_run=True).warnings

    assert "under torch.nn.utils.prune" in str(warning)
    expected = Call("bake", (str(tmp_path / "a.pth"),), (Argument("key", [*keys]),) if keys else ())
    assert warning.hint_parts == expected
    bake(tmp_path / "a.pth", tmp_path / "b.pth", key=keys)
    folded = zero(tmp_path / "b.pth", L1(amount=0.5), dry_run=True)
    assert not any("under torch.nn.utils.prune" in warning for warning in folded.warnings)
    assert {row.name.rpartition(".")[2] for row in folded.rows} == {"weight", "bias"}


def old_weight_norm(module: nn.Module) -> nn.Module:
    """Return a module under the weight_norm of torch before 2.0."""
    with pytest.warns(FutureWarning):
        return nn.utils.weight_norm(module)


@pytest.mark.parametrize(
    ("wrap", "call"),
    [
        (old_weight_norm, "torch.nn.utils.remove_weight_norm(module)"),
        (parametrizations.weight_norm, "torch.nn.utils.parametrize.remove_parametrizations(module, 'weight')"),
        (spectral_norm, "torch.nn.utils.remove_spectral_norm(module)"),
        (parametrizations.spectral_norm, "torch.nn.utils.parametrize.remove_parametrizations(module, 'weight')"),
        (parametrizations.orthogonal, "torch.nn.utils.parametrize.remove_parametrizations(module, 'weight')"),
    ],
)
def test_a_reparametrised_model_gets_the_call_that_folds_it(
    wrap: Callable[[nn.Module], nn.Module], call: str, tmp_path: Path
) -> None:
    """The hint is the call of torch, and the folded model is pruned."""
    model = wrap(nn.Linear(8, 8))
    torch.save(model.state_dict(), tmp_path / "a.pth")

    with pytest.raises(SelectionError) as caught:
        zero(tmp_path / "a.pth", L1(amount=0.5), dry_run=True)

    assert caught.value.hint == f"where the model is made, call {call} for each such module, then save again"
    eval(call, {"torch": torch, "module": model})  # noqa: S307 - the call that the hint proposes
    torch.save(model.state_dict(), tmp_path / "b.pth")
    assert zero(tmp_path / "b.pth", L1(amount=0.5), dry_run=True).selected.pruned == 32


def test_a_mostly_reparametrised_model_is_warned_about(tmp_path: Path) -> None:
    """A run that selects less than it leaves out under weight_norm has a warning with the call."""
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(8, 8)), nn.Linear(8, 2))
    torch.save(model.state_dict(), tmp_path / "a.pth")

    warning, *_ = zero(tmp_path / "a.pth", L1(amount=0.5), dry_run=True).warnings

    assert "more weights are left out for their names (72) than selected (16)" in str(warning)
    assert warning.hint_parts is not None
    assert "remove_parametrizations(module, 'weight')" in str(warning.hint_parts)


@pytest.mark.parametrize("old_format", [False, True])
def test_a_pruned_module_is_folded_where_it_is_made(old_format: bool, tmp_path: Path) -> None:  # noqa: FBT001
    """The hint for a whole module with masks is prune.remove, and bake gives the same hint."""
    model = nn.Sequential(nn.Linear(8, 8))
    prune.l1_unstructured(model[0], "weight", 0.5)
    path = tmp_path / "a.pth"
    torch.save(model, path, _use_new_zipfile_serialization=not old_format)

    for command in (lambda: zero(path, L1(amount=0.5), dry_run=True), lambda: bake(path)):
        with pytest.raises(PruneError) as caught:
            command()
        assert "torch.nn.utils.prune.remove(module, 'weight')" in str(caught.value.hint)
    torch.save(model.state_dict(), path)
    with pytest.raises(SelectionError) as caught:
        zero(path, L1(amount=0.5), dry_run=True)
    assert caught.value.hint == f"prunecli.bake({str(path)!r})"
