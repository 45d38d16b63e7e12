"""One pass over many tensors with several threads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from prunecli.io.reader import Reader, open_sources
from prunecli.io.scales import ScaleReader
from prunecli.io.threads import Pool, Worker, default_threads, results
from prunecli.kernels.arrays import arrays_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from prunecli.checkpoint import Checkpoint, TensorInfo
    from prunecli.kernels.ops import Read

T = TypeVar("T")

CHUNK = 1 << 19
"""Bytes of a tensor that are read at once: they stay in the cache of a core while they are counted."""


def bytes_to_read(tensors: Iterable[TensorInfo]) -> int:
    """Return the bytes that one pass over `tensors` reads; a strided tensor is read with the gaps inside it."""
    return sum(tensor.end - tensor.start for tensor in tensors)


def scan_tensors(
    checkpoint: Checkpoint,
    tensors: Sequence[TensorInfo],
    measure: Callable[[Worker, TensorInfo, Read], T],
    *,
    threads: int = 0,
    advance: Callable[[int], None] = lambda _: None,
) -> list[T]:
    """Return `measure(worker, tensor, read)` for each tensor; `read(first, stop)` returns its weights as integers.

    The integers are patterns of `tensor.value_dtype`: of products for codes with a scale, else the elements themselves.

    Several threads measure tensors at once, in file order; `threads` 0 means the number that suits the machine.
    `advance` receives the number of bytes of each read. Raises CheckpointError where a file cannot be read or changes
    during the pass.
    """
    with open_sources(checkpoint) as sources:
        reader, scales = Reader(sources, advance), ScaleReader(sources)

        def measure_one(worker: Worker, tensor: TensorInfo) -> T:
            read = arrays_of(reader.range_reader(worker, tensor))
            return measure(worker, tensor, scales.range_reader(worker, tensor, read) if tensor.scale else read)

        order = sorted(range(len(tensors)), key=lambda index: (tensors[index].file, tensors[index].start))
        with Pool(threads or default_threads(), None) as pool:
            measured = results([pool.submit(measure_one, tensors[index]) for index in order])
        for source in sources:
            source.check_unchanged()
    return [value for _, value in sorted(zip(order, measured, strict=True), key=lambda pair: pair[0])]


def chunks(read: Read, tensor: TensorInfo) -> Iterator[NDArray[Any]]:
    """Yield the weights of `tensor` as flat integers in chunks; each is valid until the next one is requested."""
    size = max(CHUNK // tensor.itemsize, 1)
    for first in range(0, tensor.numel, size):
        yield read(first, min(first + size, tensor.numel))
