"""The numbers weights are ranked by, as patterns: integers that order as they do, -1 where a weight is gone already.

A scorer says the patterns of a run of a target. Plain magnitudes need none; scores from a file, magnitudes times
activation norms, random numbers and weights that are gone are made here, on the CPU, for planning and for pruning
alike.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from prunecli.dtypes import FLOATS, Float
from prunecli.errors import CheckpointError
from prunecli.io.threads import Worker
from prunecli.kernels.bit_patterns import ones_and_zeros, values
from prunecli.kernels.ops import INTS
from prunecli.kernels.random_bits import draw, random_key
from prunecli.strategies.mask import Mask
from prunecli.strategies.unstructured import Random
from prunecli.text.escape import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from prunecli.checkpoint import TensorInfo
    from prunecli.engine.score_files import MatchedTensors, ScoreSources
    from prunecli.io.reader import Reader
    from prunecli.strategies.unstructured import Strategy

_F64, _F32 = FLOATS["F64"], FLOATS["F32"]

BESIDE, MASK = 1, 2
"""The read buffers of a worker, besides the one for weights."""


class Scorer(Protocol):
    """What ranks the weights of the targets, which are named by their position `at`."""

    @property
    def reads_weights(self) -> bool:
        """Whether `of` looks at the weights it is given, or only at how many they are."""

    def dtype(self, at: int) -> Float:
        """Return the format whose patterns `of` gives for a target."""

    def of(self, worker: Worker, at: int, x: NDArray[Any], first: int) -> NDArray[Any]:
        """Return the patterns for the weights `x` from row-major element `first`: the worker's, until its next."""


class MagnitudeScorer:
    """The magnitudes themselves, where something else comes on top."""

    reads_weights = True

    def __init__(self, targets: Sequence[TensorInfo]) -> None:
        """Score these `targets`."""
        self.targets = targets

    def dtype(self, at: int) -> Float:
        """Return the weights' own."""
        return FLOATS[self.targets[at].dtype]

    def of(self, worker: Worker, at: int, x: NDArray[Any], first: int) -> NDArray[Any]:  # noqa: ARG002 - protocol
        """Clear the signs."""
        found: NDArray[Any] = worker.scoring.magnitudes(x, self.dtype(at))
        return found


class FileScorer:
    """The magnitudes of scores from a file: torch's `importance_scores`."""

    reads_weights = False

    def __init__(self, beside: MatchedTensors, reader: Reader) -> None:
        """Read `beside` through `reader`."""
        self.beside, self.reader = beside, reader

    def dtype(self, at: int) -> Float:
        """Return that of the scores."""
        return FLOATS[self.beside.tensors[at].dtype]

    def of(self, worker: Worker, at: int, x: NDArray[Any], first: int) -> NDArray[Any]:
        """Read the scores; CheckpointError where one is NaN."""
        dtype = self.dtype(at)
        raw = self.reader.read_range(worker, self.beside.tensors[at], first, first + x.size, slot=BESIDE)
        found: NDArray[Any] = worker.scoring.magnitudes(raw, dtype)
        largest = dtype.finite_max if dtype.infinity is None else dtype.infinity
        if found.size and int(found.max()) > largest:
            name = printable(repr(self.beside.tensors[at].name))
            raise CheckpointError(f"the {self.beside.what} for {name} hold NaN: a score is a number, or infinity")
        return found


class ActNormScorer:
    """Magnitude times the norm of its input column, in float64 (Wanda, https://arxiv.org/abs/2306.11695)."""

    reads_weights = True

    def __init__(self, targets: Sequence[TensorInfo], beside: MatchedTensors, reader: Reader, worker: Worker) -> None:
        """Read the norms; CheckpointError where one is negative or not finite."""
        self.targets = targets
        self.norms = {at: self._read(beside, reader, worker, tensor) for at, tensor in beside.tensors.items()}

    def _read(self, beside: MatchedTensors, reader: Reader, worker: Worker, tensor: TensorInfo) -> NDArray[np.float64]:
        dtype = FLOATS[tensor.dtype]
        raw = reader.read_range(worker, tensor, 0, tensor.numel, slot=BESIDE)
        y = worker.scoring.magnitudes(raw, dtype)
        if y.size and (int(y.max()) > dtype.finite_max or bool(((raw < 0) & (y != 0)).any())):
            name = printable(repr(tensor.name))
            raise CheckpointError(f"the {beside.what} for {name} are not all finite and 0 or more")
        return values(y, dtype)

    def dtype(self, at: int) -> Float:  # noqa: ARG002 - protocol
        """Products of two float32 numbers are exact in float64."""
        return _F64

    def of(self, worker: Worker, at: int, x: NDArray[Any], first: int) -> NDArray[Any]:
        """Multiply."""
        dtype, shape, norms = FLOATS[self.targets[at].dtype], self.targets[at].shape, self.norms[at]
        columns = np.arange(first, first + x.size) // prod(shape[2:]) % shape[1]
        with np.errstate(over="ignore", invalid="ignore"):
            found = values(worker.scoring.magnitudes(x, dtype), dtype) * norms[columns]
        return found.view(np.int64) & np.int64(_F64.mask)


