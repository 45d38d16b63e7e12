"""The 2:4 pattern of tensors whose groups of 4 lie in several parts: their non-zeros are counted and added up."""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from prunecli.engine.sharded.measured import view_of_part
from prunecli.engine.sharded.parts import has_whole_groups
from prunecli.layout import SliceView
from prunecli.plans import KeepLargestOfGroup

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from prunecli.engine.sharded.parts import Part

GROUP, MOST = 4, 2
"""The length of a group, and the most non-zeros it may have."""


def has_cut_groups(part: Part, *, in_runs: bool) -> bool:
    """Return whether groups of 4 along the inputs are not each in one run, or in this part at all."""
    tensor = part.tensor
    layout, dim = tensor.layout, tensor.layout.inputs
    if len(tensor.shape) < 2 or dim is None or tensor.shape[dim] // layout.groups < GROUP:
        return False
    if in_runs:
        plan = KeepLargestOfGroup(MOST, GROUP, dim, zero_tail=False, parts=layout.groups)
        starts, lengths, _ = part.runs
        ends = zip(starts.tolist(), (starts + lengths).tolist(), strict=True)
        return any(plan.reach(tensor.shape, *run) != run for run in ends)
    if layout.groups > 1 and len(part.indices[dim]) < tensor.shape[dim]:
        return True
    return not has_whole_groups(part.indices[dim], tensor.shape[dim], GROUP, layout.groups)


class GroupCounter:
    """Counts the non-zeros of each group of 4 of a part."""

    def __init__(self, part: Part) -> None:
        """Start without a weight."""
        tensor = part.tensor
        length, inner = tensor.layout.input_run(tensor.shape) or (1, 1)
        own = view_of_part(part, SliceView(tensor.numel // (length * inner), 1, length, inner))
        self._outer, self._index, self._inner = own.stacks, own.slices, own.after
        self._groups, self._group_of = np.unique(self._index // GROUP, return_inverse=True)
        self._counts = np.zeros((len(self._outer), len(self._groups), len(self._inner)), np.uint8)
        self._sizes = np.minimum(GROUP, length - self._groups * GROUP)
        self._lock = Lock()

    def add(self, first: int, nonzero: NDArray[np.bool_]) -> None:
        """Add a run of the part's elements from place `first`."""
        places = np.arange(first, first + len(nonzero))[nonzero]
        if not len(places):
            return
        rows, a = np.divmod(places, len(self._inner))
        outer, at = np.divmod(rows, len(self._index))
        flat = (outer * len(self._groups) + self._group_of.reshape(-1)[at]) * len(self._inner) + a
        low, high = int(flat.min()), int(flat.max()) + 1
        with self._lock:
            self._counts.reshape(-1)[low:high] += np.bincount(flat - low, minlength=high - low).astype(np.uint8)

    def result(self) -> dict[str, NDArray[Any]]:
        """Return whether a whole group has too many non-zeros, and the counts of groups that are cut."""
        whole = np.bincount(self._group_of.reshape(-1), minlength=len(self._groups)) == self._sizes
        overfull = (self._counts[:, whole] > MOST).any()
        return {
            "overfull": np.array([overfull]),
            "outer": self._outer,
            "groups": self._groups[~whole],
            "inner": self._inner,
            "counts": self._counts[:, ~whole],
        }


def is_overfull(parts: Sequence[dict[str, NDArray[Any]]]) -> bool:
    """Return whether a group has too many non-zeros, from the results of all processes."""
    if any(part["overfull"].any() for part in parts):
        return True
    axes = [np.unique(np.concatenate([part[key] for part in parts])) for key in ("outer", "groups", "inner")]
    total = np.zeros([len(axis) for axis in axes], np.uint8)
    for part in parts:
        at = [np.searchsorted(axis, part[key]) for axis, key in zip(axes, ("outer", "groups", "inner"), strict=True)]
        total[np.ix_(*at)] += part["counts"]
    return bool((total > MOST).any())
