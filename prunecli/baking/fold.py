"""A pruned weight and its mask become one: every entry where the mask is zero is +0.0, all others keep their bits.

Works on patterns as integers, in runs; a tensor that is not contiguous is held whole. Knows nothing of formats.
"""

from __future__ import annotations

import os
import zlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from prunecli.baking.pairs import REMOVE, Folded
from prunecli.dtypes import FLOATS
from prunecli.errors import CheckpointError
from prunecli.io.files import write_all
from prunecli.io.reader import Reader, view_elements
from prunecli.io.threads import Pool, default_threads, results
from prunecli.kernels.bit_patterns import ones_and_zeros
from prunecli.kernels.ops import INTS
from prunecli.text.escape import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from prunecli.baking.pairs import Pair
    from prunecli.checkpoint import Checkpoint, Checksum, Span, TensorInfo
    from prunecli.io.files import Source
    from prunecli.io.parts import CopiedRanges, FilePlan
    from prunecli.io.threads import Worker

RUN = 1 << 18
"""Elements that are looked at in one step."""

_CHUNK = 1 << 20  # bytes of a checksum's step


@dataclass(frozen=True, slots=True)
class Target:
    """An output file that is open as `fd` and has all its parts, and where bytes of the input are in it."""

    fd: int
    plan: FilePlan
    where: CopiedRanges


def fold_all(
    checkpoint: Checkpoint,
    sources: Sequence[Source],
    pairs: Sequence[Pair],
    targets: Sequence[Target | None],
    advance: Callable[[int], None] = lambda _: None,
) -> tuple[Folded, ...]:
    """Fold `pairs` of `checkpoint`, whose files are open as `sources`, in its `targets`, and repair their checksums.

    A target of None is measured and not written; `advance` is told the bytes of weights and masks that were
    read. Raises CheckpointError where the bytes of a weight or a mask do not have their checksum, and where a mask
    holds other numbers than 0 and 1.
    """
    reader = Reader(sources, advance)
    groups: dict[tuple[int, Span], list[Pair]] = {}
    for pair in pairs:
        groups.setdefault((pair.orig.file, pair.orig.span), []).append(pair)
    read = dict.fromkeys((t.file, t.span) for pair in pairs for t in (pair.orig, pair.mask))
    known = [_by_span(file.checksums) for file in checkpoint.files]
    places = [{} if target is None else _by_span(target.plan.checksums) for target in targets]

    def fold_group(worker: Worker, file: int, span: Span, group: Sequence[Pair]) -> list[Folded]:
        folded = [_fold(worker, reader, pair, targets[file]) for pair in group]
        target = targets[file]
        if target is not None and span in places[file]:
            _repair(worker, target, places[file][span])
        return folded

    with Pool(default_threads(), None) as pool:
        results([pool.submit(_verify, sources[file], span, known[file]) for file, span in read])
        found = results([pool.submit(fold_group, *key, group) for key, group in groups.items()])
    by_name = {one.name: one for group in found for one in group}
    return tuple(by_name[pair.name] for pair in pairs)


# --- checksums


def _by_span(checksums: Sequence[Checksum]) -> dict[Span, Checksum]:
    return {checksum.span: checksum for checksum in checksums}


def _verify(worker: Worker, source: Source, span: Span, known: Mapping[Span, Checksum]) -> None:
    if span in known and _crc(worker, source.read, span.start, span.length) != known[span].value:
        raise CheckpointError(
            f"{printable(str(source.path))} is damaged: the checksum of the data from byte {span.start} on is wrong",
            hint="download or copy the file again",
        )


def _repair(worker: Worker, target: Target, checksum: Checksum) -> None:
    """Write the checksum of a storage anew, now that it has changed; its span is that of the input."""
    span = checksum.span

    def read(into: memoryview, at: int) -> None:
        _read_all(target.fd, into, at)

    value = _crc(worker, read, target.where(span.start, span.end), span.length)
    for place in checksum.places:
        write_all(target.fd, memoryview(value.to_bytes(4, "little")), place)


def _crc(worker: Worker, read: Callable[[memoryview, int], None], start: int, length: int) -> int:
    value = 0
    for at in range(start, start + length, _CHUNK):
        chunk = worker.buffer(min(_CHUNK, start + length - at))
        read(chunk, at)
        value = zlib.crc32(chunk, value)
    return value


