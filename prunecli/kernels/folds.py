"""Sums, largest and smallest numbers in an order that does not depend on the backend: NumPy's version.

The fold of numbers joins neighbours in pairs, the 0th with the 1st, the 2nd with the 3rd and so on. The last of an odd
number stays as it is. The results are joined in the same way until one is left. To join two numbers is to add them, or
to take the larger or the smaller one, always in float64. A run whose length is a power of two, and which starts at a
multiple of it, is folded for itself, and the results of such runs are folded: this gives the same bits, so the length
of the runs does not matter.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from prunecli.kernels.arrays import UINTS
from prunecli.kernels.bit_patterns import values
from prunecli.kernels.ops import Array

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from prunecli.dtypes import Float
    from prunecli.kernels.later import Measured
    from prunecli.layout import SliceView

Shape = tuple[int, int, int]
"""A run of numbers seen as an (outer, length, inner) array."""


@dataclass(frozen=True, slots=True)
class Numbers:
    """The numbers of a tensor.

    Attributes:
        read: Reads the elements [first, stop) in row-major order as integers; they are not changed.
        dtype: The format of the integers.
        ranked: Whether they are magnitudes as a scorer returns them: of any width, and -1, which counts as 0, for a
            weight that is already pruned. Else they are weights with their signs.
        kernels: The functions that compute where the integers lie, if that is not on the host.
        run: How many elements are read at once, a power of two; 0 for as many as suit the host.
        in_parts: What computes norms and deviations if these are a part of the numbers, and other processes have the
            others; None if these are all.
    """

    read: Callable[[int, int], Array]
    dtype: Float
    ranked: bool = False
    kernels: DeviceKernels | None = None
    run: int = 0
    in_parts: NumbersInParts | None = None

    def after(self, origin: int) -> Numbers:
        """Return the numbers from element `origin` on."""
        return replace(self, read=lambda first, stop: self.read(origin + first, origin + stop))


class NumbersInParts(Protocol):
    """The functions of `prunecli.kernels.norms`, for all parts of the numbers."""

    def slice_norms(self, own: Numbers, view: SliceView, n: float) -> Measured:
        """Return the norm of each slice of the whole tensor; `own` are the numbers of this process."""

    def block_norms(self, own: Numbers, view: SliceView, block: tuple[int, int]) -> Array:
        """Return the norm of each block of the whole tensor."""

    def moments(self, own: Numbers, scale: float) -> Any:  # noqa: ANN401 - three numbers, or a `Later`
        """Return the folded sums and the count of all finite numbers, as `deviations.moments_of` does."""


class FoldKernels(Protocol):
    """The functions of this module that each backend has."""

    def fold(self, x: Array, numbers: Numbers, n: float, shape: Shape, part: int) -> Array:
        """Return the folds of parts, as the function below, where `x` lies."""

    def fold_again(self, powers: Array, n: float, shape: Shape, part: int) -> Array:
        """Return the folds of folds, as the function below."""

    def fold_blocks(self, x: Array, numbers: Numbers, shape: Shape, wide: int) -> Array:
        """Return the sums of squares of blocks, as the function below."""

    def moments(self, x: Array, numbers: Numbers, scale: float) -> Any:  # noqa: ANN401 - a tuple, or a tensor
        """Return sums and a count, as the function below."""


class DeviceKernels(FoldKernels, Protocol):
    """What a backend has whose results lie on a device."""

    def empty(self, like: Array, count: int) -> Array:
        """Return memory for `count` numbers of float64 on the device of `like`."""

    def join_of(self, n: float) -> Any:  # noqa: ANN401 - a function
        """Return the operation that joins the numbers of an Ln norm."""

    def divide(self, sums: Array, heights: Array, widths: Array) -> None:
        """Divide sums (stacks, bands, blocks) by heights times widths."""


class Fold:
    """The fold of arrays that arrive one after the other, element by element."""

    def __init__(self, n: float, kernels: DeviceKernels | None = None) -> None:
        """Join as an Ln norm does, where the arrays lie: on the device of `kernels`, or on the host."""
        self._join: Any = join_of(n) if kernels is None else kernels.join_of(n)
        self._nodes: list[tuple[int, Array]] = []

    def add(self, node: Array) -> None:
        """Add the next array. Each but the last has the fold of equally many numbers, a power of two."""
        size = 1
        while self._nodes and self._nodes[-1][0] == size:
            node = self._join(self._nodes.pop()[1], node)
            size *= 2
        self._nodes.append((size, node))

    def result(self) -> Array:
        """Return the fold of all arrays, of which there is at least one."""
        _, node = self._nodes.pop()
        while self._nodes:
            node = self._join(self._nodes.pop()[1], node)
        return node


def join_of(n: float) -> np.ufunc:
    """Return the operation that joins the numbers of an Ln norm."""
    return {np.inf: np.maximum, -np.inf: np.minimum}.get(n, np.add)


def fold(x: NDArray[Any], numbers: Numbers, n: float, shape: Shape, part: int) -> NDArray[np.float64]:
    """Return the folds of what an Ln norm joins, for each `part` consecutive entries along the middle of `shape`.

    `x` are integers as `numbers.read` returns them. The last part may be shorter. The result is of shape (outer, parts,
    inner).
    """
    return fold_again(_powers(x, numbers, n), n, shape, part)


def fold_again(powers: NDArray[np.float64], n: float, shape: Shape, part: int) -> NDArray[np.float64]:
    """Return the folds of numbers that are folds themselves, as `fold` does."""
    outer, length, inner = shape
    part = min(part, length)
    parts = -(-length // part)
    powers = powers.reshape(shape)
    if length % part:
        neutral = np.inf if n == -np.inf else 0.0
        missing = np.full((outer, parts * part - length, inner), neutral)
        powers = np.concatenate([powers, missing], axis=1)
    return _folded(powers.reshape(outer * parts, part, inner), n).reshape(outer, parts, inner)


def _folded(powers: NDArray[np.float64], n: float) -> NDArray[np.float64]:
    """Return the fold along the middle dimension."""
    join = join_of(n)
    while (length := powers.shape[1]) > 1:
        even = length // 2 * 2
        with np.errstate(over="ignore", invalid="ignore"):  # a sum of finite numbers, or of both infinities
            joined: NDArray[np.float64] = join(powers[:, 0:even:2], powers[:, 1:even:2])
        powers = joined if even == length else np.concatenate([joined, powers[:, even:]], axis=1)
    return powers


def fold_blocks(x: NDArray[Any], numbers: Numbers, shape: Shape, wide: int) -> NDArray[np.float64]:
    """Return the folds of squares along the middle of `shape`, and then of each `wide` of them in a row.

    The last of a row may be fewer. The result is of shape (outer, blocks).
    """
    outer, high, width = shape
    sums = fold(x, numbers, 2.0, shape, high)
    return fold_again(sums, 2.0, (outer, width, 1), wide).reshape(outer, -1)


def moments(x: NDArray[Any], numbers: Numbers, scale: float) -> tuple[float, float, int]:
    """Return the folded sum of the finite numbers times `scale`, that of their squares, and their count.

    A number that is not finite counts as 0 in the sums.
    """
    magnitudes = _magnitudes(x, numbers)
    finite = np.isfinite(magnitudes)
    weights = np.where(finite, magnitudes, 0.0) * scale
    weights = np.where(x < 0, -weights, weights)
    with np.errstate(over="ignore", under="ignore"):
        sums = [_folded(y.reshape(1, -1, 1), 1.0).item() for y in (weights, np.square(weights))]
    return sums[0], sums[1], int(np.count_nonzero(finite))


def _powers(x: NDArray[Any], numbers: Numbers, n: float) -> NDArray[np.float64]:
    """Return what an Ln norm joins: magnitudes or their squares. NaN, which has no order, counts as infinity."""
    magnitudes = _magnitudes(x, numbers)
    if n != 2:
        return magnitudes
    with np.errstate(over="ignore", under="ignore"):
        return np.square(magnitudes, out=magnitudes)


def _magnitudes(x: NDArray[Any], numbers: Numbers) -> NDArray[np.float64]:
    """Return the magnitudes of a run, infinity for NaN."""
    dtype = numbers.dtype
    if numbers.ranked:
        y = np.where(x < 0, x.dtype.type(0), x)
    elif dtype.negative_zero_is_nan:
        y = np.where(x == -128, np.int16(dtype.top), x & np.int8(dtype.mask))
    else:
        y = x & x.dtype.type(dtype.mask)
    magnitudes = values(y.view(UINTS[y.itemsize]) if dtype.itemsize == 1 else y, dtype)
    magnitudes[np.isnan(magnitudes)] = np.inf
    return magnitudes
