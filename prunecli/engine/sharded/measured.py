"""Norms and deviations of tensors that are in parts, with the bits that whole tensors have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from prunecli.engine.measured_planner import WorkerValues
from prunecli.engine.scorers import RemainingScorer
from prunecli.engine.sharded.nodes import joined, nodes_of, nodes_of_index
from prunecli.engine.sharded.parts import has_whole_groups
from prunecli.engine.sharded.payloads import packed, unpacked
from prunecli.engine.sharded.values import in_pool
from prunecli.errors import UsageError
from prunecli.io.threads import results
from prunecli.kernels import deviations, folds, norms
from prunecli.kernels.folds import join_of
from prunecli.kernels.later import fetched
from prunecli.kernels.views import block_grid
from prunecli.layout import SliceView
from prunecli.text.escape import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from prunecli.checkpoint import TensorInfo
    from prunecli.engine.sharded.parts import Part, ViewPart
    from prunecli.engine.sharded.values import Values
    from prunecli.io.threads import Pool, Worker
    from prunecli.kernels.folds import Numbers
    from prunecli.plans import TensorPlan
    from prunecli.strategies.strategy import PlansFromMeasure


class MeasuredInParts:
    """All targets of one strategy, which are measured one after the other."""

    def __init__(
        self,
        strategy: PlansFromMeasure,
        values: Values,
        members: Sequence[int],
        plans: dict[int, TensorPlan],
        followers: Mapping[int, int],
    ) -> None:
        """Read nothing yet; the plans go to `plans`, also those of biases (`followers`)."""
        self._strategy, self._values, self._members = strategy, values, members
        self._plans, self._followers = plans, followers

    @property
    def size(self) -> int:
        """The bytes of weights that are read."""
        parts = self._values.parts
        return sum(parts[member].local.nbytes for member in self._members if member in parts)

    def start(self, pool: Pool) -> None:
        """Do nothing: processes measure together, in `finish`."""

    def finish(self, pool: Pool) -> None:
        """Measure and store the plans."""
        for index in self._members:
            numbers = _PartValues(self._values, pool, index)
            measured, alive = self._strategy.measure(numbers)
            plan = self._strategy.plan_from(self._values.whole.as_ranked(index), fetched([measured])[0], alive)
            self._plans[index] = plan
            if index in self._followers:
                self._plans[self._followers[index]] = plan.of_bias


@dataclass(frozen=True, slots=True)
class _PartValues:
    """The `TensorValues` of a target: its numbers are those of the part, and know how to measure all parts."""

    values: Values
    pool: Pool
    index: int

    @property
    def tensor(self) -> TensorInfo:
        return self.values.targets[self.index]

    def ranked(self) -> Numbers:
        return self._numbers(WorkerValues.ranked)

    def signed(self) -> Numbers:
        return self._numbers(WorkerValues.signed)

    def remaining(self) -> Numbers | None:
        return self._numbers(WorkerValues.marks) if isinstance(self.values.scorer, RemainingScorer) else None

    def _numbers(self, kind: Callable[[WorkerValues], Any]) -> Numbers:
        def nothing(first: int, stop: int) -> NDArray[Any]:
            raise AssertionError(first, stop)

        return folds.Numbers(nothing, self.values.whole.dtype(self.index), in_parts=_Measure(self, kind))


@dataclass(frozen=True, slots=True)
class _Measure:
    """Measures the parts of a target in all processes; `kind` returns the numbers of the own part."""

    of: _PartValues
    kind: Callable[[WorkerValues], Any]

    def _gather(self, measure: Callable[[Numbers, Part], dict[str, NDArray[Any]]]) -> list[dict[str, NDArray[Any]]]:
        """Return what `measure` returns for each part that is counted."""
        values, index = self.of.values, self.of.index

        def task(worker: Worker) -> dict[str, NDArray[Any]]:
            numbers = self.kind(WorkerValues(values.own, worker, index))
            return measure(numbers, values.parts[index])

        def compute() -> bytes:
            return packed(results([self.of.pool.submit(task)])[0]) if values.counted(index) else b""

        payloads = values.group.gather(lambda: in_pool(self.of.pool, compute))
        return [unpacked(payload) for payload in payloads if payload]

    def moments(self, own: Numbers, scale: float) -> tuple[float, float, int]:  # noqa: ARG002 - protocol
        """Return the folded sums and the count of all finite numbers."""

        def measure(numbers: Numbers, part: Part) -> dict[str, NDArray[Any]]:
            nodes, length = [], part.tensor.numel
            for start, count, place in zip(*(ends.tolist() for ends in part.runs), strict=True):
                at = place
                for level, number in nodes_of(start, start + count, length):
                    size = min((number + 1) << level, length) - (number << level)
                    nodes.append((level, number, *deviations.moments_of(numbers.after(at), size, scale)))
                    at += size
            levels, indices, sums, squares, counts = map(np.array, zip(*nodes, strict=True))
            return {"levels": levels, "indices": indices, "sums": np.stack([sums, squares], 1), "counts": counts}

        parts = self._gather(measure)
        levels, indices, sums, counts = (
            np.concatenate([part[key] for part in parts]) for key in ("levels", "indices", "sums", "counts")
        )
        total, squares = joined(levels, indices, sums, self.of.tensor.numel, np.add).tolist()
        return total, squares, int(counts.sum())

    def slice_norms(self, own: Numbers, view: SliceView, n: float) -> NDArray[np.float64]:  # noqa: ARG002 - protocol
        """Return the norm of each slice of the whole tensor."""
        parts = self._gather(lambda numbers, part: _folds_of_part(numbers, part, view, n))
        if all("folds" in part for part in parts):
            found = np.zeros(view.total)
            for part in parts:
                found[part["numbers"]] = part["folds"]
        else:
            found = _joined_folds([part for part in parts if "nodes" in part], view, n)
        return np.sqrt(found) if n == 2 else found

    def block_norms(self, own: Numbers, view: SliceView, block: tuple[int, int]) -> NDArray[np.float64]:  # noqa: ARG002 - protocol
        """Return the norm of each block of the whole tensor; UsageError if parts cut blocks."""

        def measure(numbers: Numbers, part: Part) -> dict[str, NDArray[Any]]:
            own = view_of_part(part, view)
            bands, columns = blocks_of_part(part, own, block)
            grid = np.ix_(np.unique(own.stacks), bands, columns)
            places = np.arange(np.prod(block_grid(view, block))).reshape(block_grid(view, block))[grid]
            return {"places": places.reshape(-1), "norms": norms.block_norms(numbers, own.view, block).reshape(-1)}

        found = np.zeros(int(np.prod(block_grid(view, block))))
        for part in self._gather(measure):
            found[part["places"]] = part["norms"]
        return found.reshape(block_grid(view, block))


def view_of_part(part: Part, view: SliceView) -> ViewPart:
    """Return the part's indices along the axes of a view; UsageError if the groups of its layout are cut."""
    own = part.of_view(view)
    if own is None:
        raise cut_error(part, "the groups of its layout")
    return own


