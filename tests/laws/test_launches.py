"""The kernels that are started for a tensor on a device, and the waits for them, have bounds: counted, not timed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import save_file
from support.launches import Launches, count_launches

import prunecli
from prunecli import api
from prunecli.api import prune_state_dict
from prunecli.engine import device_rows, run
from prunecli.io import memory_reader
from prunecli.io.threads import InlinePool
from prunecli.ranking import device_ranks

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

    from prunecli.strategies.strategy import Strategy

STRATEGIES: dict[str, tuple[Strategy, int, int]] = {
    "threshold": (prunecli.Threshold(0.01), 1, 0),
    "percentile": (prunecli.Percentile(60), 1, 0),
    "l1": (prunecli.L1(amount=0.5), 1, 0),
    "global": (prunecli.Global(amount=0.5), 1, 0),
    "topk 2:4": (prunecli.TopK(2, 4), 1, 0),
    "topk 8:32": (prunecli.TopK(8, 32), 1, 0),
    "l1 row": (prunecli.L1(amount=0.5, scope="row"), 12, 0),
    "std": (prunecli.StdThreshold(0.5), 16, 0),
    "structured": (prunecli.Structured(amount=0.25), 1, 0),
    "structured dim 1": (prunecli.Structured(amount=0.25, dim=1), 1, 0),
    "random slices": (prunecli.RandomStructured(amount=0.25), 1, 0),
    "block": (prunecli.Block(4, 4, amount=0.5), 1, 0),
}
"""The strategies, and the most kernels and waits that one more large tensor costs."""


SCORED: dict[str, tuple[Strategy, str, int]] = {
    "threshold, norms": (prunecli.Threshold(0.01), "act_norms", 20),
    "l1, norms": (prunecli.L1(amount=0.5), "act_norms", 110),
    "global, norms": (prunecli.Global(amount=0.5), "act_norms", 110),
    "lamp, norms": (prunecli.Global(amount=0.5, normalize="lamp"), "act_norms", 180),
    "topk 2:4, norms": (prunecli.TopK(2, 4), "act_norms", 70),
    "structured, norms": (prunecli.Structured(amount=0.25), "act_norms", 90),
    "l1, scores": (prunecli.L1(amount=0.5), "scores", 80),
    "l1, mask": (prunecli.L1(amount=0.5), "mask_in", 60),
    "l1, remaining": (prunecli.L1(amount=0.5), "of", 60),
    "l1 row of [in, out]": (prunecli.L1(amount=0.5, scope="row"), "layout", 85),
    "random": (prunecli.Random(amount=0.5), "", 4),
    "rms": (prunecli.Global(amount=0.5, normalize="rms"), "", 1),
    "lamp": (prunecli.Global(amount=0.5, normalize="lamp"), "", 1),
}
"""Strategies with scores, the argument that they are about, and the most kernels that one more large tensor costs."""


def scored(monkeypatch: pytest.MonkeyPatch, name: str, number: int, shape: tuple[int, int], folder: Path) -> Launches:
    """Prune so many tensors by scores and return what was counted."""
    strategy, argument, _ = SCORED[name]
    sizes = {"act_norms": shape[1:], "scores": shape, "mask_in": shape}
    options: dict[str, Any] = {"of": {"of": "remaining"}, "layout": {"layout": {"*": "in-out"}}}.get(argument, {})
    if argument in sizes:
        options = {argument: folder / f"{number}.safetensors"}
        numbers = {f"{n}.weight": torch.rand(sizes[argument]) for n in range(number)}
        numbers = {key: x > 0.4 for key, x in numbers.items()} if argument == "mask_in" else numbers
        save_file(numbers, options[argument])
    return counted(monkeypatch, strategy, number, shape, **options)


def strided(weight: Tensor, number: int) -> Tensor:
    """Return the weight transposed, or as a part of a tensor."""
    return weight.T.contiguous().T if number % 2 else torch.cat([weight, weight], 1)[:, : weight.shape[1]]


def counted(
    monkeypatch: pytest.MonkeyPatch,
    strategy: Strategy,
    number: int,
    shape: tuple[int, int],
    lay: Callable[[Tensor, int], Tensor] = lambda weight, _: weight,
    **options: Any,  # noqa: ANN401 - those of the call
) -> Launches:
    """Prune so many tensors and return what was counted."""
    torch.manual_seed(0)
    live = {f"{n}.weight": lay(torch.randn(shape).to(torch.bfloat16), n) for n in range(number)}
    with monkeypatch.context() as patch:
        launches = count_launches(patch)
        with launches:
            prune_state_dict(live, strategy, **options)
    return launches


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_large_tensor_costs_few_kernels(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is common to all tensors is done once; what each of them costs has a bound."""
    strategy, kernels, waits = STRATEGIES[name]
    few, more = (counted(monkeypatch, strategy, number, (520, 1024)) for number in (2, 4))

    assert (more.kernels - few.kernels) / 2 <= kernels, more.names
    assert (more.waits - few.waits) / 2 <= waits, more.names


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_strided_tensor_costs_no_wait_for_each_run(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Transposed tensors and parts of tensors are copied in runs, on the device; nothing waits for a run."""
    monkeypatch.setattr(memory_reader, "DEVICE_RUN", 1 << 18)
    monkeypatch.setattr(device_ranks, "RUN", 1 << 17)
    strategy, _, waits = STRATEGIES[name]
    few, more = (counted(monkeypatch, strategy, number, (520, 1024), strided) for number in (2, 4))

    waits += name == "block"  # its norms are ranked tensor by tensor
    assert (more.waits - few.waits) / 2 <= waits, more.names


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_small_strided_tensor_is_copied_and_copied_back(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small tensors of any strides are ranked, pruned and counted in the buffers of many."""
    few, more = (counted(monkeypatch, STRATEGIES[name][0], number, (16, 64), strided) for number in (20, 60))

    assert (more.kernels - few.kernels) / 40 <= 4, str(more.names)
    assert more.waits == few.waits


@pytest.mark.parametrize("name", STRATEGIES)
def test_small_tensors_cost_no_kernels_of_their_own(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forty more small tensors of a shape cost a few more kernels, and no more waits."""
    few, more = (counted(monkeypatch, STRATEGIES[name][0], number, (16, 64)) for number in (20, 60))

    assert more.kernels - few.kernels <= 4, str(more.names)
    assert more.waits == few.waits


@pytest.mark.parametrize("name", ["threshold", "topk 2:4", "l1 row"])
def test_a_window_of_a_file_is_copied_to_the_device_and_back(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Pruning a window waits for nothing else; its numbers stay on the device until all windows are written."""
    save_file({"weight": torch.randn(512, 1024).to(torch.bfloat16)}, tmp_path / "in.safetensors")
    waits = []
    for window in (1 << 18, 1 << 17):
        with monkeypatch.context() as patch:
            patch.setattr(api, "resolve", lambda _: "cpu")
            patch.setattr(run, "DEVICE_WINDOW", window)
            patch.setattr(run.Run, "_pool", lambda _: InlinePool("cpu"))
            launches = count_launches(patch)
            with launches:
                api.prune(tmp_path / "in.safetensors", STRATEGIES[name][0], device="cuda", reports=(), force=True)
        waits.append(launches.waits)

    assert waits[1] - waits[0] <= 4 * 2


@pytest.mark.parametrize("name", SCORED)
def test_scores_cost_few_kernels_and_no_wait(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores are computed, ranked and applied in runs, on the device, and nothing waits for a run."""
    monkeypatch.setattr(device_rows, "RUN", 1 << 19)
    kernels = SCORED[name][2]
    few, more = (scored(monkeypatch, name, number, (520, 1024), tmp_path) for number in (2, 4))

    assert (more.kernels - few.kernels) / 2 <= kernels, more.names
    assert more.waits - few.waits <= 2  # a pass more, if a bracket of one of them misses its rank


@pytest.mark.parametrize("name", sorted(SCORED.keys() - {"l1 row of [in, out]"}))  # their groups of 4 are apart
def test_scores_of_small_tensors_are_computed_together(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forty more small tensors of a shape cost a few more kernels, those of one more pass at most."""
    few, more = (scored(monkeypatch, name, number, (16, 64), tmp_path) for number in (20, 60))

    assert more.kernels - few.kernels <= 40, str(more.names)
    assert more.waits - few.waits <= 2


def test_a_tensor_that_is_too_large_to_be_pruned_at_once_is_pruned_in_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is counted about all blocks of a tensor has a bound: above it, the kernels get parts of the tensor."""
    monkeypatch.setattr("prunecli.engine.together.BATCH_WEIGHTS", (1 << 18) - 1)
    monkeypatch.setattr("prunecli.kernels.torch_ops.FUSED_RUN", 1 << 16)
    monkeypatch.setattr(memory_reader, "DEVICE_RUN", 1 << 16)

    assert counted(monkeypatch, prunecli.Threshold(0.01), 1, (512, 512)).names["prune_kernel"] == 4
    assert counted(monkeypatch, prunecli.Threshold(0.01), 1, (511, 512)).names["prune_kernel"] == 1
