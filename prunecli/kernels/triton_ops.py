"""Triton kernels that count, rank and choose; those that prune, fold and look at slices have modules of their own."""

# Triton has no types for what kernels compute with.
# mypy: ignore-errors
# ruff: noqa: ANN001, ANN201, ANN202, N803, PLR0913, PLR0917 - the signatures and branches of kernels

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _magnitudes(w, WIDTH: tl.constexpr, FNUZ: tl.constexpr):
    """Return sign-cleared patterns, in 32 bits or more. The NaN of fnuz formats becomes the largest."""
    if WIDTH == 8:
        y = w & 0x7FFFFFFFFFFFFFFF
    elif WIDTH == 4:
        y = w & 0x7FFFFFFF
    elif WIDTH == 2:
        y = w.to(tl.int32) & 0x7FFF
    else:
        y = w.to(tl.int32) & 0x7F
        if FNUZ:
            y = tl.where(w.to(tl.int32) == -128, 128, y)
    return y


@triton.jit
def _values(y, WIDTH: tl.constexpr, SHIFT: tl.constexpr, SCALE: tl.constexpr, FINITE: tl.constexpr):
    """Return magnitudes as float32 or float64: the pattern moved to the place of a float32, times a power of two."""
    if WIDTH == 8:
        v = y.to(tl.float64, bitcast=True)
    elif WIDTH == 4:
        v = y.to(tl.float32, bitcast=True)
    elif SHIFT == 16:  # bfloat16
        v = (y << 16).to(tl.float32, bitcast=True)
    else:
        v = (y << SHIFT).to(tl.float32, bitcast=True) * SCALE
        v = tl.where(y > FINITE, float("inf"), v)
    return v


@triton.jit
def _find_block(x, n, block, addresses, lengths, firsts, tensor_of, MANY: tl.constexpr, ALIGNED: tl.constexpr):
    """Return where a block is: the number of its tensor, its first element there, a pointer, and its length.

    With MANY tensors are found by a `Table`. With ALIGNED their addresses and lengths are multiples of 16.
    """
    tensor = block * 0
    first = block.to(tl.int64) * 1024
    size = n
    if MANY:
        tensor = tl.load(tensor_of + block).to(tl.int32)
        first = (block - tl.load(firsts + tensor)) * 1024
        size = tl.load(lengths + tensor)
        x = tl.load(addresses + tensor).to(x.dtype)
    here = x + first
    length = tl.minimum(size - first, 1024).to(tl.int32)
    if ALIGNED:
        here = tl.multiple_of(here, 16)
        length = tl.multiple_of(length, 16)
    return tensor, first, here, length


@triton.jit
def count_kernel(x, cuts, addresses, lengths, firsts, tensor_of, out, n, blocks, per,
                 MANY: tl.constexpr, ALIGNED: tl.constexpr,
                 WIDTH: tl.constexpr, FNUZ: tl.constexpr):  # fmt: skip
    """Store for each block how many magnitudes are equal to the cut of its tensor."""
    start = tl.program_id(0) * per
    lane = tl.arange(0, 1024)
    for step in range(tl.minimum(per, blocks - start)):
        block = start + step
        tensor, _, here, length = _find_block(x, n, block, addresses, lengths, firsts, tensor_of, MANY, ALIGNED)
        w = tl.load(here + lane, mask=lane < length, other=0)
        y = _magnitudes(w, WIDTH, FNUZ)
        cut = tl.load(cuts + tensor).to(y.dtype)
        hits = (y == cut) & (lane < length)
        tl.store(out + block, tl.sum(hits.to(tl.int32), axis=0))


@triton.jit
def limit_kernel(x, cuts, chosen, wanted, addresses, lengths, firsts, tensor_of, out,
                 ALIGNED: tl.constexpr, WIDTH: tl.constexpr, FNUZ: tl.constexpr):  # fmt: skip
    """Store for each tensor the position of the entry of its `chosen` block up to which `wanted` ones equal its cut.

    It is the end of the block if there are fewer.
    """
    lane = tl.arange(0, 1024)
    number = tl.program_id(0)
    block = tl.load(chosen + number)
    _, first, here, length = _find_block(x, 0, block, addresses, lengths, firsts, tensor_of, True, ALIGNED)
    w = tl.load(here + lane, mask=lane < length, other=0)
    y = _magnitudes(w, WIDTH, FNUZ)
    equal = (y == tl.load(cuts + number).to(y.dtype)) & (lane < length)
    before = tl.cumsum(equal.to(tl.int32), axis=0) < tl.load(wanted + number).to(tl.int32)
    tl.store(out + number, first + tl.sum(before.to(tl.int32), axis=0))


@triton.jit
def smallest_kernel(y, wanted, kept, row, BITS: tl.constexpr, SIZE: tl.constexpr, SIZE_BITS: tl.constexpr):
    """Store -1 or 0 for the entries of a row: the `wanted` smallest that are not negative are pruned."""
    number = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, SIZE)
    inside = lane < row
    entries = tl.load(y + number * row + lane, mask=inside, other=-1)
    if BITS == 15:
        entries = entries.to(tl.int32)
    count = tl.load(wanted + number).to(tl.int32)
    real = (entries >= 0) & inside
    cut = (number * 0).to(entries.dtype)
    one = cut + 1
    for step in range(BITS):
        candidate = cut | (one << (BITS - 1 - step))
        below = tl.sum((real & (entries < candidate)).to(tl.int32), axis=0)
        cut = tl.where(below < count, candidate, cut)
    ties = count - tl.sum((real & (entries < cut)).to(tl.int32), axis=0)
    end = (number * 0).to(tl.int32)
    unit = end + 1
    for step in range(SIZE_BITS + 1):
        candidate = end + (unit << (SIZE_BITS - step))
        equals = tl.sum((real & (entries == cut) & (lane < candidate)).to(tl.int32), axis=0)
        end = tl.where(equals <= ties, candidate, end)
    survives = real & ((entries > cut) | ((entries == cut) & (lane >= end)) | (count == 0))
    tl.store(kept + number * row + lane, tl.where(survives, -1, 0).to(tl.int8), mask=inside)
