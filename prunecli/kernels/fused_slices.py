"""The calls of the Triton kernels that look at pruned tensors: for slices without a non-zero, and groups too full."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, TypeAlias

from prunecli.kernels.tally import BLOCK
from prunecli.kernels.torch_blocks import ZEROS_AFTER

if TYPE_CHECKING:
    from prunecli.dtypes import Float
    from prunecli.kernels.torch_blocks import Blocks
    from prunecli.kernels.torch_fused import Fused
    from prunecli.kernels.torch_tables import Table
    from prunecli.layout import SliceView

Tensor: TypeAlias = Any

LEAST_ROW = 32
"""Shorter slices that follow each other are looked at as columns."""

COLUMNS, FIRST_ROWS, ROWS_STEP = 256, 32, 64
"""Columns of a program; rows in which nearly all columns show a non-zero, if they have one; rows of a program after."""

UNITS = 256
"""Groups of a program."""


class FusedSlices:
    """The kernels of `triton_slices`, for a part of one tensor, or for tensors of one shape by their addresses."""

    def __init__(self, fused: Fused) -> None:
        """Launch kernels as `fused` does."""
        self._fused = fused
        self._kernels: Any = importlib.import_module("prunecli.kernels.triton_slices")

    def mark_alive(
        self, alive: Tensor, after: Tensor, first: int, view: SliceView, dtype: Float, blocks: Blocks
    ) -> bool:
        """Set the flags of slices with a non-zero, where slices are rows or columns; return whether they are."""
        if not after.is_contiguous():
            return False
        row = view.after if view.before == 1 else view.slices
        if row == 1 or first % row or len(after) % row:
            return False
        if view.before == 1:
            number, rows = first // row, len(after) // row
            if row % BLOCK == 0:  # a row has its blocks alone
                alive[number : number + rows].logical_or_(_rows_of_blocks(blocks.counts[ZEROS_AFTER], rows))
            else:
                self._rows(after, None, alive.view(self._fused.torch.int8), (number, rows, rows), row, dtype)
            return True
        stack = view.before * view.slices
        if view.after > 1 or (view.stacks > 1 and (first % stack or len(after) % stack)):
            return False
        stacks = len(after) // stack if view.stacks > 1 else 1
        flags = alive[first // stack * view.slices :] if view.stacks > 1 else alive
        shape = (stacks, len(after) // (stacks * view.slices), view.slices)
        self._columns(after, None, flags.view(self._fused.torch.int8), shape, stacks, dtype)
        return True

    def alive(self, table: Table, part: slice, view: SliceView, dtype: Float, zeros: Tensor) -> Tensor:
        """Return which slices of the tensors `part`, of one shape, have a non-zero, as booleans (tensors, slices).

        `zeros` are the numbers of zeros in their blocks.
        """
        torch, x, addresses = self._fused.torch, table.tensors[part.start], table.addresses[part]
        count = len(addresses)
        if view.before == 1 and view.after % BLOCK == 0:
            return _rows_of_blocks(zeros, count * view.total).reshape(count, view.total)
        if view.before == 1 and view.after >= LEAST_ROW:
            flags = torch.zeros((count, view.total), dtype=torch.int8, device=x.device)
            self._rows(x, addresses, flags, (0, count * view.total, view.total), view.after, dtype)
            return flags.view(torch.bool)
        columns = view.slices * view.after
        flags = torch.zeros((count * view.total, view.after), dtype=torch.int8, device=x.device)
        shape = (count * view.stacks, view.before, columns)
        self._columns(x, addresses, flags, shape, view.stacks, dtype)
        found = flags.view(torch.bool)
        return (found.any(1) if view.after > 1 else found).reshape(count, view.total)

    def _rows(
        self,
        x: Tensor,
        addresses: Tensor | None,
        alive: Tensor,
        rows: tuple[int, int, int],
        row: int,
        dtype: Float,
    ) -> None:
        """Mark rows of `row` entries: the number of the first one, how many there are, and those of each tensor."""
        with self._fused.on(x):
            self._kernels.rows_kernel[(rows[1],)](
                x, x if addresses is None else addresses, alive, rows[0], row, rows[2],
                MANY=addresses is not None, **self._fused.constants(x, dtype),
            )  # fmt: skip

    def _columns(
        self,
        x: Tensor,
        addresses: Tensor | None,
        alive: Tensor,
        shape: tuple[int, int, int],
        stacks: int,
        dtype: Float,
    ) -> None:
        """Mark columns of (all stacks, rows, columns); a tensor has `stacks`.

        First look at the first rows; in the other rows only at columns without a mark.
        """
        count, rows, columns = shape
        tiles, later = -(-columns // COLUMNS), max(-(-(rows - FIRST_ROWS) // ROWS_STEP), 0)
        with self._fused.on(x):
            for first, parts, step in ((0, 1, FIRST_ROWS), (FIRST_ROWS, later, ROWS_STEP)):
                if parts:
                    self._kernels.columns_kernel[(tiles * parts * count,)](
                        x, x if addresses is None else addresses, alive, rows, columns, first, step, stacks, parts,
                        tiles, MANY=addresses is not None, **self._fused.constants(x, dtype),
                    )  # fmt: skip

    def overfull(self, table: Table, part: slice, groups: tuple[int, int], dtype: Float) -> Tensor:
        """Return 1 for each of the tensors `part`, of one shape, in which a group of 4 has 3 non-zeros.

        The groups lie along the middle of (outer, length, inner), of which `groups` has the last two.
        """
        torch, (length, inner) = self._fused.torch, groups
        x, addresses = table.tensors[part.start], table.addresses[part]
        quads = -(-length // 4)
        units = x.numel() // (length * inner) * quads * inner
        tiles = -(-units // UNITS)
        flags = torch.zeros(len(addresses), dtype=torch.int64, device=x.device)
        with self._fused.on(x):
            self._kernels.overfull_kernel[(tiles * len(addresses),)](
                x, addresses, flags, units, length, inner, quads, tiles, **self._fused.constants(x, dtype)
            )
        return flags


def _rows_of_blocks(zeros: Tensor, rows: int) -> Tensor:
    """Return which of `rows`, each of whole blocks, have a non-zero."""
    return (zeros < BLOCK).reshape(rows, -1).any(1)
