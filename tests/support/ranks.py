"""The kernels that count for ranks, computed by plain torch; each call counts as one kernel."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

import torch

from prunecli.kernels.fused_ranks import SAMPLED
from prunecli.kernels.torch_ops import TorchOps

if TYPE_CHECKING:
    from support.launches import Launches


class CountedRanks:
    """The calls of `FusedRanks`."""

    def __init__(self, counted: Launches) -> None:
        """Count each call as a kernel of `counted`."""
        self._counted, self._plain = counted, TorchOps("cpu")
        self._plain.fused = None

    def bracket(self, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - as `FusedRanks`
        """Count a run."""
        with self._counted.one("bins_kernel"):
            return self._plain.bracket(*arguments, **options)

    def narrow(self, table: Any, lows: Any, patterns: int, dtype: Any) -> Any:  # noqa: ANN401
        """Count the patterns of each tensor."""
        with self._counted.one("narrow_kernel"):
            found = []
            for x, low in zip(table.tensors, lows, strict=True):
                y = self._plain.magnitudes(x, dtype)
                found.append(torch.stack([(y < low).sum(), *((y == low + number).sum() for number in range(patterns))]))
            return torch.stack(found)

    def bins(self, table: Any, bounds: Any, size: int, dtype: Any, *, below: bool = True) -> Any:  # noqa: ANN401
        """Add up what is counted in each tensor."""
        with self._counted.one("bins_kernel"):
            out = torch.zeros(size, dtype=torch.int64)
            for x, low, last, shift, place in zip(table.tensors, *bounds, strict=True):
                own = self._plain.bracket(x, dtype, low, last + 1, shift)[0 if below else 1 :]
                out[place : place + len(own)] += own
            return out

    def listed(self, table: Any, bounds: Any, size: int, dtype: Any) -> Any:  # noqa: ANN401
        """List the bins of each tensor."""
        with self._counted.one("list_kernel"):
            out = torch.zeros(size, dtype=torch.int64)
            for x, low, last, shift, place, most in zip(table.tensors, *bounds, strict=True):
                y = self._plain.magnitudes(x, dtype)
                own = (y[(y >= low) & (y <= last)] - low >> shift)[:most] + 1
                out[place : place + len(own)] = own
            return out

    def squares(self, table: Any, aboves: Any, dtype: Any) -> Any:  # noqa: ANN401
        """Add up squares of Python's integers."""
        with self._counted.one("squares_kernel"):
            out = torch.zeros((len(table), 2, (dtype.finite_max >> dtype.mantissa) + 1), dtype=torch.int64)
            for x, above, sums in zip(table.tensors, aboves, out, strict=True):
                y = self._plain.magnitudes(x, dtype)
                y = y[(y >= above) & (y <= dtype.finite_max)].to(torch.int64)
                exponent = y >> dtype.mantissa
                whole = (y & (1 << dtype.mantissa) - 1) + ((exponent > 0).long() << dtype.mantissa)
                for half, piece in enumerate(((whole * whole) & 0xFFFFFFFF, (whole * whole) >> 32)):
                    sums[half].index_add_(0, exponent, piece)
            return out

    def sample(self, x: Any, places: Any, dtype: Any) -> Any:  # noqa: ANN401
        """Read magnitudes at addresses."""
        with self._counted.one("sample_kernel"):
            rows = []
            for address, last in places.T.tolist():
                own = torch.frombuffer(bytearray(ctypes.string_at(address, (last + 1) * dtype.itemsize)), dtype=x.dtype)
                y = self._plain.magnitudes(own, dtype)
                rows.append(torch.cat([y, y[-1:].expand(SAMPLED - len(y))]))
            return torch.stack(rows).to(torch.int64 if dtype.itemsize == 8 else torch.int32)
