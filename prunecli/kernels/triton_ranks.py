"""Triton kernels for ranks: magnitudes below a bracket and inside it are counted, in one run or in many tensors."""

# Triton has no types for what kernels compute with.
# mypy: ignore-errors
# ruff: noqa: ANN001, ANN201, ANN202, N803, PLR0913, PLR0917, SIM108 - the signatures and branches of kernels

from __future__ import annotations

import triton
import triton.language as tl

from prunecli.kernels.triton_ops import _find_block, _magnitudes


@triton.jit
def _patterns(w, MARKED: tl.constexpr, WIDTH: tl.constexpr, FNUZ: tl.constexpr):
    """Return magnitudes. With MARKED the entries are patterns already, with -1 for pruned weights."""
    if MARKED:
        y = w.to(tl.int64)
    else:
        y = _magnitudes(w, WIDTH, FNUZ)
    return y


@triton.jit
def narrow_kernel(x, lows, addresses, lengths, firsts, tensor_of, out, n, blocks, per,
                  MANY: tl.constexpr, ALIGNED: tl.constexpr, MARKED: tl.constexpr,
                  WIDTH: tl.constexpr, FNUZ: tl.constexpr):  # fmt: skip
    """Add to `out` (tensors, 16) the number of magnitudes below the `low` of their tensor.

    The numbers of each of 8 patterns from it follow. An entry is one in a field of 4 bits, which are added up for
    neighbours in a thread, and then in fields of 16 bits: a program has up to 32 blocks of 1024 entries.
    """
    start = tl.program_id(0) * per
    steps = tl.minimum(per, blocks - start)
    lane = tl.arange(0, 1024)
    column = tl.arange(0, 16)
    group: tl.constexpr = 8 if WIDTH <= 2 else 16 // WIDTH
    below = tl.program_id(0) * 0
    first = below
    second = below
    third = below
    fourth = below
    for step in range(steps):
        block = start + step
        tensor, _, here, length = _find_block(x, n, block, addresses, lengths, firsts, tensor_of, MANY, ALIGNED)
        inside = lane < length
        w = tl.load(here + lane, mask=inside, other=0)
        y = _patterns(w, MARKED, WIDTH, FNUZ)
        offset = y - tl.load(lows + tensor).to(y.dtype)
        below += tl.sum(((offset < 0) & inside).to(tl.int32), axis=0)
        hits = (offset >= 0) & (offset < 8) & inside
        field = tl.where(hits, tl.full((1024,), 1, tl.int32) << (offset.to(tl.int32) * 4), 0)
        fields = tl.sum(tl.reshape(field, (1024 // group, group)), axis=1)
        first += tl.sum(fields & 0x000F000F, axis=0)
        second += tl.sum((fields >> 4) & 0x000F000F, axis=0)
        third += tl.sum((fields >> 8) & 0x000F000F, axis=0)
        fourth += tl.sum((fields >> 12) & 0x000F000F, axis=0)
        following = tensor
        if MANY:
            following = tl.load(tensor_of + tl.minimum(block + 1, blocks - 1)).to(tl.int32)
        if (following != tensor) | (step + 1 == steps):
            pattern = (column - 1) % 4
            words = tl.where(pattern == 0, first, tl.where(pattern == 1, second, tl.where(pattern == 2, third, fourth)))
            numbers = tl.where(column == 0, below, tl.where(column < 5, words, words >> 16) & 0xFFFF)
            place = out + tensor.to(tl.int64) * 16 + column
            tl.atomic_add(place, numbers.to(tl.int64), mask=column <= 8, sem="relaxed")
            below = below * 0
            first = below
            second = below
            third = below
            fourth = below


@triton.jit
def bins_kernel(x, bounds, addresses, lengths, firsts, tensor_of, out, n, tensors, blocks, per, copies, size,
                MANY: tl.constexpr, ALIGNED: tl.constexpr, MARKED: tl.constexpr, BELOW: tl.constexpr,
                WIDTH: tl.constexpr, FNUZ: tl.constexpr):  # fmt: skip
    """Add to `out` (copies, size) the numbers of magnitudes below the bracket of their tensor, and in each bin of it.

    `bounds` (4, tensors) are low, last, shift, and the place of the number below; bins (y - low) >> shift follow it.
    Without BELOW the first bin is at that place. There are several copies because additions to one place wait for each
    other.
    """
    start = tl.program_id(0) * per
    steps = tl.minimum(per, blocks - start)
    lane = tl.arange(0, 1024)
    own = out + (tl.program_id(0) % copies).to(tl.int64) * size
    ones = tl.full((1024,), 1, out.dtype.element_ty)
    below = tl.program_id(0) * 0
    for step in range(steps):
        block = start + step
        tensor, _, here, length = _find_block(x, n, block, addresses, lengths, firsts, tensor_of, MANY, ALIGNED)
        inside = lane < length
        w = tl.load(here + lane, mask=inside, other=0)
        y = _patterns(w, MARKED, WIDTH, FNUZ)
        low = tl.load(bounds + tensor).to(y.dtype)
        last = tl.load(bounds + tensors + tensor).to(y.dtype)
        shift = tl.load(bounds + 2 * tensors + tensor).to(y.dtype)
        place = own + tl.load(bounds + 3 * tensors + tensor)
        hits = (y >= low) & (y <= last) & inside
        number = tl.where(hits, y - low, 0) >> shift
        tl.atomic_add(place + BELOW + number, ones, mask=hits, sem="relaxed")
        if BELOW:
            below += tl.sum(((y < low) & inside).to(tl.int32), axis=0)
            following = tensor
            if MANY:
                following = tl.load(tensor_of + tl.minimum(block + 1, blocks - 1)).to(tl.int32)
            if (following != tensor) | (step + 1 == steps):
                tl.atomic_add(place, below.to(out.dtype.element_ty), sem="relaxed")
                below = below * 0


@triton.jit
def list_kernel(x, bounds, ends, addresses, lengths, firsts, tensor_of, out, tensors, blocks, per,
                ALIGNED: tl.constexpr, WIDTH: tl.constexpr, FNUZ: tl.constexpr):  # fmt: skip
    """Store the bins of magnitudes in the bracket of their tensor, as numbers from 1, in any order.

    `bounds` (5, tensors) are low, last, shift, the place of the first number, and how many have a place. `ends` are how
    many are stored of each tensor, 0 before.
    """
    start = tl.program_id(0) * per
    lane = tl.arange(0, 1024)
    for step in range(tl.minimum(per, blocks - start)):
        tensor, _, here, length = _find_block(x, 0, start + step, addresses, lengths, firsts, tensor_of, True, ALIGNED)
        w = tl.load(here + lane, mask=lane < length, other=0)
        y = _magnitudes(w, WIDTH, FNUZ)
        low = tl.load(bounds + tensor).to(y.dtype)
        hits = (y >= low) & (y <= tl.load(bounds + tensors + tensor).to(y.dtype)) & (lane < length)
        found = hits.to(tl.int32)
        total = tl.sum(found, axis=0)
        if total > 0:
            shift = tl.load(bounds + 2 * tensors + tensor).to(y.dtype)
            place = out + tl.load(bounds + 3 * tensors + tensor)
            at = tl.atomic_add(ends + tensor, total.to(tl.int64), sem="relaxed") + tl.cumsum(found, axis=0) - 1
            number = (tl.where(hits, y - low, 0) >> shift).to(tl.int64) + 1
            tl.store(place + at, number, mask=hits & (at < tl.load(bounds + 4 * tensors + tensor)))


@triton.jit
def squares_kernel(x, aboves, addresses, lengths, firsts, tensor_of, out, blocks, per, exponents,
                   ALIGNED: tl.constexpr, WIDTH: tl.constexpr, FNUZ: tl.constexpr,
                   MANTISSA: tl.constexpr, FINITE: tl.constexpr):  # fmt: skip
    """Add to `out` (tensors, 2, exponents) the squares of mantissas of finite magnitudes from `aboves` upwards.

    The sum of a block is divided into its 32 lower bits and the others.
    """
    start = tl.program_id(0) * per
    lane = tl.arange(0, 1024)
    for step in range(tl.minimum(per, blocks - start)):
        tensor, _, here, length = _find_block(x, 0, start + step, addresses, lengths, firsts, tensor_of, True, ALIGNED)
        w = tl.load(here + lane, mask=lane < length, other=0)
        y = _magnitudes(w, WIDTH, FNUZ)
        taken = (y >= tl.load(aboves + tensor).to(y.dtype)) & (y <= FINITE) & (lane < length)
        exponent = y >> MANTISSA
        whole = ((y & ((1 << MANTISSA) - 1)) + tl.where(exponent > 0, 1 << MANTISSA, 0)).to(tl.int64)
        squares = whole * whole
        exponent = tl.where(taken, exponent, -1)
        own = tl.max(exponent, axis=0)
        while own >= 0:
            total = tl.sum(tl.where(exponent == own, squares, 0), axis=0)
            place = out + tensor.to(tl.int64) * 2 * exponents + own
            tl.atomic_add(place, total & 0xFFFFFFFF, sem="relaxed")
            tl.atomic_add(place + exponents, total >> 32, sem="relaxed")
            own = tl.max(tl.where(exponent < own, exponent, -1), axis=0)


@triton.jit
def sample_kernel(x, places, out, number, WIDTH: tl.constexpr, FNUZ: tl.constexpr, LENGTH: tl.constexpr):
    """Store the magnitudes of neighbours; `places` (2, number) are addresses, and positions of the last neighbours.

    Behind the last one it comes again.
    """
    block = tl.program_id(0)
    lane = tl.arange(0, LENGTH)
    here = tl.load(places + block).to(x.dtype)
    last = tl.load(places + number + block).to(tl.int32)
    y = _magnitudes(tl.load(here + tl.minimum(lane, last)), WIDTH, FNUZ)
    tl.store(out + block.to(tl.int64) * LENGTH + lane, y)
