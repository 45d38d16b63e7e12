"""The counts of a search for a normalized cut, when several processes read the tensors."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from prunecli.ranking.normalized_cut import CountResult

if TYPE_CHECKING:
    from collections.abc import Mapping

    from prunecli.distributed.group import Group
    from prunecli.ranking.normalized_cut import CountAccumulator


def share_counts(processes: Group, counted: Mapping[int, CountAccumulator]) -> None:
    """Add what the other processes have counted to `counted`, by tensor; each tensor is counted by one process."""
    if processes.size == 1:
        return
    for rank, sent in enumerate(processes.gather(_packed(counted))):
        if rank != processes.rank:
            for member, result in _unpacked(memoryview(sent)):
                counted[member].add(result)


def _packed(counted: Mapping[int, CountAccumulator]) -> bytes:
    head: list[list[Any]] = []
    arrays: list[bytes] = []
    for member, accumulator in counted.items():
        bins, counts = accumulator.merged()
        if bins.size or accumulator.squares:
            head.append([member, str(accumulator.squares), bins.size, bins.dtype.str, counts.dtype.str])
            arrays += [bins.tobytes(), counts.tobytes()]
    text = json.dumps(head).encode()
    return b"".join([len(text).to_bytes(8, "little"), text, *arrays])


def _unpacked(sent: memoryview) -> list[tuple[int, CountResult]]:
    place = 8 + int.from_bytes(sent[:8], "little")
    results = []
    for member, squares, size, *dtypes in json.loads(bytes(sent[8:place])):
        arrays = []
        for dtype in map(np.dtype, dtypes):
            arrays.append(np.frombuffer(sent, dtype, size, place))
            place += size * dtype.itemsize
        results.append((member, CountResult(arrays[0], arrays[1], int(squares))))
    return results
