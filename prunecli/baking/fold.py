"""Multiply weights by their masks in the output files: +0.0 where the mask is 0, the same bits where it is 1.

Values are compared as integers, in chunks; a tensor that is not contiguous is read whole. No function here knows a
file format.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from prunecli.checkpoint import row_major
from prunecli.dtypes import FLOATS
from prunecli.errors import CheckpointError
from prunecli.io.crc32 import crc32
from prunecli.io.reader import Reader, view_elements
from prunecli.io.threads import Pool, default_threads, results
from prunecli.io.transfer import read_all, write_all
from prunecli.kernels.arrays import INTS, as_array
from prunecli.kernels.masks import fold_mask, read_mask
from prunecli.layouts.reparametrized import REMOVE
from prunecli.text.escape import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from prunecli.baking.pairs import Pair
    from prunecli.checkpoint import Checkpoint, Checksum, Span, TensorInfo
    from prunecli.io.descriptors import Descriptor
    from prunecli.io.files import Source
    from prunecli.io.parts import CopiedRanges, FilePlan
    from prunecli.io.threads import Worker

RUN = 1 << 18
"""The number of elements that are folded in one step."""

_CHUNK = 1 << 20  # bytes of one step of a checksum


@dataclass(frozen=True, slots=True)
class FoldedWeight:
    """A folded weight: of its `numel` entries, `masked` are 0 in the mask and `zeros` are zero in the result."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    numel: int
    masked: int
    zeros: int

    @property
    def sparsity(self) -> float:
        """The fraction of entries that are zero (0-1); 0 for an empty weight."""
        return self.zeros / self.numel if self.numel else 0.0


@dataclass(frozen=True, slots=True)
class Output:
    """An output `file`, written according to `plan`; `offset_of` maps ranges of the input to offsets."""

    file: Descriptor
    plan: FilePlan
    offset_of: CopiedRanges

    def read(self, into: memoryview, offset: int) -> None:
        """Fill `into` from the byte `offset` of the output on."""
        with self.file.opened() as fd:
            if read_all(fd, into, offset) < len(into):
                raise CheckpointError("the output became shorter while it was written")

    def write(self, data: memoryview, offset: int) -> None:
        """Write all of `data` at the byte `offset` of the output."""
        with self.file.opened() as fd:
            write_all(fd, data, offset)


def fold_all(
    checkpoint: Checkpoint,
    sources: Sequence[Source],
    pairs: Sequence[Pair],
    outputs: Sequence[Output | None],
    advance: Callable[[int], None],
) -> tuple[FoldedWeight, ...]:
    """Fold `pairs` of `checkpoint` in its output files and update their checksums.

    `sources` are the open input files. Where the output is None, the result is measured and not written. `advance`
    receives the number of bytes of weights and masks after each read. Raises CheckpointError if the checksum of a
    weight or a mask is wrong, and if a mask has other values than 0 and 1.
    """
    reader = Reader(sources, advance)
    groups: dict[tuple[int, Span], list[Pair]] = {}
    for pair in pairs:
        groups.setdefault((pair.orig.file, pair.orig.span), []).append(pair)
    spans = dict.fromkeys((tensor.file, tensor.span) for pair in pairs for tensor in (pair.orig, pair.mask))
    old = [_by_span(file.checksums) for file in checkpoint.files]
    new = [{} if output is None else _by_span(output.plan.checksums) for output in outputs]

    def fold_storage(worker: Worker, file: int, span: Span, group: Sequence[Pair]) -> list[FoldedWeight]:
        output = outputs[file]
        folded = [_fold(worker, reader, pair, output) for pair in group]
        if output is not None and span in new[file]:
            _update_checksum(worker, output, new[file][span])
        return folded

    with Pool(default_threads(), None) as pool:
        results([pool.submit(_verify, sources[file], span, old[file]) for file, span in spans])
        folded = results([pool.submit(fold_storage, *key, group) for key, group in groups.items()])
    by_name = {weight.name: weight for group in folded for weight in group}
    return tuple(by_name[pair.name] for pair in pairs)


# --- checksums


def _by_span(checksums: Sequence[Checksum]) -> dict[Span, Checksum]:
    return {checksum.span: checksum for checksum in checksums}


def _verify(worker: Worker, source: Source, span: Span, checksums: Mapping[Span, Checksum]) -> None:
    if span in checksums and _crc(worker, source.read, span.start, span.length) != checksums[span].value:
        raise CheckpointError(
            f"{printable(str(source.path))} is damaged: the {span.length:,} bytes at offset {span.start:,} do not have "
            "their checksum",
            hint="download or copy the file again",
        )


def _update_checksum(worker: Worker, output: Output, checksum: Checksum) -> None:
    span = checksum.span
    value = _crc(worker, output.read, output.offset_of(span.start, span.end), span.length)
    for place in checksum.places:
        output.write(memoryview(value.to_bytes(4, "little")), place)


