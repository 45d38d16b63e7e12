"""Numbers measured on small tensors of one shape on one device: one computation for all of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, partial
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from prunecli.engine.together import BATCH_BYTES, SCORE_SHARE, SMALL
from prunecli.io.threads import Worker
from prunecli.kernels import torch_folds
from prunecli.kernels.folds import Numbers
from prunecli.kernels.later import Later
from prunecli.kernels.norms import block_norms, slice_norms
from prunecli.kernels.rows import Rows

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator, Sequence

    from numpy.typing import NDArray

    from prunecli.dtypes import Float
    from prunecli.engine.scored_tensors import ScoredTensors
    from prunecli.engine.scorers import Scorer
    from prunecli.kernels.ops import Array
    from prunecli.layout import SliceView


class Stack:
    """The weights of tensors of one shape; what is measured is kept for all of them."""

    def __init__(self, arrays: Sequence[Array], dtype: Float, score: Callable[[Array], Array] | None = None) -> None:
        """Take integers on one device; nothing is computed yet. `score` returns the patterns of rows of weights."""
        self.arrays, self.dtype, self._score = arrays, dtype, score
        self._found: dict[Hashable, Any] = {}
        self._lock = Lock()

    @cached_property
    def numbers(self) -> Numbers:
        """The weights of all tensors, one after the other."""
        import torch  # noqa: PLC0415 - there are tensors, so it is loaded

        x = torch.stack([array.reshape(-1) for array in self.arrays])
        x = (x if self._score is None else self._score(x)).reshape(-1)
        run, ranked = torch_folds.run_of(x.device), self._score is not None
        return Numbers(lambda first, stop: x[first:stop], self.dtype, ranked, torch_folds, run)

    def found(self, key: Hashable, compute: Callable[[], Any]) -> Any:  # noqa: ANN401 - as `compute`
        """Return what is computed once, by the first tensor that asks for it."""
        with self._lock:
            if key not in self._found:
                self._found[key] = compute()
            return self._found[key]

    def all_of(self, view: SliceView) -> SliceView:
        """Return the view of all tensors."""
        return replace(view, stacks=view.stacks * len(self.arrays))


@dataclass(frozen=True, slots=True)
class OneOfStack:
    """The functions of `NumbersInParts` for one tensor of a stack."""

    stack: Stack
    place: int

    def slice_norms(self, own: Numbers, view: SliceView, n: float) -> Later:  # noqa: ARG002 - protocol
        """Return the norm of each slice."""
        stack = self.stack
        found: Later = stack.found((view, n), lambda: slice_norms(stack.numbers, stack.all_of(view), n))
        return Later(found.numbers, lambda norms: found.finish(norms.reshape(len(stack.arrays), -1)[self.place]))

    def block_norms(self, own: Numbers, view: SliceView, block: tuple[int, int]) -> NDArray[np.float64]:  # noqa: ARG002 - protocol
        """Return the norm of each block."""
        stack = self.stack

        def compute() -> NDArray[np.float64]:
            squares = block_norms(stack.numbers, stack.all_of(view), block).cpu().numpy()
            norms: NDArray[np.float64] = np.sqrt(squares).reshape(len(stack.arrays), -1, *squares.shape[1:])
            return norms

        found: NDArray[np.float64] = stack.found((view, block), compute)[self.place]
        return found

    def moments(self, own: Numbers, scale: float) -> Later:  # noqa: ARG002 - protocol
        """Return the folded sums and the count of the finite numbers."""
        stack, numbers = self.stack, self.stack.numbers

        def compute() -> Array:
            x = numbers.read(0, sum(array.numel() for array in stack.arrays))
            return torch_folds.moments_of_rows(x, numbers, scale, len(stack.arrays))

        return Later(stack.found(scale, compute), lambda found: found[self.place])


def stacks(tensors: ScoredTensors, members: Sequence[int]) -> Iterator[tuple[int, Numbers]]:
    """Yield members on devices that are small and of one shape with others, with their numbers, stack by stack."""
    kinds: dict[Hashable, list[int]] = {}
    for member in members:
        tensor = tensors.targets[member]
        if tensor.nbytes <= SMALL and tensor.numel:
            device = tensors.reader.device(tensor)
            kinds.setdefault((tensor.shape, tensor.dtype, device, tensor.scale is None), []).append(member)
    for own in kinds.values():
        if len(own) > 1:
            yield from _numbers(tensors, own)


def _numbers(tensors: ScoredTensors, members: Sequence[int]) -> Iterator[tuple[int, Numbers]]:
    worker, first = Worker(None), tensors.targets[members[0]]
    scorer = tensors.scorer
    step = max(1, BATCH_BYTES // (first.nbytes * (1 if scorer is None else SCORE_SHARE)))
    for low in range(0, len(members), step):
        part = members[low : low + step]
        arrays = [tensors.reader.array_reader(worker, tensors.targets[member])(0, first.numel) for member in part]
        score = None if scorer is None else partial(_scores, scorer, worker, tuple(part))
        stack = Stack(arrays, tensors.dtype(part[0]), score)
        for place, member in enumerate(part):
            yield member, Numbers(_nothing, stack.dtype, in_parts=OneOfStack(stack, place))


def _scores(scorer: Scorer, worker: Worker, members: tuple[int, ...], weights: Array) -> Array:
    return scorer.on_device(worker, Rows(members, weights))


def _nothing(first: int, stop: int) -> Array:
    raise AssertionError(first, stop)  # a stack reads for all of its tensors
