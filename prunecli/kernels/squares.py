"""Sums of squares: exact ones of magnitude patterns, and those of blocks of weights.

A magnitude of a format is a whole number of quanta, the smallest positive magnitude. So an exact sum of squares is a
whole number of squared quanta, a Python integer, and does not depend on the order in which parts are added.
"""

from __future__ import annotations

from math import inf, sqrt
from typing import TYPE_CHECKING, Any

import numpy as np

from prunecli.kernels.bit_patterns import float8_table, values
from prunecli.kernels.tally import BLOCK, SMALLEST_SINGLE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from prunecli.dtypes import Float

RUN = 1 << 16
"""Patterns summed together: few enough for the cache, and for sums of `PIECE` bits to fit a float64."""

LIMB, PIECE = 27, 28
"""Bits of a mantissa that are multiplied together, and bits of a product that are summed together."""

BLOCKS_RUN = 64 * BLOCK
"""Elements whose squares are added together: few enough for the cache."""

UNIT = 1074
"""The smallest positive float64 is 2 to the power of minus this."""


def quantum(dtype: Float) -> int:
    """Return the binary exponent of the smallest positive magnitude of `dtype`."""
    return 1 - dtype.bias - dtype.mantissa


def square_sum(patterns: NDArray[Any], dtype: Float, counts: NDArray[Any] | None = None) -> int:
    """Return the exact sum, in squared quanta, of the squares of the finite magnitudes among `patterns`.

    `patterns` (n,) are sign-cleared and not negative; `counts` (n,) is the number of occurrences of each, None for
    one each.
    """
    total = 0  # of Python's integers, which do not overflow
    for first in range(0, patterns.size, RUN):
        run = patterns[first : first + RUN]
        finite = run <= dtype.finite_max
        times = None if counts is None else counts[first : first + RUN].astype(np.int64)
        if not finite.all():
            run, times = run[finite], None if times is None else times[finite]
        total += _sum(run.astype(np.int64), dtype, times)
    return total


def square(pattern: int, dtype: Float) -> int:
    """Return the square, in squared quanta, of the magnitude of one pattern; 0 if it is not finite."""
    if pattern > dtype.finite_max:
        return 0
    exponent, mantissa = pattern >> dtype.mantissa, pattern & ((1 << dtype.mantissa) - 1)
    whole: int = (mantissa + (1 << dtype.mantissa)) << (exponent - 1) if exponent else mantissa
    return whole**2


def _sum(run: NDArray[np.int64], dtype: Float, times: NDArray[np.int64] | None) -> int:
    total, exponents = 0, run >> dtype.mantissa
    mantissas = (run & ((1 << dtype.mantissa) - 1)) + ((exponents > 0).astype(np.int64) << dtype.mantissa)
    for power, pieces in pieces_of_squares(mantissas, dtype.mantissa + 1):
        if times is None:
            sums = np.bincount(exponents, weights=pieces).astype(np.int64)
        else:
            sums = np.zeros(int(exponents.max(initial=0)) + 1, np.int64)
            np.add.at(sums, exponents, pieces * times)
        for exponent in np.flatnonzero(sums).tolist():
            total += int(sums[exponent]) << (power + 2 * max(exponent - 1, 0))
    return total


def pieces_of_squares(mantissas: Any, bits: int) -> Iterator[tuple[int, Any]]:  # noqa: ANN401 - integers of any kind
    """Yield (power, pieces): the squares are the sums of pieces * 2**power, and each piece has at most PIECE bits.

    `mantissas` are an array of NumPy, a tensor of torch or a number, and so are the pieces.
    """
    low, high = mantissas & ((1 << LIMB) - 1), mantissas >> LIMB
    products = [(0, low * low)]
    if bits > LIMB:
        products += [(LIMB + 1, low * high), (2 * LIMB, high * high)]
    for power, product in products:
        yield power, product & ((1 << PIECE) - 1)
        if bits > PIECE // 2:
            yield power + PIECE, product >> PIECE


def scaled(squares: int, over: int = 1) -> tuple[float, int]:
    """Return (m, e) with m * 4**e = `squares` / `over`, rounded once, and m between 1/4 and 8; (0.0, 0) for zero."""
    if not squares:
        return 0.0, 0
    exponent = (squares.bit_length() - over.bit_length()) // 2
    if exponent < 0:
        return (squares << (-2 * exponent)) / over, exponent
    return squares / (over << (2 * exponent)), exponent


