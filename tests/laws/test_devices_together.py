"""Tensors of any strides, on two devices and the host, have the bits and the report of contiguous ones on the host."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from support import STRATEGIES, different
from support.pretended import FIRST, SECOND, Device, pretend
from support.weights import contiguous_copies

from prunecli.api import prune_state_dict
from prunecli.engine import device_measure, stacked_measure, together
from prunecli.engine import device_ranks as planned
from prunecli.io import memory_reader
from prunecli.ranking import device_ranks

if TYPE_CHECKING:
    from torch import Tensor

PLACES = {
    "plain.weight": FIRST,
    "transposed.weight": FIRST,
    "columns.weight": SECOND,
    "every third.weight": SECOND,
    "rows.weight": FIRST,
    "channels last.weight": SECOND,
    "permuted.weight": FIRST,
    "single.weight": SECOND,
    "another.weight": SECOND,
}
"""The tensors on devices; the others lie on the host."""


def model() -> dict[str, Tensor]:
    """Return tensors of every kind, of which all weights are different tensors of the same bits at each call."""
    torch.manual_seed(0)

    def weight(*shape: int) -> Tensor:
        return torch.randn(shape).to(torch.bfloat16)  # of which several are equal

    return {
        "plain.weight": weight(24, 36),
        "transposed.weight": weight(36, 40).T,
        "columns.weight": weight(32, 84)[:, 8:48],
        "here.weight": weight(20, 36),
        "every third.weight": weight(20, 40, 3)[..., 1],
        "rows.weight": weight(60, 32)[::2],
        "channels last.weight": weight(12, 16, 3, 3).contiguous(memory_format=torch.channels_last),
        "permuted.weight": weight(4, 12, 20).permute(2, 0, 1),
        "single.weight": weight(24, 28).float().T,
        "here too.weight": weight(40, 20).T,
        "another.weight": weight(24, 36),
    }


def small_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let tensors of a few kilobytes be large ones, of several runs."""
    for module in (together, stacked_measure, planned, device_measure):
        monkeypatch.setattr(module, "SMALL", 0)
    monkeypatch.setattr(memory_reader, "DEVICE_RUN", 1 << 11)
    monkeypatch.setattr(device_ranks, "RUN", 1 << 10)


@pytest.mark.parametrize("large", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_devices_and_the_host_agree(strategy: str, large: bool, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: FBT001
    """Weights are ranked together across devices and strides; no operation mixes tensors of two devices."""
    here, there = model(), model()
    expected = prune_state_dict(here, STRATEGIES[strategy])
    if large:
        small_runs(monkeypatch)
    pretend(monkeypatch, there, PLACES)

    with Device():
        report = prune_state_dict(there, STRATEGIES[strategy])

    assert different(here, there) == []
    assert report.rows == expected.rows


TIED = {"plain.weight": FIRST, "columns.weight": SECOND, "tied.weight": FIRST, "of columns.weight": SECOND}


@pytest.mark.parametrize("name", ["threshold", "global-amount", "topk-2-of-4", "structured-l2"])
def test_tied_tensors_on_a_device_are_pruned_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names of one memory with other strides have one row, and what several names see is that of the host."""
    here, there = (with_ties(model()) for _ in range(2))
    expected = prune_state_dict(here, STRATEGIES[name])
    pretend(monkeypatch, there, {**TIED, "expanded.weight": FIRST})

    with Device():
        report = prune_state_dict(there, STRATEGIES[name])

    assert different(here, there) == []
    assert report.rows == expected.rows


def with_ties(live: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return two tensors, other views of them, and a tensor with one weight several times, which is not pruned."""
    plain, columns = live["plain.weight"], live["columns.weight"]
    several = torch.ones(1, 4).expand(4, 4)
    return dict(zip([*TIED, "expanded.weight"], [plain, columns, plain.T, columns.T, several], strict=True))


def test_a_device_gets_no_tensor_of_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The double is as strict as devices are: it finds what it is made to find."""
    live = model()
    pretend(monkeypatch, live, PLACES)
    names = ("plain.weight", "columns.weight", "here.weight")
    first, *others = (memory_reader.integers(live[name], 2, (4,), (1,)) for name in names)

    with Device():
        for other in others:
            with pytest.raises(RuntimeError, match="same device"):
                first + other
        with pytest.raises(RuntimeError, match="numpy"):
            first.numpy()


def test_models_on_devices_stay_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but counts and ends of brackets is copied to the host, also where a group has members there."""
    torch.manual_seed(0)
    live = {f"{n}.weight": torch.randn(256, 2 * 1024)[:, ::2] for n in range(4)}
    live["here.weight"] = torch.randn(64, 64)
    pretend(monkeypatch, live, {f"{n}.weight": (FIRST, SECOND)[n % 2] for n in range(4)})
    before = contiguous_copies(live)

    with Device() as device:
        prune_state_dict(live, STRATEGIES["global-amount"])

    assert len(different(before, live)) == 5
    assert device.fetched < 200_000  # of 4 MB
