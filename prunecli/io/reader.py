"""Weights on their way in: runs of a tensor as integers in row-major order, and passes over many tensors.

Every pass goes through memory of the thread that reads: what one read gave is good until that thread's next.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from prunecli.errors import CheckpointError
from prunecli.io.files import PAGE, Source
from prunecli.io.threads import Worker
from prunecli.kernels.ops import INTS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from prunecli.checkpoint import Checkpoint, TensorInfo
    from prunecli.kernels.ops import Read


@contextmanager
def open_sources(checkpoint: Checkpoint) -> Iterator[list[Source]]:
    """Give the files of a checkpoint, open for reading; CheckpointError for one that cannot be read or has changed."""
    with ExitStack() as stack:
        sources = []
        for file in checkpoint.files:
            try:
                source = Source(file.path, file.size, file.modified)
            except OSError as error:
                raise CheckpointError(f"cannot read {file.path}: {error.strerror}") from error
            stack.callback(source.close)
            sources.append(source)
        yield sources


class Reader:
    """Reads the tensors of one checkpoint from its open files."""

    def __init__(self, sources: Sequence[Source], advance: Callable[[int], None] = lambda _: None) -> None:
        """Read from `sources`; `advance` is told the bytes that were read."""
        self.sources, self._advance = sources, advance

    def run(self, worker: Worker, tensor: TensorInfo, low: int, high: int, *, slot: int = 0) -> NDArray[Any]:
        """Return the row-major elements [low, high) of any tensor, in the worker's buffer `slot`."""
        found = self.read(worker, tensor, low, high, slot=slot)
        return found if tensor.contiguous else found[low:high]

    def read(self, worker: Worker, tensor: TensorInfo, low: int, high: int, *, slot: int = 0) -> NDArray[Any]:
        """Return elements [low, high) of a contiguous tensor, or all of another, as flat native integers."""
        start, end = tensor.start, tensor.end
        if tensor.contiguous:
            start, end = tensor.start + low * tensor.itemsize, tensor.start + high * tensor.itemsize
        at = start - start % PAGE
        view = worker.buffer(end - at, slot)
        self.sources[tensor.file].read(view, at)
        self._advance(end - start)
        return flat_native(view_elements(view, tensor.start - at, tensor, low, high), tensor)

    def reader(self, worker: Worker, tensor: TensorInfo) -> Read:
        """Return a function that reads runs [first, stop) of a tensor in row-major order."""
        if tensor.contiguous:
            return lambda first, stop: self.read(worker, tensor, first, stop)
        whole = self.read(worker, tensor, 0, tensor.numel)
        return lambda first, stop: whole[first:stop]


def view_elements(data: memoryview, offset: int, tensor: TensorInfo, low: int, high: int) -> NDArray[Any]:
    """Return a view of the elements [low, high) of `tensor` in `data`, where element 0 is `offset` bytes in.

    Integers of the tensor's width in the file's byte order. A tensor that is not contiguous is always looked at
    whole, in its own shape and strides.
    """
    kind = INTS[tensor.itemsize].newbyteorder(">" if tensor.big_endian else "<")
    if tensor.contiguous:
        return np.frombuffer(data, kind, high - low, offset + low * tensor.itemsize)
    flat = np.frombuffer(data, kind, tensor.extent, offset)
    return as_strided(flat, tensor.shape, [s * tensor.itemsize for s in tensor.strides])


def flat_native(view: NDArray[Any], tensor: TensorInfo) -> NDArray[Any]:
    """Return what `look` gave as a flat, native, row-major array: the view itself where that is what it is."""
    if tensor.contiguous and view.dtype.isnative:
        return view
    return np.ascontiguousarray(view, INTS[tensor.itemsize]).reshape(-1)


def store_flat(flat: NDArray[Any], view: NDArray[Any]) -> None:
    """Store what `flatten` returned where it came from; nothing to do where it is the same memory."""
    if flat is not view:
        view[...] = flat.reshape(view.shape)
