"""Any loader that reads the input also reads the output: torch in each mode, safetensors, and a module."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from support import CONTAINERS, STRATEGIES, Net, Weights, different, pruned_weights, read, shards, state_dict
from support.covering import in_turn

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import Pruned

TORCH = [name for name, container in CONTAINERS.items() if container.library == "torch"]
LEGACY = [name for name in TORCH if name.startswith("legacy")]
NOT_WEIGHTS_ONLY = ["nested", "legacy-nested", "protocol-4"]
MODES: dict[str, Callable[[Path], Any]] = {
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
"""The containers that torch does not load in a mode, pruned or not."""

LOADABLE = [(container, mode) for mode in MODES for container in TORCH if container not in REFUSED[mode]]
SAFETENSORS = ["safetensors", "safetensors-shards"]


def check(strategy: str, before: Weights, after: Weights) -> None:
    """Check the names, their order and every bit of a loaded result."""
    assert different(pruned_weights(STRATEGIES[strategy], before), after) == []


@pytest.mark.parametrize(("container", "mode", "strategy"), in_turn(LOADABLE, STRATEGIES))
def test_torch_loads_the_result(container: str, mode: str, strategy: str, pruned: Callable[[str, str], Pruned]) -> None:
    """`torch.load` in every mode that loads the input loads the pruned weights from the output."""
    done = pruned(container, strategy)
    before = state_dict(container, read(done.source))

    loaded = {name: t for file in shards(done.output) for name, t in MODES[mode](file).items()}

    check(strategy, before, state_dict(container, loaded))


@pytest.mark.parametrize("container", SAFETENSORS)
def test_safetensors_opens_the_result(container: str, strategy: str, pruned: Callable[[str, str], Pruned]) -> None:
    """`safe_open` gives the pruned weights and the metadata of the input."""
    done = pruned(container, strategy)
    loaded: Weights = {}
    metadata = []
    for file in shards(done.output):
        with safe_open(file, framework="pt") as opened:
            loaded |= {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - no mapping
            metadata.append(opened.metadata())

    check(strategy, state_dict(container, read(done.source)), state_dict(container, loaded))
    extra = {"note": "kept"} if container == "safetensors" else {}
    assert metadata == [{"format": "pt", **extra}] * len(metadata)


@pytest.mark.parametrize("container", SAFETENSORS)
def test_safetensors_loads_the_result(container: str, strategy: str, pruned: Callable[[str, str], Pruned]) -> None:
    """`safetensors.torch.load_file` gives the pruned weights."""
    done = pruned(container, strategy)

    loaded = {name: t for file in shards(done.output) for name, t in load_file(file).items()}

    check(strategy, state_dict(container, read(done.source)), state_dict(container, loaded))


@pytest.mark.parametrize(("container", "strategy"), in_turn(CONTAINERS, STRATEGIES))
def test_a_module_loads_the_result(container: str, strategy: str, pruned: Callable[[str, str], Pruned]) -> None:
    """`load_state_dict(strict=True)` of the module accepts the output, and the module then has the pruned weights."""
    done = pruned(container, strategy)
    before, after = (state_dict(container, read(path)) for path in (done.source, done.output))
    module = Net(tied=CONTAINERS[container].tied)

    module.load_state_dict(after, strict=True)

    loaded = module.state_dict()
    wanted = pruned_weights(STRATEGIES[strategy], before)
    assert different(wanted, {name: loaded[name] for name in wanted}) == []
