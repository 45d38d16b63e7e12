"""Triton kernels that look at pruned tensors, where they lie: slices without a non-zero, and groups that are too full.

With MANY the tensors of one shape are found by a table of their addresses.
"""

# Triton has no types for what kernels compute with.
# mypy: ignore-errors
# ruff: noqa: ANN001, ANN201, ANN202, N803, PLR0913, PLR0917 - the signatures of kernels

from __future__ import annotations

import triton
import triton.language as tl

from prunecli.kernels.triton_ops import _magnitudes


@triton.jit
def _tensor_at(x, addresses, tensor, MANY: tl.constexpr):
    """Return a pointer to the first entry of a tensor."""
    if MANY:
        x = tl.load(addresses + tensor).to(x.dtype)
    return x


@triton.jit
def columns_kernel(x, addresses, alive, rows, columns, first_row, step, stacks, parts, tiles,
                   MANY: tl.constexpr, WIDTH: tl.constexpr, FNUZ: tl.constexpr):  # fmt: skip
    """Set the flags of the columns of (stacks, rows, columns) that have a non-zero in the rows of a program.

    `tiles` programs have 256 columns each, and each of `parts` of them `step` rows. Only columns without a mark are
    looked at.
    """
    program = tl.program_id(0).to(tl.int64)
    column = (program % tiles * 256).to(tl.int32) + tl.arange(0, 256)
    part = (program // tiles % parts).to(tl.int32)
    stack = program // tiles // parts
    inside = column < columns
    place = alive + stack * columns + column
    known = tl.load(place, mask=inside, other=1).to(tl.int32)
    if tl.min(known, axis=0) == 0:
        here = _tensor_at(x, addresses, stack // stacks, MANY) + stack % stacks * rows * columns
        low = first_row + part * step
        found = tl.zeros((256,), tl.int32)
        here += low.to(tl.int64) * columns
        for _ in range(low, tl.minimum(low + step, rows)):
            w = tl.load(here + column, mask=inside, other=0)
            here += columns
            found |= (_magnitudes(w, WIDTH, FNUZ) != 0).to(tl.int32)
        tl.store(place, found.to(tl.int8), mask=inside & (found != 0))


@triton.jit
def rows_kernel(x, addresses, alive, first, row, rows, MANY: tl.constexpr, WIDTH: tl.constexpr, FNUZ: tl.constexpr):
    """Set the flag of a row that has a non-zero; most have one among their first entries. A tensor has `rows` rows."""
    number = tl.program_id(0).to(tl.int64)
    here = _tensor_at(x, addresses, number // rows, MANY) + number % rows * row
    lane = tl.arange(0, 1024)
    w = tl.load(here + lane, mask=lane < row, other=0)
    found = tl.max((_magnitudes(w, WIDTH, FNUZ) != 0).to(tl.int32), axis=0)
    if found == 0:
        for start in range(1024, row, 1024):
            w = tl.load(here + start + lane, mask=start + lane < row, other=0)
            found = tl.maximum(found, tl.max((_magnitudes(w, WIDTH, FNUZ) != 0).to(tl.int32), axis=0))
    if found != 0:
        tl.store(alive + first + number, found.to(tl.int8))


@triton.jit
def overfull_kernel(x, addresses, flags, units, length, inner, quads, tiles,
                    WIDTH: tl.constexpr, FNUZ: tl.constexpr):  # fmt: skip
    """Set the flag of a tensor in which a group of 4 along the middle of (outer, length, inner) has 3 non-zeros.

    A tensor has `units` groups, `quads` of them along the middle, and `tiles` programs.
    """
    program = tl.program_id(0).to(tl.int64)
    here = _tensor_at(x, addresses, program // tiles, True)
    unit = program % tiles * 256 + tl.arange(0, 256)
    quad = unit // inner % quads
    first = (unit // inner // quads * length + 4 * quad) * inner + unit % inner
    alive = tl.zeros((256,), tl.int32)
    for member in tl.static_range(4):
        inside = (unit < units) & (4 * quad + member < length)
        w = tl.load(here + first + member * inner, mask=inside, other=0)
        alive += (_magnitudes(w, WIDTH, FNUZ) != 0).to(tl.int32)
    if tl.max(alive, axis=0) > 2:
        tl.store(flags + program // tiles, 1)
