"""Triton kernels that compute random numbers where they are compared: none of them is stored.

A weight has the key number * 2**32 + position, so that no two weights of a tensor have the same key, and of equal
numbers the first ones are the smallest.
"""

# Triton has no types for what kernels compute with.
# mypy: ignore-errors
# ruff: noqa: ANN001, ANN201, ANN202, N803, PLR0913, PLR0917 - the signatures of kernels

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _words(keys, row, counter):
    """Return the four words of 64 bits that Philox 4x64-10 makes of counters, with the key of a row."""
    a = (counter + 1).to(tl.uint64)
    b = a * 0
    c = a * 0
    d = a * 0
    key = tl.load(keys + 2 * row).to(tl.uint64) + a * 0
    other = tl.load(keys + 2 * row + 1).to(tl.uint64) + a * 0
    factor = a * 0 + 0xD2E7470EE14C6C93
    other_factor = a * 0 + 0xCA5A826395121157
    for _ in range(10):
        upper = tl.umulhi(factor, a)
        lower = factor * a
        other_upper = tl.umulhi(other_factor, c)
        other_lower = other_factor * c
        a = other_upper ^ b ^ key
        b = other_lower
        c = upper ^ d ^ other
        d = lower
        key += 0x9E3779B97F4A7C15
        other += 0xBB67AE8584CAA73B
    return a, b, c, d


@triton.jit
def _lower(word):
    return ((word & 0xFFFFFFFF) >> 1).to(tl.int32)


@triton.jit
def _upper(word):
    return (word >> 33).to(tl.int32)


@triton.jit
def _numbers(keys, row, counter, STEPS: tl.constexpr):
    """Return the 8 * STEPS numbers of counters, one after the other."""
    a, b, c, d = _words(keys, row, counter)
    # Each join adds a last dimension: the upper and the lower bit of the word's number, then the half of the word.
    lower = tl.join(tl.join(_lower(a), _lower(c)), tl.join(_lower(b), _lower(d)))
    upper = tl.join(tl.join(_upper(a), _upper(c)), tl.join(_upper(b), _upper(d)))
    return tl.reshape(tl.join(lower, upper), (8 * STEPS,))


@triton.jit
def random_kernel(keys, firsts, out, steps, tiles, STEPS: tl.constexpr):
    """Store the numbers of `torch_random.random_rows`; a program has STEPS counters of one row."""
    program = tl.program_id(0).to(tl.int64)
    row = program // tiles
    step = program % tiles * STEPS
    numbers = _numbers(keys, row, tl.load(firsts + row) + step + tl.arange(0, STEPS), STEPS)
    place = step * 8 + tl.arange(0, 8 * STEPS)
    tl.store(out + row * steps * 8 + place, numbers, mask=place < steps * 8)


@triton.jit(do_not_specialize=["low", "high"])
def candidates_kernel(keys, counts, out, low, high, length, capacity, per, STEPS: tl.constexpr):
    """Count the numbers of each tensor that are below `low`, and store the keys of those below `high`, in any order.

    `counts` (tensors, 2) have both counts; only `capacity` keys of a tensor are stored.
    """
    tensor = tl.program_id(1).to(tl.int64)
    first = tl.program_id(0).to(tl.int64) * per
    below = tl.zeros((8 * STEPS,), tl.int32)
    places = counts + 2 * tensor + 1 + tl.zeros((8 * STEPS,), tl.int32)
    for step in range(per):
        start = (first + step) * STEPS
        number = _numbers(keys, tensor, start + tl.arange(0, STEPS), STEPS).to(tl.int64)
        position = start * 8 + tl.arange(0, 8 * STEPS)
        inside = position < length
        below += ((number < low) & inside).to(tl.int32)
        hits = (number >= low) & (number < high) & inside
        slot = tl.atomic_add(places, tl.full((8 * STEPS,), 1, tl.int64), mask=hits, sem="relaxed")
        tl.store(out + tensor * capacity + slot, (number << 32) | position, mask=hits & (slot < capacity))
    tl.atomic_add(counts + 2 * tensor, tl.sum(below, axis=0).to(tl.int64), sem="relaxed")


@triton.jit
def kept_kernel(keys, cuts, out, first, length, per, STEPS: tl.constexpr):
    """Store 1 for weights of each tensor whose key is above its cut, and else 0: `length` ones from 8 * `first` on."""
    tensor = tl.program_id(1).to(tl.int64)
    cut = tl.load(cuts + tensor)
    for step in range(per):
        start = (tl.program_id(0).to(tl.int64) * per + step) * STEPS
        number = _numbers(keys, tensor, first + start + tl.arange(0, STEPS), STEPS).to(tl.int64)
        place = start * 8 + tl.arange(0, 8 * STEPS)
        kept = ((number << 32) | (first * 8 + place)) > cut
        tl.store(out + tensor * length + place, kept.to(tl.int8), mask=place < length)
