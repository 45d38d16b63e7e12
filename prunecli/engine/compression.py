"""What compressing the selected tensors would give, estimated from a sample of their bytes before and after.

zstd where it is there, which is what filesystems and archives use; else deflate, which is what gzip and zip use.
Nothing here knows about names or strategies.
"""

from __future__ import annotations

import importlib
import os
import zlib
from bisect import bisect_right
from importlib.util import find_spec
from itertools import accumulate
from typing import TYPE_CHECKING

from prunecli.errors import CheckpointError
from prunecli.report.model import Compressed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from prunecli.checkpoint import TensorInfo

RUNS = 32
"""Runs of bytes a sample is made of, at even distances: it takes milliseconds, however large the file is."""

RUN_BYTES = 1 << 15
"""Bytes of a run: a window of deflate, so that what a compressor finds nearby is found here too."""

ZSTD_LEVEL, DEFLATE_LEVEL = 3, 6
"""The levels these compressors take when nobody says otherwise."""


def sample(files: Sequence[int], tensors: Sequence[TensorInfo]) -> bytes:
    """Return a sample of the bytes of `tensors`, read from the open descriptors `files`; all of them where few.

    The places depend on the tensors alone: the samples of two files of one layout can be compared. Raises
    CheckpointError where a file ends early.
    """
    parts = []
    for file, start, length in _places(tensors):
        part = os.pread(files[file], length, start)
        if len(part) != length:
            raise CheckpointError(f"a file ends at {start + len(part)} bytes, before the end of its tensors")
        parts.append(part)
    return b"".join(parts)


def estimate(before: bytes, after: bytes, tensors: Sequence[TensorInfo]) -> Compressed:
    """Return what `tensors` take if all of them compress as these samples of them do."""
    method, compress, level = _compressor()
    total = sum(tensor.nbytes for tensor in tensors)
    had, has = (round(total * len(compress(part, level)) / len(part)) if part else 0 for part in (before, after))
    return Compressed(f"{method} level {level}", len(before), had, has)


def _places(tensors: Sequence[TensorInfo]) -> Iterator[tuple[int, int, int]]:
    """Yield (file, first byte, length) of the runs, which may go over the edge of a tensor into the next."""
    lying = sorted((t.file, t.start, t.end) for t in tensors if t.numel)
    edges = [0, *accumulate(end - start for _, start, end in lying)]
    total = edges[-1]
    runs = min(RUNS, -(-total // RUN_BYTES))
    for run in range(runs):
        at, stop = total * run // runs // 8 * 8, total * (run + 1) // runs // 8 * 8 if run + 1 < runs else total
        stop = min(at + RUN_BYTES, stop)
        while at < stop:
            tensor = bisect_right(edges, at) - 1
            file, start, _ = lying[tensor]
            length = min(stop, edges[tensor + 1]) - at
            yield file, start + at - edges[tensor], length
            at += length


def _compressor() -> tuple[str, Callable[[bytes, int], bytes], int]:
    """Return the name of the best compressor here, the compressor, and its level."""
    # part of Python from 3.14 on, a package before
    found = next((name for name in ("compression.zstd", "zstandard") if _is_there(name)), None)
    if found is None:
        return "deflate", zlib.compress, DEFLATE_LEVEL
    return "zstd", importlib.import_module(found).compress, ZSTD_LEVEL


def _is_there(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:  # of the package it would be in
        return False
