"""Sums of squares of magnitudes without any rounding, so that they are the same in whatever pieces they are taken.

A magnitude of a format is a whole number of quanta, the smallest positive magnitude there is; a sum of squares is a
whole number of squared quanta, as a Python integer.
"""

from __future__ import annotations

from math import sqrt
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from prunecli.dtypes import Float

RUN = 1 << 16
"""Patterns summed together: few enough for the cache, and for sums of `PIECE` bits to fit a float64."""

LIMB, PIECE = 27, 28
"""Bits of a mantissa that are multiplied together, and bits of a product that are summed together."""


def quantum(dtype: Float) -> int:
    """Return the binary exponent of the smallest positive magnitude of `dtype`."""
    return 1 - dtype.bias - dtype.mantissa


def square_sum(patterns: NDArray[Any], dtype: Float, counts: NDArray[Any] | None = None) -> int:
    """Return the exact sum, in squared quanta, of the squares of the finite magnitudes among `patterns`.

    `patterns` (n,) are sign-cleared and not negative; `counts` (n,) says how often each is there, None once.
    """
    total = 0
    for first in range(0, patterns.size, RUN):
        run = patterns[first : first + RUN]
        finite = run <= dtype.finite_max
        times = None if counts is None else counts[first : first + RUN].astype(np.int64)
        if not finite.all():
            run, times = run[finite], None if times is None else times[finite]
        total += _sum(run.astype(np.int64), dtype, times)
    return total


def _sum(run: NDArray[np.int64], dtype: Float, times: NDArray[np.int64] | None) -> int:
    total, exponents = 0, run >> dtype.mantissa
    mantissas = (run & ((1 << dtype.mantissa) - 1)) + ((exponents > 0).astype(np.int64) << dtype.mantissa)
    for power, pieces in _squares(mantissas, dtype.mantissa + 1):
        if times is None:
            sums = np.bincount(exponents, weights=pieces).astype(np.int64)
        else:
            sums = np.zeros(int(exponents.max(initial=0)) + 1, np.int64)
            np.add.at(sums, exponents, pieces * times)
        for exponent in np.flatnonzero(sums).tolist():
            total += int(sums[exponent]) << (power + 2 * max(exponent - 1, 0))
    return total


def _squares(mantissas: NDArray[np.int64], bits: int) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Yield (power, pieces): the squares are the sums of pieces * 2**power, and no piece has more than PIECE bits."""
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
    """Return (m, e) with m * 2**e = sqrt(`squares` / `over`), of squared quanta of `dtype`; m is 0.0 for zero."""
    mean, exponent = scaled(squares, over)
    return sqrt(mean), exponent + quantum(dtype)
