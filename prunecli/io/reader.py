"""Reading tensors as integers in row-major order, in chunks.

Bytes are read into buffers of the reading thread: an array is valid until that thread's next read. Arrays are
memoryviews where the elements lie as the kernels take them; only other tensors need NumPy.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Literal

from prunecli.io.assembled import AssembledSource
from prunecli.io.files import PAGE, Source
from prunecli.io.read_errors import read_errors
from prunecli.io.threads import Worker, default_threads
from prunecli.remote.path import RemotePath

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from prunecli.checkpoint import Checkpoint, CheckpointFile, TensorInfo
    from prunecli.io.files import Input
    from prunecli.kernels.ops import Array, Read


SCAN_BYTES = 1 << 20
"""The bytes of weights of one step of a scan; those of codes are products of 8 bytes."""

SAMPLE = 1 << 20
"""The most elements of a sample."""

CODES: dict[int, Literal["b", "h", "i", "q"]] = {1: "b", 2: "h", 4: "i", 8: "q"}
"""The codes of integers by their size, for `memoryview.cast`."""

KEPT_OPEN = 8
"""The most files of a checkpoint that stay open during a run; more of them are opened when they are used."""


@contextmanager
def open_sources(checkpoint: Checkpoint) -> Iterator[list[Input]]:
    """Open the streams of a checkpoint for reading; CheckpointError for a file that cannot be read or has changed."""
    with open_files(checkpoint) as files:
        if checkpoint.assembly is None:
            yield [*files]
        else:
            yield [*files, AssembledSource(files, checkpoint.assembly)]


@contextmanager
def open_files(checkpoint: Checkpoint) -> Iterator[list[Source]]:
    """Open the files of a checkpoint for reading; CheckpointError for one that cannot be read or has changed."""
    with ExitStack() as stack:
        sources = []
        for file in checkpoint.files:
            with read_errors(file.path):
                source = _opened(file)
            stack.callback(source.close)
            if len(checkpoint.files) <= KEPT_OPEN:
                source.keep_open()
            sources.append(source)
        yield sources


def _opened(file: CheckpointFile) -> Source:
    if file.inflated is None:
        return open_source(file.path, file.size, file.modified)
    if isinstance(file.path, RemotePath):
        from prunecli.remote.errors import local_only  # noqa: PLC0415 - few models are elsewhere

        raise local_only(str(file.path), "has compressed records")
    from prunecli.io.inflated import InflatedSource  # noqa: PLC0415 - few files are compressed

    return InflatedSource(file, file.inflated, default_threads())


def open_source(path: Path, size: int, modified: int | None = None) -> Source:
    """Open a file for reading, wherever it is; CheckpointError if it has another size or version than these."""
    if not isinstance(path, RemotePath):
        return Source(path, size, modified)
    from prunecli.io.remote import RemoteSource  # noqa: PLC0415 - few models are elsewhere

    return RemoteSource(path, size, modified)


class Reader:
    """Reads the tensors of one checkpoint from its open files."""

    def __init__(self, sources: Sequence[Input], advance: Callable[[int], None] = lambda _: None) -> None:
        """Read from `sources`; `advance` receives the number of bytes of each read."""
        self.sources, self._advance = sources, advance

    def read_range(self, worker: Worker, tensor: TensorInfo, low: int, high: int, *, slot: int = 0) -> Array:
        """Return the row-major elements [low, high) of any tensor, in the worker's buffer `slot`."""
        elements = self.read(worker, tensor, low, high, slot=slot)
        return elements if tensor.contiguous else elements[low:high]

    def read(self, worker: Worker, tensor: TensorInfo, low: int, high: int, *, slot: int = 0) -> Array:
        """Return the elements [low, high) of a contiguous tensor as flat native integers.

        All elements of a tensor that is not contiguous are returned, because its rows are spread over its bytes.
        """
        if not tensor.contiguous:
            return flat_native(self._whole_view(worker, tensor, slot), tensor)
        start, end = tensor.start + low * tensor.itemsize, tensor.start + high * tensor.itemsize
        data, offset = self._bytes(worker, tensor, start, end, slot)
        return flat_native(view_elements(data, tensor.start - offset, tensor, low, high), tensor)

    def _whole_view(self, worker: Worker, tensor: TensorInfo, slot: int) -> Array:
        """Read a tensor that is not contiguous, and return it as a view of the worker's buffer."""
        data, offset = self._bytes(worker, tensor, tensor.start, tensor.end, slot)
        return view_elements(data, tensor.start - offset, tensor, 0, tensor.numel)

    def _bytes(self, worker: Worker, tensor: TensorInfo, start: int, end: int, slot: int) -> tuple[memoryview, int]:
        """Read the bytes [start, end) of a file and those before them in their page; return them and their offset."""
        # From the start of a page: a copy out of the page cache to an aligned buffer is twice as fast.
        offset = start - start % PAGE
        view = worker.buffer(end - offset, slot)
        self.sources[tensor.file].read(view, offset)
        self._advance(end - start)
        return view, offset

    def range_reader(self, worker: Worker, tensor: TensorInfo) -> Read:
        """Return a function that reads the row-major elements [first, stop) of a tensor.

        The bytes of a tensor that is not contiguous are read now, and its elements are copied out of them in runs. It
        must be read before the worker reads another tensor.
        """
        if tensor.contiguous:
            return lambda first, stop: self.read(worker, tensor, first, stop)
        from prunecli.io.strided import gather  # noqa: PLC0415 - it needs NumPy

        view = self._whole_view(worker, tensor, 0)
        return lambda first, stop: gather(view, first, stop)

    def array_reader(self, worker: Worker, tensor: TensorInfo) -> Callable[[int, int], Array]:
        """Return a function like `range_reader`, for kernels that compute where the elements lie."""
        return self.range_reader(worker, tensor)

    def read_together(self, worker: Worker, tensors: Sequence[TensorInfo]) -> list[Array]:
        """Return all elements of contiguous tensors that lie near each other in a file, in this order."""
        first = tensors[0]
        data, offset = self._bytes(worker, first, first.start, tensors[-1].end, 0)
        return [flat_native(view_elements(data, t.start - offset, t, 0, t.numel), t) for t in tensors]

    def sample(self, tensor: TensorInfo, length: int, count: int) -> bytearray:
        """Return `count` blocks of `length` elements of the storage between a tensor's first and last element.

        In a tensor with gaps, a block may hold other elements too.
        """
        size, step = length * tensor.itemsize, (tensor.extent - length) // max(count - 1, 1)
        raw = bytearray(count * size)
        source, blocks = self.sources[tensor.file], memoryview(raw)
        for block in range(count):
            source.read(blocks[block * size : (block + 1) * size], tensor.start + block * step * tensor.itemsize)
        return raw

    def sample_limit(self, tensor: TensorInfo) -> int:  # noqa: ARG002 - for subclasses
        """Return the most elements of a sample of a group with this tensor."""
        return SAMPLE

    def on_device(self, tensor: TensorInfo) -> bool:  # noqa: ARG002 - for subclasses
        """Return whether a tensor lies on a device that computes with float64."""
        return False

    def device(self, tensor: TensorInfo) -> str:  # noqa: ARG002 - for subclasses
        """Return the device that a tensor lies on."""
        return "cpu"

    def advance(self, count: int) -> None:
        """Report that `count` bytes are read."""
        self._advance(count)

    def on_a_device(self, tensor: TensorInfo) -> Array | None:  # noqa: ARG002 - for subclasses
        """Return all elements of a tensor on a device, in any order; None if they lie elsewhere."""
        return None

    def run_size(self, tensor: TensorInfo) -> int:  # noqa: ARG002 - for subclasses
        """Return the bytes of a tensor that are read and computed at once."""
        return SCAN_BYTES


