"""The second phase of a run: read each window of a file, prune it, measure it, compute checksums, and write it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prunecli.engine.pruner import Pruner, naming
from prunecli.engine.records import ChunkRecords, FileRecords, Records
from prunecli.engine.whole_tensors import WholeTensors
from prunecli.errors import CheckpointError
from prunecli.io.assembled import AssembledSource
from prunecli.io.crc32 import crc32
from prunecli.io.layout import COPY_MIN, Around, Layout, Piece, TargetRange, UntouchedRange, Window
from prunecli.io.reader import flat_native, store_flat, view_elements
from prunecli.text.escape import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from prunecli.checkpoint import Checkpoint, CheckpointFile, Checksum, Span, TensorInfo
    from prunecli.engine.pruner import ApplyContext
    from prunecli.io.files import Input, Output
    from prunecli.io.threads import Pool, Worker
    from prunecli.kernels.ops import Array


STRIDED_RUN = 1 << 22
"""The bytes of a run of a tensor that is not contiguous."""

MANY_PIECES = 4
"""In a window with this many pieces or more, the pieces are small: see `Worker.computing`."""


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
        self._whole = WholeTensors(self.pruner)
        self._records: list[Records] = []

    def layouts(
        self, pool: Pool, checkpoint: Checkpoint, sinks: Sequence[Output | None], *, window: int
    ) -> list[Iterable[Window | UntouchedRange]]:
        """Return the layout of each stream: its targets, the records whose checksum changes, and what `sinks` need."""
        if checkpoint.assembly is not None:
            return self._assembled(pool, checkpoint.files, self.context.sources[-1], sinks[-1], window)
        layouts: list[Iterable[Window | UntouchedRange]] = []
        for number, file in enumerate(checkpoint.files):
            records, own = FileRecords(number, self._changed_checksums(number, file)), self.context.part.has
            ranges = [_range(index, tensor) for index, tensor in self._by_file.get(number, ()) if own(index)]
            start, end = self.context.part.share.ranges[number]
            # A record of which a byte changes is read whole, because its checksum covers all of its bytes.
            spans = records.spans_in(start, end)
            layouts.append(self._layout(end, ranges, spans, sinks[number], window, start=start))
            self._records.append(records)
        return layouts

    def _assembled(
        self, pool: Pool, files: Sequence[CheckpointFile], source: Input, sink: Output | None, window: int
    ) -> list[Iterable[Window | UntouchedRange]]:
        """Return the layouts of files, of which all is copied but the chunks of targets, and that of the stream."""
        if not isinstance(source, AssembledSource):
            raise TypeError
        targets = self._by_file.get(len(files), [])
        records = ChunkRecords(source, [(tensor.start, tensor.end) for _, tensor in targets])
        records.locate(pool)
        self._records = [FileRecords(number, ()) for number in range(len(files))] + [records]
        ranges = [_range(index, tensor) for index, tensor in targets]
        # The bytes between targets are copied with the files.
        windows = self._layout(source.assembly.size, ranges, (), sink, window, gap=0).windows()
        spans = records.spans_by_file(len(files))
        return [*(Around(file.size, own) for file, own in zip(files, spans, strict=True)), windows]

    def _layout(
        self,
        size: int,
        ranges: Sequence[TargetRange],
        spans: Sequence[Span],
        sink: Output | None,
        window: int,
        gap: int = COPY_MIN,
        start: int = 0,
    ) -> Layout:
        """Return the layout of a stream: the `ranges` of its targets, `spans` of checksums, and what `sink` needs."""
        reads = [(span.start, span.end) for span in spans]
        own, wholes = ((), ()) if sink is None else (sink.reads, sink.wholes)
        return Layout(size, ranges, [*reads, *own], wholes, reach=self._reach, window=window, gap=gap, start=start)

    def _reach(self, target: int, first: int, stop: int) -> tuple[int, int]:
        """Return the elements of a target that are read to decide about [first, stop)."""
        # A plan that is missing when windows are laid out is made from numbers, and decides each weight alone.
        tensor, plan = self.context.targets[target], self.context.plans.get(target)
        if plan is None or not tensor.contiguous:
            return first, stop
        return plan.reach(tensor.shape, first, stop)

    def _changed_checksums(self, number: int, file: CheckpointFile) -> list[Checksum]:
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

    def apply(self, worker: Worker, number: int, sink: Output | None, window: Window) -> None:
        """Read a window of stream `number`, prune its pieces, and write it."""
        view = worker.buffer(window.read_end - window.read_start)
        self.context.sources[number].read(view, window.read_start)
        own, records = view[window.start - window.read_start : window.end - window.read_start], self._records[number]
        # Computed now, because the pieces are pruned in place.
        before = [crc32(part.data) for part in records.parts(own, window)]
        with worker.computing(small=not self.context.scorers and len(window.pieces) >= MANY_PIECES):
            for piece in self._whole.prune(worker, view, window):
                self._apply_piece(worker, view, window, piece)
        worker.wait()
        for part, old in zip(records.parts(own, window), before, strict=True):
            records.add(part, old, crc32(part.data))
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

    def share_checksums(self) -> None:
        """Combine the checksums of parts of records with those that other processes have computed."""
        from prunecli.engine.exchange import gathered_checksums  # noqa: PLC0415 - for several processes only

        own = [(stream, *sums) for stream, records in enumerate(self._records) for sums in records.own_sums()]
        for records in self._records:
            records.forget()
        for stream, number, *part in gathered_checksums(self.context.part.group, own):
            self._records[stream].add_sums(number, *part)

    def write_checksums(self, files: Sequence[CheckpointFile], sinks: Sequence[Output | None]) -> None:
        """Verify the old checksums of the records that changed, and write the new ones to `sinks`, where there are any.

        Raises CheckpointError if a checksum of the input does not match its bytes.
        """
        for records in self._records:
            for record, before, after in records.sums():
                if before != record.crc:
                    raise CheckpointError(
                        f"{printable(str(files[record.file].path))} is damaged: the {record.length} bytes at offset "
                        f"{record.start} have the CRC-32 {before:08x}, and the file says {record.crc:08x}",
                        hint="get a fresh copy; `unzip -t` names the damaged record",
                    )
                share = self.context.part.share
                if (sink := sinks[record.file]) is not None:
                    for place in (place for place in record.places if share.has(record.file, place)):
                        sink.write(memoryview(after.to_bytes(4, "little")), place)


def _range(index: int, tensor: TensorInfo) -> TargetRange:
    start, size, contiguous = tensor.start, tensor.itemsize, tensor.contiguous
    return TargetRange(start, start + tensor.extent * size, index, size, not contiguous)
