"""Pruning a checkpoint from file to file: plan, apply, publish, and report what was measured.

Plans and applies overlap: while one batch of tensors is written, the next one is counted.
"""

from __future__ import annotations

import hashlib
import os
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from prunecli import __version__
from prunecli.applying import Applier, overlapping
from prunecli.errors import CheckpointError
from prunecli.output import new_directory, new_file
from prunecli.planning import Planner
from prunecli.plans import Cut
from prunecli.reading import opened
from prunecli.report import Report, Row, facts_about, warnings_for
from prunecli.splice import Sink, Source, Untouched
from prunecli.workers import Pool, Tasks, default_threads

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from prunecli.measure import Tally
    from prunecli.plans import Local
    from prunecli.selection import Selection
    from prunecli.splice import Layout, Window
    from prunecli.strategies import Strategy
    from prunecli.tensors import Checkpoint, CheckpointFile, Checksum, TensorInfo
    from prunecli.workers import Worker

HOST_WINDOW = 1 << 20
"""Bytes of a window on the CPU: read, pruned and written while they are in its caches."""

DEVICE_WINDOW = 1 << 26
"""Bytes of a window on a device: enough to hide what a transfer costs to begin."""

DIRECT_SHARE = 32
"""Outputs larger than this fraction of the memory are written around the page cache."""

BURST = 4
"""Windows that a thread is handed at once."""


class Progress(Protocol):
    """Somebody who wants to know how far the work is, from any thread."""

    def begin(self, total: int) -> None:
        """`total` bytes are going to be read or copied."""

    def advance(self, count: int) -> None:
        """`count` bytes more are done."""


class Quiet:
    """Nobody wants to know."""

    def begin(self, total: int) -> None:
        """Ignore it."""

    def advance(self, count: int) -> None:
        """Ignore it."""


@dataclass(frozen=True, slots=True)
class Options:
    """How to work, as opposed to what to do.

    `device` is a torch device, or None for NumPy on the CPU; `threads` 0 means as many as help; `window` bytes are
    worked on at once (0: what suits the device); `direct` writes around the page cache (None: if the output is
    large). `strict` refuses weights that are not finite, `sha256` reads input and output again for the report.
    """

    device: str | None = None
    threads: int = 0
    window: int = 0
    direct: bool | None = None
    strict: bool = False
    sha256: bool = False
    force: bool = False
    command: tuple[str, ...] = ()
    progress: Progress = field(default_factory=Quiet)


def prune_files(
    checkpoint: Checkpoint, selection: Selection, strategy: Strategy, output: Path | int | None, options: Options
) -> Report:
    """Write `checkpoint` to `output` with the selected weights pruned; with `output` None only measure.

    `output` is a path, or an open and seekable file descriptor, which is left open and not flushed.

    The output appears whole or not at all. Raises PruneError for a damaged or changing input, a strategy that
    does not fit a tensor, and an output that cannot be written.
    """
    began = time.monotonic()
    run = _Run(checkpoint, selection, strategy, options)
    with opened(checkpoint) as sources:
        if output is None:
            run.execute(sources, [None] * len(sources))
        else:
            with _sinks(checkpoint, sources, output, options) as sinks:
                run.execute(sources, list(sinks))
    return run.report(output, time.monotonic() - began)


@contextmanager
def _sinks(
    checkpoint: Checkpoint, sources: Sequence[Source], output: Path | int, options: Options
) -> Iterator[list[Sink]]:
    """Give an open sink per file; they are published together when the block ends well."""
    if isinstance(output, int):
        os.ftruncate(output, sources[0].size)
        yield [Sink(output, direct=False)]
        return
    direct = _is_large(sum(s.size for s in sources)) if options.direct is None else options.direct
    with ExitStack() as stack:
        folder = None
        if checkpoint.is_directory:
            mode = checkpoint.path.stat().st_mode
            folder = stack.enter_context(new_directory(output, mode=mode, force=options.force))
            _copy_companions(checkpoint, folder)
        sinks = []
        for file, source in zip(checkpoint.files, sources, strict=True):
            target = output if folder is None else folder / file.path.relative_to(checkpoint.path)
            force = options.force and folder is None
            mode = os.fstat(source.fd).st_mode
            draft = stack.enter_context(new_file(target, size=file.size, mode=mode, force=force))
            sink = Sink(draft.fd, direct=direct)
            stack.callback(sink.close)
            sinks.append(sink)
        yield sinks


