"""The Triton functions that choose the largest of each group of a block."""

# Triton has no types for what kernels compute with.
# mypy: ignore-errors
# ruff: noqa: ANN001, ANN201, ANN202, FURB136, N803, N806, PLR0913, PLR0917, SIM108 - kernels have other rules

from __future__ import annotations

import triton
import triton.language as tl

from prunecli.kernels.triton_ops import _magnitudes


@triton.jit
def _keys(w, place, GROUP: tl.constexpr, WIDTH: tl.constexpr, FNUZ: tl.constexpr):
    """Return numbers in the order of the magnitudes of weights; of equals the first is the largest, for 2 bytes or 1.

    `place` is the place in the group.
    """
    if WIDTH >= 4:
        keys = _magnitudes(w, WIDTH, FNUZ)
    else:
        keys = (w.to(tl.int32) << (32 - 8 * WIDTH)) & 0x7FFF0000
        if FNUZ:
            keys = tl.where(w.to(tl.int32) == -128, 0x7F800000, keys)
        keys |= GROUP - 1 - place
    return keys


@triton.jit
def _group_keys(here, length, ROWS: tl.constexpr, FIRST: tl.constexpr, SIZE: tl.constexpr, GROUP: tl.constexpr,
                WIDTH: tl.constexpr, FNUZ: tl.constexpr):  # fmt: skip
    """Return the keys of SIZE weights, the first at the place FIRST, of each group, in any order within the group.

    A group is in one thread. With more ROWS than groups they are repeated.
    """
    LOADED: tl.constexpr = 16 // WIDTH
    if SIZE <= LOADED:
        place = FIRST + tl.arange(0, SIZE)[None, :]
        start = (tl.arange(0, ROWS)[:, None] % (1024 // GROUP)) * GROUP
        keys = _keys(tl.load(here + start + place, mask=start < length, other=0), place, GROUP, WIDTH, FNUZ)
    else:
        a = _group_keys(here, length, ROWS, FIRST, SIZE // 2, GROUP, WIDTH, FNUZ)
        b = _group_keys(here, length, ROWS, FIRST + SIZE // 2, SIZE // 2, GROUP, WIDTH, FNUZ)
        keys = tl.reshape(tl.join(a, b), (ROWS, SIZE))
    return keys


@triton.jit
def _sorted_blocks(keys, ROWS: tl.constexpr, SIZE: tl.constexpr, STAGE: tl.constexpr):
    """Sort blocks of 2 to the power of STAGE, whose halves are sorted: one upwards, the next one downwards."""
    for step in tl.static_range(STAGE):
        pairs = tl.reshape(keys, (ROWS, SIZE >> (STAGE + 1), 2, 1 << step, 2, 1 << (STAGE - 1 - step)))
        a, b = tl.split(tl.permute(pairs, (0, 1, 3, 5, 2, 4)))
        up_low, down_low = tl.split(tl.minimum(a, b))
        up_high, down_high = tl.split(tl.maximum(a, b))
        pairs = tl.join(tl.join(up_low, down_high), tl.join(up_high, down_low))
        keys = tl.reshape(tl.permute(pairs, (0, 1, 4, 2, 5, 3)), (ROWS, SIZE))
    return keys


@triton.jit
def _nth_largest(keys, ROWS: tl.constexpr, SIZE: tl.constexpr, KEEP: tl.constexpr):
    """Return the KEEP-th largest of SIZE keys of each row."""
    LEVELS: tl.constexpr = (
        1 if SIZE == 2 else 2 if SIZE == 4 else 3 if SIZE == 8 else 4 if SIZE == 16 else 5 if SIZE == 32 else 6
    )
    for stage in tl.static_range(1, LEVELS):
        keys = _sorted_blocks(keys, ROWS, SIZE, stage)
    for step in tl.static_range(LEVELS):
        a, b = tl.split(tl.permute(tl.reshape(keys, (ROWS, 2, SIZE >> (step + 1))), (0, 2, 1)))
        if ((KEEP - 1) >> (LEVELS - 1 - step)) & 1:
            keys = tl.minimum(a, b)
        else:
            keys = tl.maximum(a, b)
    return tl.reshape(keys, (ROWS,))


@triton.jit
def _from_nth(rows, nth, KEEP: tl.constexpr, WIDTH: tl.constexpr):
    """Return 1 for the KEEP largest keys of each row, of which `nth` is the last; of equals the first ones."""
    if WIDTH <= 2:
        kept = (rows >= nth[:, None]).to(tl.int32)
    else:
        equal = (rows == nth[:, None]).to(tl.int32)
        larger = (rows > nth[:, None]).to(tl.int32)
        quota = KEEP - tl.sum(larger, axis=1)
        kept = larger | (equal & (tl.cumsum(equal, axis=1) <= quota[:, None]).to(tl.int32))
    return kept


@triton.jit
def _by_pairs(y, GROUP: tl.constexpr, KEEP: tl.constexpr):
    """Return the same as `_from_nth` for groups of 2 or 4, whose members are in one thread: how many are larger."""
    if GROUP == 2:
        a, b = tl.split(tl.reshape(y, (512, 2)))
        lost = (b > a).to(tl.int32)
        kept = tl.join(lost < KEEP, 1 - lost < KEEP)
    else:
        even, odd = tl.split(tl.reshape(y, (256, 2, 2)))
        a, c = tl.split(even)
        b, d = tl.split(odd)
        ab, ac, ad = (b > a).to(tl.int32), (c > a).to(tl.int32), (d > a).to(tl.int32)
        bc, bd, cd = (c > b).to(tl.int32), (d > b).to(tl.int32), (d > c).to(tl.int32)
        first, second = ab + ac + ad < KEEP, 1 - ab + bc + bd < KEEP
        third, fourth = 2 - ac - bc + cd < KEEP, 3 - ad - bd - cd < KEEP
        kept = tl.join(tl.join(first, third), tl.join(second, fourth))
    return kept.to(tl.int32)


@triton.jit
def largest_of_groups(here, length, y, GROUP: tl.constexpr, KEEP: tl.constexpr,
                      WIDTH: tl.constexpr, FNUZ: tl.constexpr):  # fmt: skip
    """Return 1 for 1024 weights among the KEEP largest of their group, else 0; of equals the first ones."""
    NUMBER: tl.constexpr = 1024 // GROUP
    if WIDTH <= 2:
        low = (y << 16) | (GROUP - 1 - (2 * tl.arange(0, 512)) % GROUP)
        high = (y & -0x10000) | (GROUP - 2 - (2 * tl.arange(0, 512)) % GROUP)
        rows = tl.reshape(tl.join(low, high), (NUMBER, GROUP))
    else:
        rows = tl.reshape(y, (NUMBER, GROUP))
    if KEEP == 0 or KEEP >= GROUP:
        kept = rows * 0 + (1 if KEEP else 0)
    elif GROUP <= 4 and WIDTH >= 4:
        kept = _by_pairs(y, GROUP, KEEP)
    elif GROUP <= 4:
        nth = _nth_largest(rows, NUMBER, GROUP, KEEP)
        kept = _from_nth(rows, nth, KEEP, WIDTH)
    else:
        # At least a row for each thread.
        THREADS: tl.constexpr = 64 if WIDTH == 8 else 32
        ROWS: tl.constexpr = NUMBER if NUMBER > THREADS else THREADS
        nth = _nth_largest(_group_keys(here, length, ROWS, 0, GROUP, GROUP, WIDTH, FNUZ), ROWS, GROUP, KEEP)
        if ROWS > NUMBER:
            nth = tl.max(tl.reshape(nth, (ROWS // NUMBER, NUMBER)), axis=0)
        kept = _from_nth(rows, nth, KEEP, WIDTH)
    return tl.reshape(kept, (1024,))
