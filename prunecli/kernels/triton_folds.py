"""Triton kernels that fold weights of many tensors into norms, with the bits of `torch_folds`, and rank the norms.

A table has the address of each tensor: one launch reads all tensors of a shape where they lie.
"""

# Triton has no types for what kernels compute with.
# mypy: ignore-errors
# ruff: noqa: ANN001, ANN201, ANN202, N803, PLR0913, PLR0917 - the signatures and branches of kernels

from __future__ import annotations

import triton
import triton.language as tl

from prunecli.kernels.triton_ops import _magnitudes, _values


@triton.jit
def _tensor(table, WIDTH: tl.constexpr, ALIGNED: tl.constexpr):
    """Return where the tensor of a program lies, of which the table has the address."""
    address = tl.load(table + tl.program_id(1))
    if WIDTH == 8:
        x = address.to(tl.pointer_type(tl.int64))
    elif WIDTH == 4:
        x = address.to(tl.pointer_type(tl.int32))
    elif WIDTH == 2:
        x = address.to(tl.pointer_type(tl.int16))
    else:
        x = address.to(tl.pointer_type(tl.int8))
    if ALIGNED:
        x = tl.multiple_of(x, 16)
    return x


@triton.jit
def _joined(v, G: tl.constexpr, HALF: tl.constexpr, INNER: tl.constexpr, NORM: tl.constexpr):
    """Return (G, HALF, INNER) from (G, 2 * HALF, INNER): neighbours are joined."""
    pairs = tl.reshape(v, (G, HALF, 2, INNER))
    if NORM == 2:
        v = tl.max(pairs, axis=2)
    elif NORM == 3:
        v = tl.min(pairs, axis=2)
    else:
        v = tl.sum(pairs, axis=2)
    return v


@triton.jit
def _joins(x, index, inside, NORM: tl.constexpr, WIDTH: tl.constexpr, FNUZ: tl.constexpr, SHIFT: tl.constexpr,
           SCALE: tl.constexpr, FINITE: tl.constexpr):  # fmt: skip
    """Return what a norm joins, in float64: magnitudes or their squares, infinity for NaN."""
    y = _magnitudes(tl.load(x + index, mask=inside, other=0), WIDTH, FNUZ)
    v = _values(y, WIDTH, SHIFT, SCALE, FINITE).to(tl.float64)
    v = tl.where(y > FINITE, float("inf"), v)
    if NORM == 1:
        v = v * v
    if NORM == 3:
        v = tl.where(inside, v, float("inf"))
    return v


