"""Whoever could load the input can load the output: torch in each of its ways, safetensors, and a real module."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from support import CONTAINERS, STRATEGIES, Net, pruned_weights, read, same_bits, shards, state_dict

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import Pruned

TORCH = [name for name in CONTAINERS if not name.startswith("safetensors")]
LEGACY = [name for name in TORCH if name.startswith("legacy")]
NOT_WEIGHTS_ONLY = ["nested", "legacy-nested", "protocol-4"]
WAYS: dict[str, Callable[[Path], Any]] = {
    "plain": partial(torch.load, weights_only=False),
    "weights-only": partial(torch.load, weights_only=True),
    "mmap": partial(torch.load, weights_only=False, mmap=True),
    "mapped-weights-only": partial(torch.load, weights_only=True, mmap=True),
}
REFUSED = {
    "plain": [],
    "weights-only": NOT_WEIGHTS_ONLY,
    "mmap": LEGACY,
    "mapped-weights-only": [*LEGACY, *NOT_WEIGHTS_ONLY],
}
"""What torch refuses to load in each way, pruned or not: there is nothing to test."""

LOADABLE = [(container, way) for way in WAYS for container in TORCH if container not in REFUSED[way]]


def check(strategy: str, before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> None:
    """Check names, their order and every bit of a loaded result."""
    wanted = pruned_weights(STRATEGIES[strategy], before)
    assert list(wanted) == list(after)
    assert not [name for name in wanted if not same_bits(wanted[name], after[name])]


@pytest.mark.parametrize(("container", "way"), LOADABLE)
def test_torch_loads_the_result(container: str, way: str, strategy: str, pruned: Callable[[str, str], Pruned]) -> None:
    """`torch.load` in every way that takes the input gives the pruned weights from the output."""
    done = pruned(container, strategy)
    before = state_dict(container, read(done.source))

    loaded = {name: t for file in shards(done.output) for name, t in WAYS[way](file).items()}

    check(strategy, before, state_dict(container, loaded))


@pytest.mark.parametrize("container", ["safetensors", "safetensors-shards"])
def test_safetensors_opens_the_result(container: str, strategy: str, pruned: Callable[[str, str], Pruned]) -> None:
    """`safe_open` gives the pruned weights and the input's metadata."""
    done = pruned(container, strategy)
    loaded: dict[str, torch.Tensor] = {}
    metadata = []
    for file in shards(done.output):
        with safe_open(file, framework="pt") as opened:
            loaded |= {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - no mapping
            metadata.append(opened.metadata())

    check(strategy, state_dict(container, read(done.source)), state_dict(container, loaded))
    extra = {"note": "kept"} if container == "safetensors" else {}
    assert metadata == [{"format": "pt", **extra}] * len(metadata)


@pytest.mark.parametrize("container", ["safetensors", "safetensors-shards"])
def test_safetensors_loads_the_result(container: str, strategy: str, pruned: Callable[[str, str], Pruned]) -> None:
    """`safetensors.torch.load_file` gives the pruned weights."""
    done = pruned(container, strategy)

    loaded = {name: t for file in shards(done.output) for name, t in load_file(file).items()}

    check(strategy, state_dict(container, read(done.source)), state_dict(container, loaded))


def test_a_module_takes_the_result(container: str, strategy: str, pruned: Callable[[str, str], Pruned]) -> None:
    """`load_state_dict(strict=True)` of the real module accepts the output, and then holds the pruned weights."""
    done = pruned(container, strategy)
    before, after = (state_dict(container, read(path)) for path in (done.source, done.output))
    module = Net(tied=CONTAINERS[container].tied)

    module.load_state_dict(after, strict=True)

    wanted, found = pruned_weights(STRATEGIES[strategy], before), module.state_dict()
    assert not [name for name in wanted if not same_bits(wanted[name], found[name])]
