"""The folds of `prunecli.kernels.folds` with torch, where the weights lie; the same bits.

Results stay on the device until `prunecli.kernels.norms` stores them. torch is imported when a function is called.
"""

from __future__ import annotations

import importlib
from math import inf
from typing import TYPE_CHECKING, Any

from prunecli.kernels.torch_values import values

if TYPE_CHECKING:
    from collections.abc import Callable

    from prunecli.kernels.folds import Numbers, Shape
    from prunecli.kernels.ops import Array

RUN = 1 << 24
"""Elements that are read at once, a power of two: in float64 they take 128 MB, and the first sums half of that."""


def fold(x: Array, numbers: Numbers, n: float, shape: Shape, part: int) -> Array:
    """Return the folds of parts, as `folds.fold` does."""
    powers = _own_values(x, numbers)
    powers = powers.square_() if n == 2 else powers.abs_()
    return fold_again(powers.nan_to_num_(nan=inf, posinf=inf), n, shape, part)


def fold_again(powers: Array, n: float, shape: Shape, part: int) -> Array:
    """Return the folds of folds, as `folds.fold_again` does; `powers` may be an array of NumPy."""
    torch = importlib.import_module("torch")
    outer, length, inner = shape
    part = min(part, length)
    parts = -(-length // part)
    powers = torch.as_tensor(powers).reshape(shape)
    if length % part:
        missing = (outer, parts * part - length, inner)
        powers = torch.cat([powers, powers.new_full(missing, inf if n == -inf else 0.0)], dim=1)
    return _folded(powers.reshape(outer * parts, part, inner), n).reshape(outer, parts, inner)


def moments(x: Array, numbers: Numbers, scale: float) -> tuple[float, float, int]:
    """Return the folded sums of the finite numbers and of their squares, and their count, as `folds.moments` does."""
    torch = importlib.import_module("torch")
    weights = _own_values(x, numbers)
    finite = weights.isfinite()
    weights = weights.masked_fill_(~finite, 0.0).mul_(scale).reshape(1, -1, 1)
    sums = torch.stack([_folded(y, 1.0).reshape(()) for y in (weights, weights.square())]).tolist()
    return sums[0], sums[1], int(finite.sum())


def _own_values(x: Array, numbers: Numbers) -> Array:
    """Return what integers encode, in memory of its own."""
    wide = values(x.clamp(min=0) if numbers.ranked else x, numbers.dtype)
    # The values of float64 are the weights themselves, seen as numbers.
    return wide.clone() if numbers.dtype.itemsize == 8 else wide


def _folded(powers: Array, n: float) -> Array:
    """Return the fold along the middle dimension."""
    torch: Any = importlib.import_module("torch")
    join: Callable[[Array, Array], Array] = {inf: torch.maximum, -inf: torch.minimum}.get(n, torch.add)
    while (length := powers.shape[1]) > 1:
        even = length // 2 * 2
        joined = join(powers[:, 0:even:2], powers[:, 1:even:2])
        powers = joined if even == length else torch.cat([joined, powers[:, even:]], dim=1)
    return powers