def _copy_companions(checkpoint: Checkpoint, folder: Path) -> None:
    """Copy the directory's other files, such as the index, the configuration and the tokenizer."""
    for relative in checkpoint.companions:
        path, target = checkpoint.path / relative, folder / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        source = Source(path, path.stat().st_size)
        try:
            with new_file(target, size=source.size, mode=path.stat().st_mode) as draft:
                Sink(draft.fd, direct=False).copy(source, 0, source.size)
            source.check_unchanged()
        finally:
            source.close()


class _Run:
    """One run from plan to report."""

    def __init__(self, checkpoint: Checkpoint, selection: Selection, strategy: Strategy, options: Options) -> None:
        self.checkpoint, self.selection, self.strategy, self.options = checkpoint, selection, strategy, options
        self.targets = [target.tensor for target in selection.targets]
        self.threads = options.threads or default_threads()
        self.window = options.window or (DEVICE_WINDOW if options.device else HOST_WINDOW)
        self.plans: dict[int, Local] = {}
        self.tallies: dict[int, Tally] = {}
        self.digests: tuple[str | None, ...] = (None, None)

    def execute(self, sources: Sequence[Source], sinks: Sequence[Sink | None]) -> None:
        """Plan and apply; the sinks' files are complete when this returns."""
        advance = self.options.progress.advance
        planner = Planner(self.strategy, self.targets, sources, advance)
        batches = planner.batches()
        read = sum(t.nbytes for t in self.targets) if planner.reads else 0
        self.options.progress.begin(read + sum(file.size for file in self.checkpoint.files))
        with Pool(self.threads, self.options.device) as pool:
            applier = Applier(self.targets, planner.plans, sources, pool.stopped, advance)
            work = _Work(self, pool, applier, sources, sinks)
            if batches:
                planner.start(pool, batches[0])
            for at, batch in enumerate(batches):
                planner.finish(pool, batch)
                if at + 1 < len(batches):
                    planner.start(pool, batches[at + 1])
                work.go_on()
            work.go_on()
            work.wait()
        for at, (file, sink) in enumerate(zip(self.checkpoint.files, sinks, strict=True)):
            applier.repair(at, file, None if sink is None else sink.fd)
        self.plans, self.tallies = planner.plans, applier.tallies()
        if self.options.sha256 and not self.checkpoint.is_directory:
            files = (sources[0].fd, None if sinks[0] is None else sinks[0].fd)
            self.digests = tuple(None if fd is None else _digest(fd, sources[0].size) for fd in files)
        for source in sources:
            source.check_unchanged()
        if self.options.strict:
            self._refuse_nonfinite()

    def _refuse_nonfinite(self) -> None:
        for at, tally in self.tallies.items():
            if count := tally.facts().nonfinite:
                raise CheckpointError(
                    f"{self.targets[at].name!r} has {count} weights that are not finite, and --strict refuses them",
                    hint=f"-x '{self.targets[at].name}' leaves the tensor out",
                )

    def report(self, output: Path | int | None, seconds: float) -> Report:
        """Say what was done."""
        checkpoint = self.checkpoint
        rows = tuple(self._rows())
        size = sum(file.size for file in checkpoint.files)
        return Report(
            rows=rows,
            strategy=self.strategy.describe(),
            input_path=str(checkpoint.path),
            format=checkpoint.format,
            input_bytes=size,
            version=__version__,
            output_path=None if output is None else "-" if isinstance(output, int) else str(output),
            output_bytes=None if output is None else size,
            input_sha256=self.digests[0],
            output_sha256=self.digests[1],
            key=checkpoint.key,
            device=self.options.device or "cpu",
            seconds=round(seconds, 3),
            command=self.options.command,
            dry_run=output is None,
            warnings=warnings_for(rows),
            facts=(*checkpoint.facts, *facts_about(checkpoint.others)),
        )

    def _rows(self) -> Iterator[Row]:
        """Yield a row per tensor, in checkpoint order."""
        place = {tensor.name: at for at, tensor in enumerate(self.checkpoint.tensors)}
        rows = [self._target_row(at) for at in range(len(self.targets))]
        rows += [_skipped_row(s.tensor, self._file(s.tensor), s.reason) for s in self.selection.skipped]
        yield from sorted(rows, key=lambda row: place[row.name])

    def _file(self, tensor: TensorInfo) -> str:
        if not self.checkpoint.is_directory:
            return ""
        return self.checkpoint.files[tensor.file].path.relative_to(self.checkpoint.path).as_posix()

    def _target_row(self, at: int) -> Row:
        tensor, plan, facts = self.targets[at], self.plans[at], self.tallies[at].facts()
        cut = plan if isinstance(plan, Cut) else Cut(0)
        return Row(
            name=tensor.name,
            dtype=tensor.dtype,
            shape=tensor.shape,
            numel=tensor.numel,
            file=self._file(tensor),
            zeros_before=facts.zeros_before,
            zeros_after=facts.zeros_after,
            pruned=facts.zeros_after - facts.zeros_before,
            rule=self.strategy.rule(tensor),
            cut=plan.value,
            ties=cut.equal,
            ties_pruned=cut.equal_pruned,
            l2_kept=None if facts.l2_kept is None else round(facts.l2_kept, 6),
            largest_pruned=facts.largest_pruned,
            smallest_kept=facts.smallest_kept,
            zero_rows=facts.zero_rows,
            zero_cols=facts.zero_cols,
            two_four=facts.two_four,
            nonfinite=facts.nonfinite,
            aliases=self.selection.targets[at].aliases,
        )


