"""Zeros and non-finite numbers of tensors, where a ranking has not counted them already."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from prunecli.checkpoint import OUTSIDE
from prunecli.dtypes import FLOATS
from prunecli.inspection.group_counts import count_weights
from prunecli.io.scan import chunks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prunecli.checkpoint import TensorInfo
    from prunecli.inspection.passes import Passes
    from prunecli.io.threads import Worker
    from prunecli.kernels.ops import Read

_COUNTED_DTYPES = ("BOOL", "I", "U")

Counts: TypeAlias = dict[int, tuple[int, int | None]]
"""The zeros and, for floats, the weights that are not finite, by the id of the tensor: two tensors may share a name."""


def countable(tensor: TensorInfo) -> bool:
    """Return whether the tensor is in the state_dict and its elements are whole bytes that can be read one by one."""
    if tensor.unprunable_reason == OUTSIDE or len(tensor.shape) != len(tensor.strides):
        return False
    return (tensor.dtype in FLOATS or tensor.dtype.startswith(_COUNTED_DTYPES)) and not tensor.overlaps_itself


def known_counts(tensors: Sequence[TensorInfo], counts: Sequence[tuple[int, int]]) -> Counts:
    """Return what a ranking has counted; codes with a scale are ranked as products, whose zeros may be more."""
    return {id(t): counted for t, counted in zip(tensors, counts, strict=True) if t.scale is None}


def count_all(passes: Passes, tensors: Sequence[TensorInfo], known: Counts) -> Counts:
    """Count what is not `known`."""
    unknown = [tensor for tensor in tensors if id(tensor) not in known]
    if not unknown:
        return known
    return {**known, **dict(zip(map(id, unknown), passes.measure("counting", unknown, _count, _counted), strict=True))}


def _counted(zeros: int, nonfinite: int | None) -> tuple[int, int | None]:
    return zeros, nonfinite


def _count(worker: Worker, tensor: TensorInfo, read: Read) -> tuple[int, int | None]:
    if tensor.dtype not in FLOATS:
        return tensor.numel - sum(int(np.count_nonzero(chunk)) for chunk in chunks(read, tensor)), None
    counts = count_weights(worker, tensor, read)
    return counts.zeros, counts.nonfinite
