"""The array operations of `Ops` with torch, on any device."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import numpy as np

from prunecli.errors import PruneError
from prunecli.kernels.arrays import as_array, slabs
from prunecli.kernels.key_arrays import COUNTED
from prunecli.kernels.ops import Array, is_tensor
from prunecli.kernels.tally import BLOCK
from prunecli.kernels.torch_blocks import RUN, Blocks, Cut, Groups, magnitudes, prune_blocks
from prunecli.kernels.torch_fused import Fused, fused
from prunecli.kernels.torch_groups import largest_of_rows, smallest_of_rows
from prunecli.kernels.torch_random import random_rows
from prunecli.kernels.torch_tally import TorchTally
from prunecli.kernels.torch_totals import joined
from prunecli.kernels.torch_views import elements, of_blocks, of_elements, slice_numbers
from prunecli.kernels.transfers import copies_in_background, to_device

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from prunecli.dtypes import Float
    from prunecli.kernels.tally import Shared, Statistics
    from prunecli.layout import SliceView


FUSED_RUN = 1 << 28
"""Elements that are pruned at once by kernels that need no memory for each of them."""

SPREAD = 1 << 10
"""Places for numbers that are not used, because additions to one place wait for each other."""

WANTED_LIMIT = 1 << 16
"""In rows of up to this many entries, the numbers to prune are computed for every number of remaining ones."""


class TorchOps:
    """The kernels on a torch device. They compare and add integers, so the bits are those of NumPy.

    A keep array is a tensor with an entry for each weight, 0 for a pruned one, or a `Cut` or `Groups`.
    """

    def __init__(self, device: str) -> None:
        """Compute on the torch `device`: "cuda:0", "mps", "xpu", or "cpu" for torch's kernels on the host."""
        self.torch = importlib.import_module("torch")
        self.device = device
        self.fused: Fused | None = fused(device)
        self.run = RUN if self.fused is None else FUSED_RUN
        self._wanted: dict[tuple[int, Callable[[int], int]], Array | None] = {}

    def load(self, raw: Array) -> Array:
        """Copy the host integers `raw` to the device; a tensor, which lies there, is returned."""
        if is_tensor(raw):
            return raw
        # Copied even on the CPU, where the tensor would share the buffer that is pruned in place.
        host = self.torch.from_numpy(np.ascontiguousarray(as_array(raw)))
        return host.to(self.device, copy=True, non_blocking=copies_in_background(self.device))

    def unload(self, x: Array, raw: Array) -> None:
        """Copy `x` to the host, if `raw` is there; from some devices in the background, see `Transfers`."""
        if not is_tensor(raw):
            self.torch.from_numpy(as_array(raw)).copy_(x, non_blocking=copies_in_background(self.device))

    def tally(self, statistics: Statistics, shared: Shared) -> TorchTally:
        """Return the empty counts of a tensor, which stay on the device until they are asked for."""
        return TorchTally(self, statistics, shared)

    def part(self, keep: Array, own: slice) -> Array:
        """Return a view."""
        return keep[own]

    def magnitudes(self, x: Array, dtype: Float) -> Array:
        """Return the sign-cleared patterns. The NaN of fnuz formats becomes the largest."""
        return magnitudes(self.torch, x, dtype)

    def prune_blocks(self, x: Array, keep: Array, dtype: Float, *, patterns: bool = False) -> Blocks:
        """Prune the run `x` in place and return what is counted about its blocks; see `torch_blocks`."""
        if self.fused is not None and not patterns and self.fused.takes(x, keep):
            blocks: Blocks = self.fused.prune_blocks(x, keep, dtype)
            return blocks
        return prune_blocks(self.torch, x, keep, dtype, patterns=patterns)

    def mark_alive(self, alive: Array, after: Array, first: int, view: SliceView, dtype: Float, blocks: Blocks) -> bool:
        """Mark the slices that have a non-zero, if there is a kernel for it; return whether there is."""
        if self.fused is None:
            return False
        marked: bool = self.fused.slices.mark_alive(alive, after, first, view, dtype, blocks)
        return marked

    def random_rows(self, keys: Array, firsts: Array, steps: int) -> Array:
        """Return random numbers, see `torch_random`."""
        if self.fused is not None:
            return self.fused.random_rows(keys, firsts, steps)
        return random_rows(self.torch, keys, firsts, steps)

    def cut(self, x: Array, dtype: Float, bits: int, ties: int | Array = 0) -> Cut:
        """Return what survives of the weights `x` if those below `bits` and the first `ties` equal to it are pruned."""
        return Cut(bits, self.limit(x, dtype, bits, ties) if is_tensor(ties) or ties else None)

    def limit(self, x: Array, dtype: Float, bits: int, ties: int | Array) -> Array:
        """Return the position of the `ties`-th weight of the magnitude `bits` as an integer on the device.

        It is behind the end if there are fewer such weights, and -1 if `ties`, on the device, is 0.
        """
        counts = self.equal_in_blocks(x, dtype, bits)
        ends = counts.cumsum(0)
        # A vector, because an index of no dimensions would be fetched.
        block = self.torch.searchsorted(ends, ties).clamp_(max=len(ends) - 1).reshape(1)
        index = block * BLOCK + self.torch.arange(BLOCK, device=x.device)
        weights = x[index.clamp(max=len(x) - 1)]
        equal = (self.magnitudes(weights, dtype) == bits) & (index < len(x))
        before = ends[block] - counts[block]
        # As many entries are in front of the wanted one as have a smaller number of equals up to them.
        limit = (block * BLOCK + ((before + equal.cumsum(0)) < ties).sum()).reshape(())
        return self.torch.where(ties > 0, limit, -1) if is_tensor(ties) else limit

    def equal_in_blocks(self, x: Array, dtype: Float, bits: int) -> Array:
        """Return how many weights of each block of `x` have the magnitude `bits`, as integers on the device."""
        if self.fused is not None:
            return self.fused.count(x, to_device([bits], x.device), dtype)
        parts = []
        for first in range(0, len(x), RUN):
            equal = self.magnitudes(x[first : first + RUN], dtype) == bits
            missing = -len(equal) % BLOCK
            padded = self.torch.nn.functional.pad(equal, (0, missing)) if missing else equal
            parts.append(padded.reshape(-1, BLOCK).sum(1))
        return self.torch.cat(parts)

    def count_many(self, x: Array, cuts: Array, tensor_of: Array, dtype: Float, *, less: bool) -> Array:
        """Return how many weights of each block are equal to the cut of its tensor, or with `less` below it."""
        counts = []
        for first in range(0, len(x), RUN):
            y = self.magnitudes(x[first : first + RUN], dtype).reshape(-1, BLOCK)
            cut = cuts[tensor_of[first // BLOCK : first // BLOCK + len(y)]][:, None]
            counts.append(((y < cut) if less else (y == cut)).sum(1))
        return self.torch.cat(counts)

    def prune_many(self, x: Array, cuts: Array, limits: Array, tensor_of: Array, dtype: Float) -> Blocks:
        """Prune whole blocks: what is below the cut of their tensor, and what is equal to it up to its limit in `x`."""
        runs = []
        for first in range(0, len(x), RUN):
            run = x[first : first + RUN]
            of_block = tensor_of[first // BLOCK : (first + len(run)) // BLOCK]
            y, cut = self.magnitudes(run, dtype).reshape(-1, BLOCK), cuts[of_block][:, None]
            index = first + self.torch.arange(len(run), device=run.device).reshape(-1, BLOCK)
            kept = (y > cut - 1) & ((y != cut) | (index > limits[of_block][:, None]))
            runs.append(prune_blocks(self.torch, run, kept.flatten(), dtype))
        return joined(self.torch, runs)

    def above(self, rows: Array, cuts: Sequence[int], ties: Sequence[int]) -> Array:
        """Return which entries of rows survive if those below the cut of their row, and `ties` equals, are pruned."""
        torch = self.torch
        below, quota = torch.tensor([[cut - 1 for cut in cuts], list(ties)], device=rows.device)[:, :, None]
        kept = rows > below
        if any(ties):
            equal = rows == below + 1
            kept &= ~(equal & (equal.cumsum(1) <= quota))
        return kept

    def groups(self, start: int, count: int, run: tuple[int, int], group: int, keep: int) -> Groups | None:
        """Return what survives, as by `keep_largest`, if groups follow each other in a run of `count` elements.

        `run` is `length` and `inner`. None: use `keep_largest`.
        """
        length, inner = run
        flat = inner == 1 and length % group == 0 and BLOCK % group == 0
        return Groups(keep, group) if flat and not (start % group or count % group) else None

    def at_least(self, y: Array, cut: int) -> Array:
        """Compare; flags of one byte are enough."""
        return self._flags(y > cut - 1)

    def _flags(self, kept: Array) -> Array:
        """Return booleans as -1 and 0."""
        return -kept.to(self.torch.int8)

    def count_equal(self, y: Array, value: int) -> Array:
        """Return the number of entries equal to `value`, on the device."""
        return (y == value).sum()

    def drop_first_equal(self, keep: Array, y: Array, value: int, count: int | Array) -> None:
        """Clear `keep` at the first `count` entries equal to `value`; their numbers are sums up to each entry."""
        done = 0
        for first in range(0, len(y), RUN):
            equal = y[first : first + RUN] == value
            ends = equal.cumsum(0, dtype=self.torch.int64) + done
            keep[first : first + RUN].masked_fill_(equal.logical_and_(ends <= count), 0)
            done = ends[-1]

    def keep_largest(self, y: Array, start: int, length: int, inner: int, group: int, keep: int) -> Array:
        """Rank the groups of each slab: the full groups, then the short last one."""
        kept = self.torch.empty(len(y), dtype=self.torch.int8, device=y.device)
        for part, shape in slabs(start, len(y), length, inner):
            whole, flags = y[part].reshape(shape), kept[part].reshape(shape)
            full = shape[1] // group * group
            for low, high, size in ((0, full, group), (full, shape[1], shape[1] - full)):
                if low < high:
                    self._keep_largest(whole[:, low:high], flags[:, low:high], size, keep)
        return kept

    def _keep_largest(self, y: Array, flags: Array, group: int, keep: int) -> None:
        """Fill `flags` (slabs, rows, inner) in runs; the rows of a slab are whole groups."""
        step = max(RUN // y[0].numel(), 1)
        for first in range(0, len(y), step):
            part = y[first : first + step]
            rows = max(RUN // (group * part.shape[2]), 1) * group
            for low in range(0, y.shape[1], rows):
                groups = part[:, low : low + rows]
                kept = largest_of_rows(self.torch, groups.reshape(-1, group, y.shape[2]), keep)
                flags[first : first + step, low : low + rows] = self._flags(kept).reshape(groups.shape)

    def drop_from(self, keep: Array, start: int, length: int, inner: int, first: int) -> None:
        """Clear `keep` from index `first` of the middle dimension on."""
        for low in range(0, len(keep), RUN):
            part = keep[low : low + RUN]
            index = elements(self.torch, start + low, len(part), keep.device)
            part.masked_fill_(index // inner % length >= first, 0)

    def keep_rows(self, y: Array, row: int, wanted: Callable[[int], int]) -> Array:
        """Find the rank of each row bit by bit."""
        rows = y.reshape(-1, row)
        kept = self.torch.empty(rows.shape, dtype=self.torch.int8, device=y.device)
        if self.fused is not None and self.fused.keep_rows(rows, self._numbers_wanted(rows, wanted), kept):
            return kept.flatten()
        step = max(RUN // row, 1)
        for first in range(0, len(rows), step):
            part = rows[first : first + step]
            kept[first : first + step] = self._flags(
                smallest_of_rows(self.torch, part, self._numbers_wanted(part, wanted)[:, None])
            )
        return kept.flatten()

    def keep_slice_rows(self, y: Array, view: SliceView, wanted: Callable[[int], int]) -> Array:
        """Return the same for rows that are the slices of whole stacks of `view`."""
        stacks = y.reshape(-1, view.before, view.slices, view.after).transpose(1, 2)
        kept = self.keep_rows(stacks.reshape(-1), view.size, wanted)
        return kept.reshape(stacks.shape).transpose(1, 2).reshape(-1)

    def cuts_of_rows(self, rows: Array, wanted: Callable[[int], int]) -> tuple[Array, Array]:
        """Return the largest pruned pattern of each row, and the position of the last pruned entry that is equal to it.

        Of a row of which nothing is pruned they are 0 and -1.
        """
        torch, kept = self.torch, self.keep_rows(rows.reshape(-1), rows.shape[1], wanted).reshape(rows.shape)
        pruned = (kept == 0) & (rows >= 0)
        cuts = torch.where(pruned, rows, -1).amax(1)
        places = torch.arange(rows.shape[1], device=rows.device)
        limits = torch.where(pruned & (rows == cuts[:, None]), places, -1).amax(1)
        return cuts.clamp_(min=0), limits

    def _numbers_wanted(self, rows: Array, wanted: Callable[[int], int]) -> Array:
        """Return how many weights of each row are pruned."""
        remaining = (rows >= 0).sum(1)
        table = self._table_of_wanted(rows, wanted)
        if table is not None:
            return table[remaining]
        sizes, index = remaining.unique(return_inverse=True)
        return self.torch.tensor([wanted(size) for size in sizes.tolist()], device=rows.device)[index]

    def _table_of_wanted(self, rows: Array, wanted: Callable[[int], int]) -> Array | None:
        """Return how many weights are pruned of a row by its number of remaining ones, if every number has an answer.

        A count may be more than some numbers, which is an error only where a row has one of them.
        """
        row = rows.shape[1]
        if row > WANTED_LIMIT:
            return None
        if (row, wanted) not in self._wanted:
            self._wanted.clear()
            try:
                numbers = [wanted(size) for size in range(row + 1)]
                self._wanted[row, wanted] = self.torch.tensor(numbers, device=rows.device)
            except PruneError:
                self._wanted[row, wanted] = None
        return self._wanted[row, wanted]

    def drop_pruned(self, keep: Array, y: Array) -> None:
        """Clear `keep` where `y` is negative (already pruned)."""
        keep.masked_fill_(y < 0, 0)

    def keep_slices(self, y: Array, start: int, view: SliceView, alive: Array | bytes) -> Array:
        """Repeat the flag of each slice over its elements."""
        return of_elements(self.torch, self._alive(alive), start, len(y), view)

    def keep_blocks(self, y: Array, start: int, view: SliceView, block: tuple[int, int], alive: Array | bytes) -> Array:
        """Repeat the flag of each block over its columns and rows."""
        return of_blocks(self.torch, self._alive(alive), start, len(y), view, block)

    def _alive(self, alive: Any) -> Array:  # noqa: ANN401 - bytes, or a tensor
        """Return flags on the device."""
        if is_tensor(alive):
            return alive.to(self.device)
        return to_device(np.frombuffer(alive, np.int8), self.device)

    def keep_above(self, y: Array, start: int, view: SliceView, cuts: NDArray[Any], limits: NDArray[np.int64]) -> Array:
        """Compare with the cut of each element's slice, and the position of each equal with the limit of its slice."""
        torch, kept = self.torch, self.torch.empty(len(y), dtype=self.torch.int8, device=y.device)
        cut_of, limit_of = (each if is_tensor(each) else to_device(each, self.device) for each in (cuts, limits))
        for first in range(0, len(y), RUN // 4):
            part = y[first : first + RUN // 4]
            number, position = slice_numbers(torch, elements(torch, start + first, len(part), y.device), view)
            cut = cut_of[number]
            kept[first : first + RUN // 4] = self._flags(
                (part > cut - 1) & ((part != cut) | (position > limit_of[number]))
            )
        return kept

    def smallest(self, y: Array, rank: int) -> tuple[int, int, int]:
        """Return the `rank`-th smallest entry (1-based), and the numbers of smaller and of equal entries."""
        entry = int(self.torch.sort(y).values[rank - 1])
        return entry, int((y < entry).sum()), int(self.count_equal(y, entry))

    def below_and_inside(self, y: Array, low: int, width: int) -> tuple[int, Any, list[int] | None]:
        """Count the patterns of a narrow bracket; extract those in a wide one."""
        below = int((y < low).sum())
        inside = y[(y >= low) & (y <= low + (width - 1))]
        if width <= COUNTED:
            counts: list[int] = self.torch.bincount(inside - low, minlength=width).tolist()
            return below, None, counts
        return below, inside.cpu().numpy(), None

    def bracket(self, x: Array, dtype: Float, low: int, high: int, shift: int, *, marked: bool = False) -> Array:
        """Count magnitudes on the device: those below `low`, and those in [low, high) by (magnitude - low) >> shift.

        With `marked` `x` are patterns, of which -1 marks pruned weights. The result has 1 + bins integers.
        """
        if self.fused is not None and x.is_contiguous():
            return self.fused.ranks.bracket(x, dtype, low, high, shift, marked=marked)
        torch, bins = self.torch, ((high - 1 - low) >> shift) + 1
        table = torch.zeros(1 + bins + SPREAD, dtype=torch.int64, device=x.device)
        for first in range(0, len(x), RUN // 4):
            part = x[first : first + RUN // 4]
            y = part if marked else self.magnitudes(part, dtype)
            inside = (y >= low) & (y <= high - 1)
            table[0] += (y < low).sum()
            # Entries that are not inside are counted behind the end, at places that do not wait for each other.
            others = 1 + bins + torch.arange(len(y), device=x.device) % SPREAD
            places = (((y - low) >> shift) + 1).to(torch.int64).where(inside, others)
            table.index_add_(0, places, torch.ones_like(places))
        return table[: 1 + bins]

    def as_flags(self, keep: Array) -> NDArray[np.uint8]:
        """Compare with zero and copy to the host."""
        flags: NDArray[np.uint8] = (keep != 0).to(self.torch.uint8).cpu().numpy()
        return flags

    def store_masked(self, x: Array, keep: Array, out: Array, dtype: Float) -> None:
        """Copy `x`, with zeros where `keep` is 0, to the integers `out`; a zero of either sign keeps its bits."""
        kept = (keep != 0) | (self.magnitudes(x, dtype) == 0)
        if is_tensor(out):
            out.copy_(x * kept)
        else:
            as_array(out)[...] = (x * kept).cpu().numpy()
