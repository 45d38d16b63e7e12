"""Pruning a state_dict in memory: what the same dict becomes in a file, in place, and nothing else."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support import (
    INTS,
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
from torch import nn

from prunecli.api import prune, prune_state_dict
from prunecli.errors import CheckpointError, DeviceError, PruneError, SelectionError, UsageError
from prunecli.io.memory import Region, state_dict_checkpoint
from prunecli.report.json import to_json
from prunecli.selection.select import Selector
from prunecli.strategies.recipe import Recipe, Rule
from prunecli.strategies.semi_structured import TopK
from prunecli.strategies.unstructured import L1, Global, Structured, Threshold

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor
    from typing_extensions import Self

DTYPES = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
    *(torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz),
)

LAYOUTS: dict[str, Callable[[dict[str, Tensor]], dict[str, Tensor]]] = {
    "plain": dict,
    "transposed": transposed,
    "sliced": sliced,
    "one-storage": one_storage,
    "parameters": lambda w: {n: nn.Parameter(t) if t.is_floating_point() else t for n, t in w.items()},
    "from-numpy": lambda w: {n: torch.from_numpy(t.numpy().copy()) for n, t in w.items()},
}


def copies(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors with memory of their own, contiguous."""
    return {name: t.detach().clone(memory_format=torch.contiguous_format) for name, t in weights.items()}


# --- the right weights


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_strategy_zeroes_in_memory_what_torch_would(layout: str, strategy: str) -> None:
    """However the tensors lie in memory, the expected weights are +0.0 and all other bits are as they were."""
    weights = make_weights()
    live = LAYOUTS[layout](copies(weights))

    report = prune_state_dict(live, STRATEGIES[strategy])

    wanted = pruned_weights(STRATEGIES[strategy], weights)
    assert different(wanted, live) == []
    assert report.selected.pruned == sum(int((bits(wanted[n]) == 0).sum()) for n in chosen(weights))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_is_what_its_file_becomes(dtype: torch.dtype, strategy: str, tmp_path: Path) -> None:
    """Memory and file agree bit for bit and row for row, for every float there is."""
    weights = make_weights(dtype=dtype)
    torch.save(weights, tmp_path / "in.pth")
    from_file = prune(tmp_path / "in.pth", STRATEGIES[strategy], output=tmp_path / "out.pth", reports=())

    report = prune_state_dict(weights, STRATEGIES[strategy])

    assert different(torch.load(tmp_path / "out.pth", weights_only=True), weights) == []
    assert from_file.rows == report.rows
    assert from_file.selected == report.selected


@given(
    st.lists(st.integers(0, 255), min_size=24, max_size=24),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float8_e4m3fn]),
    st.integers(0, 100),
)
def test_ties_go_in_the_order_of_the_dict(raw: list[int], dtype: torch.dtype, percent: int) -> None:
    """A few values many times over: the count is exact, and among equals the earlier name goes first."""
    values = (torch.tensor(raw, dtype=torch.float32) % 5 - 2).to(dtype)
    live = {"b.weight": values[:12].reshape(3, 4).clone(), "a.weight": values[12:].reshape(4, 3).clone()}
    before = copies(live)

    prune_state_dict(live, Global(amount=percent / 100))

    keeps = expected(Global(amount=percent / 100), list(before.values()))
    assert all(same_bits(zeroed(before[n], keep), live[n]) for n, keep in zip(live, keeps, strict=True))


def test_large_tensors_go_through_many_windows() -> None:
    """Several megabytes in one tensor, an odd size, threads: the same as torch's sort says."""
    weight = torch.randn(1_031, 2_003, generator=torch.Generator().manual_seed(0))
    live = {"weight": weight.clone()}

    prune_state_dict(live, L1(amount=0.37), threads=4)

    (keep,) = expected(L1(amount=0.37), [weight])
    assert same_bits(zeroed(weight, keep), live["weight"])


