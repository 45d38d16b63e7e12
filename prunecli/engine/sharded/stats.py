"""The measurements of whole tensors, from what each process counted of its parts.

All numbers are exact, and all processes get the same ones. A block of the sum of squares that lies in several parts is
put together from them; such ends are all that is exchanged of the weights themselves, up to two blocks for each run of
neighbours. Only of a large tensor whose part has many runs, and is seen as a tensor of its own, the blocks are those
of the part.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from prunecli.dtypes import FLOATS
from prunecli.engine.measure import statistics_of, stats_from
from prunecli.engine.sharded.measured import view_of_part
from prunecli.engine.sharded.payloads import packed, unpacked
from prunecli.engine.sharded.small import sums_of_squares
from prunecli.engine.sharded.two_four import is_overfull
from prunecli.errors import CheckpointError
from prunecli.kernels.arrays import INTS
from prunecli.kernels.squares import ExactSum, block_sums
from prunecli.kernels.tally import BLOCK, Counts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from prunecli.checkpoint import TensorInfo
    from prunecli.distributed.mesh_group import MeshGroup
    from prunecli.dtypes import Float
    from prunecli.engine.measure import TensorStats
    from prunecli.engine.sharded.apply import Appearance, PartPruner
    from prunecli.engine.sharded.small import Collector
    from prunecli.engine.sharded.two_four import GroupCounter
    from prunecli.kernels.tally import TallyPart

LIMBS = 70
"""A sum of squares travels as so many numbers of 32 bits, and one that says whether it is infinite."""

COUNTS = 3 + 2 * (LIMBS + 1)
"""The numbers of a tensor that are added up: zeros before and after, not finite, and two sums of squares."""

BATCH_BYTES = 1 << 26
"""Marks of slices that are exchanged together."""

TENSORS_AT_ONCE = 32
"""Tensors whose cut blocks are exchanged together."""


class JoinedStats:
    """Joins what the processes of a group counted of their parts of `targets`."""

    def __init__(self, group: MeshGroup, targets: Sequence[TensorInfo], seen: Appearance, pruner: PartPruner) -> None:
        """Exchange nothing yet."""
        self._group, self._targets, self._seen, self._pruner = group, targets, seen, pruner
        self._own: dict[int, TallyPart] = {}
        self._kinds = [statistics_of(tensor) for tensor in targets]

    def join(self, work: Callable[[], None]) -> dict[int, TensorStats]:
        """Do `work`, which prunes the parts, and return the measurements of all targets."""
        size = len(self._targets)
        sums = self._group.sum(size * COUNTS, lambda: self._sums(work)).reshape(size, COUNTS)
        extremes = self._group.largest(size * 3, self._extremes).reshape(size, 3)
        squares = self._squares(sums)
        dead, overfull = self._dead(), self._overfull()
        stats: dict[int, TensorStats] = {}
        for index, tensor in enumerate(self._targets):
            zeros_before, zeros_after, nonfinite = sums[index, :3].tolist()
            largest, least, full = extremes[index].tolist()
            dtype, (before, after) = FLOATS[tensor.value_dtype], squares[index]
            full = bool(full) or overfull.get(index, False)
            counts = Counts(
                zeros_before,
                zeros_after,
                nonfinite,
                before.value,
                after.value,
                largest,
                dtype.top + 1 - least if least else None,
                dead[index][0],
                dead[index][1],
                None if self._kinds[index].groups is None else not full,
            )
            stats[index] = stats_from(counts, dtype)
        return stats

    def _sums(self, work: Callable[[], None]) -> NDArray[np.int64]:
        work()
        sums = np.zeros((len(self._targets), COUNTS), np.int64)
        for index, (tally, _) in self._pruner.tallies.items():
            own = self._own[index] = tally.part()
            sums[index, :3] = (*own.zeros, own.nonfinite)
            for place, units in zip((3, 4 + LIMBS), own.squares, strict=True):
                sums[index, place] = units is None
                limbs = (units or 0).to_bytes(4 * LIMBS, "little")
                sums[index, place + 1 : place + 1 + LIMBS] = np.frombuffer(limbs, "<u4")
        return sums.reshape(-1)

    def _extremes(self) -> NDArray[np.int64]:
        extremes = np.zeros((len(self._targets), 3), np.int64)
        for index, own in self._own.items():
            top = FLOATS[self._targets[index].value_dtype].top
            least = 0 if own.smallest_kept is None else top + 1 - own.smallest_kept
            extremes[index] = own.largest_pruned, least, bool(own.overfull)
        return extremes.reshape(-1)

    def _squares(self, sums: NDArray[np.int64]) -> list[tuple[ExactSum, ExactSum]]:
        """Return the sums of squares before and after, with the blocks that lie in several parts."""
        totals = [(_exact(row[3 : 4 + LIMBS]), _exact(row[4 + LIMBS :])) for row in sums]
        for first in range(0, len(self._targets), TENSORS_AT_ONCE):
            some = range(first, min(first + TENSORS_AT_ONCE, len(self._targets)))
            payloads = self._group.gather(partial(self._own_ends, some))
            for index, before_after in _whole_blocks(self._targets, [unpacked(p) for p in payloads if p]):
                for total, sums_of_blocks in zip(totals[index], before_after, strict=True):
                    total.add(sums_of_blocks)
        for index in sorted(self._seen.collected):
            parts = self._parts_of(index, self._seen.collectors)
            totals[index] = (ExactSum(), ExactSum())
            for total, sums_of_blocks in zip(totals[index], sums_of_squares(self._targets[index], parts), strict=True):
                total.add(sums_of_blocks)
        return totals

    def _parts_of(self, index: int, having: Mapping[int, Collector | GroupCounter]) -> list[dict[str, NDArray[Any]]]:
        """Return the results of all parts of a target that are counted."""

        def own() -> bytes:
            return packed(having[index].result()) if index in self._own else b""

        return [unpacked(payload) for payload in self._group.gather(own) if payload]

    def _own_ends(self, some: range) -> bytes:
        """Return the ends of blocks that are in parts of other processes too."""
        places, data = [], []
        for index in some:
            if index not in self._pruner.tallies:
                continue
            width = max(FLOATS[self._targets[index].dtype].itemsize, 2)
            for number, offset, value in self._pruner.tallies[index][1].rest("block"):
                before, after = (_as_integers(part, FLOATS[self._targets[index].dtype], width) for part in value)
                places.append((index, number, offset, len(before)))
                data += [before.tobytes(), after.tobytes()]
        if not places:
            return b""
        return packed({"places": np.array(places), "data": np.frombuffer(b"".join(data), np.uint8)})

    def _dead(self) -> list[list[int | None]]:
        """Return the numbers of outputs and of inputs without a non-zero, for each target."""
        dead: list[list[int | None]] = [[None, None] for _ in self._targets]
        for batch in self._batches():
            sizes = [size for _, _, size in batch]
            marks = self._group.largest(sum(sizes), partial(self._marks, batch), "uint8")
            for (index, which, size), own in zip(batch, np.split(marks, np.cumsum(sizes)[:-1]), strict=True):
                dead[index][which] = size - int(np.count_nonzero(own))
        return dead

    def _batches(self) -> Iterator[list[tuple[int, int, int]]]:
        """Yield (target, 0 for outputs or 1 for inputs, number of slices), some at once."""
        batch: list[tuple[int, int, int]] = []
        for index, kind in enumerate(self._kinds):
            for which, view in enumerate((kind.outputs, kind.inputs)):
                if view is not None:
                    batch.append((index, which, view.total))
            if sum(size for _, _, size in batch) >= BATCH_BYTES:
                yield batch
                batch = []
        if batch:
            yield batch

    def _marks(self, batch: Sequence[tuple[int, int, int]]) -> NDArray[np.uint8]:
        return np.concatenate([self._marks_of(*one) for one in batch])

    def _marks_of(self, index: int, which: int, size: int) -> NDArray[np.uint8]:
        marks = np.zeros(size, np.uint8)
        own = self._own.get(index)
        found = None if own is None else (own.outputs, own.inputs)[which]
        if found is None:
            return marks
        kind = self._kinds[index]
        view = (kind.outputs, kind.inputs)[which]
        if index in self._seen.in_runs or view is None:
            marks[:] = np.frombuffer(found, np.uint8)
        else:
            marks[view_of_part(self._seen.parts[index], view).numbers] = np.frombuffer(found, np.uint8)
        return marks

    def _overfull(self) -> dict[int, bool]:
        """Return whether a group of 4 has too many non-zeros, for targets whose groups lie in several parts."""
        counters = self._seen.counters
        return {index: is_overfull(self._parts_of(index, counters)) for index in sorted(self._seen.cut_groups)}


def _exact(numbers: NDArray[np.int64]) -> ExactSum:
    """Return the sum of squares in added limbs; the first number says how many of the parts are infinite."""
    total, infinite = ExactSum(), int(numbers[0]) > 0
    units = sum(limb << (32 * place) for place, limb in enumerate(numbers[1:].tolist()))
    total.add_units(units, overflowed=infinite)
    return total


def _as_integers(part: Any, dtype: Float, width: int) -> NDArray[Any]:  # noqa: ANN401 - of any kernels
    """Return magnitudes as integers of `width` bytes: bytes of the weights' width, or arrays."""
    if isinstance(part, bytes):
        return np.frombuffer(part, f"u{dtype.itemsize}").astype(INTS[width])
    host = part if isinstance(part, np.ndarray) else part.cpu().numpy()
    if host.dtype.itemsize < width:
        host = host.view(f"u{host.dtype.itemsize}")
    return np.asarray(host).astype(INTS[width])


