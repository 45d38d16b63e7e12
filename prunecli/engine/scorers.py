"""Scores as sortable integers ("patterns"). -1 marks a weight that is already pruned.

A scorer gives the patterns of a run of a target's elements, for planning and for pruning alike. Plain magnitudes of
elements need no scorer. Scores of weights on a device are computed there, with the bits that the CPU gives.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from prunecli.dtypes import FLOATS, Float
from prunecli.errors import CheckpointError
from prunecli.formats.safetensors.mask_writer import bit_rows
from prunecli.io.threads import Worker
from prunecli.kernels import torch_values
from prunecli.kernels.arrays import as_array
from prunecli.kernels.bit_patterns import values
from prunecli.kernels.bits import unpack_bits
from prunecli.kernels.masks import mark, marked, nonzero, read_mask
from prunecli.kernels.ops import is_tensor
from prunecli.kernels.rows import Rows
from prunecli.kernels.scores import times_slices
from prunecli.kernels.transfers import to_device
from prunecli.text.escape import printable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from prunecli.checkpoint import TensorInfo
    from prunecli.engine.score_files import MatchedTensors
    from prunecli.io.reader import Reader
    from prunecli.io.scales import ScaleReader
    from prunecli.kernels.ops import Array
    from prunecli.kernels.random_bits import RandomNumbers
    from prunecli.layout import SliceView

_F64, _F32 = FLOATS["F64"], FLOATS["F32"]

SCORE_SLOT, MASK_SLOT = 1, 2
"""The read buffers of a worker for scores and masks; slot 0 holds weights."""


class Scorer(Protocol):
    """Computes the patterns that the weights of a target are ranked by. `index` is the target's position.

    Weights are arrays of NumPy or, where they lie on a device, of torch. Patterns that depend on them lie with them.
    """

    @property
    def reads_weights(self) -> bool:
        """Whether patterns depend on the weights, or only on their positions."""

    def on_device(self, worker: Worker, rows: Rows) -> Array:
        """Return the patterns of rows of weights, of their shape, where they lie, in memory of their own."""

    def dtype(self, index: int) -> Float:
        """Return the format of a target's patterns."""

    def patterns(self, worker: Worker, index: int, weights: Array, first: int) -> Array:
        """Return the patterns of `weights`, which start at row-major element `first`.

        The array belongs to the worker and is valid until its next call. Compiled kernels get `Ranked` numbers and
        `ScaledCodes`, of which `as_array` makes patterns.
        """


class MagnitudeScorer:
    """Magnitudes of the weights. Codes are multiplied by their scale first."""

    reads_weights = True

    def __init__(self, targets: Sequence[TensorInfo], scales: ScaleReader) -> None:
        """Score these targets; read their scales through `scales`."""
        self.targets, self.scales = targets, scales

    def dtype(self, index: int) -> Float:
        """Return the weights' own format, and float64 for codes with a scale."""
        return FLOATS[self.targets[index].value_dtype]

    def patterns(self, worker: Worker, index: int, weights: Array, first: int) -> Array:
        """Return the weights without their signs; CheckpointError where a scale cannot be used."""
        if is_tensor(weights):
            return _run_on_device(self, worker, index, weights, first)
        if self.targets[index].scale is not None:
            return self.scales.magnitudes(worker, self.targets[index], weights, first)
        return worker.scoring.magnitudes(as_array(weights), self.dtype(index))

    def on_device(self, worker: Worker, rows: Rows) -> Array:
        """Return the same for rows on a device."""
        first = self.targets[rows.members[0]]
        if first.scale is None:
            return worker.ops_of(rows.weights).magnitudes(rows.weights, FLOATS[first.dtype])
        parts = [self.scales.magnitudes(worker, self.targets[m], codes, start) for m, codes, start in rows.each()]
        return torch_values.stacked(parts)