def _crc(worker: Worker, read: Callable[[memoryview, int], None], start: int, length: int) -> int:
    value = 0
    for offset in range(start, start + length, _CHUNK):
        chunk = worker.buffer(min(_CHUNK, start + length - offset))
        read(chunk, offset)
        value = crc32(chunk, value)
    return value


# --- one weight


def _fold(worker: Worker, reader: Reader, pair: Pair, output: Output | None) -> FoldedWeight:
    orig, mask = _flattened(pair.orig, pair.mask)
    keep = partial(_keep, worker, _in_reading_order(pair.mask, mask))
    if not orig.contiguous:
        kept = keep(_read(worker, reader, mask, 0, mask.numel), 0)
        masked, zeros = _fold_strided(worker, reader, orig, kept, output)
        return FoldedWeight(pair.name, orig.dtype, pair.orig.shape, orig.numel, masked, zeros)
    masked = zeros = 0
    whole = None if mask.contiguous else keep(_read(worker, reader, mask, 0, mask.numel), 0)
    for low in range(0, orig.numel, RUN):
        high = min(low + RUN, orig.numel)
        kept = keep(_read(worker, reader, mask, low, high), low) if whole is None else whole[low:high]
        weights = _read(worker, reader, orig, low, high)
        found = fold_mask(weights, FLOATS.get(orig.dtype), kept)
        masked, zeros = masked + found[0], zeros + found[1]
        if output is not None:
            offset = output.offset_of(orig.start, orig.end) + low * orig.itemsize
            data = weights.astype(INTS[orig.itemsize].newbyteorder(">" if orig.big_endian else "<"), copy=False)
            output.write(data.data.cast("B"), offset)
    return FoldedWeight(pair.name, orig.dtype, pair.orig.shape, orig.numel, masked, zeros)


def _read(worker: Worker, reader: Reader, tensor: TensorInfo, low: int, high: int) -> NDArray[Any]:
    return as_array(reader.read(worker, tensor, low, high))


def _flattened(orig: TensorInfo, mask: TensorInfo) -> tuple[TensorInfo, TensorInfo]:
    """Return both with one dimension if their elements have the same order in memory, as those of transposes do."""
    if orig.strides != mask.strides or orig.extent != orig.numel or mask.extent != mask.numel:
        return orig, mask
    return _flat(orig), _flat(mask)


def _flat(tensor: TensorInfo) -> TensorInfo:
    return replace(tensor, shape=(tensor.numel,), strides=(1,))


def _in_reading_order(mask: TensorInfo, read: TensorInfo) -> TensorInfo:
    """Return `mask` with the strides of its elements in the order of reading: in memory if `read` is flattened."""
    return mask if read.shape != mask.shape else replace(mask, strides=row_major(mask.shape))


def _fold_strided(
    worker: Worker, reader: Reader, orig: TensorInfo, keep: NDArray[np.uint8], output: Output | None
) -> tuple[int, int]:
    """Fold a weight with gaps between its elements. Return the number of zeros in its mask and in the result.

    The bytes are read from the output, because other weights in the gaps may be folded already.
    """
    memory = worker.buffer(orig.end - orig.start)
    if output is None:
        reader.sources[orig.file].read(memory, orig.start)
    else:
        output.read(memory, output.offset_of(orig.start, orig.end))
    view = as_array(view_elements(memory, 0, orig, 0, orig.numel))
    flat = view.astype(INTS[orig.itemsize]).reshape(-1)  # a copy, in native byte order
    zeros = fold_mask(flat, FLOATS.get(orig.dtype), keep)
    view[...] = flat.reshape(view.shape)
    if output is not None:
        output.write(memory, output.offset_of(orig.start, orig.end))
    return zeros


def _keep(worker: Worker, mask: TensorInfo, bits: NDArray[Any], low: int) -> NDArray[np.uint8]:
    """Return the mask; `bits` are its elements from number `low` on, in the order of its strides."""
    keep, first = read_mask(worker.host, bits, FLOATS.get(mask.dtype))
    if first < 0:
        return keep
    index = [(low + first) // stride % size for size, stride in zip(mask.shape, mask.strides, strict=True)]
    raise CheckpointError(
        f"{printable(mask.name)} has the value {_value(int(bits[first]), mask)} at {index}: "
        "a mask has only the values 0 and 1",
        hint=REMOVE,
    )


def _value(bits: int, mask: TensorInfo) -> float:
    dtype = FLOATS.get(mask.dtype)
    if dtype is None:
        return bits if mask.dtype.startswith("I") else bits % (1 << 8 * mask.itemsize)
    magnitude = dtype.decode(bits & dtype.mask)
    return -magnitude if bits < 0 else magnitude
