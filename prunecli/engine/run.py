"""One run over the open files of a checkpoint: plan, apply, and say what was done."""

from __future__ import annotations

import os
from contextlib import ExitStack
from shlex import quote
from typing import TYPE_CHECKING

from prunecli.engine.apply import Applier
from prunecli.engine.options import RunOptions
from prunecli.engine.planner import plan_batches
from prunecli.engine.scored_tensors import ScoredTensors, count_remaining
from prunecli.engine.scorers import make_scorer
from prunecli.engine.windows import _Windows
from prunecli.errors import CheckpointError
from prunecli.io.reader import Reader, open_sources
from prunecli.io.threads import Pool, default_threads, results
from prunecli.plans import Cut
from prunecli.report.model import Report, Row, facts_about, warnings_for
from prunecli.text.escape import printable
from prunecli.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from prunecli.checkpoint import Checkpoint, TensorInfo
    from prunecli.engine.apply import TensorResult
    from prunecli.engine.planner import Batch
    from prunecli.engine.score_files import MatchedTensors
    from prunecli.engine.scorers import Scorer
    from prunecli.engine.work import Job, Work
    from prunecli.formats.safetensors.mask_writer import MaskSink
    from prunecli.io.files import Sink, Source
    from prunecli.plans import TensorPlan
    from prunecli.report.model import Compressed

HOST_WINDOW = 1 << 21
"""Bytes of a window on the CPU: read, pruned and written while they are in its caches."""

DEVICE_WINDOW = 1 << 26
"""Bytes of a window on a device: enough to hide what a transfer costs to begin."""

RANKING, FILES_SHOWN = "ranking", 8
"""The phase before writing, and how many files have a phase of their own."""


