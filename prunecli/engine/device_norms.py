"""Slices and blocks of tensors on devices whose norms are computed and ranked there: tensors of a shape together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from prunecli.dtypes import FLOATS
from prunecli.engine.together import SMALL
from prunecli.kernels import torch_folds
from prunecli.kernels.arrays import on_host
from prunecli.kernels.fused_folds import first_sums
from prunecli.kernels.later import Later, fetched
from prunecli.kernels.ops import is_tensor
from prunecli.kernels.torch_fused import ROW_LIMIT
from prunecli.kernels.torch_tables import MOST_TOGETHER

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from prunecli.checkpoint import TensorInfo
    from prunecli.dtypes import Float
    from prunecli.engine.measured_planner import MeasuredPlanner
    from prunecli.kernels.ops import Array
    from prunecli.plans import Smallest

AT_ONCE = 1 << 25
"""The most norms, and sums that they are folded from, of tensors that are measured together; each takes 8 bytes."""

FLAGS_LIMIT = 1 << 27
"""The bytes of flags of blocks that stay on devices until all plans are made; more of them wait on the host."""


@dataclass(frozen=True, slots=True)
class _Ranked:
    """Targets with their flags, a row for each, and the largest norm of what is pruned, all on the device."""

    smallest: Smallest
    members: Sequence[int]
    flags: Any
    values: Any


class DeviceNorms:
    """The plans of such targets. Nothing waits for a device before the kernels of all targets are queued."""

    def __init__(self, planner: MeasuredPlanner) -> None:
        """Plan for a strategy."""
        self._planner = planner
        self._wanted: dict[Any, Smallest | None] = {}
        self._ranked: list[_Ranked] = []
        self._flags = 0

    def plan(self, members: Sequence[int]) -> list[int]:
        """Store the plans of the targets that kernels can measure and rank, and return the others."""
        kinds: dict[Any, list[tuple[int, Array]]] = {}
        others = []
        for member in members:
            tensor = self._planner.tensors.targets[member]
            smallest, array = self._smallest(tensor), self._planner.tensors.reader.on_a_device(tensor)
            device = self._planner.tensors.reader.device(tensor)
            if smallest is None or _size(smallest) > AT_ONCE or _kernels(smallest, device) is None:
                others.append(member)
            else:
                kinds.setdefault((smallest, tensor.shape, tensor.dtype, device), []).append((member, array))
        for (smallest, _, dtype, device), own in kinds.items():
            for part in self._parts(smallest, own):
                self._rank(smallest, FLOATS[dtype], _kernels(smallest, device), part)
        self._conclude()
        return others

    def _smallest(self, tensor: TensorInfo) -> Smallest | None:
        """Return what is pruned of a target, None if it is not pruned by norms of its weights where they lie."""
        if self._planner.tensors.scorer is not None or tensor.scale is not None:
            return None
        if not tensor.contiguous or not tensor.numel:
            return None
        key = tensor.shape, id(tensor.layout)
        if key not in self._wanted:
            self._wanted[key] = self._planner.strategy.smallest(tensor)
        return self._wanted[key]

    def _parts(self, smallest: Smallest, own: Sequence[tuple[int, Array]]) -> Iterator[Sequence[tuple[int, Array]]]:
        """Yield the targets that are measured together."""
        size = _size(smallest)
        step = min(max(AT_ONCE // size, 1), MOST_TOGETHER)
        yield from (own[first : first + step] for first in range(0, len(own), step))

    def _rank(self, smallest: Smallest, dtype: Float, kernels: Any, own: Sequence[tuple[int, Array]]) -> None:  # noqa: ANN401
        """Queue the kernels for targets of one kind."""
        members, arrays = zip(*own, strict=True)
        if smallest.block is None:
            norms = kernels.slice_norms(arrays, dtype, smallest.view, smallest.n)
        else:
            norms = kernels.block_norms(arrays, dtype, smallest.view, smallest.block)
        self._planner.tensors.reader.advance(sum(array.nbytes for array in arrays))
        flags, values = kernels.smallest(norms, smallest.count)
        flags = flags.view(len(members), -1)
        self._flags += flags.nbytes
        many = smallest.block is not None and self._flags > FLAGS_LIMIT
        values = values.view(len(members), -1).amax(1)
        self._ranked.append(_Ranked(smallest, members, flags.cpu().numpy() if many else flags, values))

    def _conclude(self) -> None:
        """Store the plans: flags of small targets, and those of biases, are fetched with the largest norms."""
        ranked, self._ranked = self._ranked, []
        values = fetched([Later(each.values, np.ndarray.tolist) for each in ranked])
        for each, own in zip(ranked, values, strict=True):
            self._store(each, [value if each.smallest.count else None for value in own])

    def _store(self, ranked: _Ranked, values: Sequence[float | None]) -> None:
        """Store the plans of targets of one kind."""
        planner, plan, there = self._planner, ranked.smallest.plan, is_tensor(ranked.flags)
        small = planner.tensors.targets[ranked.members[0]].nbytes <= SMALL
        fetched_flags = not there or small or any(member in planner.followers for member in ranked.members)
        host = [row.tobytes() for row in on_host(ranked.flags)] if fetched_flags else []
        for member, alive, value in zip(ranked.members, host, values, strict=False):
            planner.store(member, plan(alive, value))
        if there and not small:
            for member, alive, value in zip(ranked.members, ranked.flags.unbind(), values, strict=True):
                planner.plans[member] = plan(alive, value)


def _size(smallest: Smallest) -> int:
    """Return the number of norms of a target, and of the first sums that they are folded from."""
    return smallest.number + first_sums(smallest.view, smallest.block)


def _kernels(smallest: Smallest, device: str) -> Any:  # noqa: ANN401 - FusedFolds, or None
    """Return the kernels that measure and rank on a device, if they work."""
    short = smallest.number // smallest.view.stacks <= ROW_LIMIT
    ranks = short or torch_folds.folding(device, "ranks") is not None
    return torch_folds.folding(device, "norms" if smallest.block is None else "blocks") if ranks else None