def _whole_blocks(
    targets: Sequence[TensorInfo], payloads: Sequence[dict[str, NDArray[Any]]]
) -> Iterator[tuple[int, tuple[NDArray[np.float64], ...]]]:
    """Yield the sums of blocks, before and after, that are put together from their parts, by target."""
    blocks: dict[tuple[int, int], NDArray[Any]] = {}
    filled: dict[tuple[int, int], int] = {}
    for payload in payloads:
        data, at = payload["data"], 0
        for index, number, offset, count in payload["places"].tolist():
            kind = INTS[max(FLOATS[targets[index].dtype].itemsize, 2)]
            both = data[at : at + 2 * count * kind.itemsize].view(kind).reshape(2, count)
            at += both.nbytes
            block = blocks.setdefault((index, number), np.zeros((2, BLOCK), kind))
            block[:, offset : offset + count] = both
            filled[index, number] = filled.get((index, number), 0) + count
    for (index, number), block in sorted(blocks.items(), key=lambda item: item[0]):
        if filled[index, number] != min(BLOCK, targets[index].numel - number * BLOCK):
            raise CheckpointError(
                f"the parts of {targets[index].name!r} in several processes do not add up to all of it"
            )
        yield index, tuple(block_sums(half, FLOATS[targets[index].dtype]) for half in block)
