"""Parts of the Triton kernel that prunes a block of 1024 weights: what survives, and the numbers of the block.

A block is an array of words. A word has the magnitudes of two neighbours, each below the top bit of its half, or the
magnitude of one weight of 4 or 8 bytes. So sums and logical operations on words treat two weights at once. `alive`
words have the top bit of what survives and is not zero.
"""

# Triton has no types for what kernels compute with.
# mypy: ignore-errors
# ruff: noqa: ANN001, ANN201, ANN202, N803, N806, PLR0913, PLR0917, SIM102, SIM108 - kernels have other rules

from __future__ import annotations

import triton
import triton.language as tl

from prunecli.kernels.triton_groups import largest_of_groups
from prunecli.kernels.triton_ops import _find_block, _values


@triton.jit
def _halved(squares):
    """Return the sum of 1024 numbers: the second half is added to the first one until one number is left."""
    squares = tl.sum(tl.reshape(squares, (2, 512)), axis=0)
    squares = tl.sum(tl.reshape(squares, (2, 256)), axis=0)
    squares = tl.sum(tl.reshape(squares, (2, 128)), axis=0)
    squares = tl.sum(tl.reshape(squares, (2, 64)), axis=0)
    squares = tl.sum(tl.reshape(squares, (2, 32)), axis=0)
    squares = tl.sum(tl.reshape(squares, (2, 16)), axis=0)
    squares = tl.sum(tl.reshape(squares, (2, 8)), axis=0)
    squares = tl.sum(tl.reshape(squares, (2, 4)), axis=0)
    squares = tl.sum(tl.reshape(squares, (2, 2)), axis=0)
    return tl.sum(squares, axis=0)


@triton.jit
def _paired(a, b):
    """Return 1024 entries from those at even and at odd places."""
    return tl.reshape(tl.join(a, b), (1024,))


