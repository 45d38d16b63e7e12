"""Pruning a state_dict in memory gives the result of pruning the same state_dict in a file, in place."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support import (
    STRATEGIES,
    Net,
    bits,
    chosen,
    different,
    expected,
    make_weights,
    pruned_weights,
    same_bits,
    zeroed,
)
from support.containers import one_storage, sliced, transposed
from support.pruning import check_memory_and_file
from support.weights import TORCH_FLOATS, contiguous_copies
from torch import nn

from prunecli.api import prune, prune_state_dict
from prunecli.io.memory import Region
from prunecli.report.json import to_json
from prunecli.selection.select import Selector
from prunecli.strategies.recipe import Recipe, Rule
from prunecli.strategies.semi_structured import TopK
from prunecli.strategies.structured import Structured
from prunecli.strategies.unstructured import L1, Global

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor, UntypedStorage

LAYOUTS: dict[str, Callable[[dict[str, Tensor]], dict[str, Tensor]]] = {
    "plain": dict,
    "transposed": transposed,
    "sliced": sliced,
    "one-storage": one_storage,
    "parameters": lambda w: {n: nn.Parameter(t) if t.is_floating_point() else t for n, t in w.items()},
    "from-numpy": lambda w: {n: torch.from_numpy(t.numpy().copy()) for n, t in w.items()},
}


# --- the right weights


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_strategy_zeroes_the_expected_weights_in_memory(layout: str, strategy: str) -> None:
    """For every memory layout, the expected weights become +0.0 and all other bits stay."""
    weights = make_weights()
    live = LAYOUTS[layout](contiguous_copies(weights))

    report = prune_state_dict(live, STRATEGIES[strategy])

    wanted = pruned_weights(STRATEGIES[strategy], weights)
    assert different(wanted, live) == []
    assert report.selected.pruned == sum(int((bits(wanted[n]) == 0).sum()) for n in chosen(weights))


@pytest.mark.parametrize("dtype", TORCH_FLOATS.values(), ids=str)
def test_memory_and_file_agree_in_every_dtype(dtype: torch.dtype, strategy: str, tmp_path: Path) -> None:
    """Memory and file agree bit for bit and row for row, in every float dtype."""
    check_memory_and_file(make_weights(dtype=dtype), STRATEGIES[strategy], tmp_path)


@given(
    st.lists(st.integers(0, 255), min_size=24, max_size=24),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float8_e4m3fn]),
    st.integers(0, 100),
)
def test_ties_are_broken_by_the_order_of_the_dict(raw: list[int], dtype: torch.dtype, percent: int) -> None:
    """With few distinct values the count is exact, and of equal weights the earlier name is pruned first."""
    values = (torch.tensor(raw, dtype=torch.float32) % 5 - 2).to(dtype)
    live = {"b.weight": values[:12].reshape(3, 4).clone(), "a.weight": values[12:].reshape(4, 3).clone()}
    before = contiguous_copies(live)

    prune_state_dict(live, Global(amount=percent / 100))

    keeps = expected(Global(amount=percent / 100), list(before.values()))
    assert all(same_bits(zeroed(before[n], keep), live[n]) for n, keep in zip(live, keeps, strict=True))


def test_large_tensors_are_pruned_in_many_windows() -> None:
    """A tensor of several megabytes and an odd size, pruned by threads, has the result of torch's sort."""
    weight = torch.randn(1_031, 2_003, generator=torch.Generator().manual_seed(0))
    live = {"weight": weight.clone()}

    prune_state_dict(live, L1(amount=0.37), threads=4)

    (keep,) = expected(L1(amount=0.37), [weight])
    assert same_bits(zeroed(weight, keep), live["weight"])


def test_torch_kernels_give_the_same_bits(monkeypatch: pytest.MonkeyPatch, strategy: str) -> None:
    """Torch's kernels, which run on devices, give the same bits."""
    monkeypatch.setattr("prunecli.api.resolve", lambda _: "cpu")
    weights = make_weights()
    live = contiguous_copies(weights)

    prune_state_dict(live, STRATEGIES[strategy], device="cuda")

    assert different(pruned_weights(STRATEGIES[strategy], weights), live) == []


