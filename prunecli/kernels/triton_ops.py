"""Triton kernels: one read and one write prune a tensor and count everything about its blocks.

A program has one warp, and prunes a block of 1024 elements. Each block's numbers are stored; they are added up by
torch. Nothing is fused or approximated: sums of squares have the bits of `torch_sums`.
"""

# Triton has no types for what kernels compute with.
# mypy: ignore-errors
# ruff: noqa: ANN001, ANN201, ANN202, N803, PLR0913, PLR0917, SIM108 - the signatures and branches of kernels

from __future__ import annotations

import triton
import triton.language as tl


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
def _block_sum(y, squares, WIDTH: tl.constexpr, SHIFT: tl.constexpr, SCALE: tl.constexpr, FINITE: tl.constexpr,
               LOW: tl.constexpr, HIGH: tl.constexpr):  # fmt: skip
    """Return the sum of squares as float64; a sum that may have lost digits, or is not finite, is taken again."""
    total = _halved(squares)
    if WIDTH == 8:
        bits = total.to(tl.int64, bitcast=True)
    else:
        bits = total.to(tl.int32, bitcast=True)
    wide = total.to(tl.float64)
    if ((bits < LOW) | (bits >= HIGH)) & (tl.max(y, axis=0) > 0):
        careful = _values(tl.where(y > FINITE, 0, y), WIDTH, SHIFT, SCALE, FINITE).to(tl.float64)
        wide = _halved(careful * careful)
    return wide


