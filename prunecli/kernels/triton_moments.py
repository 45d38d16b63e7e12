"""Triton kernels that fold the moments of weights, with the bits of `torch_folds`."""

# Triton has no types for what kernels compute with.
# mypy: ignore-errors
# ruff: noqa: ANN001, ANN201, ANN202, N803, PLR0913, PLR0917 - the signatures of kernels

from __future__ import annotations

import triton
import triton.language as tl

from prunecli.kernels.triton_folds import _joined
from prunecli.kernels.triton_ops import _magnitudes, _values


@triton.jit
def _row_sum(v, P: tl.constexpr, LEVELS: tl.constexpr):
    """Return the fold of P numbers, shape (1,)."""
    v = tl.reshape(v, (1, P, 1))
    for step in tl.static_range(LEVELS):
        v = _joined(v, 1, P >> (step + 1), 1, 0)
    return tl.reshape(v, (1,))


@triton.jit
def moments_kernel(x, out, length, pieces, units, FACTOR: tl.constexpr, P: tl.constexpr, LEVELS: tl.constexpr,
                   WIDTH: tl.constexpr, FNUZ: tl.constexpr, SHIFT: tl.constexpr, SCALE: tl.constexpr,
                   FINITE: tl.constexpr):  # fmt: skip
    """Store the folds of P finite numbers times FACTOR and of their squares, and their count, for each of `units`."""
    unit = tl.program_id(0).to(tl.int64)
    place = unit % pieces * P + tl.arange(0, P)
    inside = place < length
    w = tl.load(x + unit // pieces * length + place, mask=inside, other=0)
    y = _magnitudes(w, WIDTH, FNUZ)
    finite = (y <= FINITE) & inside
    v = tl.where(finite, _values(y, WIDTH, SHIFT, SCALE, FINITE).to(tl.float64), 0.0) * FACTOR
    v = tl.where(w < 0, -v, v)
    lane = unit + tl.arange(0, 1)
    tl.store(out + lane, _row_sum(v, P, LEVELS))
    tl.store(out + units + lane, _row_sum(v * v, P, LEVELS))
    tl.store(out + 2 * units + unit, tl.sum(finite.to(tl.int32), axis=0).to(tl.float64))


@triton.jit
def join_kernel(x, out, length, pieces, P: tl.constexpr, LEVELS: tl.constexpr):
    """Store the folds of `pieces` of P numbers of each row of `length` numbers of float64."""
    unit = tl.program_id(0).to(tl.int64)
    place = unit % pieces * P + tl.arange(0, P)
    v = tl.load(x + unit // pieces * length + place, mask=place < length, other=0.0)
    tl.store(out + unit + tl.arange(0, 1), _row_sum(v, P, LEVELS))
