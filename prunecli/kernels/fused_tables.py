"""The calls of the Triton kernels for many tensors, which are pruned and counted where they lie."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from prunecli.kernels.tally import BLOCK
from prunecli.kernels.torch_blocks import ZEROS_AFTER, Groups
from prunecli.values import dataclass

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


@dataclass(frozen=True, slots=True)
class ManyCuts:
    """For each tensor: magnitudes below `cuts` are pruned, and those equal to it up to the position `limits` in it."""

    cuts: Tensor
    limits: Tensor | None = None


@dataclass(frozen=True, slots=True)
class SliceFlags:
    """For each tensor, of one shape: the slices of `view` whose flag of one byte is 0 are pruned, (tensors, slices)."""

    flags: Tensor
    view: SliceView


def takes_slices(view: SliceView) -> bool:
    """Return whether `SliceFlags` can have a view: slices of one stack, or that follow each other."""
    return view.before == 1 or view.stacks == 1


class FusedTables:
    """The kernels of `triton_ops` and `triton_slices`, over a `Table`."""

    def __init__(self, fused: Fused) -> None:
        """Launch the kernels of `fused`."""
        self._fused = fused

    def prune(self, table: Table, keep: ManyCuts | SliceFlags | Groups | Tensor, dtype: Float) -> Blocks:
        """Prune tensors in place and return what is counted about their blocks.

        Flags are those of tensors of one shape, one after the other.
        """
        first, none = table.tensors[0], table.lengths
        options: dict[str, Any] = {"flags": first, "mode": 1, "table": table}
        if isinstance(keep, ManyCuts):
            options |= {"mode": 0, "cuts": keep.cuts - 1, "limits": keep.limits}
        elif isinstance(keep, Groups):
            options |= {"mode": 2, "groups": (keep.group, keep.keep)}
        elif isinstance(keep, SliceFlags):
            view = keep.view
            period = view.total if view.before == 1 else view.slices
            options |= {"mode": 3, "flags": keep.flags, "slices": (view.after, period)}
        else:
            options["flags"] = keep
        del none
        return self._fused.prune_tensors(first, dtype, **options)

    def count(self, table: Table, cuts: Tensor, dtype: Float, *, less: bool) -> Tensor:
        """Return how many weights of each block are equal to the cut of its tensor, or with `less` below it."""
        return self._fused.count(table.tensors[0], cuts, dtype, less=less, table=table)

    def limits(self, table: Table, cuts: Tensor, block: Tensor, wanted: Tensor, dtype: Float) -> Tensor:
        """Return for each tensor the position of the entry of its `block` up to which `wanted` ones equal its cut."""
        return self._fused.limits(table, cuts, block, wanted, dtype)

    def alive(self, table: Table, part: slice, view: SliceView, dtype: Float, blocks: Blocks) -> Tensor:
        """Return which slices of the tensors `part`, of one shape, have a non-zero: booleans (tensors, slices).

        `blocks` are what is counted about their blocks.
        """
        tensors = table.tensors[part]
        if view.before == 1 and view.after >= LEAST_ROW:
            return self._alive_rows(table, part, view, dtype, blocks)
        columns = view.slices * view.after
        flags = self._fused.columns(tensors[0], table.addresses[part], len(tensors), view, dtype)
        if view.after > 1:
            flags = flags.reshape(-1, columns // view.after, view.after).any(2)
        return flags.reshape(len(tensors), view.total)

    def _alive_rows(self, table: Table, part: slice, view: SliceView, dtype: Float, blocks: Blocks) -> Tensor:
        tensors = table.tensors[part]
        if view.after % BLOCK == 0:  # a row has its blocks alone
            found = blocks.counts[ZEROS_AFTER] < BLOCK
            return found.reshape(len(tensors), view.total, -1).any(2)
        return self._fused.rows(tensors[0], table.addresses[part], len(tensors), view, dtype)

    def overfull(self, table: Table, part: slice, groups: tuple[int, int], dtype: Float) -> Tensor:
        """Return for tensors of one shape whether a group of 4 along `length` of (outer, length, inner) has 3 non-zeros.

        `groups` are `length` and `inner`; the result is an integer for each tensor.
        """
        return self._fused.overfull(table.tensors[part], table.addresses[part], groups, dtype)