def view_elements(data: memoryview, offset: int, tensor: TensorInfo, low: int, high: int) -> Array:
    """Return a view of the elements [low, high) of `tensor` in `data`, where element 0 is at byte `offset`.

    The view holds integers of the tensor's width in the file's byte order: a memoryview if the elements are contiguous
    and in native order, else an array of NumPy's. A tensor that is not contiguous is always viewed whole, in its own
    shape and strides.
    """
    size = tensor.itemsize
    if tensor.contiguous and tensor.big_endian == (sys.byteorder == "big"):
        return data[offset + low * size : offset + high * size].cast(CODES[size])
    from prunecli.io.strided import strided_view  # noqa: PLC0415 - it needs NumPy

    return strided_view(data, offset, tensor, low, high)


def flat_native(view: Array, tensor: TensorInfo) -> Array:
    """Return a result of `view_elements` as flat, native and row-major integers: itself if it is, else a copy."""
    if isinstance(view, memoryview):
        return view
    from prunecli.io.strided import flattened  # noqa: PLC0415 - it needs NumPy

    return flattened(view, tensor)


def store_flat(flat: Array, view: Array) -> None:
    """Store a result of `flat_native` in the `view` that it was made from, unless both are the same array."""
    if flat is not view:
        view[...] = flat.reshape(view.shape)
