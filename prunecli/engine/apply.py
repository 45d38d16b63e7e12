"""The second phase of a run: read each window of a file, prune it, measure it, compute checksums, and write it."""

from __future__ import annotations

from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING

from prunecli.engine.pruner import Pruner, naming
from prunecli.errors import CheckpointError
from prunecli.io.crc32 import combine, crc32
from prunecli.io.layout import Layout, Piece, TargetRange, UntouchedRange, Window
from prunecli.io.reader import flat_native, store_flat, view_elements
from prunecli.text.escape import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prunecli.checkpoint import CheckpointFile, Checksum, TensorInfo
    from prunecli.engine.pruner import ApplyContext
    from prunecli.io.files import Output
    from prunecli.io.threads import Worker
    from prunecli.kernels.ops import Array


STRIDED_RUN = 1 << 22
"""The bytes of a run of a tensor that is not contiguous."""

MANY_PIECES = 4
"""In a window with this many pieces or more, the pieces are small: see `Worker.computing`."""


@dataclass(frozen=True, slots=True)
class _Part:
    """The checksums of a part of a record, before and after."""

    start: int
    length: int
    before: int
    after: int


class Applier:
    """Applies the plans to the files of one checkpoint; `pruner` collects the measurements of each target."""

    def __init__(self, context: ApplyContext) -> None:
        """Start without results."""
        self.context = context
        self._by_file: dict[int, list[tuple[int, TensorInfo]]] = {}
        for index, tensor in enumerate(context.targets):
            if tensor.numel:
                self._by_file.setdefault(tensor.file, []).append((index, tensor))
        self.pruner = Pruner(context)
        self._parts: dict[tuple[int, int], list[_Part]] = {}
        self._lock = Lock()

    def layout(self, number: int, file: CheckpointFile, *, window: int) -> Layout:
        """Return the layout of file `number`: the ranges of its targets, and the records whose checksum changes."""
        ranges = [self._range(index, tensor) for index, tensor in self._by_file.get(number, ())]
        # A record of which a byte changes is read whole, because its checksum covers all of its bytes.
        return Layout(file.size, ranges, [c.span for c in self.changed_checksums(number, file)], window=window)

    def _range(self, index: int, tensor: TensorInfo) -> TargetRange:
        def reach(first: int, stop: int) -> tuple[int, int]:
            # A plan that is missing when windows are laid out is made from numbers, and decides each weight alone.
            plan = self.context.plans.get(index)
            if plan is None or not tensor.contiguous:
                return first, stop
            return plan.reach(tensor.shape, first, stop)

        return TargetRange(tensor.start, tensor.end, index, tensor.itemsize, not tensor.contiguous, reach)

    def changed_checksums(self, number: int, file: CheckpointFile) -> list[Checksum]:
        """Return the checksums over bytes of a target of file `number`."""
        if not file.checksums:
            return []
        storages = {tensor.span for _, tensor in self._by_file.get(number, ())}
        return [checksum for checksum in file.checksums if checksum.span in storages]

    def copy(self, number: int, sink: Output | None, part: UntouchedRange) -> None:
        """Copy an untouched range of file `number`."""
        if sink is not None:
            sink.copy(self.context.sources[number], part.start, part.end)
        self.context.advance(number, part.end - part.start)

    def apply(
        self, worker: Worker, number: int, sink: Output | None, window: Window, checksums: Sequence[Checksum]
    ) -> None:
        """Read a window of file `number`, prune its pieces, and write it; `checksums` overlap the window."""
        view = worker.buffer(window.read_end - window.read_start)
        self.context.sources[number].read(view, window.read_start)
        own = view[window.start - window.read_start : window.end - window.read_start]
        parts = [(checksum, _overlap(window, checksum)) for checksum in checksums]
        # Computed now, because the pieces are pruned in place.
        before = [crc32(own[low:high]) for _, (low, high) in parts]
        with worker.computing(small=not self.context.scorers and len(window.pieces) >= MANY_PIECES):
            for piece in window.pieces:
                self._apply_piece(worker, view, window, piece)
        worker.wait()
        for (checksum, (low, high)), old in zip(parts, before, strict=True):
            part = _Part(window.start + low, high - low, old, crc32(own[low:high]))
            with self._lock:
                self._parts.setdefault((number, checksum.span.start), []).append(part)
        if sink is not None:
            sink.write(own, window.start)
        self.context.advance(number, len(own))

    def _apply_piece(self, worker: Worker, view: memoryview, window: Window, piece: Piece) -> None:
        tensor = self.context.targets[piece.target]
        with naming(tensor):
            elements = view_elements(view, tensor.start - window.read_start, tensor, piece.low, piece.high)
            if tensor.contiguous:
                flat = flat_native(elements, tensor)
                self.pruner.prune(
                    worker, flat, piece, piece.low, slice(piece.first - piece.low, piece.stop - piece.low)
                )
                store_flat(flat, elements)
            else:
                self._prune_strided(worker, elements, piece.target)

    def _prune_strided(self, worker: Worker, view: Array, target: int) -> None:
        """Prune a whole tensor that is not contiguous, in runs that are copied out of its `view` and back."""
        from prunecli.io.strided import gather, scatter  # noqa: PLC0415 - it needs NumPy

        for run in self.pruner.runs(target, STRIDED_RUN):
            flat = gather(view, run.first, run.stop)
            self.pruner.prune(worker, flat, run, run.first, slice(0, flat.size))
            scatter(flat, view, run.first)

    def write_checksums(self, number: int, file: CheckpointFile, sink: Output | None) -> None:
        """Verify the old checksums of the records that changed, and write the new ones to `sink`, if there is one.

        Raises CheckpointError if a checksum of the input does not match its bytes.
        """
        for checksum in self.changed_checksums(number, file):
            before, after = _combined(self._parts[number, checksum.span.start])
            if before != checksum.value:
                raise CheckpointError(
                    f"{printable(str(file.path))} is damaged: the {checksum.span.length} bytes at offset "
                    f"{checksum.span.start} have the CRC-32 {before:08x}, and the file says {checksum.value:08x}",
                    hint="get a fresh copy; `unzip -t` names the damaged record",
                )
            if sink is not None:
                for place in checksum.places:
                    sink.write(memoryview(after.to_bytes(4, "little")), place)


def _overlap(window: Window, checksum: Checksum) -> tuple[int, int]:
    low = max(window.start, checksum.span.start) - window.start
    high = min(window.end, checksum.span.end) - window.start
    return low, high


def _combined(parts: Sequence[_Part]) -> tuple[int, int]:
    """Return the checksums before and after of parts that together cover a record."""
    before = after = 0
    for part in sorted(parts, key=lambda p: p.start):
        before = combine(before, part.before, part.length)
        after = combine(after, part.after, part.length)
    return before, after
