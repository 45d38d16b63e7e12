"""A device that fails is one clear error, which says what state the tensors are in; extra memory has a bound."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from support import STRATEGIES, different
from support.pretended import FIRST, SECOND, Device, pretend
from support.weights import contiguous_copies

import prunecli
from prunecli.api import prune_state_dict
from prunecli.errors import DeviceError
from prunecli.io import memory_reader

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from prunecli.strategies.strategy import Strategy

PLACES = {"a.weight": FIRST, "b.weight": SECOND, "c.weight": FIRST}

UNCHANGED, IN_PART = "no tensor was changed", "some weights may be pruned and others not"


def model() -> dict[str, Tensor]:
    """Return tensors for two devices and the host."""
    torch.manual_seed(0)
    shapes = {"a.weight": (24, 32), "b.weight": (20, 36), "c.weight": (32, 24), "here.weight": (16, 16)}
    return {name: torch.randn(shape).to(torch.bfloat16) for name, shape in shapes.items()}


def prune_and_fail(strategy: Strategy, at: int | None, error: Exception | None = None) -> tuple[int, str, list[str]]:
    """Prune a model whose devices fail at an operation: the operations, the message, and the tensors that changed."""
    live = model()
    before = contiguous_copies(live)
    with pytest.MonkeyPatch.context() as patch:
        pretend(patch, live, PLACES)
        device = Device(at, error)
        message = ""
        try:
            with device:
                prune_state_dict(live, strategy)
        except DeviceError as caught:
            message = str(caught)
    return device.operations, message, different(before, live)


@pytest.mark.parametrize("name", ["threshold", "global-amount", "topk-dim-0", "structured-l2", "block-4x4"])
def test_the_state_in_the_message_is_true(name: str) -> None:
    """Memory may end at any operation: what is said to be unchanged is, and only before the first weight changes."""
    operations, _, _ = prune_and_fail(STRATEGIES[name], None)
    states = []

    for at in {1, 2, operations, *range(1, operations, max(operations // 12, 1))}:
        _, message, changed = prune_and_fail(STRATEGIES[name], at)
        assert message.startswith("a device is out of memory; "), at
        assert UNCHANGED in message or IN_PART in message
        assert not changed or IN_PART in message, at
        states.append(IN_PART in message)

    assert any(states)
    assert name in {"threshold", "topk-dim-0"} or not all(states)  # these read nothing to make their plans


@pytest.mark.parametrize(
    ("error", "what"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), "is out of memory"),
        (RuntimeError("CUDA error: device-side assert triggered\nCUDA kernel errors might"), "failed: CUDA error: "),
        (
            type("OutOfResources", (Exception,), {"__module__": "triton.errors"})(),
            "failed: a kernel cannot be compiled",
        ),
        (RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"), "failed: Triton Error [CUDA]"),
        (RuntimeError("MPS backend out of memory (MPS allocated: 5 GB)"), "is out of memory"),
        (RuntimeError("\"bitwise_and\" not implemented for 'Float8_e4m3fn'"), "cannot compute with a dtype"),
        (TypeError("Cannot convert a MPS Tensor to float64 as the MPS framework doesn't support float64"), "a dtype"),
    ],
)
def test_each_kind_of_failure_is_one_sentence(error: Exception, what: str) -> None:
    """The error is a DeviceError without a traceback of torch, wherever the device failed."""
    for at in (1, 150):
        _, message, _ = prune_and_fail(STRATEGIES["global-amount"], at, error)
        assert what in message
        assert message.endswith((UNCHANGED, "load them again"))
        assert "\n" not in message


def test_a_device_that_is_lost_before_the_start_is_the_same_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting for the work that a device already had may fail, too."""

    def lost(*_: object) -> None:
        raise RuntimeError("CUDA error: the launch timed out and was terminated")

    monkeypatch.setattr("prunecli.io.memory.TensorsInMemory.synchronize", lost)

    with pytest.raises(DeviceError, match=UNCHANGED):
        prune_state_dict(model(), STRATEGIES["threshold"])


# --- the rehearsal


def operations_of(strategy: Strategy, **options: Any) -> int:  # noqa: ANN401 - of prune_state_dict
    """Return the operations on devices of a run."""
    live = model()
    with pytest.MonkeyPatch.context() as patch:
        pretend(patch, live, PLACES)
        with Device() as device:
            prune_state_dict(live, strategy, **options)
    return device.operations


def test_a_run_whose_shapes_say_all_reads_the_weights_once(strategy: str) -> None:
    """A run takes no more operations than a dry run; a strict one looks at the numbers of all weights first."""
    once = operations_of(STRATEGIES[strategy], dry_run=True)

    assert operations_of(STRATEGIES[strategy]) <= once + len(PLACES)
    if strategy in {"threshold", "global-amount"}:
        assert operations_of(STRATEGIES[strategy], strict=True) > 1.5 * once


# --- memory


def extra(strategy: Strategy, live: dict[str, Tensor]) -> int:
    """Return the most bytes on the device that are not the model's."""
    with pytest.MonkeyPatch.context() as patch:
        pretend(patch, live, dict.fromkeys(live, FIRST))
        with Device() as device:
            prune_state_dict(live, strategy)
    return device.peak - sum(
        {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in live.values()}.values()
    )


def large(megabytes: int, lay: Callable[[Tensor], Tensor] = lambda weight: weight) -> dict[str, Tensor]:
    """Return a model of one tensor."""
    torch.manual_seed(0)
    return {"weight": lay(torch.randn(megabytes << 6, 1 << 12))}


@pytest.mark.parametrize("name", ["threshold", "topk-2-of-4", "l1-row"])
def test_memory_does_not_grow_with_a_tensor(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is computed at once is a run, whatever the size of the tensor."""
    monkeypatch.setattr(memory_reader, "DEVICE_RUN", 1 << 18)
    few, more = (extra(STRATEGIES[name], large(megabytes)) for megabytes in (1, 4))

    assert more < few + (1 << 18)


def test_memory_does_not_grow_with_many_small_tensors() -> None:
    """Small tensors are ranked, pruned and measured in buffers of bounded size."""
    for strategy in (prunecli.Global(amount=0.5), prunecli.Structured(amount=0.5)):
        live = {f"{n}.weight": torch.randn(16, 64) for n in range(300)}
        assert extra(strategy, live) < 40 << 20


@pytest.mark.slow
@pytest.mark.parametrize("name", ["thr-std", "l1-row", "global-amount", "structured-l2"])
def test_extra_memory_has_the_promised_bound(name: str) -> None:
    """Of a transposed tensor with full runs, less than 512 MB are held at any time."""
    assert extra(STRATEGIES[name], large(68, lambda weight: weight.T)) < 512 << 20
