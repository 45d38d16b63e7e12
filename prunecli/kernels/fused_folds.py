"""The calls of the Triton kernels that fold and rank. Each has a counterpart in `torch_folds` that gives the same bits.

Tensors of one shape are read where they lie, by one launch.
"""

from __future__ import annotations

import importlib
from math import inf
from typing import TYPE_CHECKING, Any, TypeAlias

from prunecli.dtypes import FLOATS
from prunecli.kernels.fused_tables import per_program
from prunecli.kernels.tally import BLOCK
from prunecli.kernels.torch_fused import (
    OPTIONS,
    ROW_LIMIT,
    Fused,
    power_of_two,
    scale_of,
    width_of,
)
from prunecli.kernels.transfers import to_device

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prunecli.dtypes import Float
    from prunecli.kernels.folds import Shape
    from prunecli.layout import SliceView

Tensor: TypeAlias = Any

TILE, PIECE, PIECE_OF_COLUMNS = 1 << 11, 1 << 11, 1 << 5
"""Entries that a program folds; the most of them that follow each other in a fold, and where a fold has columns."""

NORMS = {1.0: 0, 2.0: 1, inf: 2, -inf: 3}
"""The numbers of the norms in `fold_kernel`."""

DIGIT, PLACES = 8, 64
"""The bits of a digit that is counted at once; digits of places are numbered from PLACES on."""

BY_ROWS = {**OPTIONS, "num_warps": 4}


