"""Exact sums of squares of magnitudes on a device, as tables of integers: the method of `prunecli.kernels.squares`."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeAlias

from prunecli.kernels.squares import pieces_of_squares

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from prunecli.dtypes import Float

Tensor: TypeAlias = Any

SPREAD = 1 << 10
"""Places for the sums of one exponent in a row, because additions to one place wait for each other."""


@lru_cache(maxsize=32)
def table_shape(dtype: Float) -> tuple[int, int]:
    """Return the shape of the table of a row: (pieces, exponents)."""
    return sum(1 for _ in pieces_of_squares(0, dtype.mantissa + 1)), (dtype.finite_max >> dtype.mantissa) + 1


def square_tables(torch: Any, y: Tensor, above: Tensor, dtype: Float) -> Tensor:  # noqa: ANN401 - the module
    """Return a table for each row of magnitudes `y`, (rows, pieces, exponents), of those that are finite.

    Of each row those from the pattern `above` (rows, 1) upwards are counted, which is 0 or more.
    """
    rows, length = y.shape
    _, exponents = table_shape(dtype)
    copies = max(1, min(SPREAD // rows, length))
    taken = (y >= above) & (y <= dtype.finite_max)
    wide = torch.where(taken, y, 0).to(torch.int64)
    exponent = wide >> dtype.mantissa
    mantissas = (wide & ((1 << dtype.mantissa) - 1)) | ((exponent > 0).to(torch.int64) << dtype.mantissa)
    index = exponent.add_(torch.arange(rows, device=y.device)[:, None] * exponents).mul_(copies)
    index = index.add_(torch.arange(length, device=y.device) % copies).flatten()
    tables = []
    for _, pieces in pieces_of_squares(mantissas, dtype.mantissa + 1):
        table = torch.zeros(rows * exponents * copies, dtype=torch.int64, device=y.device)
        table.index_add_(0, index, pieces.flatten())
        tables.append(table.reshape(rows, exponents, copies).sum(2))
    return torch.stack(tables, 1)


def sum_of_table(table: NDArray[Any], dtype: Float, *, halves: bool) -> int:
    """Return the sum of one row, in squared quanta; `halves` are those of 64-bit squares, in place of pieces."""
    powers = (0, 32) if halves else [power for power, _ in pieces_of_squares(0, dtype.mantissa + 1)]
    total = 0
    for piece, exponent in zip(*(places.tolist() for places in table.nonzero()), strict=True):
        total += int(table[piece, exponent]) << (powers[piece] + 2 * max(exponent - 1, 0))
    return total
