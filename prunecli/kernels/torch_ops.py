"""The array operations of `Ops` with torch, on any device."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import numpy as np

from prunecli.kernels.key_arrays import COUNTED
from prunecli.kernels.numpy_ops import NumpyOps
from prunecli.kernels.numpy_tally import NumpyTally
from prunecli.kernels.ops import FLAT_GROUP_LIMIT, Array, before_in_group, is_from, slabs
from prunecli.kernels.transfers import copies_in_background
from prunecli.kernels.views import block_flags, of_elements, positions, slice_flags

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from prunecli.dtypes import Float
    from prunecli.kernels.tally import Counts, Shared, Statistics, Tally
    from prunecli.layout import SliceView


class TorchOps:
    """The kernels on a torch device. They only compare and add integers, so the bits are those of NumPy."""

    def __init__(self, device: str) -> None:
        """Compute on the torch `device`: "cuda:0", "mps", "xpu", or "cpu" for torch's kernels on the host."""
        self.torch = importlib.import_module("torch")
        self.device = device

    def load(self, raw: NDArray[Any]) -> Array:
        """Copy the host integers `raw` to the device."""
        # Copied even on the CPU, where the tensor would share the buffer that is pruned in place.
        host = self.torch.from_numpy(np.ascontiguousarray(raw))
        return host.to(self.device, copy=True, non_blocking=copies_in_background(self.device))

    def unload(self, x: Array, raw: NDArray[Any]) -> None:
        """Copy `x` to the host; from some devices in the background, see `Transfers`."""
        self.torch.from_numpy(raw).copy_(x, non_blocking=copies_in_background(self.device))

    def tally(self, statistics: Statistics, shared: Shared) -> Tally:
        """Return the empty counts of a tensor, which are taken on the host."""
        return _HostTally(self, NumpyTally(NumpyOps(), statistics, shared))

    def part(self, keep: Array, own: slice) -> Array:
        """Return a view."""
        return keep[own]

    def magnitudes(self, x: Array, dtype: Float) -> Array:
        """Return the sign-cleared patterns. The NaN of fnuz formats becomes the largest."""
        if dtype.itemsize > 1:
            return x & dtype.mask
        y = x.to(self.torch.int16) & dtype.mask
        return y.masked_fill_(x == -128, dtype.top) if dtype.negative_zero_is_nan else y

    def at_least(self, y: Array, cut: int) -> Array:
        """Subtract and spread the sign bit."""
        return (cut - 1 - y) >> (8 * y.element_size() - 1)

    def count_equal(self, y: Array, value: int) -> int:
        """Return the number of entries equal to `value`."""
        return int((y == value).sum())

    def drop_first_equal(self, keep: Array, y: Array, value: int, count: int) -> None:
        """Clear `keep` at the first `count` entries equal to `value`."""
        if count:
            keep[(y == value).nonzero().flatten()[:count]] = 0

    def keep_largest(self, y: Array, start: int, length: int, inner: int, group: int, keep: int) -> Array:
        """Rank short groups by comparing shifted copies, longer ones by sorting rows."""
        if group < FLAT_GROUP_LIMIT:
            return self._keep_largest_flat(y, start, length, inner, group, keep)
        kept = self.at_least(y, 0)
        for part, shape in slabs(start, len(y), length, inner):
            self._keep_largest_of_slabs(y[part].reshape(shape), kept[part].reshape(shape), group, keep)
        return kept

    def _keep_largest_of_slabs(self, y: Array, kept: Array, group: int, keep: int) -> None:
        """Fill `kept` (slabs, rows, inner): the full groups, then the short last one."""
        number, rows, inner = y.shape
        full = rows // group * group
        for low, high, size in ((0, full, group), (full, rows, rows - full)):
            if low < high:
                groups = y[:, low:high].reshape(number, -1, size, inner).swapaxes(2, 3)
                flat = self.keep_largest_of_rows(groups.reshape(-1, size), min(keep, size))
                flags = flat.reshape(number, -1, inner, size).swapaxes(2, 3)
                kept[:, low:high] = flags.reshape(number, high - low, inner)

    def _keep_largest_flat(self, y: Array, start: int, length: int, inner: int, group: int, keep: int) -> Array:
        """Compare each entry with each later one of its group; an entry survives if fewer than `keep` beat it."""
        before = self._to_device(before_in_group(start, len(y), length, inner, group).copy())
        beaten = before - keep
        for distance in range(1, group):
            d = distance * inner
            if d >= len(y):
                break
            wins = ((y[:-d] < y[d:]) & (before[d:] >= distance)).to(beaten.dtype)
            beaten[d:] -= wins
            beaten[:-d] += wins
        return (beaten >> 7).to(y.dtype)

    def drop_from(self, keep: Array, start: int, length: int, inner: int, first: int) -> None:
        """Clear `keep` from index `first` of the middle dimension on."""
        keep.masked_fill_(self._to_device(is_from(start, len(keep), length, inner, first)), 0)

    def keep_rows(self, y: Array, row: int, wanted: Callable[[int], int]) -> Array:
        """Rank the rows with equal numbers of remaining weights in one call."""
        rows, keep = y.reshape(-1, row), self.at_least(y, 0)
        remaining = (rows >= 0).sum(1)
        for size in remaining.unique().tolist():
            alike, kept = remaining == size, size - wanted(size)
            if kept != row:
                keep.reshape(-1, row)[alike] = self.keep_largest_of_rows(rows[alike], kept, last=True)
        return keep

    def drop_pruned(self, keep: Array, y: Array) -> None:
        """Set `keep` to 0 where `y` is negative (already pruned)."""
        keep &= ~(y >> (8 * y.element_size() - 1))

    def keep_slices(self, y: Array, start: int, view: SliceView, alive: bytes) -> Array:
        """Repeat the flag of each slice over its elements."""
        return self._to_device(slice_flags(start, len(y), view, alive)).to(y.dtype)

    def keep_blocks(self, y: Array, start: int, view: SliceView, block: tuple[int, int], alive: bytes) -> Array:
        """Repeat the flag of each block over its columns and rows."""
        return self._to_device(block_flags(start, len(y), view, block, alive)).to(y.dtype)

    def keep_above(self, y: Array, start: int, view: SliceView, cuts: NDArray[Any], limits: NDArray[np.int64]) -> Array:
        """Compare with the cut of each element's slice, and look at the positions of the equals on the host."""
        # Copied, because an array of a plan may be read-only.
        cut = self._to_device(of_elements(cuts, start, len(y), view).copy())
        keep = (cut - 1 - y) >> (8 * y.element_size() - 1)
        equal = (cut == y).nonzero().flatten().cpu().numpy()
        number, position = positions(start + equal, view)
        keep[self._to_device(equal[position <= limits[number]])] = 0
        return keep

    def _to_device(self, flags: NDArray[Any]) -> Array:
        return self.torch.from_numpy(flags).to(self.device)

    def keep_largest_of_rows(self, rows: Array, keep: int, *, last: bool = False) -> Array:
        """Sort each row stably from the largest down and keep the first `keep`."""
        if last:
            return self.keep_largest_of_rows(rows.flip(1), keep).flip(1)
        order = self.torch.argsort(rows, dim=1, descending=True, stable=True)[:, :keep]
        return self.torch.zeros_like(rows).scatter_(1, order, -1)

    def smallest(self, y: Array, rank: int) -> int:
        """Return the `rank`-th smallest entry (1-based)."""
        return int(self.torch.sort(y).values[rank - 1])

    def below_and_inside(self, y: Array, low: int, width: int) -> tuple[int, Any, list[int] | None]:
        """Count the patterns of a narrow bracket; extract those in a wide one."""
        below = int((y < low).sum())
        inside = y[(y >= low) & (y <= low + (width - 1))]
        if width <= COUNTED:
            counts: list[int] = self.torch.bincount(inside - low, minlength=width).tolist()
            return below, None, counts
        return below, inside.cpu().numpy(), None

    def as_flags(self, keep: Array) -> NDArray[np.uint8]:
        """Compare with zero and copy to the host."""
        flags: NDArray[np.uint8] = (keep != 0).to(self.torch.uint8).cpu().numpy()
        return flags

    def store_masked(self, x: Array, keep: Array, out: NDArray[Any], dtype: Float) -> None:
        """Copy `x & keep` to the host integers `out`; -0.0, the smallest integer, is kept."""
        keep = keep.to(x.dtype)
        if not dtype.negative_zero_is_nan:
            keep = keep | -(x == self.torch.iinfo(x.dtype).min).to(x.dtype)
        out[...] = (x & keep).cpu().numpy()


class _HostTally:
    """The counts of a tensor on a device, taken on the host."""

    def __init__(self, ops: TorchOps, tally: NumpyTally) -> None:
        self._ops, self.tally = ops, tally

    def prune(self, x: Array, keep: Array, first: int, *, write: bool) -> None:
        host = x.cpu().numpy()
        self.tally.prune(host, keep.cpu().numpy(), first, write=write)
        if write:
            x.copy_(self._ops.torch.from_numpy(host))

    def add(self, y: Array, keep: Array, first: int) -> None:
        self.tally.add(y.cpu().numpy().copy(), keep.cpu().numpy(), first)

    def merge(self, other: Any) -> None:  # noqa: ANN401 - a tally of the same kind
        self.tally.merge(other.tally)

    def counts(self) -> Counts:
        return self.tally.counts()