class _Work:
    """The windows of all files, handed out in order as far as the plans reach."""

    def __init__(
        self, run: _Run, pool: Pool, applier: Applier, sources: Sequence[Source], sinks: Sequence[Sink | None]
    ) -> None:
        self.applier, self.sources, self.sinks = applier, sources, sinks
        self.files: list[tuple[CheckpointFile, Layout, list[Checksum]]] = [
            (file, applier.layout(at, file, window=run.window), sorted(applier.touched(at, file), key=_start))
            for at, file in enumerate(run.checkpoint.files)
        ]
        self.tasks = Tasks(pool)
        self._parts = self._all_parts()
        self._held: tuple[int, Window | Untouched] | None = None

    def _all_parts(self) -> Iterator[tuple[int, Window | Untouched]]:
        """Yield the parts of all files in order; long untouched ranges in steps, so that an interrupt is heard."""
        for at, (_, layout, _) in enumerate(self.files):
            for part in layout:
                if isinstance(part, Untouched):
                    yield from ((at, step) for step in part.steps())
                else:
                    yield at, part

    def go_on(self) -> None:
        """Hand out windows up to the first that needs a tensor not planned yet."""
        burst: list[tuple[int, Window | Untouched]] = []
        while (at_part := self._held or next(self._parts, None)) is not None:
            self._held = None
            if not self._planned(at_part[1]):
                self._held = at_part
                break
            burst.append(at_part)
            if len(burst) == BURST:
                self._hand_out(burst)
                burst = []
        self._hand_out(burst)

    def _planned(self, part: Window | Untouched) -> bool:
        return isinstance(part, Untouched) or all(piece.target in self.applier.plans for piece in part.pieces)

    def _hand_out(self, burst: Sequence[tuple[int, Window | Untouched]]) -> None:
        if burst:
            self.tasks.submit(self._do, burst)

    def _do(self, worker: Worker, burst: Sequence[tuple[int, Window | Untouched]]) -> None:
        for at, part in burst:
            if isinstance(part, Untouched):
                self.applier.copy(self.sources[at], self.sinks[at], part)
            else:
                checksums = list(overlapping(part, self.files[at][2]))
                self.applier.window(worker, at, self.sinks[at], part, checksums)

    def wait(self) -> None:
        """Wait until all that was handed out is done."""
        self.tasks.wait()


def _start(checksum: Checksum) -> int:
    return checksum.span.start


def _skipped_row(tensor: TensorInfo, file: str, reason: str) -> Row:
    return Row(tensor.name, tensor.dtype, tensor.shape, tensor.numel, file, selected=False, reason=reason)


def _is_large(size: int) -> bool:
    """Tell whether an output of `size` bytes would push much else out of the page cache."""
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return False
    return size > memory // DIRECT_SHARE


def _digest(fd: int, size: int) -> str:
    """Return the SHA-256 of the first `size` bytes of `fd`, in hexadecimal."""
    digest = hashlib.sha256()
    for at in range(0, size, 1 << 20):
        digest.update(os.pread(fd, min(1 << 20, size - at), at))
    return digest.hexdigest()