class Run:
    """One run from plan to report."""

    def __init__(self, checkpoint: Checkpoint, work: Work, options: RunOptions) -> None:
        """Nothing is read yet."""
        self.checkpoint, self.work, self.options = checkpoint, work, options
        self.targets = [target.tensor for target in work.selection.targets]
        self.threads = options.threads or default_threads()
        self.window = options.window or (DEVICE_WINDOW if options.device else HOST_WINDOW)
        self._jobs = {member: job for job in work.jobs for member in job.members}
        self._jobs.update({follower: self._jobs[leader] for leader, follower in work.followers.items()})
        self._plans: dict[int, TensorPlan] = {}
        self._found: dict[int, TensorResult] = {}
        self._digests: tuple[str | None, ...] = (None, None)
        self._compressed: Compressed | None = None

    def execute(self, sources: Sequence[Source], sinks: Sequence[Sink | None], masks: MaskSink | None = None) -> None:
        """Plan and apply; the sinks' files are complete when this returns."""
        with ExitStack() as stack, Pool(self.threads, self.options.device) as pool:
            scorers = [self._scorer(job, stack) for job in self.work.jobs]
            self._work(pool, scorers, sources, sinks, masks)
        if self.options.sha256 and not self.checkpoint.is_directory:
            files = (sources[0].fd, None if sinks[0] is None else sinks[0].fd)
            self._digests = tuple(None if fd is None else _digest(fd, sources[0].size) for fd in files)
        if self.options.estimate:
            self._compressed = self._estimate(sources, [sink for sink in sinks if sink is not None])
        for source in sources:
            source.check_unchanged()
        if self.options.strict:
            self._refuse_nonfinite()

    def _scorer(self, job: Job, stack: ExitStack) -> Scorer | None:
        def open_reader(matched: MatchedTensors) -> Reader:
            return Reader(stack.enter_context(open_sources(matched.checkpoint)))

        return make_scorer(job.strategy, job.sources, self.targets, open_reader)

    def _work(
        self,
        pool: Pool,
        scorers: Sequence[Scorer | None],
        sources: Sequence[Source],
        sinks: Sequence[Sink | None],
        masks: MaskSink | None,
    ) -> None:
        batches = [
            batch
            for job, scorer in zip(self.work.jobs, scorers, strict=True)
            for batch in self._batches(pool, job, scorer, sources)
        ]
        read = sum(batch.size for batch in batches)
        progress, phases = self.options.progress, self._phases([sink is not None for sink in sinks])
        sizes = [file.size for file in self.checkpoint.files]
        written = {phase: sum(n for own, n in zip(phases, sizes, strict=True) if own == phase) for phase in phases}
        progress.begin({RANKING: read, **written})
        progress.note(f"working with {self.threads} threads on {self.options.device or 'the CPU, with NumPy'}")
        scored = {m: scorer for job, scorer in zip(self.work.jobs, scorers, strict=True) if scorer for m in job.members}
        applier = Applier(
            self.targets,
            self._plans,
            sources,
            pool.stopped,
            lambda file, count: progress.advance(phases[file], count),
            scorers=scored,
            masks=masks,
            histograms=self.options.histograms,
        )
        windows = _Windows(self, pool, applier, sources, sinks)
        for batch in batches:
            # The windows of the batch before are in work meanwhile, before what this one reads: so that is still in
            # the page cache when it is pruned, however little room there is.
            batch.start(pool)
            batch.finish(pool)
            windows.go_on()
        windows.go_on()
        windows.wait()
        for at, (file, sink) in enumerate(zip(self.checkpoint.files, sinks, strict=True)):
            applier.repair(at, file, None if sink is None else sink.fd)
        self._found = applier.found

    def _phases(self, writes: Sequence[bool]) -> list[str]:
        """Name what is done to each file: together where there are many."""
        files = self.checkpoint.files
        doing = "writing" if any(writes) else "measuring"
        if not 1 < len(files) <= FILES_SHOWN:
            return [doing] * len(files)
        return [f"{doing} {printable(file.path.name)}" for file in files]

    def _batches(self, pool: Pool, job: Job, scorer: Scorer | None, sources: Sequence[Source]) -> Sequence[Batch]:
        """Return the batches in which the targets of a job are planned."""
        remaining = [target.numel for target in self.targets]
        if scorer is not None and job.sources.has_pruned:
            unreported = ScoredTensors(self.targets, Reader(sources), scorer)
            tasks = [pool.submit(count_remaining, unreported, scorer, member) for member in job.members]
            for member, count in zip(job.members, results(tasks), strict=True):
                remaining[member] = count
        reader = Reader(sources, lambda count: self.options.progress.advance(RANKING, count))
        tensors = ScoredTensors(self.targets, reader, scorer)
        return plan_batches(job, tensors, remaining, self._plans, self.work.followers)

    def _estimate(self, sources: Sequence[Source], sinks: Sequence[Sink]) -> Compressed | None:
        if len(sinks) < len(sources):
            return None
        from prunecli.engine import compression as worth  # noqa: PLC0415 - most runs do without

        before, after = (worth.sample([file.fd for file in files], self.targets) for files in (sources, sinks))
        return worth.estimate(before, after, self.targets)

    def _refuse_nonfinite(self) -> None:
        for at, found in sorted(self._found.items()):
            if count := found.facts.nonfinite:
                name = self.targets[at].name
                raise CheckpointError(
                    f"{printable(repr(name))} has {count} weights that are not finite, and --strict refuses them",
                    hint=f"-x {quote(printable(name))} leaves the tensor out",
                )

    def report(self, output: Path | int | None, seconds: float) -> Report:
        """Say what was done."""
        checkpoint = self.checkpoint
        rows = tuple(self._rows())
        size = sum(file.size for file in checkpoint.files)
        return Report(
            rows=rows,
            strategy=self.work.description,
            input_path=self.options.label or str(checkpoint.path),
            format=checkpoint.format,
            input_bytes=size,
            version=__version__,
            output_path=None if output is None else "-" if isinstance(output, int) else str(output),
            output_bytes=None if output is None else size,
            input_sha256=self._digests[0],
            output_sha256=self._digests[1],
            key=checkpoint.key,
            device=self.options.device or "cpu",
            seconds=round(seconds, 3),
            command=self.options.command,
            dry_run=output is None,
            warnings=warnings_for(rows),
            facts=(*checkpoint.notes, *facts_about(checkpoint.unprunable_entries)),
            compressed=self._compressed,
            histograms={
                self.targets[at].name: found.histogram
                for at, found in sorted(self._found.items())
                if found.histogram is not None
            },
        )

    def _rows(self) -> Iterator[Row]:
        """Yield a row per tensor, in checkpoint order."""
        place = {tensor.name: at for at, tensor in enumerate(self.checkpoint.tensors)}
        rows = [self._target_row(at) for at in range(len(self.targets))]
        rows += [_skipped_row(s.tensor, self._file(s.tensor), s.reason) for s in self.work.selection.skipped]
        yield from sorted(rows, key=lambda row: place[row.name])

    def _file(self, tensor: TensorInfo) -> str:
        if not self.checkpoint.is_directory:
            return ""
        return self.checkpoint.files[tensor.file].path.relative_to(self.checkpoint.path).as_posix()

    def _target_row(self, at: int) -> Row:
        tensor, plan, facts = self.targets[at], self._plans[at], self._found[at].facts
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
            rule=self.work.rules.get(at) or self._jobs[at].strategy.describe_for(tensor),
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
            aliases=self.work.selection.targets[at].aliases,
        )


def _skipped_row(tensor: TensorInfo, file: str, reason: str) -> Row:
    return Row(tensor.name, tensor.dtype, tensor.shape, tensor.numel, file, selected=False, reason=reason)


def _digest(fd: int, size: int) -> str:
    """Return the SHA-256 of the first `size` bytes of `fd`, in hexadecimal."""
    import hashlib  # noqa: PLC0415 - takes longer than a small prune, and most runs do without

    digest = hashlib.sha256()
    for at in range(0, size, 1 << 20):
        digest.update(os.pread(fd, min(1 << 20, size - at), at))
    return digest.hexdigest()
