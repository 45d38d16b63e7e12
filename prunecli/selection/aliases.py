"""Tensors that share elements: tied tensors are the same elements, overlapping ones share only some.

Offsets and strides decide. No weight is read, and the choice of tensors to prune is made elsewhere.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from prunecli.dtypes import BITS
from prunecli.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

    from prunecli.checkpoint import TensorInfo

    Layout = tuple[tuple[int, int], ...]  # (stride, size) per dimension, widest stride first
    AliasGroup = tuple[int, ...]  # indices of tensors, in checkpoint order


def _layout(tensor: TensorInfo) -> Layout:
    """Return (stride, size) of the dimensions, outermost first; those that continue each other are merged.

    Equal layouts at one offset are the same elements: a transpose or a reshaped view has the layout of its base.
    """
    if len(tensor.shape) != len(tensor.strides):  # sparse and other tensors have no strides
        return ((1, max(tensor.numel, 1)),)
    if tensor.contiguous:
        return ((1, tensor.numel),) if tensor.numel > 1 else ()
    merged: list[tuple[int, int]] = []
    steps = zip(tensor.strides, tensor.shape, strict=True)
    for stride, size in sorted(((s, n) for s, n in steps if n > 1 and s), reverse=True):
        if merged and merged[-1][0] == stride * size:
            merged[-1] = (stride, merged[-1][1] * size)
        else:
            merged.append((stride, size))
    return tuple(merged)


def tied(tensors: Sequence[TensorInfo]) -> list[AliasGroup]:
    """Return groups of indices of tensors that are exactly the same elements; each non-empty tensor is in one."""
    groups: dict[object, list[int]] = {}
    for i, t in enumerate(tensors):
        if t.numel:
            key = (t.file, t.span.start, t.dtype, t.offset, _layout(t))
            groups.setdefault(key, []).append(i)
    return [tuple(group) for group in groups.values()]


@dataclass(frozen=True, slots=True)
class _Reach:
    """The half-open range of a tensor, in bytes of a file or in columns of a storage."""

    start: int
    end: int
    chosen: bool
    tensor: TensorInfo


def overlapping(
    groups: Iterable[AliasGroup], tensors: Sequence[TensorInfo], chosen: Collection[int]
) -> tuple[TensorInfo, TensorInfo] | None:
    """Return two tensors of different `groups`, at least one of them `chosen`, that share elements; None without such.

    Views that interleave count as sharing, except column slices of one matrix. Takes O(n log n) comparisons.
    """
    files: dict[int, list[_Reach]] = {}
    for group in groups:
        picked = [i for i in group if i in chosen]
        tensor = tensors[(picked or group)[0]]
        files.setdefault(tensor.file, []).append(_Reach(*_bytes(tensor), bool(picked), tensor))
    for cluster in (c for reaches in files.values() for c in _clusters(reaches)):
        pair = _meeting(cluster) if len(cluster) > 1 else None
        columns = None if pair is None else _columns(cluster)
        pair = pair if columns is None else _meeting(columns)
        if pair is not None:
            return pair[0].tensor, pair[1].tensor
    return None


def are_apart(tensors: Iterable[TensorInfo]) -> bool:
    """Return whether no two of these tensors have bytes of a file in common, as in nearly all checkpoints."""
    ranges = sorted([(tensor.file, *_bytes(tensor)) for tensor in tensors])
    return not any(a[2] > b[1] and a[0] == b[0] for a, b in pairwise(ranges))


def _bytes(tensor: TensorInfo) -> tuple[int, int]:
    """Return the first byte of a tensor in its file, and the one after its last."""
    packed = BITS[tensor.dtype] % 8 != 0
    if packed or len(tensor.shape) != len(tensor.strides):
        return tensor.span.start, tensor.span.end
    return tensor.start, tensor.end


def _clusters(reaches: Iterable[_Reach]) -> Iterator[list[_Reach]]:
    """Yield the ranges in groups that are connected by intersections."""
    run: list[_Reach] = []
    end = 0
    for reach in sorted(reaches, key=lambda r: r.start):
        if run and reach.start >= end:
            yield run
            run = []
        run.append(reach)
        end = max(end, reach.end)
    yield run


def _meeting(reaches: Iterable[_Reach]) -> tuple[_Reach, _Reach] | None:
    """Return two ranges that intersect, at least one of them chosen, or None, in one pass over the sorted ranges."""
    furthest: _Reach | None = None
    furthest_chosen: _Reach | None = None
    for reach in sorted(reaches, key=lambda r: r.start):
        rival = furthest if reach.chosen else furthest_chosen
        if rival is not None and rival.end > reach.start:
            return rival, reach
        if furthest is None or reach.end > furthest.end:
            furthest = reach
        if reach.chosen and (furthest_chosen is None or reach.end > furthest_chosen.end):
            furthest_chosen = reach
    return None


def _columns(cluster: Sequence[_Reach]) -> list[_Reach] | None:
    """Return the range of columns of each tensor in one common matrix, or None where there is no such matrix.

    `base[:, :5]` and `base[:, 5:]` interleave in the file without sharing an element; their columns do not intersect.
    """
    if len({(r.tensor.span.start, r.tensor.dtype) for r in cluster}) > 1:
        return None
    row = max((stride for r in cluster for stride, _ in _layout(r.tensor)), default=1)
    if row == 1:
        return None
    columns = []
    for reach in cluster:
        inner = tuple(dim for dim in _layout(reach.tensor) if dim[0] != row)
        if len(inner) > 1 or (inner and inner[0][0] != 1):
            return None
        first, width = reach.tensor.offset % row, inner[0][1] if inner else 1
        if first + width > row:
            return None
        columns.append(_Reach(first, first + width, reach.chosen, reach.tensor))
    return columns