class FileScorer:
    """Magnitudes of scores from a file: torch's `importance_scores`."""

    reads_weights = False

    def __init__(self, scores: MatchedTensors, reader: Reader) -> None:
        """Read `scores` through `reader`."""
        self.scores, self.reader = scores, reader

    def dtype(self, index: int) -> Float:
        """Return the format of the scores."""
        return FLOATS[self.scores.tensors[index].dtype]

    def patterns(self, worker: Worker, index: int, weights: Array, first: int) -> Array:
        """Return the scores without their signs; CheckpointError where one is NaN."""
        dtype = self.dtype(index)
        tensor, stop = self.scores.tensors[index], first + len(weights)
        raw = self.reader.read_range(worker, tensor, first, stop, slot=SCORE_SLOT)
        ops = worker.ops if worker.is_compiled else worker.scoring
        y = ops.magnitudes(ops.load(raw), dtype)
        largest = dtype.finite_max if dtype.infinity is None else dtype.infinity
        if ops.below_and_inside(y, largest + 1, dtype.top - largest)[0] < len(raw):
            name = printable(repr(tensor.name))
            raise CheckpointError(f"the {self.scores.label} for {name} contain NaN: a score is a number or infinity")
        return y

    def on_device(self, worker: Worker, rows: Rows) -> Array:
        """Return the same for rows on a device."""
        return _copied(rows, [self.patterns(worker, *row).copy() for row in rows.each()])


class ActNormScorer:
    """Magnitude times the norm of the weight's input, in float64 (Wanda, https://arxiv.org/abs/2306.11695)."""

    reads_weights = True

    def __init__(self, magnitudes: MagnitudeScorer, norms: MatchedTensors, reader: Reader, worker: Worker) -> None:
        """Read the norms; CheckpointError where one is negative or not finite."""
        self.magnitudes = magnitudes
        self.norms = {index: _read_norms(norms, reader, worker, tensor) for index, tensor in norms.tensors.items()}
        targets = magnitudes.targets
        self.views = {index: _input_view(targets[index], norms.size) for index, norms in self.norms.items()}
        self._elsewhere: dict[tuple[int, str], Array] = {}

    def dtype(self, index: int) -> Float:  # noqa: ARG002 - protocol
        """Return float64, which has products of two float32 numbers, and of a code, a scale and a norm, exactly."""
        return _F64

    def patterns(self, worker: Worker, index: int, weights: Array, first: int) -> Array:
        """Return magnitude times activation norm."""
        if is_tensor(weights):
            return _run_on_device(self, worker, index, weights, first)
        norms, view, dtype = self.norms[index], self.views[index], self.magnitudes.dtype(index)
        x = as_array(weights)
        if self.magnitudes.targets[index].scale is not None:  # then they are codes
            x = as_array(self.magnitudes.patterns(worker, index, weights, first))
        return times_slices(worker.scoring, x, dtype, first, view, norms)

    def on_device(self, worker: Worker, rows: Rows) -> Array:
        """Return the same for rows on a device."""
        member = rows.members[0]
        numbers = torch_values.values(self.magnitudes.on_device(worker, rows), self.magnitudes.dtype(member))
        view = self.views[member]
        if len(rows.members) > 1:
            return torch_values.magnitudes(self._times_norms(rows, numbers, view))
        norms = self._norms_at(member, rows.weights)
        if rows.is_run:
            torch_values.times_slices(numbers[0], rows.first, view, norms)
        else:
            torch_values.times_slices_of_rows(numbers, rows.first, rows.step, view, norms)
        return torch_values.magnitudes(numbers)

    def _times_norms(self, rows: Rows, numbers: Array, view: SliceView) -> Array:
        """Return the numbers of whole targets times their norms."""
        if any(self.views[member] != view for member in rows.members):  # some experts have norms of their own
            for member, row in zip(rows.members, numbers, strict=True):
                torch_values.times_slices(row, 0, self.views[member], self._norms_at(member, row))
            return numbers
        norms = to_device(np.concatenate([self.norms[member] for member in rows.members]), numbers.device)
        view = replace(view, stacks=view.stacks * len(rows.members))
        return torch_values.times_slices(numbers.view(-1), 0, view, norms).view(numbers.shape)

    def _norms_at(self, index: int, weights: Array) -> Array:
        """Return the norms of a target where its weights lie; they are copied once."""
        place = index, str(weights.device)
        found = self._elsewhere.get(place)
        if found is None:
            found = self._elsewhere[place] = to_device(self.norms[index], weights.device)
        return found


