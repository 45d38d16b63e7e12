"""Sums of squares: exact ones of magnitude patterns, and fast ones of weights.

A magnitude of a format is a whole number of quanta, the smallest positive magnitude. So an exact sum of squares is a
whole number of squared quanta, a Python integer, and does not depend on the order in which parts are added.
"""

from __future__ import annotations

from math import sqrt
from typing import TYPE_CHECKING, Any

import numpy as np

from prunecli.kernels.bit_patterns import float8_table, values

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from prunecli.dtypes import Float
    from prunecli.kernels.numpy_ops import NumpyOps

RUN = 1 << 16
"""Patterns summed together: few enough for the cache, and for sums of `PIECE` bits to fit a float64."""

LIMB, PIECE = 27, 28
"""Bits of a mantissa that are multiplied together, and bits of a product that are summed together."""

DOT_RUN = 1 << 14
"""Elements summed in the weights' own precision before float64 takes over."""

WIDEN_RUN = 1 << 18
"""Elements of up to 16 bits widened at once, where that takes more memory than they do."""


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
    """Yield (power, pieces): the squares are the sums of pieces * 2**power, and each piece has at most PIECE bits."""
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


def sum_of_squares(ops: NumpyOps, x: NDArray[Any], dtype: Float) -> float:
    """Return the sum of squares of the finite weights `x` (integers of the dtype's width).

    Uses the scratch memory of keep arrays: call it before there is one, or after it has been applied.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        total = sum(_dot(floats) for floats in _floats(ops, x, dtype))
    # The squares of finite weights can overflow float32, and tiny ones lose digits in it.
    if not 1e-20 < total < np.inf:
        return _careful_sum(x, dtype)
    return total


def _floats(ops: NumpyOps, x: NDArray[Any], dtype: Float) -> Iterator[NDArray[Any]]:
    """Yield the weights as floats; each array is valid until the next one is requested."""
    if dtype.name == "BF16":
        yield from _from_bf16(ops, x)
    elif dtype.itemsize >= 4:
        yield x.view(f"<f{dtype.itemsize}")
    else:
        for first in range(0, x.size, WIDEN_RUN):
            run = x[first : first + WIDEN_RUN]
            wide = ops.scratch("keep", run.size, np.float32)
            if dtype.name == "F16":
                np.copyto(wide, run.view("<f2"))
            else:
                np.take(float8_table(dtype), run.view(np.uint8), out=wide)
            yield wide


def _from_bf16(ops: NumpyOps, x: NDArray[Any]) -> Iterator[NDArray[np.float32]]:
    """Widen bfloat16 two at a time: each half of a 32-bit word is the upper half of a float32."""
    even = x.size // 2 * 2
    pairs = x[:even].view(np.uint32)
    wide = ops.scratch("keep", pairs.size, np.uint32)
    yield np.bitwise_and(pairs, np.uint32(0xFFFF0000), out=wide).view(np.float32)
    yield np.left_shift(pairs, np.uint32(16), out=wide).view(np.float32)
    if even < x.size:
        yield (x[even:].astype(np.uint32) << np.uint32(16)).view(np.float32)


def _dot(floats: NDArray[Any]) -> float:
    """Return the sum of squares in few NumPy calls, between which threads would wait for each other."""
    whole = floats.size // DOT_RUN * DOT_RUN
    total, rest = 0.0, floats[whole:]
    if whole:
        runs = floats[:whole].reshape(-1, 1, DOT_RUN)
        # A row times itself as a column is a dot product. `np.vecdot` needs NumPy 2.0.
        total = sum(np.matmul(runs, runs.transpose(0, 2, 1)).ravel().tolist())
    return total + float(np.dot(rest, rest)) if rest.size else total


def _careful_sum(x: NDArray[Any], dtype: Float) -> float:
    """Return the same sum as `sum_of_squares`, in float64 and over finite values only."""
    if dtype.itemsize == 1:
        wide = float8_table(dtype)[x.view(np.uint8)].astype(np.float64)
    else:
        wide = values(x & x.dtype.type(dtype.mask), dtype)
    wide = wide[np.isfinite(wide)]
    with np.errstate(over="ignore"):
        return float(np.dot(wide, wide))
