"""The calls of the Triton kernels that count for ranks, in one run or in the tensors of a table."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, TypeAlias

from prunecli.kernels.fused_tables import columns, of_table, programs, warps
from prunecli.kernels.tally import BLOCK
from prunecli.kernels.transfers import to_device

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from prunecli.dtypes import Float
    from prunecli.kernels.torch_fused import Fused
    from prunecli.kernels.torch_tables import Table

Tensor: TypeAlias = Any

NARROW = 8
"""The most patterns that are counted one by one: `narrow_kernel` counts as many."""

COLUMNS = 16
"""The numbers that are kept for each tensor meanwhile."""

SAMPLED = 128
"""Neighbours that are sampled together."""

COPIES, COPIED = 16, 1 << 24
"""The most copies of a table of counts, and the most places of all of them where there are several."""


class FusedRanks:
    """The kernels of `triton_ranks`."""

    def __init__(self, fused: Fused) -> None:
        """Launch kernels as `fused` does."""
        self._fused, self._torch = fused, fused.torch
        self._kernels: Any = importlib.import_module("prunecli.kernels.triton_ranks")

    def bracket(self, x: Tensor, dtype: Float, low: int, high: int, shift: int, *, marked: bool) -> Tensor:
        """Return the number of magnitudes below `low`, and those of each (magnitude - low) >> shift below `high`."""
        bins = ((high - 1 - low) >> shift) + 1
        if bins <= NARROW and not shift:
            return self._narrow(x, to_device([low], x.device), bins, dtype, None, marked=marked)[0]
        return self._bins(x, to_device([low, high - 1, shift, 0], x.device), 1 + bins, dtype, None, marked=marked)

    def narrow(self, table: Table, lows: Tensor, patterns: int, dtype: Float) -> Tensor:
        """Return how many weights of each tensor are below its low, and how many are each of `patterns` from it.

        The result is (tensors, 1 + patterns).
        """
        return self._narrow(table.tensors[0], lows, patterns, dtype, table, marked=False)

    def bins(
        self, table: Table, bounds: Sequence[Sequence[int]], size: int, dtype: Float, *, below: bool = True
    ) -> Tensor:
        """Return `size` numbers; `bounds` are low, last, shift, and the place of the first number, of each tensor.

        There the weights below `low` are counted, and behind it those of each (magnitude - low) >> shift up to `last`.
        Without `below` the first number is that of the first bin.
        """
        on_device = to_device(bounds, table.addresses.device)
        return self._bins(table.tensors[0], on_device, size, dtype, table, marked=False, below=below)

    def listed(self, table: Table, bounds: Sequence[Sequence[int]], size: int, dtype: Float) -> Tensor:
        """Return the bins of single weights from 1, in any order, in `size` places, and 0 in the others.

        `bounds` are low, last, shift, the first place, and the number of places, of each tensor.
        """
        x, (number, per, grid) = table.tensors[0], programs(table.tensors[0], table)
        on_device, ends = to_device(bounds, x.device), self._torch.zeros_like(table.lengths)
        out = self._torch.zeros(size, dtype=self._torch.int64, device=x.device)
        with self._fused.on(x):
            self._kernels.list_kernel[grid](
                x, on_device, ends, *columns(x, table), out, len(table), number, per, ALIGNED=table.aligned,
                **self._fused.constants(x, dtype),
            )  # fmt: skip
        return out

    def squares(self, table: Table, aboves: Sequence[int], dtype: Float) -> Tensor:
        """Return the exact sums of squares of the finite magnitudes of each tensor from `aboves` upwards.

        The sums (tensors, 2, exponents) are those of `torch_squares.sum_of_table`. A weight has up to 4 bytes.
        """
        x, (number, per, grid) = table.tensors[0], programs(table.tensors[0], table)
        exponents = (dtype.finite_max >> dtype.mantissa) + 1
        out = self._torch.zeros((len(table), 2, exponents), dtype=self._torch.int64, device=x.device)
        with self._fused.on(x):
            self._kernels.squares_kernel[grid](
                x, to_device(aboves, x.device), *columns(x, table), out, number, per, exponents,
                ALIGNED=table.aligned, MANTISSA=dtype.mantissa, FINITE=dtype.finite_max,
                **self._fused.constants(x, dtype),
            )  # fmt: skip
        return out

    def sample(self, x: Tensor, places: NDArray[Any], dtype: Float) -> Tensor:
        """Return the magnitudes of SAMPLED neighbours in each row: `places` are addresses, and the last positions.

        `x` is one of the tensors there.
        """
        torch, number = self._torch, places.shape[1]
        integer = torch.int64 if dtype.itemsize == 8 else torch.int32
        out = torch.empty((number, SAMPLED), dtype=integer, device=x.device)
        with self._fused.on(x):
            self._kernels.sample_kernel[(number,)](
                x, to_device(places, x.device), out, number, LENGTH=SAMPLED, **self._fused.constants(x, dtype)
            )
        return out

    def _narrow(
        self, x: Tensor, lows: Tensor, patterns: int, dtype: Float, table: Table | None, *, marked: bool
    ) -> Tensor:
        number, per, grid = programs(x, table)
        out = self._torch.zeros((1 if table is None else len(table), COLUMNS), dtype=lows.dtype, device=x.device)
        with self._fused.on(x):
            self._kernels.narrow_kernel[grid](
                x, lows, *columns(x, table), out, len(x), number, per, **of_table(x, table), MARKED=marked,
                **self._fused.constants(x, dtype),
            )  # fmt: skip
        return out[:, : 1 + patterns]

    def _bins(
        self,
        x: Tensor,
        bounds: Tensor,
        size: int,
        dtype: Float,
        table: Table | None,
        *,
        marked: bool,
        below: bool = True,
    ) -> Tensor:
        torch, (number, per, grid) = self._torch, programs(x, table)
        copies = max(min(COPIES, COPIED // size, grid[0]), 1)
        wide = (number // copies + per) * BLOCK >= 1 << 31
        out = torch.zeros((copies, size), dtype=torch.int64 if wide else torch.int32, device=x.device)
        where = of_table(x, table)
        options = self._fused.constants(x, dtype) | {"num_warps": warps(x.element_size(), where)}
        with self._fused.on(x):
            self._kernels.bins_kernel[grid](
                x, bounds, *columns(x, table), out, len(x), 1 if table is None else len(table), number, per, copies,
                size, **where, MARKED=marked, BELOW=below, **options,
            )  # fmt: skip
        return out.sum(0, dtype=torch.int64)