def _input_view(tensor: TensorInfo, norms: int) -> SliceView:
    """Return the view with a slice for each of `norms` norms: the inputs of each expert, or those of all of them."""
    view = tensor.layout.input_view(tensor.shape)
    if view is None:
        raise AssertionError  # norms are matched with tensors that have inputs
    if norms == view.total:
        return view
    return replace(view, stacks=1, before=view.stacks * view.before)


def _read_norms(norms: MatchedTensors, reader: Reader, worker: Worker, tensor: TensorInfo) -> NDArray[np.float64]:
    dtype = FLOATS[tensor.dtype]
    raw = as_array(reader.read_range(worker, tensor, 0, tensor.numel, slot=SCORE_SLOT))
    y = worker.scoring.magnitudes(raw, dtype)
    if y.size and (int(y.max()) > dtype.finite_max or bool(((raw < 0) & (y != 0)).any())):
        name = printable(repr(tensor.name))
        raise CheckpointError(f"the {norms.label} for {name} are not all finite and 0 or more")
    return values(y, dtype)


class GeneratedScorer:
    """Scores that the strategy makes itself, such as random numbers."""

    reads_weights = False

    def __init__(self, scores: Mapping[int, RandomNumbers]) -> None:
        """Take `Strategy.own_scores` of each target."""
        self.scores = scores

    def dtype(self, index: int) -> Float:  # noqa: ARG002 - protocol
        """Return float32: integers of 31 bits are in the order of its patterns."""
        return _F32

    def patterns(
        self,
        worker: Worker,  # noqa: ARG002 - protocol
        index: int,
        weights: Array,
        first: int,
    ) -> NDArray[Any]:
        """Return the scores of this run of weights."""
        return self.scores[index](first, len(weights))

    def on_device(self, worker: Worker, rows: Rows) -> Array:
        """Return the same for rows on a device."""
        ops: Any = worker.ops_of(rows.weights)
        keys = [self.scores[member].key for member in rows.members]
        return torch_values.random_numbers(ops, keys, rows)


