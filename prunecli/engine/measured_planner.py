"""Plans that come from a number for each tensor, slice or tile: a deviation, norms, or random draws."""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from prunecli.dtypes import FLOATS
from prunecli.engine.scorers import blank
from prunecli.kernels.bit_patterns import floats
from prunecli.kernels.norms import block_norms, magnitude_values, slice_norms, smallest_norms, standard_deviation
from prunecli.kernels.ops import Values
from prunecli.kernels.random_bits import draw, random_key
from prunecli.strategies.unstructured import Block, RandomStructured, StdThreshold, Structured

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from prunecli.checkpoint import TensorInfo
    from prunecli.engine.scorers import Scorer
    from prunecli.io.reader import Reader
    from prunecli.io.threads import Worker
    from prunecli.kernels.ops import Read
    from prunecli.plans import TensorPlan
    from prunecli.strategies.unstructured import Strategy

TensorResult = (StdThreshold, Structured, Block, RandomStructured)
"""The strategies that decide so."""


class Measurer:
    """Plans one target at a time from what is read of it."""

    def __init__(
        self, strategy: Strategy, targets: Sequence[TensorInfo], reader: Reader, scorer: Scorer | None
    ) -> None:
        """Read `targets` through `reader`; `scorer` says what is ranked where that is not the magnitudes."""
        self.strategy, self.targets, self.reader, self.scorer = strategy, targets, reader, scorer
        self._turn = Lock()  # ranking copies all norms of a tensor: one thread at a time keeps the memory down

    def plan(self, worker: Worker, member: int) -> TensorPlan:
        """Return the local strategy of a target."""
        strategy, tensor = self.strategy, self.targets[member]
        if isinstance(strategy, Structured):
            norms = slice_norms(self._ranked(worker, member), tensor.shape, strategy.axis(tensor), strategy.n)
            return self._local(strategy, worker, member, norms)
        if isinstance(strategy, Block):
            tiles = block_norms(self._ranked(worker, member), tensor.shape, (strategy.rows, strategy.cols))
            return self._local(strategy, worker, member, tiles.reshape(-1))
        if isinstance(strategy, RandomStructured):
            drawn = draw(random_key(strategy.seed, tensor), 0, tensor.shape[strategy.axis(tensor)])
            return self._local(strategy, worker, member, drawn.astype(np.float64))
        if isinstance(strategy, StdThreshold):
            return strategy.local(tensor, standard_deviation(self._signed(worker, member), tensor.numel))
        raise TypeError(strategy)

    def _local(
        self, strategy: Structured | Block | RandomStructured, worker: Worker, member: int, norms: NDArray[np.float64]
    ) -> TensorPlan:
        tensor, alive = self.targets[member], self._alive(worker, member)
        left = norms.size if alive is None else int(np.count_nonzero(alive))
        with self._turn:
            return strategy.local(tensor, *smallest_norms(norms, strategy.wanted(tensor, left), alive))

    def _alive(self, worker: Worker, member: int) -> NDArray[np.bool_] | None:
        """Tell which slices or tiles have a weight that is not gone; None where nothing can be."""
        strategy, tensor = self.strategy, self.targets[member]
        if self.scorer is None:
            return None
        here = self._patterns(worker, member, self.scorer, lambda y: (y >= 0).astype(np.float64))
        if isinstance(strategy, Block):
            return block_norms(here, tensor.shape, (strategy.rows, strategy.cols)).reshape(-1) > 0
        if isinstance(strategy, (Structured, RandomStructured)):
            return slice_norms(here, tensor.shape, strategy.axis(tensor), np.inf) > 0
        return None

    def _ranked(self, worker: Worker, member: int) -> Values:
        """Return what reads the numbers that are ranked, whatever their signs."""
        if (scorer := self.scorer) is None:
            return self._weights(worker, member)
        dtype = scorer.dtype(member)
        return self._patterns(worker, member, scorer, lambda y: magnitude_values(y, dtype))

    def _signed(self, worker: Worker, member: int) -> Values:
        """Return what reads the weights with their signs, and NaN for what is gone."""
        if (scorer := self.scorer) is None:
            return self._weights(worker, member)
        dtype, read = FLOATS[self.targets[member].dtype], self._read(worker, member)

        def signed(first: int, stop: int) -> NDArray[np.float64]:
            x = read(first, stop)
            found = floats(worker.host, x, dtype)
            found[scorer.of(worker, member, x, first) < 0] = np.nan
            return found

        return signed

    def _weights(self, worker: Worker, member: int) -> Values:
        read, dtype = self._read(worker, member), FLOATS[self.targets[member].dtype]
        return lambda first, stop: floats(worker.host, read(first, stop), dtype)

    def _patterns(
        self, worker: Worker, member: int, scorer: Scorer, turn: Callable[[NDArray[Any]], NDArray[np.float64]]
    ) -> Values:
        read = self._read(worker, member)
        return lambda first, stop: turn(scorer.of(worker, member, read(first, stop), first))

    def _read(self, worker: Worker, member: int) -> Read:
        tensor = self.targets[member]
        if self.scorer is not None and not self.scorer.reads_weights and not isinstance(self.strategy, StdThreshold):
            return lambda first, stop: blank(tensor, stop - first)
        return self.reader.range_reader(worker, tensor)
