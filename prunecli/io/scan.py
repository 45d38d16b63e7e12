"""scan."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prunecli.dtypes import FLOATS
from prunecli.kernels.histograms import READ
from prunecli.kernels.numpy_ops import NumpyOps

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

from typing import TYPE_CHECKING, TypeVar

from prunecli.io.reader import Reader, open_sources
from prunecli.io.threads import Pool, Worker, default_threads, results

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from prunecli.checkpoint import Checkpoint
    from prunecli.kernels.ops import Read

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prunecli.checkpoint import TensorInfo


def bytes_to_read(tensors: Iterable[TensorInfo]) -> int:
    """Return how many bytes one pass over `tensors` reads: of a strided tensor also those between its numbers."""
    return sum(tensor.end - tensor.start for tensor in tensors)


T = TypeVar("T")


def scan_tensors(
    checkpoint: Checkpoint,
    tensors: Sequence[TensorInfo],
    look_at: Callable[[Worker, TensorInfo, Read], T],
    *,
    threads: int = 0,
    advance: Callable[[int], None] = lambda _: None,
) -> list[T]:
    """Return what `look_at(worker, tensor, read)` says of each tensor; `read(first, stop)` gives its elements.

    Tensors are looked at by several threads at once, in file order; `threads` 0 takes as many as help. Raises
    CheckpointError where a file cannot be read or changes meanwhile.
    """
    with open_sources(checkpoint) as sources:
        reader = Reader(sources, advance)

        def one(worker: Worker, tensor: TensorInfo) -> T:
            return look_at(worker, tensor, reader.reader(worker, tensor))

        order = sorted(range(len(tensors)), key=lambda at: (tensors[at].file, tensors[at].start))
        with Pool(threads or default_threads(), None) as pool:
            found = results([pool.submit(one, tensors[at]) for at in order])
        for source in sources:
            source.check_unchanged()
    return [value for _, value in sorted(zip(order, found, strict=True), key=lambda pair: pair[0])]


def magnitudes(read: Read, tensor: TensorInfo) -> Iterator[NDArray[Any]]:
    """Yield the sign-cleared patterns of a tensor, run by run; each is good until the next is asked for."""
    ops = NumpyOps()
    for first in range(0, tensor.numel, READ):
        yield ops.magnitudes(read(first, min(first + READ, tensor.numel)), FLOATS[tensor.dtype])
