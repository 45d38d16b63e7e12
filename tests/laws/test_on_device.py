"""Tensors on a device are pruned there, with the bits and the report of a file; torch's CPU backend is the device."""

from __future__ import annotations

from threading import current_thread, main_thread
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import STRATEGIES, different, make_weights, pruned_weights
from support.containers import one_storage, sliced, transposed
from support.pruning import check_memory_and_file
from support.weights import TORCH_FLOATS, contiguous_copies

from prunecli.api import prune, prune_state_dict
from prunecli.engine.in_memory import _batches
from prunecli.engine.pruner import Pruner
from prunecli.errors import DeviceError
from prunecli.strategies.semi_structured import TopK
from prunecli.strategies.structured import Structured
from prunecli.strategies.thresholds import Threshold
from prunecli.strategies.unstructured import L1, Global, Percentile
from prunecli.training.masks import mask_from_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

    from prunecli.io.threads import Worker


@pytest.fixture(autouse=True)
def device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let all tensors count as those of a device."""
    for module in ("io.memory_reader", "engine.in_memory", "training.masks"):
        monkeypatch.setattr(f"prunecli.{module}.on_host", lambda _: False)


@pytest.mark.parametrize("dtype", TORCH_FLOATS.values(), ids=str)
def test_device_and_file_agree_in_every_dtype(dtype: torch.dtype, strategy: str, tmp_path: Path) -> None:
    """Device and file agree bit for bit and row for row, in every float dtype."""
    check_memory_and_file(make_weights(dtype=dtype), STRATEGIES[strategy], tmp_path)


@pytest.mark.parametrize("layout", [transposed, sliced, one_storage])
def test_strided_tensors_are_pruned_on_the_device(
    layout: Callable[[dict[str, Tensor]], dict[str, Tensor]], strategy: str
) -> None:
    """Transposed and sliced tensors have the zeros of contiguous ones."""
    weights = make_weights()
    live = layout(contiguous_copies(weights))

    prune_state_dict(live, STRATEGIES[strategy])

    assert different(pruned_weights(STRATEGIES[strategy], weights), live) == []


@pytest.mark.parametrize("strategy", [Threshold(0.1), L1(amount=0.5), Global(amount=0.5), TopK(2, 4)], ids=str)
def test_only_counts_and_samples_leave_the_device(strategy: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 4 MB of weights, less than a tenth is copied to the host."""
    live = {f"{n}.weight": torch.randn(1024, 1024).to(torch.bfloat16) for n in range(2)}
    copied: list[int] = []
    for name in ("cpu", "numpy", "tolist", "item"):
        real = getattr(torch.Tensor, name)

        def counted(x: Tensor, *args: object, real: Callable[..., object] = real) -> object:
            if x.dtype != torch.uint8:  # the bytes of a storage, which a region shows where NumPy can share them
                copied.append(x.numel() * x.element_size())
            return real(x, *args)

        monkeypatch.setattr(torch.Tensor, name, counted)
    # Buffers are the other way to the host.
    monkeypatch.setattr("prunecli.io.memory.Region.read", lambda *_: pytest.fail("weights are read into a buffer"))

    prune_state_dict(live, strategy)

    assert sum(copied) < 400_000 * (1 + isinstance(strategy, (L1, Global)))