@triton.jit
def _pairs(length):
    return tl.multiple_of(length // 2, 8)


@triton.jit
def _load_words(here, length, WIDTH: tl.constexpr, ALIGNED: tl.constexpr):
    """Return the words of the `length` weights at `here`, zeros behind them. A weight has the top bits of its half."""
    # Four neighbours in a thread: with more, halving a block exchanges more numbers between threads.
    if WIDTH >= 4:
        lane = tl.max_contiguous(tl.arange(0, 1024), 4)
        words = tl.load(here + lane, mask=lane < length, other=0)
    elif WIDTH == 2 and ALIGNED:
        lane = tl.max_contiguous(tl.arange(0, 512), 2)
        words = tl.load(here.to(tl.pointer_type(tl.int32)) + lane, mask=lane < _pairs(length), other=0)
    else:
        lane = tl.max_contiguous(tl.arange(0, 1024), 4)
        w = tl.load(here + lane, mask=lane < length, other=0).to(tl.int32)
        even, odd = tl.split(tl.reshape(w, (512, 2)))
        words = ((even << (16 - 8 * WIDTH)) & 0xFFFF) | (odd << (32 - 8 * WIDTH))
    return words


@triton.jit
def _store_words(here, length, words, WIDTH: tl.constexpr, ALIGNED: tl.constexpr):
    """Store what `_load_words` loads."""
    if WIDTH >= 4:
        lane = tl.max_contiguous(tl.arange(0, 1024), 4)
        tl.store(here + lane, words, mask=lane < length)
    elif WIDTH == 2 and ALIGNED:
        lane = tl.max_contiguous(tl.arange(0, 512), 2)
        tl.store(here.to(tl.pointer_type(tl.int32)) + lane, words, mask=lane < _pairs(length))
    else:
        lane = tl.max_contiguous(tl.arange(0, 1024), 4)
        w = _paired(words >> (16 - 8 * WIDTH), words >> (32 - 8 * WIDTH)).to(here.dtype.element_ty)
        tl.store(here + lane, w, mask=lane < length)


@triton.jit
def _word_magnitudes(words, WIDTH: tl.constexpr, FNUZ: tl.constexpr):
    """Return words of magnitudes. A half has a magnitude of one byte above 8 zeros; the NaN of fnuz is 0x7F80."""
    if WIDTH == 8:
        y = words & 0x7FFFFFFFFFFFFFFF
    elif WIDTH == 4:
        y = words & 0x7FFFFFFF
    else:
        y = words & 0x7FFF7FFF
        if FNUZ:
            nans = words & ~(y + 0x7FFF7FFF) & -0x7FFF8000
            y |= nans - ((nans >> 8) & 0x800080)
    return y


@triton.jit
def _field(pattern, WIDTH: tl.constexpr, FNUZ: tl.constexpr, LAST: tl.constexpr):
    """Return a word with a pattern in each half. LAST stands for the NaN of fnuz formats."""
    if WIDTH == 1:
        field = pattern << 8
        if FNUZ:
            field = tl.where(pattern == 128, LAST, field)
    else:
        field = pattern
    if WIDTH <= 2:
        field *= 0x10001
    return field


@triton.jit
def _above(y, below, limit, length, TIES: tl.constexpr, WIDTH: tl.constexpr, FNUZ: tl.constexpr, TOP: tl.constexpr):
    """Return the `alive` words if magnitudes up to `below` are pruned.

    With TIES those one above are pruned, too, up to the place `limit`, which is at least -1.
    """
    FULL: tl.constexpr = 0x7FFF7FFF if WIDTH <= 2 else TOP
    bound = below
    if TIES:
        bound = tl.where(limit >= length - 1, tl.minimum(below, TOP - 1) + 1, below)
    # A sum reaches the top bit if the magnitude is above the bound. Zeros do not survive.
    alive = y + (FULL - _field(tl.maximum(bound, 0), WIDTH, FNUZ, 0x7FFF))
    if TIES:
        # Few blocks have the limit inside.
        if (limit >= 0) & (limit < length - 1) & (below < TOP):
            if WIDTH <= 2:
                late = tl.max_contiguous(tl.arange(0, 512), 2) * 0x20002 - 0x7FFE8000 - (limit + 1) * 0x10001
            else:
                late = (limit - tl.max_contiguous(tl.arange(0, 1024), 4)).to(y.dtype)
            alive &= ((y ^ _field(below + 1, WIDTH, FNUZ, 0x7F80)) + FULL) | late
    return alive


@triton.jit
def flagged_words(flags, y, WIDTH: tl.constexpr):
    """Return the `alive` words if 1024 flags, 1 or 0, say what survives."""
    if WIDTH <= 2:
        even, odd = tl.split(tl.reshape(flags.to(tl.int32), (512, 2)))
        alive = ((even << 15) | (odd << 31)) & (y + 0x7FFF7FFF)
    elif WIDTH == 4:
        alive = (flags.to(tl.int32) << 31) & (y + 0x7FFFFFFF)
    else:
        alive = (flags.to(tl.int64) << 63) & (y + 0x7FFFFFFFFFFFFFFF)
    return alive


@triton.jit
def _squares(words, y, WIDTH: tl.constexpr, SHIFT: tl.constexpr, SCALE: tl.constexpr, FINITE: tl.constexpr):
    """Return the squares of 1024 weights, or infinity for what is not finite."""
    if WIDTH == 2 and SHIFT == 16:
        v = _paired((words << 16).to(tl.float32, bitcast=True), (words & -0x10000).to(tl.float32, bitcast=True))
    elif WIDTH == 2:
        v = _paired(words.to(tl.int16), (words >> 16).to(tl.int16)).to(tl.float16, bitcast=True).to(tl.float32)
    else:
        v = _values(_entries(y, WIDTH), WIDTH, SHIFT, SCALE, FINITE)
    return v * v


@triton.jit
def _entries(y, WIDTH: tl.constexpr):
    """Return the patterns of 1024 magnitudes."""
    if WIDTH <= 2:
        y = _paired(y & 0xFFFF, (y >> 16) & 0xFFFF)
        if WIDTH == 1:
            y = (y + 0x80) >> 8
    return y


@triton.jit
def _unsure(total, LOW: tl.constexpr, HIGH: tl.constexpr):
    """Return whether a sum may have lost digits, or is not finite."""
    if total.dtype == tl.float64:
        bits = total.to(tl.int64, bitcast=True)
    else:
        bits = total.to(tl.int32, bitcast=True)
    return (bits < LOW) | (bits >= HIGH)


@triton.jit
def _pruned(words, y, alive, WIDTH: tl.constexpr):
    """Return the words of weights and those of magnitudes after pruning. Zeros keep their sign."""
    if WIDTH <= 2:
        mask = ((alive >> 15) & 0x10001) * 0xFFFF
        new = words & (mask | (~(y + 0x7FFF7FFF) & -0x7FFF8000))
    elif WIDTH == 4:
        mask = alive >> 31
        new = words & (mask | (~(y + 0x7FFFFFFF) & -0x80000000))
    else:
        mask = alive >> 63
        new = words & (mask | (~(y + 0x7FFFFFFFFFFFFFFF) & -0x8000000000000000))
    return new, y & mask


@triton.jit
def _counted(y, alive, WIDTH: tl.constexpr):
    """Return the numbers of non-zeros before and after pruning, and of groups of 4 with 3 or more afterwards.

    Each thread adds up one number that has both counts, in 8 bits each, and all threads one that has the three.
    """
    if WIDTH <= 2:
        both = ((alive >> 15) & 0x10001) + (((y + 0x7FFF7FFF) >> 7) & 0x1000100)
        fours = (tl.sum(tl.reshape(both, (256, 2)), axis=1) * 0x10001) >> 16
    else:
        LAST: tl.constexpr = 8 * WIDTH - 1
        FULL: tl.constexpr = 0x7FFFFFFF if WIDTH == 4 else 0x7FFFFFFFFFFFFFFF
        both = ((alive >> LAST) & 1) + (((y + FULL) >> (LAST - 8)) & 256)
        fours = tl.sum(tl.reshape(both.to(tl.int32), (256, 4)), axis=1)
    overfull = tl.sum(tl.reshape((fours + 1) & 4, (8, 32)), axis=0)
    lanes = tl.sum(tl.reshape(fours, (8, 32)), axis=0)
    number = tl.sum((lanes & 0xFF) + ((lanes >> 8) << 11) + (overfull << 20), axis=0)
    return (number >> 11) & 0x7FF, number & 0x7FF, number >> 22


@triton.jit
def _extremes(y, alive, WIDTH: tl.constexpr, TOP: tl.constexpr):
    """Return the largest pruned magnitude, and how far the smallest one that survives is below TOP (-1: none)."""
    # With the top bit, survivors are negative and in the order of their magnitudes.
    if WIDTH <= 2:
        key = y | (alive & -0x7FFF8000)
        largest = tl.max(tl.maximum(key << 16, key), axis=0)
        least = tl.min(tl.minimum(key << 16, key), axis=0)
    elif WIDTH == 4:
        key = y | (alive & -0x80000000)
        largest, least = tl.max(key, axis=0), tl.min(key, axis=0)
    else:
        key = y | (alive & -0x8000000000000000)
        largest, least = tl.max(key, axis=0), tl.min(key, axis=0)
    smallest = least & (0x7FFFFFFF if WIDTH <= 4 else 0x7FFFFFFFFFFFFFFF)
    pruned = tl.maximum(largest, 0)
    if WIDTH == 2:
        pruned, smallest = pruned >> 16, smallest >> 16
    elif WIDTH == 1:
        pruned, smallest = ((pruned >> 16) + 0x80) >> 8, ((smallest >> 16) + 0x80) >> 8
    return pruned, tl.where(least < 0, TOP - smallest, -1)


@triton.jit
def _sums(here, length, words, y, new, after, filled, kept, ALIGNED: tl.constexpr, WIDTH: tl.constexpr,
          FNUZ: tl.constexpr, SHIFT: tl.constexpr, SCALE: tl.constexpr, FINITE: tl.constexpr,
          LOW: tl.constexpr, HIGH: tl.constexpr):  # fmt: skip
    """Return both sums of squares as float64, and how many weights are not finite; `new` is stored at `here`.

    A sum that may have lost digits, or is not finite, is taken again.
    """
    squares = _squares(words, y, WIDTH, SHIFT, SCALE, FINITE)
    if WIDTH == 1:
        after_squares = tl.where(_entries(after, WIDTH) != 0, squares, 0.0)
    else:
        after_squares = _squares(new, after, WIDTH, SHIFT, SCALE, FINITE)
    before_sum, after_sum = _halved(squares), _halved(after_squares)
    before_unsure = _unsure(before_sum, LOW, HIGH) & (filled > 0)
    after_unsure = _unsure(after_sum, LOW, HIGH) & (kept > 0)
    nonfinite = filled * 0
    before_sum, after_sum = before_sum.to(tl.float64), after_sum.to(tl.float64)
    if before_unsure | after_unsure:
        # One after the other, and what was stored is loaded: this takes half of the registers.
        for part in range(2):
            e = _entries(_word_magnitudes(words, WIDTH, FNUZ), WIDTH)
            v = _values(tl.where(e > FINITE, 0, e), WIDTH, SHIFT, SCALE, FINITE).to(tl.float64)
            total = _halved(v * v)
            if part == 0:
                nonfinite = tl.sum((e > FINITE).to(tl.int32), axis=0)
                before_sum = tl.where(before_unsure, total, before_sum)
                words = _load_words(here, length, WIDTH, ALIGNED)
            else:
                after_sum = tl.where(after_unsure, total, after_sum)
    return before_sum, after_sum, nonfinite


@triton.jit
def _slice_flags(flags, first, length, inner, period):
    """Return the flag of the slice of each entry of a block: that with the number (index // inner) % period."""
    lane = tl.max_contiguous(tl.arange(0, 1024), 4)
    run = first // inner
    ends = (first - run * inner).to(tl.int32) + lane
    number = (run % period).to(tl.int32)
    # Divisions of all entries take longer than the rest.
    if inner >= 1024:
        following = tl.load(flags + (number + 1) % period)
        found = tl.where(ends >= inner, following, tl.load(flags + number))
    else:
        place = number + ends // inner
        if period >= 1024:
            place = tl.where(place >= period, place - period, place)
        else:
            place %= period
        found = tl.load(flags + place, mask=lane < length, other=0)
    return found


@triton.jit
def prune_kernel(x, flags, cuts, limits, addresses, lengths, firsts, tensor_of, counts, extremes, sums,
                 n, blocks, inner, period, each,
                 MODE: tl.constexpr, MANY: tl.constexpr, ALIGNED: tl.constexpr, TIES: tl.constexpr,
                 GROUP: tl.constexpr, KEEP: tl.constexpr,
                 WIDTH: tl.constexpr, FNUZ: tl.constexpr, SHIFT: tl.constexpr, SCALE: tl.constexpr,
                 FINITE: tl.constexpr, TOP: tl.constexpr, LOW: tl.constexpr, HIGH: tl.constexpr):  # fmt: skip
    """Prune a block in place and store its numbers: see `torch_blocks.Blocks`.

    MODE 0: cut, 1: a flag for each entry, 2: groups, 3: a flag for each slice (index // inner) % period. A tensor has
    `each` flags. With MANY tensors are found by a `Table`.
    """
    block = tl.program_id(0)
    tensor, first, here, length = _find_block(x, n, block, addresses, lengths, firsts, tensor_of, MANY, ALIGNED)
    lane = tl.max_contiguous(tl.arange(0, 1024), 4)
    inside = lane < length
    words = _load_words(here, length, WIDTH, ALIGNED)
    y = _word_magnitudes(words, WIDTH, FNUZ)
    if MODE == 0:
        below = tl.load(cuts + tensor).to(y.dtype)  # one below the cut, which may be above the largest integer
        limit = length
        if TIES:
            limit = tl.maximum(tl.minimum(tl.load(limits + tensor) - first, 1024), -1).to(tl.int32)
        alive = _above(y, below, limit, length, TIES, WIDTH, FNUZ, TOP)
    elif MODE == 1:
        keep = tl.load(flags + tensor.to(tl.int64) * each + first + lane, mask=inside, other=0)
        alive = flagged_words(keep != 0, y, WIDTH)
    elif MODE == 2:
        alive = flagged_words(largest_of_groups(here, length, y, GROUP, KEEP, WIDTH, FNUZ), y, WIDTH)
    else:
        keep = _slice_flags(flags + tensor.to(tl.int64) * each, first, length, inner, period)
        alive = flagged_words(keep != 0, y, WIDTH)
    new, after = _pruned(words, y, alive, WIDTH)
    _store_words(here, length, new, WIDTH, ALIGNED)
    filled, kept, overfull = _counted(y, alive, WIDTH)
    pruned, least = _extremes(y, alive, WIDTH, TOP)
    tl.store(counts + block, 1024 - filled)
    tl.store(counts + blocks + block, 1024 - kept)
    tl.store(counts + 3 * blocks + block, (overfull > 0).to(tl.int32))
    tl.store(extremes + block, pruned)
    tl.store(extremes + blocks + block, least)
    before_sum, after_sum, nonfinite = _sums(
        here, length, words, y, new, after, filled, kept, ALIGNED, WIDTH, FNUZ, SHIFT, SCALE, FINITE, LOW, HIGH
    )
    tl.store(counts + 2 * blocks + block, nonfinite)
    tl.store(sums + block, before_sum)
    tl.store(sums + blocks + block, after_sum)