def cut_error(part: Part, what: str) -> UsageError:
    """Return the error for a tensor whose parts cut something that must be in one part."""
    name = printable(repr(part.tensor.name))
    return UsageError(
        f"{name} is placed as {part.placements}, in parts that cut {what}, so it cannot be pruned exactly",
        hint="prune after `redistribute` to placements that keep them together",
    )


def blocks_of_part(part: Part, own: ViewPart, block: tuple[int, int]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the bands and the columns of blocks that a part has; UsageError if it cuts blocks."""
    high, wide = block
    whole = own.whole
    if not (has_whole_groups(own.slices, whole.slices, high) and has_whole_groups(own.positions, whole.size, wide)):
        raise cut_error(part, f"blocks of {high} x {wide}")
    return np.unique(own.slices // high), np.unique(own.positions // wide)


def _folds_of_part(numbers: Numbers, part: Part, view: SliceView, n: float) -> dict[str, NDArray[Any]]:
    """Return the folds of the part's slices; of slices that are cut those of nodes along the axis that is cut."""
    own = view_of_part(part, view)
    if own.has_whole_slices:
        return {"numbers": own.numbers, "folds": norms.slice_folds(numbers, own.view, n)}
    along = 1 if len(own.after) == view.after else 3
    if along == 3 and len(own.before) < view.before:
        raise cut_error(part, "its slices along two dimensions")
    found = _along_before(numbers, own, n) if along == 1 else _along_after(numbers, own, n)
    levels, indices, values = zip(*found, strict=True)
    nodes = np.array([levels, indices, [along] * len(levels)], np.int64)
    return {"nodes": nodes, "values": np.stack(values), "stacks": own.stacks, "slices": own.slices}


def _along_before(numbers: Numbers, own: ViewPart, n: float) -> list[tuple[int, int, NDArray[np.float64]]]:
    """Return (level, index, folds) of the nodes along `before`: folds of shape (stacks, 1, slices)."""
    view, found = own.view, []
    slab = view.slices * view.after
    for level, index, low, high in nodes_of_index(own.before, own.whole.before):
        inner = SliceView(1, high - low, view.slices, view.after)
        starts = (stack * view.before * slab + low * slab for stack in range(view.stacks))
        values = np.stack([norms.slice_folds(numbers.after(start), inner, n) for start in starts])
        found.append((level, index, values[:, None]))
    return found


def _along_after(numbers: Numbers, own: ViewPart, n: float) -> list[tuple[int, int, NDArray[np.float64]]]:
    """Return the same along `after`, of shape (stacks, before, slices)."""
    view = own.view
    rows, nodes = view.stacks * view.before * view.slices, list(nodes_of_index(own.after, own.whole.after))
    found = [np.empty(rows) for _ in nodes]
    step = max(1, norms.RUN // view.after)
    for first in range(0, rows, step):
        stop = min(first + step, rows)
        x = numbers.read(first * view.after, stop * view.after).reshape(stop - first, view.after)
        for (_, _, low, high), out in zip(nodes, found, strict=True):
            out[first:stop] = norms.fold_rows(_flat(x[:, low:high]), numbers, n, high - low)
    shape = (view.stacks, view.before, view.slices)
    return [(level, index, out.reshape(shape)) for (level, index, _, _), out in zip(nodes, found, strict=True)]


def _flat(x: Any) -> Any:  # noqa: ANN401 - arrays of NumPy or torch
    """Return a contiguous copy or view in one dimension."""
    return np.ascontiguousarray(x).reshape(-1) if isinstance(x, np.ndarray) else x.reshape(-1).contiguous()


def _joined_folds(parts: Sequence[dict[str, NDArray[Any]]], view: SliceView, n: float) -> NDArray[np.float64]:
    """Return the fold of each slice from the nodes of all parts."""
    along = int(parts[0]["nodes"][2, 0])
    depth = 1 if along == 1 else view.before
    nodes = sorted({(level, index) for part in parts for level, index, _ in part["nodes"].T.tolist()})
    numbers = {node: number for number, node in enumerate(nodes)}
    values = np.zeros((len(nodes), view.stacks, depth, view.slices))
    for part in parts:
        at = np.array([numbers[level, index] for level, index, _ in part["nodes"].T.tolist()])
        values[np.ix_(at, part["stacks"], np.arange(depth), part["slices"])] = part["values"]
    levels, indices = np.array(nodes, np.int64).T
    length = view.before if along == 1 else view.after
    found = joined(levels, indices, values, length, join_of(n))
    return folds.fold_again(found, n, (view.stacks, depth, view.slices), depth).reshape(-1)