@pytest.mark.parametrize("dry_run", [True, False])
def test_a_device_without_memory_is_one_clear_error(monkeypatch: pytest.MonkeyPatch, dry_run: bool) -> None:  # noqa: FBT001
    """The message says what is wrong and what state the tensors are in."""

    def fail(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr("prunecli.kernels.torch_tally.TorchTally.prune", fail)
    monkeypatch.setattr("prunecli.kernels.torch_many.ManyTensors.prune", fail)
    state = "no tensor was changed" if dry_run else "some weights may be pruned and others not"

    with pytest.raises(DeviceError, match=f"a device is out of memory; {state}"):
        prune_state_dict(make_weights(), Threshold(0.1), dry_run=dry_run)


@pytest.mark.parametrize("layout", [dict, transposed])
def test_masks_are_made_on_the_device(layout: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    """The masks of weights on a device say where they are not zero."""
    live = layout(pruned_weights(STRATEGIES["global-amount"], make_weights()))

    masks = mask_from_checkpoint(live)

    assert masks
    assert all(torch.equal(mask, live[name] != 0) for name, mask in masks.items())


@pytest.mark.parametrize("dry_run", [True, False])
def test_many_small_tensors_are_pruned_together(strategy: str, dry_run: bool, tmp_path: Path) -> None:  # noqa: FBT001
    """Small tensors of several dtypes and shapes have the bytes and rows of a file; a dry run changes none."""
    torch.manual_seed(0)
    shapes = [(16, 16), (8, 32), (4, 300), (64, 16), (16, 16)]
    dtypes = [torch.float32, torch.bfloat16, torch.float64, torch.float16]
    weights = {
        f"layers.{n}.weight": torch.randn(shapes[n % 5], dtype=torch.float64).to(dtypes[n % 4]) for n in range(40)
    }
    torch.save(weights, tmp_path / "in.pth")
    before = contiguous_copies(weights)
    from_file = prune(tmp_path / "in.pth", STRATEGIES[strategy], output=tmp_path / "out.pth", reports=())

    report = prune_state_dict(weights, STRATEGIES[strategy], dry_run=dry_run)

    expected = before if dry_run else torch.load(tmp_path / "out.pth", weights_only=True)
    assert different(expected, weights) == []
    assert from_file.rows == report.rows


def test_percentiles_at_a_weight_and_between_two_are_found_together(tmp_path: Path) -> None:
    """Of tensors with odd and even numbers of weights, not all have as many ranks."""
    check_memory_and_file({f"{n}.weight": torch.randn(n, n) for n in (1, 3, 4, 5)}, Percentile(50), tmp_path)


def test_what_is_counted_does_not_wait_for_all_tensors(strategy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The numbers of many tensors are fetched before the last one is pruned, which changes no report."""
    live = {f"{n}.weight": torch.randn(16, 16) for n in range(8)}
    expected = prune_state_dict(contiguous_copies(live), STRATEGIES[strategy])
    monkeypatch.setattr("prunecli.engine.in_memory.BATCH_BYTES", 2 * 4 * 16 * 16)
    monkeypatch.setattr("prunecli.engine.pruner.WAITING_BYTES", 1)
    fetched: list[int] = []
    real = Pruner._resolve_many
    monkeypatch.setattr(Pruner, "_resolve_many", lambda own, many: (fetched.append(len(many)), real(own, many)))

    report = prune_state_dict(live, STRATEGIES[strategy])

    assert report.rows == expected.rows
    assert all(number <= 1 for number in fetched)


def test_batches_are_not_larger_than_said() -> None:
    """A part has shares of 1 in all, or one tensor."""
    parts = [part for (part,) in _batches(range(6), [0.6, 0.6, 0.3, 0.1, 2.0, 0.5])]

    assert parts == [[0], [1, 2, 3], [4], [5]]


def test_kernels_are_queued_by_the_thread_of_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other threads have other streams, and memory of their own on a device: they prune what lies on the host."""
    for name in ("LARGE_TENSOR", "LARGE_MODEL"):
        monkeypatch.setattr(f"prunecli.engine.in_memory.{name}", 0)
    for module in ("io.memory_reader", "engine.in_memory"):
        monkeypatch.setattr(f"prunecli.{module}.on_host", lambda tensor: tensor.shape[0] == 32)
    here: dict[type, set[bool]] = {}
    real = Pruner.prune

    def prune_here(own: Pruner, worker: Worker, x: object, *args: Any, **options: Any) -> None:  # noqa: ANN401
        here.setdefault(type(x), set()).add(current_thread() is main_thread())
        real(own, worker, x, *args, **options)

    monkeypatch.setattr(Pruner, "prune", prune_here)

    prune_state_dict({"a.weight": torch.randn(32, 32), "b.weight": torch.randn(16, 16)}, Threshold(0.1))

    assert here[torch.Tensor] == {True}
    assert False in set.union(*(threads for kind, threads in here.items() if kind is not torch.Tensor))


def test_a_cut_above_the_largest_integer(tmp_path: Path) -> None:
    """All weights of float64 are pruned, also if the largest is a NaN of ones."""
    nans = torch.full((8, 8), -1, dtype=torch.int64).view(torch.float64)
    weights = {"nan.weight": nans, "weight": torch.randn(8, 8, dtype=torch.float64)}

    check_memory_and_file(weights, L1(amount=1.0), tmp_path)


@pytest.mark.parametrize("shape", [(1, 33), (33, 1), (1, 1), (4, 33)])
def test_flags_of_slices_are_not_shared_by_weights(shape: tuple[int, int], tmp_path: Path) -> None:
    """A mask prunes weights of a slice that survives, and leaves the others, also where there is one slice."""
    torch.manual_seed(0)
    weights = {"a.weight": torch.randn(shape)}
    save_file({"a.weight": torch.rand(shape) > 0.4}, tmp_path / "mask.safetensors")
    save_file(weights, tmp_path / "in.safetensors")
    for dim in (0, 1):
        options = {"mask_in": tmp_path / "mask.safetensors"}
        output = tmp_path / "out.safetensors"
        prune(tmp_path / "in.safetensors", Structured(amount=0.0, dim=dim), output=output, reports=(), **options)
        live = contiguous_copies(weights)
        prune_state_dict(live, Structured(amount=0.0, dim=dim), **options)
        assert different(load_file(output), live) == []
        output.unlink()
