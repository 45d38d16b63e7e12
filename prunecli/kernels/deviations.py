"""Standard deviations of tensors, from the folds of all finite weights and of their squares."""

from __future__ import annotations

from functools import partial
from math import sqrt
from typing import TYPE_CHECKING

import numpy as np

from prunecli.kernels.folds import Fold
from prunecli.kernels.later import Later, fetched, later
from prunecli.kernels.norms import backend_of, run_of, runs
from prunecli.kernels.ops import is_tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from prunecli.kernels.folds import Numbers
    from prunecli.kernels.later import Measured

_SMALLER = 2.0**-600
"""A factor that brings any weight's square into the range of float64; a power of two, so it rounds nothing."""


def standard_deviation(numbers: Numbers, numel: int, *, scale: float = 1.0) -> float:
    """Return the standard deviation (n - 1 in the denominator) of the finite numbers times `scale`."""
    return float(fetched([deviation(numbers, numel, scale)])[0][0])


def deviation(numbers: Numbers, numel: int, scale: float = 1.0) -> Measured:
    """Return the same as an array of one number."""
    finish = partial(_deviation, numbers, numel)
    if numbers.in_parts is not None:
        moments = numbers.in_parts.moments(numbers, scale)
    else:
        moments = _moments(numbers, numel, scale)
    if isinstance(moments, Later):
        return Later(moments.numbers, lambda found: finish(moments.finish(found)))
    return finish(np.array(moments))


def _deviation(numbers: Numbers, numel: int, moments: NDArray[np.float64]) -> NDArray[np.float64]:
    total, squares, count = moments.tolist()
    if count < 2:
        return np.zeros(1)
    if squares > 1e290:  # the squares of weights beyond 1e145 overflow float64
        return np.array([standard_deviation(numbers, numel, scale=_SMALLER) / _SMALLER])
    return np.array([sqrt(max(squares - total**2 / count, 0.0) / (count - 1))])


def moments_of(numbers: Numbers, numel: int, scale: float) -> tuple[float, float, int]:
    """Return the folded sum of the finite numbers times `scale`, that of their squares, and their count."""
    total, squares, count = fetched([_moments(numbers, numel, scale)])[0].tolist()
    return total, squares, int(count)


def _moments(numbers: Numbers, numel: int, scale: float) -> Measured:
    """Return the same as an array of three numbers."""
    compute, sums = backend_of(numbers), Fold(1.0, numbers.kernels)
    with np.errstate(over="ignore"):
        for first, stop in runs(numel, run_of(numbers)):
            found = compute.moments(numbers.read(first, stop), numbers, scale)
            sums.add(found if is_tensor(found) else np.array(found))
        return later(sums.result())
