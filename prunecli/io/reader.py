"""Reading tensors as integers in row-major order, in chunks.

Bytes are read into buffers of the reading thread: an array is valid until that thread's next read.
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
from prunecli.text.escape import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from prunecli.checkpoint import Checkpoint, TensorInfo
    from prunecli.io.files import Input
    from prunecli.kernels.ops import Read


KEPT_OPEN = 8
"""The most files of a checkpoint that stay open during a run; more of them are opened when they are used."""


@contextmanager
def open_sources(checkpoint: Checkpoint) -> Iterator[list[Source]]:
    """Open the files of a checkpoint for reading; CheckpointError for one that cannot be read or has changed."""
    with ExitStack() as stack:
        sources = []
        for file in checkpoint.files:
            try:
                source = Source(file.path, file.size, file.modified)
            except OSError as error:
                raise CheckpointError(f"cannot read {printable(str(file.path))}: {error.strerror}") from error
            stack.callback(source.close)
            if len(checkpoint.files) <= KEPT_OPEN:
                source.keep_open()
            sources.append(source)
        yield sources


class Reader:
    """Reads the tensors of one checkpoint from its open files."""

    def __init__(self, sources: Sequence[Input], advance: Callable[[int], None] = lambda _: None) -> None:
        """Read from `sources`; `advance` receives the number of bytes of each read."""
        self.sources, self._advance = sources, advance

    def read_range(self, worker: Worker, tensor: TensorInfo, low: int, high: int, *, slot: int = 0) -> NDArray[Any]:
        """Return the row-major elements [low, high) of any tensor, in the worker's buffer `slot`."""
        elements = self.read(worker, tensor, low, high, slot=slot)
        return elements if tensor.contiguous else elements[low:high]

    def read(self, worker: Worker, tensor: TensorInfo, low: int, high: int, *, slot: int = 0) -> NDArray[Any]:
        """Return the elements [low, high) of a contiguous tensor as flat native integers.

        All elements of a tensor that is not contiguous are returned, because its rows are spread over its bytes.
        """
        start, end = tensor.start, tensor.end
        if tensor.contiguous:
            start, end = tensor.start + low * tensor.itemsize, tensor.start + high * tensor.itemsize
        # From the start of a page: a copy out of the page cache to an aligned buffer is twice as fast.
        offset = start - start % PAGE
        view = worker.buffer(end - offset, slot)
        self.sources[tensor.file].read(view, offset)
        self._advance(end - start)
        return flat_native(view_elements(view, tensor.start - offset, tensor, low, high), tensor)

    def range_reader(self, worker: Worker, tensor: TensorInfo) -> Read:
        """Return a function that reads the row-major elements [first, stop) of a tensor."""
        if tensor.contiguous:
            return lambda first, stop: self.read(worker, tensor, first, stop)
        whole = self.read(worker, tensor, 0, tensor.numel)
        return lambda first, stop: whole[first:stop]


def view_elements(data: memoryview, offset: int, tensor: TensorInfo, low: int, high: int) -> NDArray[Any]:
    """Return a view of the elements [low, high) of `tensor` in `data`, where element 0 is at byte `offset`.

    The view holds integers of the tensor's width in the file's byte order. A tensor that is not contiguous is always
    viewed whole, in its own shape and strides.
    """
    element_type = INTS[tensor.itemsize].newbyteorder(">" if tensor.big_endian else "<")
    if tensor.contiguous:
        return np.frombuffer(data, element_type, high - low, offset + low * tensor.itemsize)
    flat = np.frombuffer(data, element_type, tensor.extent, offset)
    return as_strided(flat, tensor.shape, [s * tensor.itemsize for s in tensor.strides])


def flat_native(view: NDArray[Any], tensor: TensorInfo) -> NDArray[Any]:
    """Return a result of `view_elements` as a flat, native, row-major array: itself if it is one, else a copy."""
    if tensor.contiguous and view.dtype.isnative:
        return view
    return np.ascontiguousarray(view, INTS[tensor.itemsize]).reshape(-1)


def store_flat(flat: NDArray[Any], view: NDArray[Any]) -> None:
    """Store a result of `flat_native` in the `view` that it was made from, unless both are the same array."""
    if flat is not view:
        view[...] = flat.reshape(view.shape)
