"""Numbers computed on devices, of which those of many tensors are fetched together."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from prunecli.kernels.ops import Array, is_tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Later:
    """Float64 `numbers` on a device; `finish` makes the result of them on the host. Several may share numbers."""

    numbers: Array
    finish: Callable[[NDArray[np.float64]], NDArray[np.float64]]


Measured: TypeAlias = "NDArray[np.float64] | Later"
"""Numbers on the host, or those that will be there."""


def later(numbers: Array, finish: Any = np.asarray) -> Measured:  # noqa: ANN401 - a function
    """Return what `finish` makes of numbers, at once if they lie on the host."""
    found: Measured = Later(numbers, finish) if is_tensor(numbers) else finish(numbers)
    return found


def fetched(results: Sequence[Any]) -> list[Any]:
    """Return results without a `Later` among them, with one copy to the host for each device."""
    by_device: dict[str, dict[int, Array]] = {}
    for result in results:
        if isinstance(result, Later):
            by_device.setdefault(str(result.numbers.device), {})[id(result.numbers)] = result.numbers
    found = {key: numbers for vectors in by_device.values() for key, numbers in _together(vectors).items()}
    return [r.finish(found[id(r.numbers)]) if isinstance(r, Later) else r for r in results]


def _together(vectors: dict[int, Array]) -> dict[int, NDArray[np.float64]]:
    torch = importlib.import_module("torch")
    flat = torch.cat([numbers.reshape(-1) for numbers in vectors.values()]).cpu().numpy()
    parts = np.split(flat, np.cumsum([numbers.numel() for numbers in vectors.values()])[:-1])
    return {key: part.reshape(vectors[key].shape) for key, part in zip(vectors, parts, strict=True)}