def root(squares: int, dtype: Float, over: int = 1) -> tuple[float, int]:
    """Return (m, e) with m * 2**e = sqrt(`squares` / `over`), for squared quanta of `dtype`; m is 0.0 for zero."""
    mean, exponent = scaled(squares, over)
    return sqrt(mean), exponent + quantum(dtype)


class ExactSum:
    """A sum of float64 numbers without rounding, rounded once at the end, so that their order has no effect."""

    def __init__(self) -> None:
        """Start at zero."""
        self._units, self._overflowed = 0, False  # in units of the smallest positive number, 2**-1074

    def add(self, numbers: NDArray[np.float64]) -> None:
        """Add `numbers` (n,), none of which is NaN."""
        finite = numbers[np.isfinite(numbers)]
        self._overflowed |= len(finite) < len(numbers)
        mantissas, exponents = np.frexp(finite)
        whole = np.ldexp(mantissas, 53).astype(np.int64)
        for exponent in np.unique(exponents).tolist():
            shift = exponent - 53 + UNIT
            total = sum(whole[exponents == exponent].tolist())
            self._units += total << shift if shift >= 0 else total >> -shift

    def add_units(self, units: int, *, overflowed: bool = False) -> None:
        """Add a number of units of 2**-1074."""
        self._units += units
        self._overflowed |= overflowed

    def merge(self, other: ExactSum) -> None:
        """Add another sum."""
        self.add_units(other._units, overflowed=other._overflowed)

    @property
    def units(self) -> int | None:
        """The sum in units of 2**-1074, or None if a number was infinite."""
        return None if self._overflowed else self._units

    @property
    def value(self) -> float:
        """The sum, rounded once; infinity if a number was infinite or the sum is too large."""
        return rounded(self.units)


def rounded(units: int | None) -> float:
    """Return a number of units of 2**-1074, None for infinity, rounded once; infinity if it is too large."""
    try:
        return inf if units is None else units / (1 << UNIT)
    except OverflowError:
        return inf


def block_sums(y: NDArray[Any], dtype: Float) -> NDArray[np.float64]:
    """Return the sum of squares of each block of magnitudes, as `prunecli.kernels.tally` defines it.

    `y` has whole blocks.
    """
    parts = [_block_sums(y[first : first + BLOCKS_RUN], dtype) for first in range(0, y.size, BLOCKS_RUN)]
    return np.concatenate(parts) if parts else np.empty(0)


def _block_sums(y: NDArray[Any], dtype: Float) -> NDArray[np.float64]:
    blocks = y.reshape(-1, BLOCK)
    with np.errstate(over="ignore", invalid="ignore"):
        sums = _halved(np.square(_wide(blocks, dtype))).astype(np.float64)
    unsure = np.flatnonzero(~((sums > SMALLEST_SINGLE) & (sums < inf)))
    for block in unsure[(blocks[unsure] != 0).any(axis=1)].tolist():
        with np.errstate(over="ignore"):
            finite = values(np.where(blocks[block] > dtype.finite_max, 0, blocks[block]), dtype)
            sums[block] = _halved(np.square(finite)[None])[0]
    return sums


def _halved(squares: NDArray[Any]) -> NDArray[Any]:
    """Return the sum of each row: the second half is added to the first one until one number is left."""
    half = squares.shape[1] // 2
    while half:
        squares = squares[:, :half] + squares[:, half : 2 * half]
        half //= 2
    return squares[:, 0]


def _wide(y: NDArray[Any], dtype: Float) -> NDArray[Any]:
    """Return magnitudes as float32, or as float64 if they are."""
    if dtype.itemsize >= 4:
        wide: NDArray[Any] = y.view(f"<f{dtype.itemsize}")
        return wide
    if dtype.name == "BF16":  # the upper half of a float32; NumPy has no such type
        return (y.astype(np.uint32) << np.uint32(16)).view(np.float32)
    if dtype.name == "F16":
        return y.view("<f2").astype(np.float32)
    # The NaN of fnuz formats is 128, which the table has as NaN.
    single: NDArray[np.float32] = float8_table(dtype)[y]
    return single
