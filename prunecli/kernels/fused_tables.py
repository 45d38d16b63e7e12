"""What Triton kernels take about one run, or about the tensors of a `Table`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from prunecli.kernels.tally import BLOCK
from prunecli.kernels.torch_tables import ALIGNED

if TYPE_CHECKING:
    from prunecli.kernels.torch_tables import Table

Tensor: TypeAlias = Any


PROGRAMS, MOST_PER_PROGRAM = 1 << 12, 32
"""With more blocks than PROGRAMS, a program takes several, up to the second number."""


def per_program(blocks: int) -> int:
    """Return how many blocks a program takes."""
    return min(max(blocks // PROGRAMS, 1), MOST_PER_PROGRAM)


def programs(x: Tensor, table: Table | None) -> tuple[int, int, tuple[int]]:
    """Return the number of blocks, how many of them a program takes, and how many programs there are."""
    number = -(-len(x) // BLOCK) if table is None else table.blocks
    per = per_program(number)
    return number, per, (-(-number // per),)


def columns(x: Tensor, table: Table | None) -> tuple[Tensor, ...]:
    """Return the columns of a table; without one, kernels do not read them."""
    return (x, x, x, x) if table is None else (table.addresses, table.lengths, table.firsts, table.tensor_of)


def of_table(x: Tensor, table: Table | None) -> dict[str, bool]:
    """Return the constants that say whether there is a table, and whether tensors begin and end at multiples."""
    aligned = not (x.data_ptr() % ALIGNED or len(x) % ALIGNED) if table is None else table.aligned
    return {"MANY": table is not None, "ALIGNED": aligned}


def warps(itemsize: int, where: dict[str, bool], always: int = 16) -> int:
    """Return how many warps hold a block in their registers: entries of any address, or of `always` bytes, need two."""
    return 2 if itemsize >= always or (itemsize >= 4 and not where["ALIGNED"]) else 1