@triton.jit
def fold_kernel(table, out, units, length, inner, part, parts, pieces, tiles, ALIGNED: tl.constexpr,
                NORM: tl.constexpr, G: tl.constexpr, P: tl.constexpr, LEVELS: tl.constexpr, INNER: tl.constexpr,
                WIDTH: tl.constexpr, FNUZ: tl.constexpr, SHIFT: tl.constexpr, SCALE: tl.constexpr,
                FINITE: tl.constexpr):  # fmt: skip
    """Store the folds of `pieces` of P entries of each part along the middle of (outer, length, inner) tensors.

    NORM 0: sums of magnitudes, 1: of squares, 2: maxima, 3: minima. A unit is one piece, and a program has G of them,
    and one of `tiles` of INNER columns. P is 2 to the power of LEVELS.
    """
    program = tl.program_id(0).to(tl.int64)
    unit = program // tiles * G + tl.arange(0, G)
    piece = unit % pieces
    group = unit // pieces
    first = group % parts * part
    place = piece[:, None] * P + tl.arange(0, P)[None, :]
    row = first[:, None] + place
    column = program % tiles * INNER + tl.arange(0, INNER)
    index = ((group // parts * length)[:, None] + row)[:, :, None] * inner + column[None, None, :]
    inside = ((place < part) & (row < length) & (unit < units)[:, None])[:, :, None] & (column < inner)[None, None, :]
    v = _joins(_tensor(table, WIDTH, ALIGNED), index, inside, NORM, WIDTH, FNUZ, SHIFT, SCALE, FINITE)
    for step in tl.static_range(LEVELS):
        v = _joined(v, G, P >> (step + 1), INNER, NORM)
    place_out = (tl.program_id(1).to(tl.int64) * units + unit)[:, None] * inner + column[None, :]
    tl.store(out + place_out, tl.reshape(v, (G, INNER)), mask=(unit < units)[:, None] & (column < inner)[None, :])


@triton.jit
def blocks_kernel(table, out, slices, columns, bands, along, high, wide, tiles, ALIGNED: tl.constexpr,
                  EVEN: tl.constexpr, HIGH: tl.constexpr, HIGH_LEVELS: tl.constexpr, WIDE: tl.constexpr,
                  WIDE_LEVELS: tl.constexpr, G: tl.constexpr, WIDTH: tl.constexpr, FNUZ: tl.constexpr,
                  SHIFT: tl.constexpr, SCALE: tl.constexpr, FINITE: tl.constexpr):  # fmt: skip
    """Store the root mean squares of the blocks of (stacks, slices, columns) tensors: (stacks, bands, along) of each.

    A program has G blocks of a band, one of its `tiles`. HIGH and WIDE are the powers of two from `high` and `wide` on;
    with EVEN `wide` is one of them.
    """
    band = (tl.program_id(0) // tiles).to(tl.int64)
    block = tl.program_id(0) % tiles * G + tl.arange(0, G)
    rows = tl.minimum(slices - band % bands * high, high)
    row = (band // bands * slices + band % bands * high) + tl.arange(0, HIGH)
    if EVEN:
        column = tl.program_id(0) % tiles * (G * WIDE) + tl.arange(0, G * WIDE)
        inside = column < columns
    else:
        lane = tl.arange(0, G * WIDE)
        column = (tl.program_id(0) % tiles * G + lane // WIDE) * wide + lane % WIDE
        inside = (lane % WIDE < wide) & (column < columns)
    mask = (tl.arange(0, HIGH) < rows)[:, None] & inside[None, :]
    index = row[:, None] * columns + column[None, :]
    v = _joins(_tensor(table, WIDTH, ALIGNED), index, mask, 1, WIDTH, FNUZ, SHIFT, SCALE, FINITE)
    v = tl.reshape(v, (1, HIGH, G * WIDE))
    for step in tl.static_range(HIGH_LEVELS):
        v = _joined(v, 1, HIGH >> (step + 1), G * WIDE, 1)
    v = tl.reshape(v, (G, WIDE, 1))
    for step in tl.static_range(WIDE_LEVELS):
        v = _joined(v, G, WIDE >> (step + 1), 1, 1)
    size = rows * tl.minimum(columns - block * wide, wide)
    mean = tl.reshape(v, (G,)) / tl.maximum(size, 1).to(tl.float64)
    first = (tl.program_id(1).to(tl.int64) * tl.num_programs(0) // tiles + band) * along
    tl.store(out + first + block, tl.sqrt(mean), mask=block < along)


@triton.jit
def spread_kernel(flags, out, slices, columns, bands, along, high, tiles, WIDE: tl.constexpr, SIZE: tl.constexpr):
    """Store the flag of its block for each weight of (stacks, slices, columns) tensors; a program has SIZE columns."""
    band = (tl.program_id(0) // tiles).to(tl.int64)
    tensor = tl.program_id(1).to(tl.int64) * (tl.num_programs(0) // tiles)
    column = tl.program_id(0) % tiles * SIZE + tl.arange(0, SIZE)
    inside = column < columns
    kept = tl.load(flags + (tensor + band) * along + column // WIDE, mask=inside, other=0)
    row = (tensor // bands + band // bands) * slices + band % bands * high
    for number in range(tl.minimum(slices - band % bands * high, high)):
        tl.store(out + (row + number) * columns + column, kept, mask=inside)


@triton.jit
def roots_kernel(sums, length):
    """Replace float64 numbers by their square roots, which torch does not round exactly everywhere."""
    lane = tl.program_id(0).to(tl.int64) * 1024 + tl.arange(0, 1024)
    tl.store(sums + lane, tl.sqrt(tl.load(sums + lane, mask=lane < length, other=0.0)), mask=lane < length)


@triton.jit
def _decided(tables, state, step, previous):
    """Return the bits and the place that are known after the step before, and the rank among those that have them.

    The wanted digit is that at the rank in the counts of digits. `previous` is where it belongs: a shift of the bits,
    or 64 and a shift of the place.
    """
    rows = tl.num_programs(1)
    row = tl.program_id(1)
    digit = tl.arange(0, 256)
    counts = tl.load(tables + (step * rows + row) * 256 + digit)
    known = state + (step * rows + row) * 3
    rank = tl.load(known + 2)
    below = (tl.cumsum(counts, axis=0) < rank).to(tl.int32)
    wanted = tl.sum(below, axis=0).to(tl.int64)
    rank -= tl.sum(counts * below, axis=0)
    bits = tl.load(known) | tl.where(previous < 64, wanted << (previous & 63), 0)
    place = tl.load(known + 1) | tl.where(previous < 64, 0, wanted << (previous & 63))
    return bits, place, rank


@triton.jit(do_not_specialize=["step", "previous", "current"])
def digits_kernel(norms, tables, state, step, previous, current, length, per):
    """Count the digits of 8 bits at `current` of the norms of each row that agree with what is decided.

    Norms are patterns of float64, none of them negative. After their bits, the places of those that have them follow.
    """
    row = tl.program_id(1).to(tl.int64)
    bits, place, rank = _decided(tables, state, step, previous)
    if tl.program_id(0) == 0:
        after = state + ((step + 1) * tl.num_programs(1) + row) * 3
        tl.store(after, bits)
        tl.store(after + 1, place)
        tl.store(after + 2, rank)
    of_place = current >= 64
    shift = current & 63
    agreed_bits = tl.where(of_place, 0, tl.minimum(shift + 8, 63))
    agreed_place = tl.where(of_place, tl.minimum(shift + 8, 63), 63)
    first = tl.program_id(0).to(tl.int64) * per
    counts = tl.zeros((256,), tl.int32)
    for number in range(per):
        lane = (first + number) * 1024 + tl.arange(0, 1024)
        y = tl.load(norms + row * length + lane, mask=lane < length, other=0)
        hits = ((y ^ bits) >> agreed_bits == 0) & ((lane ^ place) >> agreed_place == 0) & (lane < length)
        number_of_hits = tl.sum(hits.to(tl.int32), axis=0)
        if number_of_hits > 0:  # after a few digits most blocks have none
            digit = (tl.where(of_place, lane, y) >> shift) & 255
            found = tl.histogram(tl.where(hits, digit, 0).to(tl.int32), 256)
            counts += found - tl.where(tl.arange(0, 256) == 0, 1024 - number_of_hits, 0)
    out = tables + ((step + 1) * tl.num_programs(1) + row) * 256 + tl.arange(0, 256)
    tl.atomic_add(out, counts, mask=counts > 0, sem="relaxed")


@triton.jit(do_not_specialize=["step", "previous"])
def flags_kernel(norms, tables, state, step, previous, flags, cuts, length, per):
    """Store which norms of each row survive, and the largest pattern of the others, once all digits are counted."""
    row = tl.program_id(1).to(tl.int64)
    bits, place, _ = _decided(tables, state, step, previous)
    if tl.program_id(0) == 0:
        tl.store(cuts + row, bits)
    first = tl.program_id(0).to(tl.int64) * per
    for number in range(per):
        lane = (first + number) * 1024 + tl.arange(0, 1024)
        y = tl.load(norms + row * length + lane, mask=lane < length, other=0)
        kept = (y > bits) | ((y == bits) & (lane > place))
        tl.store(flags + row * length + lane, kept.to(tl.int8), mask=lane < length)