def test_torch_kernels_give_the_same_bits(monkeypatch: pytest.MonkeyPatch, strategy: str) -> None:
    """Computing with torch, as on a device, changes nothing."""
    monkeypatch.setattr("prunecli.api.resolve", lambda _: "cpu")
    weights = make_weights()
    live = copies(weights)

    prune_state_dict(live, STRATEGIES[strategy], device="cuda")

    assert different(pruned_weights(STRATEGIES[strategy], weights), live) == []


def test_bytes_that_are_fetched_from_a_device_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """The way through `Tensor.copy_`, which device tensors take, gives the same bits on the CPU."""
    weights = make_weights()
    live = copies(weights)
    made: list[Region] = []

    class Fetched(Region):
        def __init__(self, data: Tensor) -> None:
            super().__init__(data)
            self._host = None
            made.append(self)

    monkeypatch.setattr("prunecli.io.memory.Region", Fetched)

    prune_state_dict(live, STRATEGIES["global-amount"])

    assert len(made) == len(weights)
    assert different(pruned_weights(STRATEGIES["global-amount"], weights), live) == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_tensors_on_a_device_are_pruned_there(device: str, strategy: str) -> None:
    """The tensors stay on the device, with the bits that the CPU gives, wherever the numbers are compared."""
    weights = make_weights()
    live = {name: t.cuda() for name, t in weights.items()}

    prune_state_dict(live, STRATEGIES[strategy], device=device)

    assert {t.device.type for t in live.values()} == {"cuda"}
    assert different(pruned_weights(STRATEGIES[strategy], weights), {n: t.cpu() for n, t in live.items()}) == []


# --- in place


def test_the_model_whose_state_dict_it_is_changes() -> None:
    """`model.state_dict()` shares memory with the model, so the model is pruned, and still trains."""
    model = Net()

    prune_state_dict(model.state_dict(), L1(amount=0.5))

    assert int((model.fc.weight == 0).sum()) == round(0.5 * model.fc.weight.numel())
    model.fc(torch.ones(1, 130)).sum().backward()
    assert model.fc.weight.grad is not None


def test_parameters_that_require_grad_stay_leaves() -> None:
    """Pruning is no operation that autograd sees, but one that it hears of."""
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
    """Tensors made under inference_mode have no versions to count, and are pruned all the same."""
    with torch.inference_mode():
        weight = torch.randn(4, 4)

    prune_state_dict({"weight": weight}, L1(amount=0.5))

    assert int((weight == 0).sum()) == 8


def test_a_dry_run_changes_nothing_and_tells_the_same() -> None:
    """The report of a dry run is that of the run, but for what it says of the output."""
    live = make_weights()

    dry = prune_state_dict(live, Global(amount=0.5), dry_run=True)

    assert different(make_weights(), live) == []
    real = prune_state_dict(live, Global(amount=0.5))
    assert dry.rows == real.rows
    assert (dry.dry_run, dry.output_path) == (True, None)
    assert (real.dry_run, real.output_path) == (False, "state_dict")
    assert json.loads(to_json(real))["input"]["format"] == "tensors in memory"


# --- tensors that share memory


@pytest.mark.parametrize(
    "share",
    [
        lambda t: t,
        lambda t: t.T,
        lambda t: t.view(-1),
        lambda t: torch.from_numpy(t.numpy()),
        nn.Parameter,
    ],
    ids=["same", "transposed", "flat", "another-storage", "parameter"],
)
def test_tied_tensors_are_pruned_once_and_listed_once(share: Callable[[Tensor], Tensor]) -> None:
    """The same numbers under two names: one row with an alias, and amounts that count them once."""
    weight = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    before = weight.clone()

    report = prune_state_dict({"a.weight": weight, "b.weight": share(weight)}, L1(amount=0.25))

    assert report.selected.numel == 48
    assert [(row.name, row.aliases) for row in report.rows] == [("a.weight", ("b.weight",))]
    (keep,) = expected(L1(amount=0.25), [before])
    assert same_bits(zeroed(before, keep), weight)


