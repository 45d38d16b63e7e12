"""The statistics of a tensor on a torch device. Nothing is fetched before all chunks have been counted."""

from __future__ import annotations

from dataclasses import replace
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from prunecli.kernels.squares import rounded
from prunecli.kernels.tally import BLOCK, Counts, TallyPart
from prunecli.kernels.torch_blocks import NONFINITE, OVERFULL, ZEROS_AFTER, ZEROS_BEFORE, Blocks, flags_of, part_of
from prunecli.kernels.torch_sums import block_sums, exact_units, whole_blocks
from prunecli.kernels.torch_totals import NUMBERS, joined, joined_rows, owners, row_length, totals, unset_flags
from prunecli.kernels.torch_views import mark_alive

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from prunecli.dtypes import Float
    from prunecli.kernels.tally import Shared, Statistics
    from prunecli.kernels.torch_ops import TorchOps
    from prunecli.layout import SliceView

Tensor: TypeAlias = Any

WAITING = 1 << 19
"""The blocks whose numbers are kept until they are added up, in 40 bytes for each of them."""

HISTOGRAM_RUN = 1 << 22
"""Elements sorted into bins at once; their places take 8 bytes each."""


class TorchTally:
    """The running counts of one tensor in one thread, as tensors on the device."""

    def __init__(self, ops: TorchOps, statistics: Statistics, shared: Shared) -> None:
        """Start without a chunk."""
        self._ops, self.statistics, self._shared = ops, statistics, shared
        self.torch = torch = ops.torch
        self.device = ops.device
        self._runs: list[Blocks] = []
        self._row: Tensor = None
        self._padding = 0
        self._overfull: Tensor = None
        self.waiting = 0
        """The blocks whose numbers are not yet added up."""
        self._alive = [self._new_alive(view) for view in (statistics.outputs, statistics.inputs)]
        self._bins: Tensor = None
        if statistics.bins is not None:
            size = statistics.bins[2] - statistics.bins[1] + 1
            self._bins = torch.zeros((2, size), dtype=torch.int64, device=ops.device)
        self._final: Tensor = None

    def _new_alive(self, view: SliceView | None) -> Tensor:
        """Return a flag for each slice, and one behind them that has no meaning."""
        if view is None:
            return None
        return self.torch.zeros(view.total + 1, dtype=self.torch.bool, device=self.device)

    def prune(self, x: Tensor, keep: Tensor, first: int, *, write: bool) -> None:
        """Count the weights before and after pruning, and zero those that `keep` drops, if `write`."""
        run = self._ops.run
        for low, high in _blockwise(first, len(x), run):
            part = x[low:high] if write else x[low:high].clone()
            self._prune(part, part_of(keep, low, high), first + low)

    def add(self, y: Tensor, keep: Tensor, first: int) -> None:
        """Count magnitudes, before and after what `keep` drops is zero."""
        for low, high in _blockwise(first, len(y), self._ops.run):
            self._prune(y[low:high], part_of(keep, low, high), first + low, patterns=True)

    def _prune(self, x: Tensor, keep: Tensor, first: int, *, patterns: bool = False) -> None:
        """Prune and count a run of whole blocks, or a part of one block."""
        before = None
        if self._bins is not None or self._is_part(first, len(x)):
            before = x if patterns else self._ops.magnitudes(x, self.statistics.dtype)
        if patterns:
            kept = flags_of(self.torch, keep, x)
            blocks, after = self._ops.prune_blocks(x, kept, self.statistics.dtype, patterns=True), x * kept
        else:
            blocks, after = self._ops.prune_blocks(x, keep, self.statistics.dtype), x
        self._add_blocks(blocks, first, len(x), before, after)
        self._add_alive(after, first, blocks)
        if self._bins is not None:
            for row, y in enumerate((before, self._magnitudes(after))):
                self._add_to_bins(self._bins[row], y)

    def _magnitudes(self, after: Tensor) -> Tensor:
        """Return the magnitudes of weights, or magnitudes themselves."""
        return self._ops.magnitudes(after, self.statistics.dtype)

    def _is_part(self, first: int, count: int) -> bool:
        """Return whether a run is a part of a block that is not complete."""
        return bool(first % BLOCK or (count % BLOCK and first + count != self.statistics.numel))

    def _add_blocks(self, blocks: Blocks, first: int, count: int, before: Tensor, after: Tensor) -> None:
        """Keep the numbers of blocks: those of many tensors are added up together, by few kernels."""
        self._padding += -count % BLOCK  # the entries behind the end count as zeros
        groups = self.statistics.groups
        flat = groups is None or _flat(groups, first, count)
        if not flat:
            blocks.counts[OVERFULL] = 0
        if self._is_part(first, count):
            blocks = replace(blocks, sums=self.torch.zeros_like(blocks.sums))
            self._add_part(first, before, self._magnitudes(after))
        self._keep(blocks)
        if groups is not None and not flat:
            self._add_groups(after, first, *groups)

    def _keep(self, blocks: Blocks) -> None:
        self._runs.append(blocks)
        self.waiting += blocks.counts.shape[1]
        if self.waiting > WAITING:
            settle([self])

    def _add_part(self, first: int, before: Tensor, after: Tensor) -> None:
        """Keep a part of a block until all its parts are there."""
        number, offset = divmod(first, BLOCK)
        size = min(BLOCK, self.statistics.numel - number * BLOCK)
        parts = self._shared.join("block", number, size, (offset, len(before), (before, after.clone())))
        if parts is not None:
            torch = self.torch
            rows = [whole_blocks(torch, torch.cat([part[index] for part in parts])) for index in range(2)]
            both = torch.cat(rows)
            sums = block_sums(torch, both, self.statistics.dtype, both.any(1))
            # Its other numbers are those of its parts.
            nothing = torch.zeros((4, 1), dtype=torch.int32, device=self.device)
            self._keep(Blocks(nothing, nothing[:2] - 1, sums[:, None]))

    def _add_alive(self, after: Tensor, first: int, blocks: Blocks) -> None:
        """Mark the outputs and the inputs that have a non-zero."""
        nonzero: Tensor = None
        for alive, view in zip(self._alive, (self.statistics.outputs, self.statistics.inputs), strict=True):
            if view is None or self._ops.mark_alive(alive, after, first, view, self.statistics.dtype, blocks):
                continue
            if nonzero is None:
                nonzero = self._nonzero(after)
            mark_alive(self.torch, alive, nonzero, first, view)

    def _nonzero(self, after: Tensor) -> Tensor:
        """Return where weights, or magnitudes, are not zero; -0.0 is zero, except where it encodes NaN."""
        if self.statistics.dtype.negative_zero_is_nan:
            return after != 0
        return (after << 1) != 0

    def _add_groups(self, after: Tensor, first: int, length: int, inner: int) -> None:
        """Count the groups of 4 that have more than 2 non-zeros, wherever they lie."""
        slab, nonzero = length * inner, self._nonzero(after)
        head = min(-first % slab, len(nonzero))
        body = (len(nonzero) - head) // slab * slab
        if body:
            self._add_overfull(nonzero[head : head + body].reshape(-1, length, inner))
        for low, part in ((first, nonzero[:head]), (first + head + body, nonzero[head + body :])):
            self._add_part_of_slab(low, part, length, inner)

    def _add_part_of_slab(self, first: int, nonzero: Tensor, length: int, inner: int) -> None:
        """Count whole groups, and keep parts of groups until all their parts are there."""
        unit, slab = 4 * inner, length * inner
        while len(nonzero):
            place = first % slab
            size = min(unit, slab - (place - place % unit))
            count = min(size - place % unit, len(nonzero))
            whole = len(nonzero) // unit * unit if place % unit == 0 else 0
            whole = min(whole, (slab - place) // unit * unit)
            if whole:
                count = whole
                self._add_overfull(nonzero[:count].reshape(1, -1, inner))
            else:
                part = (place % unit, count, nonzero[:count].clone())
                parts = self._shared.join("group", first - place % unit, size, part)
                if parts is not None:
                    self._add_overfull(self.torch.cat(parts).reshape(1, -1, inner))
            first, nonzero = first + count, nonzero[count:]

    def _add_overfull(self, nonzero: Tensor) -> None:
        """Count groups of 4 along axis 1 of (outer, length, inner) with more than 2 non-zeros."""
        length = nonzero.shape[1] // 4 * 4
        for part in (nonzero[:, :length], nonzero[:, length:]):
            if part.numel():
                rows = part.unflatten(1, (-1, min(4, part.shape[1])))
                self._add_overfull_groups((rows.sum(2) > 2).sum())

    def _add_overfull_groups(self, number: Tensor) -> None:
        if self._overfull is not None and number is not None:
            number = self._overfull + number
        self._overfull = self._overfull if number is None else number

    def _add_to_bins(self, counts: Tensor, y: Tensor) -> None:
        """Count the finite magnitudes that are not zero."""
        bins = self.statistics.bins
        if bins is None:
            raise AssertionError
        shift, first, last = bins
        size = last - first + 1
        for low in range(0, len(y), HISTOGRAM_RUN):
            run = y[low : low + HISTOGRAM_RUN]
            places = ((run >> shift).clamp_(first, last) - first).to(self.torch.int64)
            places.masked_fill_((run == 0) | (run > self.statistics.dtype.finite_max), size)
            table = self.torch.zeros(size + 1, dtype=self.torch.int64, device=self.device)
            counts += table.index_add_(0, places, self.torch.ones_like(places))[:size]

    def merge(self, other: TorchTally) -> None:
        """Add the counts of another tally of the same tensor."""
        self._runs += other._runs
        self._padding += other._padding
        self._add_overfull_groups(other._overfull)
        self.waiting += other.waiting
        self._add_row(other._row)
        for own, others in zip(self._alive, other._alive, strict=True):
            if own is not None:
                own.logical_or_(others)
        if self._bins is not None:
            self._bins += other._bins

    def _add_row(self, row: Tensor) -> None:
        """Add the numbers of a part."""
        if self._row is not None and row is not None:
            row = joined_rows(self.torch, self._row, row)
        self._row = self._row if row is None else row

    def take(self) -> list[Blocks]:
        """Return the blocks whose numbers are not yet added up, and forget them."""
        runs, self._runs, self.waiting = self._runs, [], 0
        return runs

    def flags(self) -> list[Tensor]:
        """Return whether each output, and each input, has a non-zero; empty where they are not counted."""
        return [
            self.torch.zeros(0, dtype=self.torch.bool, device=self.device) if a is None else a[:-1] for a in self._alive
        ]

    def row(self) -> Tensor:
        """Return the row of `totals` of all blocks, once they are added up."""
        if self._row is None:
            self._row = self.torch.zeros(row_length(self.statistics.dtype), dtype=self.torch.int64, device=self.device)
            self._row[NUMBERS - 1] = -1
        return self._row

    def finish(self, numbers: Tensor) -> None:
        """Keep nothing but the final `numbers`, on the device: the row, the dead slices, and the bins."""
        self._final = numbers if self._bins is None else self.torch.cat([numbers, self._bins.flatten()])
        if self._overfull is not None and self.statistics.groups is not None:
            self._final[OVERFULL] += self._overfull
        self._row, self._alive = None, [None, None]

    @property
    def final(self) -> Tensor:
        """The vector of `finish`; None before."""
        return self._final

    def result(self, numbers: NDArray[np.int64]) -> Counts:
        """Return the counts in the fetched vector."""
        return counts_from([self.statistics], numbers[None], [self._padding])[0]

    def counts(self) -> Counts:
        """Return the numbers of all chunks."""
        return counts_of([self])[0]

    def part(self) -> TallyPart:
        """Return the numbers of all chunks of a part."""
        outputs, inputs = (None if marks is None else bytes(marks[:-1].cpu().numpy()) for marks in self._alive)
        finish([self])
        (fetched,), dtype, padding = fetch_arrays([self._final]), self.statistics.dtype, self._padding
        before, after = exact_units(_tables(fetched[None], dtype), dtype)
        numbers = fetched[:NUMBERS].tolist()
        least = numbers[5]
        return TallyPart(
            (numbers[ZEROS_BEFORE] - padding, numbers[ZEROS_AFTER] - padding),
            numbers[NONFINITE],
            (before, after),
            numbers[4],
            None if least < 0 else dtype.top - least,
            None if self.statistics.groups is None else numbers[OVERFULL] > 0,
            outputs,
            inputs,
        )


def settle(tallies: Sequence[TorchTally]) -> None:
    """Add up the numbers of blocks, of all tallies with tensors of one dtype on one device together."""
    kinds: dict[Any, list[TorchTally]] = {}
    for tally in tallies:
        if tally.waiting:
            kinds.setdefault((tally.device, tally.statistics.dtype), []).append(tally)
    for (device, dtype), members in kinds.items():
        torch, lengths = members[0].torch, [tally.waiting for tally in members]
        blocks = joined(torch, [run for tally in members for run in tally.take()])
        rows = totals(torch, blocks, owners(torch, lengths, device), len(members), dtype)
        for tally, row in zip(members, rows, strict=True):
            tally._add_row(row)  # noqa: SLF001 - of this module


def finish(tallies: Sequence[TorchTally]) -> None:
    """Compute the final numbers of tallies, whose chunks are all done; they stay on the devices."""
    settle(tallies)
    kinds: dict[Any, list[TorchTally]] = {}
    for tally in tallies:
        kinds.setdefault((tally.device, tally.statistics.dtype), []).append(tally)
    for members in kinds.values():
        torch = members[0].torch
        dead = unset_flags(torch, [flags for tally in members for flags in tally.flags()]).reshape(-1, 2)
        rows = torch.cat([torch.stack([tally.row() for tally in members]), dead], 1)
        for tally, row in zip(members, rows, strict=True):
            tally.finish(row)


def _blockwise(first: int, count: int, run: int) -> list[tuple[int, int]]:
    """Return the parts of `count` elements from `first`: up to a block, whole blocks in runs, the rest of a block."""
    head = min(-first % BLOCK, count)
    body = (count - head) // BLOCK * BLOCK
    edges = [0, *range(head, head + body, run), head + body, count]
    return [(low, high) for low, high in pairwise(edges) if low < high]


def _flat(groups: tuple[int, int], first: int, count: int) -> bool:
    """Return whether the groups of 4 of a run are those of its elements, one after the other."""
    return groups[1] == 1 and not (groups[0] % 4 or first % 4 or count % 4)


def fetch(vectors: Sequence[Tensor]) -> list[list[int]]:
    """Return vectors of integers, with one copy to the host for each device."""
    return [vector.tolist() for vector in fetch_arrays(vectors)]


def fetch_arrays(vectors: Sequence[Tensor]) -> list[NDArray[np.int64]]:
    """Return the same as arrays."""
    by_device: dict[Any, list[int]] = {}
    for index, vector in enumerate(vectors):
        by_device.setdefault(vector.device, []).append(index)
    fetched = [np.empty(0, np.int64)] * len(vectors)
    for members in by_device.values():
        flat = _joined([vectors[index] for index in members])
        ends = list(accumulate(len(vectors[index]) for index in members))
        for index, end in zip(members, ends, strict=True):
            fetched[index] = flat[end - len(vectors[index]) : end]
    return fetched


def _joined(vectors: Sequence[Tensor]) -> NDArray[np.int64]:
    import torch  # noqa: PLC0415 - there are tensors, so it is loaded

    joined: NDArray[np.int64] = torch.cat(list(vectors)).cpu().numpy()
    return joined


def counts_of(tallies: Iterable[TorchTally]) -> list[Counts]:
    """Return the numbers of several tensors, with one copy to the host for each device."""
    tallies = list(tallies)
    finish([tally for tally in tallies if tally.final is None])
    vectors = fetch_arrays([tally.final for tally in tallies])
    return [tally.result(numbers) for tally, numbers in zip(tallies, vectors, strict=True)]


def counts_from(statistics: Sequence[Statistics], rows: NDArray[np.int64], padding: Sequence[int]) -> list[Counts]:
    """Return the counts in rows of `totals`, each followed by both numbers of dead slices and by the bins.

    The tensors of `statistics` have one dtype. `padding` are the numbers of entries behind the ends that count as
    zeros.
    """
    dtype = statistics[0].dtype
    squares = [rounded(units) for units in exact_units(_tables(rows, dtype), dtype)]
    others = rows[:, row_length(dtype) :]
    numbers, dead = zip(*rows[:, :NUMBERS].T.tolist(), strict=True), zip(*others[:, :2].T.tolist(), strict=True)
    pairs = zip(squares[::2], squares[1::2], strict=True)
    bins = others[:, 2:].reshape(len(rows), 2, -1).tolist() if others.shape[1] > 2 else [((), ())] * len(rows)
    return [_counts(*each) for each in zip(statistics, padding, numbers, pairs, dead, bins, strict=True)]


def _tables(rows: NDArray[np.int64], dtype: Float) -> NDArray[np.int64]:
    """Return the tables of sums before and after pruning in rows of `totals`, a row for each."""
    return rows[:, NUMBERS : row_length(dtype)].reshape(2 * len(rows), -1)


def _counts(
    statistics: Statistics,
    padding: int,
    numbers: Sequence[int],
    squares: tuple[float, float],
    dead: tuple[int, int],
    bins: tuple[Sequence[int], Sequence[int]],
) -> Counts:
    least = numbers[5]
    return Counts(
        numbers[ZEROS_BEFORE] - padding,
        numbers[ZEROS_AFTER] - padding,
        numbers[NONFINITE],
        *squares,
        numbers[4],
        None if least < 0 else statistics.dtype.top - least,
        None if statistics.outputs is None else dead[0],
        None if statistics.inputs is None else dead[1],
        None if statistics.groups is None else not numbers[OVERFULL],
        *bins,
    )