class MaskReader:
    """Masks from a file, checked while they are read: 1 for a weight that is kept, 0 for a pruned one."""

    reads_weights = False

    def __init__(self, masks: MatchedTensors, reader: Reader) -> None:
        """Read `masks` through `reader`."""
        self.masks, self.reader = masks, reader

    def dtype(self, index: int) -> Float:  # noqa: ARG002 - protocol
        """Return a small format: 0 and 1 are patterns of any."""
        return FLOATS["F16"]

    def patterns(self, worker: Worker, index: int, weights: Array, first: int) -> Array:
        """Return the mask as zeros and ones."""
        return self.keep(worker, index, first, len(weights)).astype(np.int16)

    def on_device(self, worker: Worker, rows: Rows) -> Array:
        """Return the same for rows on a device."""
        return _copied(rows, [self.patterns(worker, *row) for row in rows.each()])

    def keep(self, worker: Worker, index: int, first: int, count: int) -> NDArray[np.uint8]:
        """Return the mask, a byte for each weight; CheckpointError where it is neither 0 nor 1."""
        if index in self.masks.bits:
            return self._bits(worker, index, first, first + count)
        tensor = self.masks.tensors[index]
        raw = self.reader.read_range(worker, tensor, first, first + count, slot=MASK_SLOT)
        mask, other = read_mask(worker.scoring, raw, FLOATS.get(tensor.dtype))
        if other >= 0:
            name = printable(repr(tensor.name))
            raise CheckpointError(
                f"the {self.masks.label} for {name} has other values than 0 and 1", hint="save it with .bool()"
            )
        return mask

    def _bits(self, worker: Worker, index: int, first: int, stop: int) -> NDArray[np.uint8]:
        """Return the bits [first, stop) of a mask that is stored as bits, row by row."""
        stored, kept = self.masks.bits[index], np.empty(stop - first, np.uint8)
        _, cols = bit_rows(self.masks.tensors[index].shape)
        width, done = -(-cols // 8), 0
        while first + done < stop:
            row, column = divmod(first + done, cols)
            rows = 0 if column else (stop - first - done) // cols
            taken = rows * cols or min(cols - column, stop - first - done)
            low = row * width + column // 8
            high = low + (rows * width or -(-(column % 8 + taken) // 8))
            raw = self.reader.read_range(worker, stored, low, high, slot=MASK_SLOT)
            kept[done : done + taken] = unpack_bits(raw, rows or 1, cols if rows else taken, column % 8)
            done += taken
        return kept


class RemainingScorer:
    """The patterns of another scorer, with -1 for weights that are already pruned."""

    def __init__(self, inner: Scorer, mask: MaskReader | None, targets: Sequence[TensorInfo]) -> None:
        """Mark the weights whose mask is 0, or without a mask those that are zero."""
        self.inner, self.mask, self.targets = inner, mask, targets

    @property
    def reads_weights(self) -> bool:
        """Whether zeros are looked for, or the other scorer reads weights."""
        return self.mask is None or self.inner.reads_weights

    def dtype(self, index: int) -> Float:
        """Return the format of the other scorer."""
        return self.inner.dtype(index)

    def patterns(self, worker: Worker, index: int, weights: Array, first: int) -> Array:
        """Return the other scorer's patterns, overwritten with -1 for already pruned weights."""
        if is_tensor(weights):
            return _run_on_device(self, worker, index, weights, first)
        kept, target = self._kept(worker, index, weights, first), self.targets[index]
        # -1 is below every pattern: already pruned weights have the lowest ranks and fall below every cut.
        if isinstance(self.inner, MagnitudeScorer) and target.scale is None:
            return marked(worker.scoring, weights, FLOATS[target.dtype], kept)
        y = as_array(self.inner.patterns(worker, index, weights, first))
        mark(y, kept)
        return y

    def remaining(self, worker: Worker, index: int, weights: Array, first: int) -> int:
        """Return how many weights are not already pruned."""
        if is_tensor(weights):
            return int((~self.pruned(worker, Rows((index,), weights[None], first))).sum())
        return int(np.count_nonzero(self._kept(worker, index, weights, first)))

    def _kept(self, worker: Worker, index: int, weights: Array, first: int) -> NDArray[np.uint8]:
        if self.mask is not None:
            return self.mask.keep(worker, index, first, len(weights))
        return nonzero(worker.scoring, weights, FLOATS[self.targets[index].dtype])

    def on_device(self, worker: Worker, rows: Rows) -> Array:
        """Return the same for rows on a device."""
        return self.inner.on_device(worker, rows).masked_fill_(self.pruned(worker, rows), -1)

    def pruned(self, worker: Worker, rows: Rows) -> Array:
        """Return which weights of rows on a device are already pruned."""
        if self.mask is not None:
            return self.mask.on_device(worker, rows) == 0
        dtype = FLOATS[self.targets[rows.members[0]].dtype]
        return worker.ops_of(rows.weights).magnitudes(rows.weights, dtype) == 0


def _run_on_device(scorer: Scorer, worker: Worker, index: int, weights: Array, first: int) -> Array:
    return scorer.on_device(worker, Rows((index,), weights[None], first))[0]


def _copied(rows: Rows, parts: Sequence[NDArray[Any]]) -> Array:
    """Return numbers of the host, a part for each row, where the rows lie."""
    return to_device(np.stack(parts), rows.weights.device)
