"""Which tensors share numbers: tied ones are the same elements, overlapping ones only some of them.

Offsets and strides alone decide; nothing here knows what is to be pruned, or reads a weight.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from prunecli.dtypes import BITS

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

    from prunecli.checkpoint import TensorInfo

    Layout = tuple[tuple[int, int], ...]  # (stride, size) per dimension, widest stride first
    RankGroup = tuple[int, ...]  # indices of tensors, in checkpoint order


def _layout(tensor: TensorInfo) -> Layout:
    """Return the dimensions that reach different elements, outermost first, merged where they run on.

    Equal layouts from one offset are the same elements: a transpose and a reshaped view have their origin's.
    """
    if len(tensor.shape) != len(tensor.strides):  # a kind without strides, fixed by its reader
        return ((1, max(tensor.numel, 1)),)
    merged: list[tuple[int, int]] = []
    steps = zip(tensor.strides, tensor.shape, strict=True)
    for stride, size in sorted(((s, n) for s, n in steps if n > 1 and s), reverse=True):
        if merged and merged[-1][0] == stride * size:
            merged[-1] = (stride, merged[-1][1] * size)
        else:
            merged.append((stride, size))
    return tuple(merged)


def tied(tensors: Sequence[TensorInfo]) -> list[RankGroup]:
    """Group the tensors that are exactly the same elements; each tensor that is not empty is in one group."""
    groups: dict[object, list[int]] = {}
    for i, t in enumerate(tensors):
        if t.numel:
            key = (t.file, t.span.start, t.dtype, t.offset, _layout(t))
            groups.setdefault(key, []).append(i)
    return [tuple(group) for group in groups.values()]


@dataclass(frozen=True, slots=True)
class _Reach:
    """A half-open range, in bytes of a file or in columns of a storage, that a tensor lies in."""

    start: int
    end: int
    chosen: bool
    tensor: TensorInfo


def overlapping(
    groups: Iterable[RankGroup], tensors: Sequence[TensorInfo], chosen: Collection[int]
) -> tuple[TensorInfo, TensorInfo] | None:
    """Return two tensors of different `groups`, one of them `chosen`, that share a part of a storage, or None.

    Views that interleave in a way that cannot be told apart here count as sharing. O(n log n).
    """
    files: dict[int, list[_Reach]] = {}
    for group in groups:
        picked = [i for i in group if i in chosen]
        tensor = tensors[(picked or group)[0]]
        files.setdefault(tensor.file, []).append(_bytes(tensor, chosen=bool(picked)))
    for cluster in (c for reaches in files.values() for c in _clusters(reaches)):
        pair = _meeting(cluster)
        columns = None if pair is None else _columns(cluster)
        pair = pair if columns is None else _meeting(columns)
        if pair is not None:
            return pair[0].tensor, pair[1].tensor
    return None


def _bytes(tensor: TensorInfo, *, chosen: bool) -> _Reach:
    packed = BITS[tensor.dtype] % 8 != 0
    if packed or len(tensor.shape) != len(tensor.strides):
        return _Reach(tensor.span.start, tensor.span.end, chosen, tensor)
    return _Reach(tensor.start, tensor.end, chosen, tensor)


def _clusters(reaches: Iterable[_Reach]) -> Iterator[list[_Reach]]:
    """Yield the runs of ranges that hang together by intersecting."""
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
    """Return two ranges that intersect, at least one of them chosen, or None; one sorted sweep."""
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
    """Return the columns each range covers in one common matrix, or None where there is no such matrix.

    `base[:, :5]` and `base[:, 5:]` interleave in the file and share nothing: their columns tell.
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