def _read_all(fd: int, into: memoryview, at: int) -> None:
    done = 0
    while done < len(into):
        got = os.preadv(fd, [into[done:]], at + done)
        if got <= 0:
            raise CheckpointError("the output became shorter while it was written")
        done += got


# --- one weight


def _fold(worker: Worker, reader: Reader, pair: Pair, target: Target | None) -> Folded:
    name, orig, mask = pair.name, *_flattened(pair.orig, pair.mask)
    masked = zeros = 0
    whole = None
    if not mask.contiguous or not orig.contiguous:
        whole = _keep(worker, reader.read(worker, mask, 0, mask.numel), pair, 0)
    if not orig.contiguous and whole is not None:
        kept, zeros = int(whole.sum()), _fold_strided(worker, reader, orig, whole, target)
        return Folded(name, orig.dtype, pair.orig.shape, orig.numel, orig.numel - kept, zeros)
    for low in range(0, orig.numel, RUN):
        high = min(low + RUN, orig.numel)
        keep = _keep(worker, reader.read(worker, mask, low, high), pair, low) if whole is None else whole[low:high]
        weights = reader.read(worker, orig, low, high)
        np.multiply(weights, keep, out=weights)
        masked += high - low - int(keep.sum())
        zeros += _zeros(weights, orig)
        if target is not None:
            at = target.where(orig.start, orig.end) + low * orig.itemsize
            data = weights.astype(INTS[orig.itemsize].newbyteorder(">" if orig.big_endian else "<"), copy=False)
            write_all(target.fd, data.data.cast("B"), at)
    return Folded(name, orig.dtype, pair.orig.shape, orig.numel, masked, zeros)


def _flattened(orig: TensorInfo, mask: TensorInfo) -> tuple[TensorInfo, TensorInfo]:
    """Return both as one dimension where they fill their stretches of memory in the same order, as transposes do."""
    if orig.strides != mask.strides or orig.extent != orig.numel or mask.extent != mask.numel:
        return orig, mask
    return _flat(orig), _flat(mask)


def _flat(tensor: TensorInfo) -> TensorInfo:
    return replace(tensor, shape=(tensor.numel,), strides=(1,))


def _fold_strided(
    worker: Worker, reader: Reader, orig: TensorInfo, keep: NDArray[np.bool_], target: Target | None
) -> int:
    """Fold a weight with gaps between its numbers, which may be others' by now; return how many zeros it has."""
    memory = worker.buffer(orig.end - orig.start)
    at = orig.start if target is None else target.where(orig.start, orig.end)
    if target is None:
        reader.sources[orig.file].read(memory, at)
    else:
        _read_all(target.fd, memory, at)
    view = view_elements(memory, 0, orig, 0, orig.numel)
    np.multiply(view, keep.reshape(orig.shape), out=view)
    if target is not None:
        write_all(target.fd, memory, at)
    return _zeros(view, orig)


def _keep(worker: Worker, bits: NDArray[Any], pair: Pair, low: int) -> NDArray[np.bool_]:
    """Return True where the mask is one; `bits` are its elements from `low` on in row-major order."""
    keep, zeros = ones_and_zeros(worker.host, bits, FLOATS.get(pair.mask.dtype))
    known = keep | zeros
    if known.all():
        return keep
    first = int(np.argmin(known))
    index = [int(n) for n in np.unravel_index(low + first, pair.mask.shape)]
    raise CheckpointError(
        f"{printable(pair.mask.name)} holds {_value(int(bits[first]), pair.mask)} at {index}: "
        f"a mask holds 0 and 1 only",
        hint=REMOVE,
    )


def _value(bits: int, mask: TensorInfo) -> float:
    dtype = FLOATS.get(mask.dtype)
    if dtype is None:
        return bits if mask.dtype.startswith("I") else bits % (1 << 8 * mask.itemsize)
    magnitude = dtype.decode(bits & dtype.mask)
    return -magnitude if bits < 0 else magnitude


def _zeros(bits: NDArray[Any], tensor: TensorInfo) -> int:
    return int(bits.size - np.count_nonzero(_magnitudes(bits, tensor)))


def _magnitudes(bits: NDArray[Any], tensor: TensorInfo) -> NDArray[Any]:
    """Return `bits` without the sign; the fnuz formats have no -0.0, so there they stay as they are."""
    dtype = FLOATS.get(tensor.dtype)
    if dtype is None or dtype.negative_zero_is_nan:
        return bits
    magnitudes: NDArray[Any] = bits & np.array(dtype.mask, INTS[tensor.itemsize])
    return magnitudes