def test_views_that_overlap_in_part_are_refused() -> None:
    """Within one storage the selection refuses them, across two storages the listing does; nothing changes."""
    base = np.ones(64, np.float32)
    views = {
        "a.weight": torch.from_numpy(base[:40]).reshape(4, 10),
        "b.weight": torch.from_numpy(base[24:]).view(4, 10),
    }
    storage = torch.ones(64)
    slices = {"a.weight": storage[:40].view(4, 10), "b.weight": storage[24:].view(4, 10)}

    with pytest.raises(CheckpointError, match=r"'a\.weight' and 'b\.weight' overlap in part") as caught:
        prune_state_dict(views, L1(amount=0.5))
    assert caught.value.hint == "state_dict['b.weight'] = state_dict['b.weight'].clone()"
    with pytest.raises(SelectionError, match="overlap or interleave"):
        prune_state_dict(slices, L1(amount=0.5))
    assert base.all()
    assert storage.all()


def test_views_that_lie_side_by_side_are_pruned_each() -> None:
    """Two halves of one array, handed over as storages of their own and as slices, do not disturb each other."""
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(64, generator=generator)
    live = {"a.weight": base[:32].view(4, 8), "b.weight": torch.from_numpy(base.numpy()[32:]).view(4, 8)}
    before = copies(live)

    prune_state_dict(live, TopK(2, 4))

    keeps = expected(TopK(2, 4), list(before.values()))
    assert all(same_bits(zeroed(before[n], keep), live[n]) for n, keep in zip(live, keeps, strict=True))


def test_one_memory_under_two_dtypes_is_refused() -> None:
    """A weight and its bits as integers are one memory: the integers would change."""
    weight = torch.randn(4, 4)

    with pytest.raises(SelectionError, match="overlap or interleave"):
        prune_state_dict({"weight": weight, "raw": weight.view(torch.int32)}, L1(amount=0.5))


# --- what is no plain tensor


class Wrapper(torch.Tensor):
    """A wrapper subclass, as DTensor and torchao's tensors are: its storage is nobody's."""

    @staticmethod
    def __new__(cls, inner: Tensor) -> Self:  # noqa: ANN001 - ruff takes cls for an argument here
        """Make a tensor without memory."""
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)

    @classmethod
    def __torch_dispatch__(cls, *_: object, **__: object) -> Any:  # noqa: ANN401 - never called
        """Do nothing that could be done."""
        raise NotImplementedError


def given_back() -> Tensor:
    """Return a tensor whose storage was freed, as FSDP leaves them."""
    tensor = torch.ones(3, 3)
    tensor.untyped_storage().resize_(0)
    return tensor


@pytest.mark.filterwarnings("ignore:.*beta state:UserWarning", "ignore:.*prototype stage:UserWarning")
@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: torch.empty(3, 3, device="meta"), "meta tensor"),
        (lambda: torch.eye(3).to_sparse(), "sparse tensor"),
        (lambda: torch.eye(3).to_sparse_csr(), "sparse tensor"),
        (lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), "nested tensor"),
        (lambda: torch.randn(3, 3).to_mkldnn(), "tensor of the layout torch._mkldnn"),
        (lambda: Wrapper(torch.ones(3, 3)), "tensor of a wrapper subclass"),
        (lambda: nn.LazyLinear(3).weight, "parameter that has no values yet"),
        (given_back, "tensor whose memory has been freed"),
    ],
)
def test_what_has_no_plain_memory_is_told_and_left(make: Callable[[], Tensor], what: str) -> None:
    """Beside a plain tensor it is a fact in the report; alone it is an error."""
    report = prune_state_dict({"weight": torch.randn(4, 4), "odd.weight": make()}, L1(amount=0.5))

    assert f"1 left as they are, {what}: odd.weight" in report.facts
    assert [row.name for row in report.rows] == ["weight"]
    with pytest.raises(UsageError, match=f"'odd.weight' is a {what}"):
        prune_state_dict({"odd.weight": make()}, L1(amount=0.5))


