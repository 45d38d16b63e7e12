"""The output files of a run of several processes: rank 0 makes and publishes them, and all processes write to them."""

from __future__ import annotations

import json
import os
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from prunecli.formats.safetensors.mask_writer import MaskSink
from prunecli.io.output_files import output_files
from prunecli.io.publish import new_file
from prunecli.io.shared_output import SharedSink, joined

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from prunecli.engine.part import Part
    from prunecli.engine.run import Run
    from prunecli.formats.safetensors.mask_writer import MaskLayout
    from prunecli.io.files import Source


@contextmanager
def shared_sinks(
    run: Run, sources: Sequence[Source], output: Path, *, force: bool, direct: bool
) -> Iterator[list[SharedSink]]:
    """Open one sink per file; rank 0 publishes all files when its block ends without an error."""
    part, checkpoint = run.part, run.checkpoint
    sizes = [file.size for file in checkpoint.files]
    with ExitStack() as stack:
        draft = _Draft(part)
        if part.group.rank == 0:
            files = output_files(checkpoint, sources, output, sizes, force=force, announce=draft.announce)
            stack.enter_context(files)
        paths = [draft.path()]
        if checkpoint.is_directory:
            paths = [paths[0] / file.path.relative_to(checkpoint.path) for file in checkpoint.files]
        stack.enter_context(joined(paths, output, sum(sizes)))
        ranges = zip(*(share.ranges for share in part.shares), strict=True)
        sinks = [SharedSink(path, own, part.group.rank, direct=direct) for path, own in zip(paths, ranges, strict=True)]
        for sink in sinks:
            stack.callback(sink.close)
        yield sinks


@contextmanager
def shared_mask(run: Run, layout: MaskLayout, path: Path, *, force: bool) -> Iterator[MaskSink]:
    """Open the mask; rank 0 publishes it when its block ends without an error."""
    group = run.part.group
    with ExitStack() as stack:
        draft = _Draft(run.part)
        if group.rank == 0:
            stack.enter_context(new_file(path, size=layout.size, force=force, announce=draft.announce))
        stack.enter_context(joined([draft.path()], path, layout.size))
        sink = SharedSink(draft.path(), _mask_ranges(run, layout), group.rank, direct=False)
        stack.callback(sink.close)
        yield SharedMask(sink, layout, run)


def _mask_ranges(run: Run, layout: MaskLayout) -> list[tuple[int, int]]:
    """Return the bytes of each process in the mask."""
    ranges: list[tuple[int, int]] = []
    end = layout.size
    for share in reversed(run.part.shares):
        own = [start for start, tensor in zip(layout.starts, run.targets, strict=True) if share.owns(tensor)]
        start = min(own, default=end) if share.rank else 0
        ranges.insert(0, (start, end))
        end = start
    return ranges


class SharedMask(MaskSink):
    """Writes the masks of the targets of one process."""

    def __init__(self, output: SharedSink, layout: MaskLayout, run: Run) -> None:
        """Write to a file that rank 0 has made as large as the mask."""
        self.output, self._layout, self._lock, self._run = output, layout, Lock(), run

    def finish(self, digests: Mapping[str, str]) -> None:
        """Write the header with the SHA-256 of the weights by name, each from the process that has read them."""
        part, targets = self._run.part, self._run.targets
        own = {tensor.name: digests[tensor.name] for index, tensor in enumerate(targets) if part.has(index)}
        every: dict[str, str] = {}
        for sent in part.group.gather(json.dumps(own).encode()):
            every |= json.loads(sent)
        if part.group.rank == 0:
            super().finish(every)

    def _get(self, data: memoryview, offset: int) -> None:
        self.output.read(data, offset)

    def _put(self, data: memoryview, offset: int) -> None:
        self.output.write(data, offset)


class _Draft:
    """The path of a hidden file or directory, which rank 0 makes."""

    def __init__(self, part: Part) -> None:
        self._group, self._path = part.group, b""
        self._known = False

    def announce(self, path: Path) -> None:
        """Send the path to the other processes; rank 0 calls this."""
        self._path, self._known = self._group.broadcast(os.fsencode(path.absolute())), True

    def path(self) -> Path:
        """Return the path, after waiting for rank 0."""
        if not self._known:
            self._path, self._known = self._group.broadcast(b""), True
        return Path(os.fsdecode(self._path))
