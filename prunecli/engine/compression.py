"""Estimate the compressed size of the selected tensors before and after, from a sample of their bytes.

The compressor is zstd where it is installed, as in filesystems and archives, else deflate, as in gzip and zip.
"""

from __future__ import annotations

import importlib
import zlib
from bisect import bisect_right
from contextlib import suppress
from itertools import accumulate
from typing import TYPE_CHECKING

from prunecli.errors import CheckpointError
from prunecli.io.assembled import AssembledSource
from prunecli.io.transfer import read_all
from prunecli.report.model import Compressed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from prunecli.checkpoint import TensorInfo
    from prunecli.io.descriptors import Descriptor

RUNS = 32
"""Runs of bytes in a sample, at even distances: the estimate takes milliseconds, whatever the size of the file."""

RUN_BYTES = 1 << 15
"""Bytes of a run: the window of deflate, so that the compressor finds the same repetitions as in the whole file."""

ZSTD_LEVEL, DEFLATE_LEVEL = 3, 6
"""The default levels of these compressors."""


def sample(files: Sequence[Descriptor | AssembledSource], tensors: Sequence[TensorInfo]) -> bytes:
    """Return a sample of the bytes of `tensors`, or all of them if there are few, read from `files`.

    The places depend on the tensors alone, so the samples of two files with the same layout can be compared. Raises
    CheckpointError if a file ends early.
    """
    parts = []
    for file, start, length in _places(tensors):
        part = bytearray(length)
        _read(files[file], memoryview(part), start)
        parts.append(part)
    return b"".join(parts)


def _read(file: Descriptor | AssembledSource, into: memoryview, start: int) -> None:
    if isinstance(file, AssembledSource):
        file.read(into, start)
        return
    with file.opened() as fd:
        got = read_all(fd, into, start)
    if got < len(into):
        raise CheckpointError(f"a file ends at {start + got} bytes, before the end of its tensors")


def estimate(
    before: bytes, after: bytes, old: Sequence[TensorInfo], new: Sequence[TensorInfo] | None = None
) -> Compressed:
    """Return the sizes of the tensors `old`, and of `new` (None: the same), if they compress as these samples do."""
    method, compress, level = _compressor()
    totals = (sum(tensor.nbytes for tensor in tensors) for tensors in (old, old if new is None else new))
    pairs = zip((before, after), totals, strict=True)
    sizes = (round(total * len(compress(part, level)) / len(part)) if part else 0 for part, total in pairs)
    return Compressed(f"{method} level {level}", len(before), *sizes)


def _places(tensors: Sequence[TensorInfo]) -> Iterator[tuple[int, int, int]]:
    """Yield (file, first byte, length) of the runs; a run may extend into the next tensor."""
    ranges = sorted((t.file, t.start, t.end) for t in tensors if t.numel)
    edges = [0, *accumulate(end - start for _, start, end in ranges)]
    total = edges[-1]
    runs = min(RUNS, -(-total // RUN_BYTES))
    for run in range(runs):
        # Runs start at multiples of 8 bytes, the longest weight, so that the compressor sees whole weights.
        position, stop = total * run // runs // 8 * 8, total * (run + 1) // runs // 8 * 8 if run + 1 < runs else total
        stop = min(position + RUN_BYTES, stop)
        while position < stop:
            index = bisect_right(edges, position) - 1
            file, start, _ = ranges[index]
            length = min(stop, edges[index + 1]) - position
            yield file, start + position - edges[index], length
            position += length


def _compressor() -> tuple[str, Callable[[bytes, int], bytes], int]:
    """Return the name of the best installed compressor, the compressor, and its level."""
    for module in ("compression.zstd", "zstandard"):  # part of Python since 3.14; a package
        with suppress(ImportError):
            return "zstd", importlib.import_module(module).compress, ZSTD_LEVEL
    return "deflate", zlib.compress, DEFLATE_LEVEL