def test_integers_booleans_and_empty_tensors_are_skipped_with_the_reasons_of_files(tmp_path: Path) -> None:
    """Rows and reasons are those of the same dict in a file; what is no tensor is passed over."""
    live = {
        "weight": torch.randn(4, 4),
        "int.weight": torch.ones(3, 3, dtype=torch.int64),
        "mask.weight": torch.ones(3, 3, dtype=torch.bool),
        "complex.weight": torch.ones(3, 3, dtype=torch.complex64),
        "empty.weight": torch.empty(0, 3),
        "empty_slice.weight": torch.randn(3, 4)[:, 4:],
        "scalar.weight": torch.tensor(1.0),
        "expanded.weight": torch.ones(1, 4).expand(4, 4),
        "conj.weight": torch.ones(3, 3, dtype=torch.complex64).conj(),
    }
    torch.save(live, tmp_path / "in.pth")

    report = prune_state_dict({**live, "epoch": 3, "name": "net", "nothing": None}, L1(amount=0.5))

    assert prune(tmp_path / "in.pth", L1(amount=0.5), dry_run=True, reports=()).rows == report.rows


@pytest.mark.parametrize(
    ("given_", "message", "hint"),
    [
        ({}, "no tensors in the state_dict", None),
        ({"epoch": 1}, "no tensors in the state_dict", None),
        (
            {"state_dict": {"weight": torch.ones(2, 2)}},
            "no tensors",
            "pass the inner dict: checkpoint['state_dict']",
        ),
        (nn.Linear(2, 2), "not a Linear", "model.state_dict()"),
        ("ckpt.pth", "not a str", "prunecli.prune takes a path"),
        ([torch.ones(2, 2)], "not a list", "prunecli.prune takes a path"),
        ({3: torch.ones(2, 2)}, "are strings, and 3 is not", "model.state_dict()"),
    ],
)
def test_what_is_no_state_dict_is_refused(given_: Any, message: str, hint: str | None) -> None:  # noqa: ANN401
    """The error says what came, and what to hand over."""
    with pytest.raises(UsageError, match=message) as caught:
        prune_state_dict(given_, L1(amount=0.5))

    assert caught.value.hint == hint


@pytest.mark.parametrize("name", ["\x1b[31m.weight", "a\nb.weight", "ü.weight", ".weight", "a/../b.weight"])
def test_any_string_is_a_name(name: str) -> None:
    """Names are data."""
    live = {name: torch.randn(4, 4)}

    assert prune_state_dict(live, L1(amount=0.5)).rows[0].name == name
    assert int((live[name] == 0).sum()) == 8


# --- refusals change nothing


@pytest.mark.parametrize(
    ("strategy", "options", "kind"),
    [
        (L1(count=1_000), {}, UsageError),
        (Structured(count=9), {}, UsageError),
        (Structured(amount=0.5, dim=3), {}, SelectionError),
        (TopK(2, 4, tail="error"), {}, SelectionError),
        (L1(amount=0.5), {"strict": True}, CheckpointError),
        (L1(amount=0.5), {"include": ["absent"]}, SelectionError),
        (L1(amount=0.5), {"exclude": ["*"]}, SelectionError),
        (L1(amount=0.5), {"device": "gpu"}, UsageError),
        (L1(amount=0.5), {"device": "mps"}, DeviceError),
        (L1(amount=0.5), {"threads": -1}, UsageError),
        (L1(amount=0.5), {"of": "some"}, UsageError),
        (L1(amount=0.5), {"mask_in": "absent.safetensors"}, CheckpointError),
    ],
)
def test_a_refusal_changes_nothing(strategy: Any, options: dict[str, Any], kind: type[PruneError]) -> None:  # noqa: ANN401
    """Whatever is wrong, even with the last of several tensors, every bit is as it was."""
    if options.get("device") == "mps" and torch.backends.mps.is_available():
        pytest.skip("this machine has the device that the test wants to be absent")
    live = {f"{i}.weight": torch.randn(100, 20) for i in range(3)} | {"z.weight": torch.randn(5, 7)}
    live["z.weight"][0, 0] = torch.nan
    before = copies(live)

    with pytest.raises(kind):
        prune_state_dict(live, strategy, **options)

    assert different(before, live) == []