class FusedFolds(Fused):
    """The kernels of `triton_folds` and `triton_moments`."""

    def __init__(self, torch: Any) -> None:  # noqa: ANN401 - the module
        """Import Triton."""
        super().__init__(torch)
        self._folds: Any = importlib.import_module("prunecli.kernels.triton_folds")
        self._moments: Any = importlib.import_module("prunecli.kernels.triton_moments")

    def fold(self, x: Tensor, dtype: Float, n: float, shape: Shape, part: int) -> Tensor:
        """Return the folds of pieces of each part, as `torch_folds.fold` orders them: (outer * parts, pieces, inner).

        Their fold along the middle is that of the parts.
        """
        return self._pieces([x], dtype, n, shape, part)

    def fold_many(self, arrays: Sequence[Tensor], dtype: Float, n: float, shape: Shape, part: int) -> Tensor:
        """Return the folds of each part of each of the arrays, of this shape: (arrays, outer, parts, inner)."""
        outer, length, inner = shape
        folded = self._pieces(arrays, dtype, n, shape, part)
        while folded.shape[1] > 1:
            folded = self.fold(folded.view(self.torch.int64), FLOATS["F64"], 1.0 if n == 2 else n, folded.shape, PIECE)
        return folded.view(len(arrays), outer, -(-length // min(part, length)), inner)

    def _pieces(self, arrays: Sequence[Tensor], dtype: Float, n: float, shape: Shape, part: int) -> Tensor:
        (outer, length, inner), like = shape, arrays[0]
        part = min(part, length)
        size = _piece(part, inner)
        width = 1 if inner == 1 else min(power_of_two(inner), TILE // size)
        together = TILE // size if inner == 1 else 1
        parts, pieces, tiles = -(-length // part), -(-part // size), -(-inner // width)
        units = outer * parts * pieces
        groups = len(arrays) * outer * parts
        out = self.torch.empty((groups, pieces, inner), dtype=self.torch.float64, device=like.device)
        table, aligned = self._table(arrays)
        with self.on(like):
            self._folds.fold_kernel[(-(-units // together) * tiles, len(arrays))](
                table, out, units, length, inner, part, parts, pieces, tiles, ALIGNED=aligned,
                NORM=NORMS[n], G=together, P=size, LEVELS=size.bit_length() - 1, INNER=width, **_format(like, dtype),
                **OPTIONS | {"num_warps": 2 if dtype.itemsize == 8 else 1},
            )  # fmt: skip
        return out

    def _table(self, arrays: Sequence[Tensor]) -> tuple[Tensor, bool]:
        """Return the addresses of arrays, on their device, and whether all of them are multiples of 16."""
        addresses = [array.data_ptr() for array in arrays]
        aligned = not any(address % 16 for address in addresses)
        return to_device(addresses, arrays[0].device), aligned

    def block_norms(self, arrays: Sequence[Tensor], dtype: Float, view: SliceView, block: tuple[int, int]) -> Tensor:
        """Return the root mean squares of the blocks of matrices that lie in rows, shape (arrays * stacks, blocks)."""
        (high, wide), (stacks, slices, columns) = block, (view.stacks, view.slices, view.after)
        tall, broad = power_of_two(min(high, slices)), power_of_two(min(wide, columns))
        bands, along = -(-slices // high), -(-columns // wide)
        if tall * broad > TILE:
            return self._large_blocks(arrays, dtype, view, block)
        together = min(TILE // (tall * broad), power_of_two(along))
        tiles, like = -(-along // together), arrays[0]
        shape = len(arrays) * stacks, bands * along
        out = self.torch.empty(shape, dtype=self.torch.float64, device=like.device)
        table, aligned = self._table(arrays)
        with self.on(like):
            self._folds.blocks_kernel[(stacks * bands * tiles, len(arrays))](
                table, out, slices, columns, bands, along, high, wide, tiles, ALIGNED=aligned, EVEN=broad == wide,
                HIGH=tall, HIGH_LEVELS=tall.bit_length() - 1, WIDE=broad, WIDE_LEVELS=broad.bit_length() - 1,
                G=together, **_format(like, dtype), **OPTIONS | {"num_warps": 2 if dtype.itemsize == 8 else 1},
            )  # fmt: skip
        return out

    def _large_blocks(self, arrays: Sequence[Tensor], dtype: Float, view: SliceView, block: tuple[int, int]) -> Tensor:
        """Return the same of blocks that one program cannot hold: their columns are folded first."""
        torch, (stacks, slices, columns) = self.torch, (view.stacks, view.slices, view.after)
        sums = self.fold_many(arrays, dtype, 2.0, (stacks, slices, columns), block[0])
        rows = len(arrays) * stacks * sums.shape[2], columns, 1
        sums = self.fold_many([sums.view(torch.int64)], FLOATS["F64"], 1.0, rows, block[1])
        sums = sums.view(len(arrays) * stacks, -(-slices // block[0]), -1)
        return self._roots(sums.div_(self._sizes(view, block, sums)).flatten(1))

    def _sizes(self, view: SliceView, block: tuple[int, int], like: Tensor) -> Tensor:
        """Return the number of weights of each block: those at the edges may have fewer."""
        lengths = []
        for total, step in ((view.slices, block[0]), (view.after, block[1])):
            first = self.torch.arange(0, total, step, dtype=self.torch.float64, device=like.device)
            lengths.append((total - first).clamp_(max=step))
        return lengths[0][:, None] * lengths[1]

    def spread(self, flags: Tensor, view: SliceView, block: tuple[int, int]) -> Tensor:
        """Return the flag of its block for each weight of matrices that lie in rows; each has a row of `flags`."""
        (high, wide), (stacks, slices, columns) = block, (view.stacks, view.slices, view.after)
        out = self.torch.empty(len(flags) * view.total * view.size, dtype=self.torch.int8, device=flags.device)
        bands, along, size = -(-slices // high), -(-columns // wide), min(power_of_two(columns), BLOCK)
        tiles = -(-columns // size)
        with self.on(flags):
            self._folds.spread_kernel[(stacks * bands * tiles, len(flags))](
                flags, out, slices, columns, bands, along, high, tiles, WIDE=wide, SIZE=size, **OPTIONS
            )
        return out

    def slice_norms(self, arrays: Sequence[Tensor], dtype: Float, view: SliceView, n: float) -> Tensor:
        """Return the norms of the slices, shape (arrays * stacks, slices)."""
        stacks, before, slices, after = view.stacks, view.before, view.slices, view.after
        if after == 1:
            norms = self.fold_many(arrays, dtype, n, (stacks, before, slices), before)
        else:
            norms = self.fold_many(arrays, dtype, n, (stacks * before * slices, after, 1), after)
            if before > 1:
                shape, joins = (len(arrays) * stacks, before, slices), 1.0 if n == 2 else n
                norms = self.fold_many([norms.view(self.torch.int64)], FLOATS["F64"], joins, shape, before)
        norms = norms.view(len(arrays) * stacks, slices)
        return self._roots(norms) if n == 2 else norms

    def _roots(self, sums: Tensor) -> Tensor:
        with self.on(sums):
            self._folds.roots_kernel[(-(-sums.numel() // BLOCK),)](sums, sums.numel(), **OPTIONS)
        return sums

    def smallest(self, norms: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Return flags of rows of norms, 0 for the `k` smallest of a row, of equals the first ones, and else 1.

        The other result has the largest of these of each row. Nothing waits for the device. Norms are not kept.
        """
        torch, (rows, length) = self.torch, norms.shape
        patterns = norms.view(torch.int64)
        if length > ROW_LIMIT and k:
            return self.by_digits(patterns, k)
        wanted = torch.full((rows,), k, dtype=torch.int64, device=norms.device)
        kept = torch.full((rows, length), -1, dtype=torch.int8, device=norms.device)
        if k:
            self.keep_rows(patterns, wanted, kept)
        return kept.neg_(), norms.masked_fill_(kept.bool(), -1.0).amax(1)

    def by_digits(self, patterns: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Find the rank by counts of its digits, and then the place of the last equal one in the same way."""
        torch, (rows, length), device = self.torch, patterns.shape, patterns.device
        places = range((length - 1).bit_length() - 1 & -DIGIT, -1, -DIGIT)
        digits = [*range(PLACES - DIGIT, -1, -DIGIT), *(PLACES + shift for shift in places)]
        tables = torch.zeros((len(digits) + 1, rows, 1 << DIGIT), dtype=torch.int32, device=device)
        state = torch.zeros((len(digits) + 1, rows, 3), dtype=torch.int64, device=device)
        tables[0, :, 0].fill_(length)
        state[0, :, 2].fill_(k)
        flags = torch.empty((rows, length), dtype=torch.int8, device=device)
        cuts = torch.empty(rows, dtype=torch.int64, device=device)
        blocks = -(-length // BLOCK)
        per = per_program(blocks * rows)
        grid, previous = (-(-blocks // per), rows), 0
        with self.on(patterns):
            for step, digit in enumerate(digits):
                self._folds.digits_kernel[grid](patterns, tables, state, step, previous, digit, length, per, **OPTIONS)
                previous = digit
            self._folds.flags_kernel[grid](
                patterns, tables, state, len(digits), previous, flags, cuts, length, per, **OPTIONS
            )
        return flags, cuts.view(torch.float64)

    def moments(self, x: Tensor, dtype: Float, scale: float, rows: int) -> Tensor:
        """Return what folds of pieces of each row make: (3, rows, pieces), sums of finite numbers, squares and counts.

        The numbers are multiplied by `scale` first.
        """
        length = len(x) // rows
        pieces = -(-length // PIECE)
        out = self.torch.empty((3, rows, pieces), dtype=self.torch.float64, device=x.device)
        with self.on(x):
            self._moments.moments_kernel[(rows * pieces,)](
                x, out, length, pieces, rows * pieces,
                FACTOR=scale, P=PIECE, LEVELS=PIECE.bit_length() - 1, **_format(x, dtype), **BY_ROWS,
            )  # fmt: skip
        return out

    def joined(self, sums: Tensor) -> Tensor:
        """Return the folds of pieces of each row of float64 `sums`."""
        rows, length = sums.shape
        pieces = -(-length // PIECE)
        out = self.torch.empty((rows, pieces), dtype=self.torch.float64, device=sums.device)
        with self.on(sums):
            self._moments.join_kernel[(rows * pieces,)](
                sums, out, length, pieces, P=PIECE, LEVELS=PIECE.bit_length() - 1, **BY_ROWS
            )
        return out


def first_sums(view: SliceView, block: tuple[int, int] | None = None) -> int:
    """Return the number of sums that norms of slices, or of blocks, are folded from; 0 where kernels store none."""
    if block is not None:
        broad = power_of_two(min(block[1], view.after))
        if power_of_two(min(block[0], view.slices)) * broad <= TILE:
            return 0
        return _number_of_pieces((view.stacks, view.slices, view.after), block[0])
    if view.after == 1:
        return _number_of_pieces((view.stacks, view.before, view.slices), view.before)
    return _number_of_pieces((view.stacks * view.before * view.slices, view.after, 1), view.after)


def _number_of_pieces(shape: Shape, part: int) -> int:
    """Return the number of what `FusedFolds` stores first to fold parts."""
    outer, length, inner = shape
    part = min(part, length)
    return outer * -(-length // part) * -(-part // _piece(part, inner)) * inner


def _piece(part: int, inner: int) -> int:
    """Return how many entries of a part are folded at once."""
    return min(power_of_two(part), PIECE if inner == 1 else PIECE_OF_COLUMNS)


def _format(x: Tensor, dtype: Float) -> dict[str, Any]:
    """Return the constants of a format."""
    return {**width_of(x, dtype), "SHIFT": 23 - dtype.mantissa, "SCALE": scale_of(dtype), "FINITE": dtype.finite_max}
