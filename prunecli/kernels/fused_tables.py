"""The calls of the Triton kernels for many tensors, which are pruned and counted where they lie."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from prunecli.kernels.torch_blocks import Groups
from prunecli.kernels.torch_tables import ALIGNED, KernelRule, ManyCuts, SliceFlags

if TYPE_CHECKING:
    from prunecli.dtypes import Float
    from prunecli.kernels.torch_blocks import Blocks
    from prunecli.kernels.torch_fused import Fused
    from prunecli.kernels.torch_tables import Table
    from prunecli.layout import SliceView

Tensor: TypeAlias = Any


PROGRAMS, MOST_PER_PROGRAM = 1 << 12, 32
"""With more blocks than PROGRAMS, a program takes several, up to the second number."""


class FusedTables:
    """The kernels of `triton_ops` and `triton_slices`, over the tensors of a `Table`."""

    def __init__(self, fused: Fused) -> None:
        """Launch the kernels of `fused`."""
        self._fused = fused

    def prune(self, table: Table, keep: ManyCuts | SliceFlags | Groups | Tensor, dtype: Float) -> Blocks:
        """Prune tensors in place and return what is counted about their blocks.

        Flags are those of tensors of one shape, one after the other.
        """
        if isinstance(keep, ManyCuts):
            rule = KernelRule(0, cuts=keep.cuts - 1, limits=keep.limits)
        elif isinstance(keep, Groups):
            rule = KernelRule(2, groups=(keep.group, keep.keep))
        elif isinstance(keep, SliceFlags):
            view = keep.view
            slices = view.after, view.total if view.before == 1 else view.slices
            rule = KernelRule(3, flags=keep.flags, slices=slices, each=view.total)
        else:
            rule = KernelRule(1, flags=keep, each=table.tensors[0].numel())
        return self._fused.prune(table.tensors[0], rule, dtype, table)

    def count(self, table: Table, cuts: Tensor, dtype: Float) -> Tensor:
        """Return how many weights of each block are equal to the cut of its tensor."""
        return self._fused.count(table.tensors[0], cuts, dtype, table)

    def limits(self, table: Table, cuts: Tensor, chosen: Tensor, wanted: Tensor, dtype: Float) -> Tensor:
        """Return for each tensor the position of the entry of a block up to which `wanted` ones equal its cut."""
        return self._fused.limits(table, cuts, chosen, wanted, dtype)

    def alive(self, table: Table, part: slice, view: SliceView, dtype: Float, zeros: Tensor) -> Tensor:
        """Return which slices of the tensors `part`, of one shape, have a non-zero: booleans (tensors, slices).

        `zeros` are the numbers of zeros in their blocks.
        """
        first = table.tensors[part.start]
        return self._fused.slices.alive(first, table.addresses[part], view, dtype, zeros)

    def overfull(self, table: Table, part: slice, groups: tuple[int, int], dtype: Float) -> Tensor:
        """Return for the tensors `part`, of one shape, 1 if a group of 4 weights has 3 that are not zero."""
        return self._fused.slices.overfull(table.tensors[part.start], table.addresses[part], groups, dtype)


def per_program(blocks: int) -> int:
    """Return how many blocks a program takes."""
    return min(max(blocks // PROGRAMS, 1), MOST_PER_PROGRAM)


def columns(x: Tensor, table: Table | None) -> tuple[Tensor, ...]:
    """Return the columns of a table; without one, kernels do not read them."""
    return (x, x, x, x) if table is None else (table.addresses, table.lengths, table.firsts, table.tensor_of)


def of_table(x: Tensor, table: Table | None) -> dict[str, bool]:
    """Return the constants that say whether there is a table, and whether tensors begin and end at multiples."""
    aligned = not (x.data_ptr() % ALIGNED or len(x) % ALIGNED) if table is None else table.aligned
    return {"MANY": table is not None, "ALIGNED": aligned}
