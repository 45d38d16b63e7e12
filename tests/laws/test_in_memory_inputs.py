"""State_dicts in memory whose tensors share memory, have no plain memory, or are refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from support import (
    different,
    expected,
    same_bits,
    zeroed,
)
from support.weights import contiguous_copies
from torch import nn

from prunecli.api import prune, prune_state_dict
from prunecli.errors import CheckpointError, DeviceError, PruneError, SelectionError, UsageError
from prunecli.strategies.semi_structured import TopK
from prunecli.strategies.structured import Structured
from prunecli.strategies.thresholds import Threshold
from prunecli.strategies.unstructured import L1

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor
    from typing_extensions import Self


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
    """A tensor with two names has one row with an alias, and amounts count it once."""
    weight = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    before = weight.clone()

    report = prune_state_dict({"a.weight": weight, "b.weight": share(weight)}, L1(amount=0.25))

    assert report.selected.numel == 48
    assert [(row.name, row.aliases) for row in report.rows] == [("a.weight", ("b.weight",))]
    (keep,) = expected(L1(amount=0.25), [before])
    assert same_bits(zeroed(before, keep), weight)


def test_views_that_overlap_in_part_are_refused() -> None:
    """The selection refuses them within a storage, the listing across two storages; no tensor changes."""
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


def test_adjacent_views_are_pruned_separately() -> None:
    """Two halves of one array, as a slice and as a separate storage, are pruned independently."""
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(64, generator=generator)
    live = {"a.weight": base[:32].view(4, 8), "b.weight": torch.from_numpy(base.numpy()[32:]).view(4, 8)}
    before = contiguous_copies(live)

    prune_state_dict(live, TopK(2, 4))

    keeps = expected(TopK(2, 4), list(before.values()))
    assert all(same_bits(zeroed(before[n], keep), live[n]) for n, keep in zip(live, keeps, strict=True))


def test_one_memory_under_two_dtypes_is_refused() -> None:
    """A weight and a view of its bits as integers are refused, as the integers would change."""
    weight = torch.randn(4, 4)

    with pytest.raises(SelectionError, match="overlap or interleave"):
        prune_state_dict({"weight": weight, "raw": weight.view(torch.int32)}, L1(amount=0.5))


# --- unusual tensors


class Wrapper(torch.Tensor):
    """A wrapper subclass without a storage, like DTensor and the tensors of torchao."""

    @staticmethod
    def __new__(cls, inner: Tensor) -> Self:  # noqa: ANN001 - ruff takes cls for an argument here
        """Make a tensor without memory."""
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)

    @classmethod
    def __torch_dispatch__(cls, *_: object, **__: object) -> Any:  # noqa: ANN401 - never called
        """Support no operation."""
        raise NotImplementedError


def freed() -> Tensor:
    """Return a tensor whose storage was freed, as FSDP does."""
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
        (freed, "tensor whose memory has been freed"),
    ],
)
def test_tensors_without_plain_memory_are_skipped_with_a_note(make: Callable[[], Tensor], what: str) -> None:
    """Next to a plain tensor it is a note in the report; alone it is an error."""
    report = prune_state_dict({"weight": torch.randn(4, 4), "odd.weight": make()}, L1(amount=0.5))

    assert f"1 left as they are, {what}: odd.weight" in report.facts
    assert [row.name for row in report.rows] == ["weight"]
    with pytest.raises(UsageError, match=f"'odd.weight' is a {what}"):
        prune_state_dict({"odd.weight": make()}, L1(amount=0.5))


def test_skipped_tensors_have_the_reasons_of_files(tmp_path: Path) -> None:
    """Rows and reasons are those of the same dict in a file; values that are no tensors are ignored."""
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
    ("value", "message", "hint"),
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
        (
            {"fc.weight": type("ShardedTensor", (), {})()},
            "'fc.weight' is a ShardedTensor of the first FSDP",
            "shard the model with fully_shard, or FSDP(device_mesh=...): its state_dict has DTensors",
        ),
    ],
)
def test_other_values_are_refused(value: Any, message: str, hint: str | None) -> None:  # noqa: ANN401
    """The error names the value, and the hint says which value to pass instead."""
    with pytest.raises(UsageError, match=message) as caught:
        prune_state_dict(value, L1(amount=0.5))

    assert caught.value.hint == hint


@pytest.mark.parametrize("name", ["\x1b[31m.weight", "a\nb.weight", "ü.weight", ".weight", "a/../b.weight"])
def test_any_string_is_a_name(name: str) -> None:
    """A tensor may have any string as its name."""
    live = {name: torch.randn(4, 4)}

    assert prune_state_dict(live, L1(amount=0.5)).rows[0].name == name
    assert int((live[name] == 0).sum()) == 8


# --- errors change no tensor


@pytest.mark.parametrize(
    ("strategy", "options", "kind"),
    [
        (L1(count=1_000), {}, UsageError),
        (Structured(count=9), {}, UsageError),
        (Structured(amount=0.5, dim=3), {}, SelectionError),
        (TopK(2, 4, tail="error"), {}, SelectionError),
        (L1(amount=0.5), {"strict": True}, CheckpointError),
        (Threshold(0.1), {"strict": True}, CheckpointError),  # it needs no first pass over the weights
        (L1(amount=0.5), {"include": ["absent"]}, SelectionError),
        (L1(amount=0.5), {"exclude": ["*"]}, SelectionError),
        (L1(amount=0.5), {"device": "gpu"}, UsageError),
        (L1(amount=0.5), {"device": "mps"}, DeviceError),
        (L1(amount=0.5), {"threads": -1}, UsageError),
        (L1(amount=0.5), {"of": "some"}, UsageError),
        (L1(amount=0.5), {"mask_in": "absent.safetensors"}, CheckpointError),
    ],
)
def test_an_error_changes_no_tensor(strategy: Any, options: dict[str, Any], kind: type[PruneError]) -> None:  # noqa: ANN401
    """After an error, even about the last of several tensors, every bit is unchanged."""
    if options.get("device") == "mps" and torch.backends.mps.is_available():
        pytest.skip("this machine has an MPS device")
    live = {f"{i}.weight": torch.randn(100, 20) for i in range(3)} | {"z.weight": torch.randn(5, 7)}
    live["z.weight"][0, 0] = torch.nan
    before = contiguous_copies(live)

    with pytest.raises(kind):
        prune_state_dict(live, strategy, **options)

    assert different(before, live) == []