class RandomScorer:
    """Random numbers that depend on a seed, a tensor's name and shape, and the place in it, and on nothing else."""

    reads_weights = False

    def __init__(self, targets: Sequence[TensorInfo], seed: int) -> None:
        """Draw for these `targets`."""
        self.keys = [random_key(seed, tensor) for tensor in targets]

    def dtype(self, at: int) -> Float:  # noqa: ARG002 - protocol
        """31 bits order as the patterns of a float32 do."""
        return _F32

    def of(self, worker: Worker, at: int, x: NDArray[Any], first: int) -> NDArray[Any]:  # noqa: ARG002 - protocol
        """Draw."""
        return draw(self.keys[at], first, x.size)


class MaskReader:
    """Masks from a file, read run by run and checked: 1 where a weight stays, 0 where it goes."""

    reads_weights = False

    def __init__(self, beside: MatchedTensors, reader: Reader) -> None:
        """Read `beside` through `reader`."""
        self.beside, self.reader = beside, reader

    def dtype(self, at: int) -> Float:  # noqa: ARG002 - protocol
        """Zero and one are patterns of any format."""
        return FLOATS["F16"]

    def of(self, worker: Worker, at: int, x: NDArray[Any], first: int) -> NDArray[Any]:
        """Return the mask as zeros and ones."""
        return self.stays(worker, at, first, x.size).astype(np.int16)

    def stays(self, worker: Worker, at: int, first: int, count: int) -> NDArray[np.bool_]:
        """Return where the mask is 1; CheckpointError where it is neither 0 nor 1."""
        tensor = self.beside.tensors[at]
        raw = self.reader.read_range(worker, tensor, first, first + count, slot=MASK)
        stays, zeros = ones_and_zeros(worker.scoring, raw, FLOATS.get(tensor.dtype))
        if int(np.count_nonzero(stays)) + int(np.count_nonzero(zeros)) < count:
            name = printable(repr(tensor.name))
            raise CheckpointError(
                f"the {self.beside.what} for {name} holds other values than 0 and 1", hint="save it with .bool()"
            )
        return stays


class RemainingScorer:
    """Another scorer's patterns, and -1 for the weights that are gone: where a mask is 0, or that are zero."""

    def __init__(self, inner: Scorer, mask: MaskReader | None, targets: Sequence[TensorInfo]) -> None:
        """Leave out what `mask` says, or without one the zeros."""
        self.inner, self.mask, self.targets = inner, mask, targets

    @property
    def reads_weights(self) -> bool:
        """Zeros are found by looking."""
        return self.mask is None or self.inner.reads_weights

    def dtype(self, at: int) -> Float:
        """Return the other scorer's."""
        return self.inner.dtype(at)

    def of(self, worker: Worker, at: int, x: NDArray[Any], first: int) -> NDArray[Any]:
        """Mark what is gone."""
        if self.mask is not None:
            gone = ~self.mask.stays(worker, at, first, x.size)
        else:
            gone = worker.scoring.magnitudes(x, FLOATS[self.targets[at].dtype], "gone") == 0
        y = self.inner.of(worker, at, x, first)
        np.copyto(y, y.dtype.type(-1), where=gone)
        return y


def make_scorer(
    strategy: Strategy,
    basis: ScoreSources,
    targets: Sequence[TensorInfo],
    open_beside: Callable[[MatchedTensors], Reader],
) -> Scorer | None:
    """Return what ranks the `targets` for `strategy`, None for their plain magnitudes.

    `open_beside` opens another checkpoint's files for reading.
    """
    if basis.plain and not isinstance(strategy, (Random, Mask)):
        return None
    inner: Scorer = MagnitudeScorer(targets)
    if isinstance(strategy, Random):
        inner = RandomScorer(targets, strategy.seed)
    elif basis.given is not None:
        inner = MaskReader(basis.given, open_beside(basis.given))
    elif basis.scores is not None:
        inner = FileScorer(basis.scores, open_beside(basis.scores))
    elif basis.norms is not None:
        inner = ActNormScorer(targets, basis.norms, open_beside(basis.norms), Worker(None))
    if not basis.has_gone:
        return inner
    return RemainingScorer(
        inner, None if basis.mask is None else MaskReader(basis.mask, open_beside(basis.mask)), targets
    )


def blank(tensor: TensorInfo, count: int) -> NDArray[Any]:
    """Return what stands for `count` weights where nobody looks at them."""
    return np.broadcast_to(INTS[tensor.itemsize].type(0), count)