@triton.jit
def _largest_of_groups(y, GROUP: tl.constexpr, KEEP: tl.constexpr, BITS: tl.constexpr):
    """Return which of 1024 entries are among the largest of their group, 1 or 0; of equals the first ones."""
    rows = tl.reshape(y, (1024 // GROUP, GROUP))
    place = tl.arange(0, GROUP)[None, :]
    if GROUP <= 8:
        beaten = tl.zeros((1024 // GROUP, GROUP), tl.int32)
        for member in tl.static_range(GROUP):
            other = tl.sum(tl.where(place == member, rows, 0), axis=1)[:, None]
            beaten += ((other > rows) | ((other == rows) & (place > member))).to(tl.int32)
        kept = (beaten < KEEP).to(tl.int32)
    else:
        cut = tl.zeros((1024 // GROUP, 1), y.dtype)
        for step in range(BITS):
            candidate = cut | ((cut + 1 - cut) << (BITS - 1 - step))
            count = tl.sum((rows >= candidate).to(tl.int32), axis=1)[:, None]
            cut = tl.where(count >= KEEP, candidate, cut)
        quota = KEEP - tl.sum((rows > cut).to(tl.int32), axis=1)[:, None]
        end = tl.zeros((1024 // GROUP, 1), tl.int32)
        for step in tl.static_range(7):
            candidate = end + (64 >> step)
            count = tl.sum(((rows == cut) & (place < candidate)).to(tl.int32), axis=1)[:, None]
            end = tl.where(count <= quota, candidate, end)
        kept = ((rows > cut) | ((rows == cut) & (place < end))).to(tl.int32)
    return tl.reshape(kept, (1024,))


@triton.jit
def _apply(place, inside, w, y, keep, counts, extremes, sums, blocks, WIDTH: tl.constexpr, SHIFT: tl.constexpr,
           SCALE: tl.constexpr, FINITE: tl.constexpr, TOP: tl.constexpr,
           LOW: tl.constexpr, HIGH: tl.constexpr):  # fmt: skip
    """Prune one block: `w` are its weights, `y` their magnitudes and `keep`, 1 or 0, says what survives.

    The numbers of the block are stored to `counts`, `extremes` and `sums`, each row of which has `blocks` of them.
    """
    after = tl.where(keep != 0, y, 0)
    v = _values(y, WIDTH, SHIFT, SCALE, FINITE)
    squares = v * v
    before_sum = _block_sum(y, squares, WIDTH, SHIFT, SCALE, FINITE, LOW, HIGH)
    after_sum = _block_sum(after, tl.where(keep != 0, squares, 0.0), WIDTH, SHIFT, SCALE, FINITE, LOW, HIGH)
    alive = (after != 0).to(tl.int32)
    full = tl.max(tl.sum(tl.reshape(alive, (256, 4)), axis=1), axis=0)
    tl.store(counts, tl.sum((y == 0).to(tl.int32), axis=0))
    tl.store(counts + blocks, 1024 - tl.sum(alive, axis=0))
    tl.store(counts + 2 * blocks, tl.sum((y > FINITE).to(tl.int32), axis=0))
    tl.store(counts + 3 * blocks, (full > 2).to(tl.int32))
    tl.store(extremes, tl.max(y - after, axis=0))
    tl.store(extremes + blocks, tl.max(tl.where(after != 0, TOP - after, -1), axis=0))
    tl.store(sums, before_sum)
    tl.store(sums + blocks, after_sum)
    new = tl.where((keep != 0) | (y == 0), w, 0)
    tl.store(place, new.to(w.dtype), mask=inside)


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
def _slice_numbers(first, lane, inner, period):
    """Return the number of the slice of each entry of a block: (index // inner) % period."""
    run = first // inner
    offset = (first - run * inner).to(tl.int32)
    return ((run % period).to(tl.int32) + (offset + lane) // inner) % period


@triton.jit
def prune_kernel(x, flags, cuts, limits, addresses, lengths, firsts, tensor_of, counts, extremes, sums,
                 n, blocks, inner, period, each,
                 MODE: tl.constexpr, MANY: tl.constexpr, ALIGNED: tl.constexpr, TIES: tl.constexpr,
                 GROUP: tl.constexpr, KEEP: tl.constexpr,
                 WIDTH: tl.constexpr, FNUZ: tl.constexpr, SHIFT: tl.constexpr, SCALE: tl.constexpr,
                 FINITE: tl.constexpr, TOP: tl.constexpr, BITS: tl.constexpr,
                 LOW: tl.constexpr, HIGH: tl.constexpr):  # fmt: skip
    """Prune a block in place and store its numbers: see `torch_blocks.Blocks`.

    MODE 0: cut, 1: a flag for each entry, 2: groups, 3: a flag for each slice (index // inner) % period. A tensor has
    `each` flags. With MANY tensors are found by a `Table`.
    """
    block = tl.program_id(0)
    tensor, first, here, length = _find_block(x, n, block, addresses, lengths, firsts, tensor_of, MANY, ALIGNED)
    # Four neighbours in a thread: with more, halving a block exchanges more numbers between threads.
    lane = tl.max_contiguous(tl.arange(0, 1024), 4)
    inside = lane < length
    w = tl.load(here + lane, mask=inside, other=0)
    y = _magnitudes(w, WIDTH, FNUZ)
    if MODE == 0:
        below = tl.load(cuts + tensor).to(y.dtype)  # one below the cut, which may be above the largest integer
        keep = (y > below).to(tl.int32)
        if TIES:
            limit = tl.maximum(tl.minimum(tl.load(limits + tensor) - first, 1024), -1).to(tl.int32)
            keep = tl.where((y == below + 1) & (lane <= limit), 0, keep)
    elif MODE == 1:
        keep = (tl.load(flags + tensor.to(tl.int64) * each + first + lane, mask=inside, other=0) != 0).to(tl.int32)
    elif MODE == 2:
        keep = _largest_of_groups(y, GROUP, KEEP, BITS)
    else:
        place = tensor.to(tl.int64) * each + _slice_numbers(first, lane, inner, period)
        keep = (tl.load(flags + place, mask=inside, other=0) != 0).to(tl.int32)
    _apply(here + lane, inside, w, y, keep, counts + block, extremes + block, sums + block, blocks,
           WIDTH, SHIFT, SCALE, FINITE, TOP, LOW, HIGH)  # fmt: skip


@triton.jit
def count_kernel(x, cuts, addresses, lengths, firsts, tensor_of, out, n, blocks, per,
                 MANY: tl.constexpr, ALIGNED: tl.constexpr, LESS: tl.constexpr,
                 WIDTH: tl.constexpr, FNUZ: tl.constexpr):  # fmt: skip
    """Store for each block how many magnitudes are equal to the cut of its tensor, or with LESS are below it."""
    start = tl.program_id(0) * per
    lane = tl.arange(0, 1024)
    for step in range(tl.minimum(per, blocks - start)):
        block = start + step
        tensor, _, here, length = _find_block(x, n, block, addresses, lengths, firsts, tensor_of, MANY, ALIGNED)
        w = tl.load(here + lane, mask=lane < length, other=0)
        y = _magnitudes(w, WIDTH, FNUZ)
        cut = tl.load(cuts + tensor).to(y.dtype)
        if LESS:
            hits = (y < cut) & (lane < length)
        else:
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
def bracket_kernel(x, table, bounds, n, per, spread, MARKED: tl.constexpr,
                   WIDTH: tl.constexpr, FNUZ: tl.constexpr):  # fmt: skip
    """Add to `table` (spread + bins) the number of magnitudes below `low`, and those up to `last` in each bin.

    The bin of y is (y - low) >> shift. With MARKED the entries are patterns with -1 for pruned weights.
    `bounds` are low, last and shift. The first number
    has `spread` places, because additions to one place wait for each other.
    """
    first = tl.program_id(0).to(tl.int64) * per
    lane = tl.arange(0, 1024)
    below = tl.zeros((1024,), tl.int32)
    for step in range(per):
        index = (first + step) * 1024 + lane
        inside = index < n
        w = tl.load(x + index, mask=inside, other=0)
        if MARKED:
            y = w.to(tl.int64)
        else:
            y = _magnitudes(w, WIDTH, FNUZ)
        low = tl.load(bounds).to(y.dtype)
        below += ((y < low) & inside).to(tl.int32)
        hits = (y >= low) & (y <= tl.load(bounds + 1).to(y.dtype)) & inside
        place = (tl.where(hits, y - low, 0) >> tl.load(bounds + 2).to(y.dtype)).to(tl.int64)
        tl.atomic_add(table + spread + place, tl.full((1024,), 1, tl.int64), mask=hits, sem="relaxed")
    total = tl.sum(below, axis=0).to(tl.int64)
    tl.atomic_add(table + tl.program_id(0) % spread, total, sem="relaxed")


@triton.jit
def narrow_kernel(x, partial, bounds, n, per, MARKED: tl.constexpr, PATTERNS: tl.constexpr,
                  WIDTH: tl.constexpr, FNUZ: tl.constexpr):  # fmt: skip
    """Store for each program the number of magnitudes below `low`, and those of each of PATTERNS patterns from it."""
    first = tl.program_id(0).to(tl.int64) * per
    lane = tl.arange(0, 1024)
    column = tl.arange(0, 16)
    numbers = tl.zeros((16,), tl.int32)
    for step in range(per):
        index = (first + step) * 1024 + lane
        inside = index < n
        w = tl.load(x + index, mask=inside, other=0)
        if MARKED:
            y = w.to(tl.int64)
        else:
            y = _magnitudes(w, WIDTH, FNUZ)
        low = tl.load(bounds).to(y.dtype)
        below = tl.sum(((y < low) & inside).to(tl.int32), axis=0)
        numbers += tl.where(column == 0, below, 0)
        for pattern in tl.static_range(PATTERNS):
            equal = tl.sum(((y == low + pattern) & inside).to(tl.int32), axis=0)
            numbers += tl.where(column == pattern + 1, equal, 0)
    tl.store(partial + tl.program_id(0).to(tl.int64) * 16 + column, numbers)


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