def test_strict_refuses_nan_in_the_last_tensor_before_the_first_changes() -> None:
    """A threshold is applied while it goes, so only the rehearsal can know."""
    live = {"a.weight": torch.full((2, 2), 0.01), "b.weight": torch.full((2, 2), torch.nan)}

    with pytest.raises(CheckpointError, match="not finite"):
        prune_state_dict(live, Threshold(0.1), strict=True)

    assert bool((live["a.weight"] == 0.01).all())


# --- selection and what is left


def test_selection_is_that_of_files() -> None:
    """Patterns, dimensions and sizes choose as they do on the command line."""
    live = make_weights()

    report = prune_state_dict(live, L1(amount=0.5), include=["lstm.*"], exclude=["*_hh_*"], min_dim=2, min_numel=100)

    assert [row.name for row in report.rows if row.selected] == ["lstm.weight_ih_l0"]
    assert different(make_weights(), live) == ["lstm.weight_ih_l0"]


def test_amounts_of_what_remains_compose_as_torch_composes_them() -> None:
    """Half, then half of what remains, is torch's PruningContainer: three quarters, the same ones."""
    from torch.nn.utils import prune as torch_prune

    model = nn.Linear(33, 17)
    live = {"weight": model.weight.detach().clone()}
    for _ in range(2):
        torch_prune.l1_unstructured(model, "weight", amount=0.5)

        prune_state_dict(live, L1(amount=0.5), of="remaining")

    assert torch.equal(model.weight != 0, live["weight"] != 0)


def test_a_recipe_does_in_memory_what_it_does_to_a_file(tmp_path: Path) -> None:
    """Rules that meet on a tensor compose; memory and file agree bit for bit."""
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
    """`with_bias` zeroes the entry of each row that goes."""
    live = make_weights()

    prune_state_dict(live, Structured(amount=0.5, with_bias=True), include=["fc.weight"])

    rows = (live["fc.weight"] == 0).all(dim=1)
    assert int(rows.sum()) == 17
    assert torch.equal(rows, live["fc.bias"] == 0)


# --- regions


@given(st.integers(0, 60), st.integers(0, 60), st.booleans())
def test_a_region_reads_and_writes_where_it_is_told(offset: int, length: int, host: bool) -> None:  # noqa: FBT001
    """What is written at an offset is read there, and the bytes around it stay; in both ways of copying."""
    length = min(length, 60 - offset)
    data = torch.arange(60, dtype=torch.uint8)
    region = Region(data)
    region._host = region._host if host else None
    new = memoryview(bytearray(200 + i % 50 for i in range(length)))

    region.write(new, offset)

    found = memoryview(bytearray(length))
    region.read(found, offset)
    assert found == new
    expected_bytes = bytearray(range(60))
    expected_bytes[offset : offset + length] = new
    assert bytes(expected_bytes) == data.numpy().tobytes()


def test_a_listing_says_where_each_tensor_lies() -> None:
    """One file per storage, offsets and strides in elements, in the order of the dict."""
    storage = torch.arange(24, dtype=torch.float32)
    live = {"b": storage[4:16].view(3, 4).T, "a": torch.ones(2, dtype=torch.float64), "c": storage[:4]}

    memory = state_dict_checkpoint(live)

    found = [(t.name, t.dtype, t.shape, t.strides, t.offset, t.span.length) for t in memory.checkpoint.tensors]
    assert found == [
        ("b", "F32", (4, 3), (1, 4), 4, 96),
        ("a", "F64", (2,), (1,), 0, 16),
        ("c", "F32", (4,), (1,), 0, 96),
    ]
    first, second, third = (t.file for t in memory.checkpoint.tensors)
    assert first == third != second
    for tensor in memory.checkpoint.tensors:
        region = memory.regions[tensor.file]
        raw = torch.empty(tensor.extent, dtype=live[tensor.name].dtype)
        region.read(memoryview(raw.view(torch.uint8).numpy()), tensor.start)
        kind = INTS[tensor.itemsize]
        view = torch.as_strided(raw.view(kind), tensor.shape, tensor.strides)
        assert torch.equal(bits(live[tensor.name]), view.contiguous())