def test_bytes_copied_from_a_device_are_copied_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies by `Tensor.copy_`, which device tensors need, give the same bits on the CPU."""
    weights = make_weights()
    live = contiguous_copies(weights)
    made: list[Region] = []

    class Fetched(Region):
        def __init__(self, name: str, storage: UntypedStorage) -> None:
            super().__init__(name, storage)
            made.append(self)

        @property
        def host(self) -> None:
            """Nothing, as on a device."""

    monkeypatch.setattr("prunecli.io.memory.Region", Fetched)

    prune_state_dict(live, STRATEGIES["global-amount"])

    assert len(made) == len(weights)
    assert different(pruned_weights(STRATEGIES["global-amount"], weights), live) == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_tensors_on_a_device_are_pruned_there(device: str, strategy: str) -> None:
    """The tensors stay on the device and have the bits that the CPU gives, wherever they are compared."""
    weights = make_weights()
    live = {name: t.cuda() for name, t in weights.items()}

    prune_state_dict(live, STRATEGIES[strategy], device=device)

    assert {t.device.type for t in live.values()} == {"cuda"}
    assert different(pruned_weights(STRATEGIES[strategy], weights), {n: t.cpu() for n, t in live.items()}) == []


# --- in place


def test_the_model_of_the_state_dict_is_pruned() -> None:
    """`model.state_dict()` shares memory with the model, so the model is pruned, and it can be trained."""
    model = Net()

    prune_state_dict(model.state_dict(), L1(amount=0.5))

    assert int((model.fc.weight == 0).sum()) == round(0.5 * model.fc.weight.numel())
    model.fc(torch.ones(1, 130)).sum().backward()
    assert model.fc.weight.grad is not None


def test_parameters_that_require_grad_stay_leaves() -> None:
    """Autograd does not record the pruning, but counts it as a change in place."""
    weight = nn.Parameter(torch.randn(4, 4))
    loss = (weight * weight).sum()
    before = weight._version

    prune_state_dict({"weight": weight}, L1(amount=0.5))

    assert weight.is_leaf
    assert weight.requires_grad
    assert weight._version > before
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_inference_tensors_are_pruned_too() -> None:
    """Tensors made under inference_mode, which have no version counter, are pruned too."""
    with torch.inference_mode():
        weight = torch.randn(4, 4)

    prune_state_dict({"weight": weight}, L1(amount=0.5))

    assert int((weight == 0).sum()) == 8


def test_a_dry_run_changes_no_tensor_and_reports_the_same() -> None:
    """The report of a dry run is that of the run, except for the fields about the output."""
    live = make_weights()

    dry = prune_state_dict(live, Global(amount=0.5), dry_run=True)

    assert different(make_weights(), live) == []
    real = prune_state_dict(live, Global(amount=0.5))
    assert dry.rows == real.rows
    assert (dry.dry_run, dry.output_path) == (True, None)
    assert (real.dry_run, real.output_path) == (False, "state_dict")
    assert json.loads(to_json(real))["input"]["format"] == "tensors in memory"


# --- selection and amounts


def test_selection_is_that_of_files() -> None:
    """Patterns, dimensions and sizes select as they do for files."""
    live = make_weights()

    report = prune_state_dict(live, L1(amount=0.5), include=["lstm.*"], exclude=["*_hh_*"], min_dim=2, min_numel=100)

    assert [row.name for row in report.rows if row.selected] == ["lstm.weight_ih_l0"]
    assert different(make_weights(), live) == ["lstm.weight_ih_l0"]


def test_amounts_of_the_remaining_weights_compose_as_in_torch() -> None:
    """Half, then half of the remaining weights, gives the mask of torch's PruningContainer."""
    from torch.nn.utils import prune as torch_prune

    model = nn.Linear(33, 17)
    live = {"weight": model.weight.detach().clone()}
    for _ in range(2):
        torch_prune.l1_unstructured(model, "weight", amount=0.5)

        prune_state_dict(live, L1(amount=0.5), of="remaining")

    assert torch.equal(model.weight != 0, live["weight"] != 0)


def test_a_recipe_gives_the_result_of_a_file(tmp_path: Path) -> None:
    """Rules that match the same tensor compose; memory and file agree bit for bit."""
    recipe = Recipe(
        (
            Rule(L1(amount=0.5), Selector(include=("fc.weight",))),
            Rule(Structured(amount=0.25), Selector(include=("fc.weight",))),
            Rule(TopK(2, 4), Selector(include=("lstm.weight*",))),
        )
    )
    torch.save(make_weights(), tmp_path / "in.pth")
    from_file = prune(tmp_path / "in.pth", recipe, output=tmp_path / "out.pth", reports=())
    live = make_weights()

    assert prune_state_dict(live, recipe, dry_run=True).rows == from_file.rows
    assert different(make_weights(), live) == []
    assert prune_state_dict(live, recipe).rows == from_file.rows
    assert different(torch.load(tmp_path / "out.pth", weights_only=True), live) == []


def test_biases_follow_their_rows() -> None:
    """`with_bias` zeroes the bias of each pruned row."""
    live = make_weights()

    prune_state_dict(live, Structured(amount=0.5, with_bias=True), include=["fc.weight"])

    rows = (live["fc.weight"] == 0).all(dim=1)
    assert int(rows.sum()) == 17
    assert torch.equal(rows, live["fc.bias"] == 0)
