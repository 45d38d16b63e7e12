"""Execute a run over the open files of a checkpoint: plan each tensor, apply the plans, and measure the result."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING

from prunecli.dtypes import FLOATS
from prunecli.engine.apply import Applier
from prunecli.engine.choose_scorer import make_scorer
from prunecli.engine.options import RunOptions
from prunecli.engine.part import divided
from prunecli.engine.planner import plan_batches
from prunecli.engine.pruner import ApplyContext
from prunecli.engine.score_files import ScoreSources
from prunecli.engine.scored_tensors import ScoredTensors, count_remaining
from prunecli.engine.windows import WindowSchedule
from prunecli.errors import Argument, CheckpointError, DeviceError
from prunecli.io.assembled import AssembledSink, AssembledSource
from prunecli.io.files import PAGE, Source
from prunecli.io.reader import Reader, open_sources
from prunecli.io.threads import Pool, default_threads, results
from prunecli.io.transfer import read_all
from prunecli.kernels.backend import has_native, kernels_name
from prunecli.remote.path import RemotePath
from prunecli.text.escape import printable
from prunecli.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from prunecli.checkpoint import Checkpoint, TensorInfo
    from prunecli.engine.base_digests import BaseDigests
    from prunecli.engine.measure import TensorStats
    from prunecli.engine.planner import Batch
    from prunecli.engine.score_files import MatchedTensors
    from prunecli.engine.scorers import Scorer
    from prunecli.engine.work import Job, Work
    from prunecli.formats.safetensors.mask_writer import MaskSink
    from prunecli.io.descriptors import Descriptor
    from prunecli.io.files import Input, Output
    from prunecli.plans import TensorPlan
    from prunecli.report.model import Compressed

HOST_WINDOW = 1 << 21
"""Bytes of a window on the CPU: it is read, pruned and written while it is in the CPU's caches."""

PRODUCT_SIZE = 8
"""The bytes of a product of a code and its scale: windows whose products are needed are smaller by this factor."""

DEVICE_WINDOW = (1 << 26) - (1 << 18)
"""Bytes of a window on a device: enough to hide the latency of transfers.

With the rest of a group or row around it, it fits into the power of two that torch reserves.
"""

SCORED_WINDOW = 1 << 23
"""The most bytes of a window of tensors with scores, which the host computes, partly in float64."""

DIRECT_SHARE = 32
"""Outputs larger than this fraction of the memory are written around the page cache.

There they would take the place of the input and of other programs' files. Smaller ones are likely to be read soon.
"""

WRITERS = 4
"""One in this many threads, but at least one, keeps writing while others read the weights that a plan needs."""

RANKING, MOST_PHASES = "ranking", 8
"""The phase before writing, and the most files that have a phase each."""


@dataclass(frozen=True, slots=True)
class RunResult:
    """The outcome of a run.

    Attributes:
        plans: The plan of each target, by position.
        tensors: The measurements of each target, by position.
        input_sha256: The digest of the input, if it was requested and the input is one file.
        output_sha256: The digest of the output, if it was requested and a file was written.
        compressed: The estimate of the compressed sizes, if it was requested and a checkpoint was written.
    """

    plans: Mapping[int, TensorPlan]
    tensors: Mapping[int, TensorStats]
    input_sha256: str | None
    output_sha256: str | None
    compressed: Compressed | None


class Run:
    """One run: the work on a checkpoint, and the options of the run."""

    def __init__(self, checkpoint: Checkpoint, work: Work, options: RunOptions) -> None:
        """Prepare the run without reading a file."""
        self.checkpoint, self.work, self.options = checkpoint, work, options
        self.targets = [target.tensor for target in work.selection.targets]
        _check_dtypes(self.targets, options.device)
        self.part = divided(options.group, checkpoint, self.targets)
        self._threads = options.threads or default_threads()
        self._window = options.window or (DEVICE_WINDOW if options.device else HOST_WINDOW)
        if self._has_products():
            self._window = max(self._window // PRODUCT_SIZE // PAGE, 1) * PAGE
        self._plans: dict[int, TensorPlan] = {}

    def _has_products(self) -> bool:
        """Return whether codes are multiplied by their scale before they are ranked."""
        if not any(target.scale is not None for target in self.targets):
            return False
        return (
            bool(self.options.device)
            or not has_native()
            or any(job.sources != ScoreSources() for job in self.work.jobs)
        )

    def execute(
        self, sources: Sequence[Input], sinks: Sequence[Output | None], masks: MaskSink | None = None
    ) -> RunResult:
        """Plan and apply; the files of `sinks` are complete when this returns.

        `sinks` has None for files that are only measured. Raises CheckpointError if an input is damaged or changes
        during the run, or has weights that are not finite where the options are strict.
        """
        with ExitStack() as stack, self._pool() as pool:
            scorers = [self._scorer(job, sources, stack) for job in self.work.jobs]
            if any(scorer is not None for scorer in scorers):
                self._window = min(self._window, SCORED_WINDOW)
            tensors = self._plan_and_apply(pool, scorers, sources, sinks, masks)
        if self.part.group.size > 1:
            from prunecli.engine.exchange import gathered  # noqa: PLC0415 - for several processes only

            tensors = gathered(self.part, self._plans, tensors)
        for sink in sinks:
            if sink is not None:
                sink.finish()
        input_sha256, output_sha256 = self._digests(sources, sinks)
        compressed = self._estimate(sources, sinks)
        # After the last read, so that no change can be missed.
        for source in sources:
            source.check_unchanged()
        if self.options.strict:
            _check_finite(self.targets, tensors)
        return RunResult(self._plans, tensors, input_sha256, output_sha256, compressed)

    def _pool(self) -> Pool:
        return Pool(self._threads, self.options.device)

    def _reader(self, sources: Sequence[Input], advance: Callable[[int], None] = lambda _: None) -> Reader:
        """Return a reader of the weights that reports the number of bytes of each read."""
        return Reader(sources, advance)

    def _scorer(self, job: Job, sources: Sequence[Input], stack: ExitStack) -> Scorer | None:
        def open_reader(matched: MatchedTensors) -> Reader:
            return Reader(stack.enter_context(open_sources(matched.checkpoint)))

        return make_scorer(job, self.targets, sources, open_reader)

    def _plan_and_apply(
        self,
        pool: Pool,
        scorers: Sequence[Scorer | None],
        sources: Sequence[Input],
        sinks: Sequence[Output | None],
        masks: MaskSink | None,
    ) -> Mapping[int, TensorStats]:
        jobs = list(zip(self.work.jobs, scorers, strict=True))
        batches = [batch for job, scorer in jobs for batch in self._batches(pool, job, scorer, sources)]
        bytes_to_rank = sum(batch.size for batch in batches)
        if isinstance(self.checkpoint.path, RemotePath):
            from prunecli.engine.elsewhere import check_planning  # noqa: PLC0415 - few models are elsewhere

            check_planning(self.checkpoint, bytes_to_rank)
        phases = self._begin_progress(bytes_to_rank, writes=any(sinks))
        base = self._base(pool, masks)
        context = ApplyContext(
            self.targets,
            self._plans,
            sources,
            pool.stopped,
            lambda number, count: self.options.progress.advance(phases[number], count),
            scorers={member: scorer for job, scorer in jobs if scorer for member in job.members},
            masks=masks,
            histograms=self.options.histograms,
            base=base,
            part=self.part,
        )
        measured = self._apply(pool, batches, context, sinks)
        if masks is not None and base is not None:
            masks.finish(base.by_name())
        if self.part.group.size > 1:
            from prunecli.io.shared_output import finish_shared  # noqa: PLC0415 - for several processes only

            finish_shared(self.part.group, [*sinks, getattr(masks, "output", None)])
        return measured

    def _base(self, pool: Pool, masks: MaskSink | None) -> BaseDigests | None:
        """Return what digests the weights, if a mask is written with their digests or compared with them."""
        expected = {
            index: digest
            for job in self.work.jobs
            if job.sources.strategy_mask is not None and not job.strategy.any_base
            for index, digest in job.sources.strategy_mask.base.items()
        }
        if not expected and (masks is None or not masks.with_base):
            return None
        from prunecli.engine.base_digests import BaseDigests  # noqa: PLC0415 - most runs do not need it

        return BaseDigests(self.targets, pool.stopped, expected)

    def _apply(
        self, pool: Pool, batches: Sequence[Batch], context: ApplyContext, sinks: Sequence[Output | None]
    ) -> Mapping[int, TensorStats]:
        """Plan each batch and apply its plans; return the measurements of each target."""
        applier = Applier(context)
        schedule = WindowSchedule(pool, applier, self.checkpoint, sinks, self._window)
        planners = pool if len(batches) == 1 else pool.part(max(pool.threads - max(pool.threads // WRITERS, 1), 1))
        for batch in batches:
            # The windows of the batch before are written while this one is read, so that the disk is busy. Those of
            # earlier ones are done then: the weights that were read to plan a batch are still in the page cache when
            # it is pruned, even if memory is short.
            batch.start(planners)
            schedule.submit_planned()
            batch.finish(planners)
            schedule.wait_for_earlier()
        schedule.finish()
        if self.part.group.size > 1:
            applier.share_checksums()
        applier.write_checksums(self.checkpoint.files, sinks)
        applier.pruner.resolve()
        return applier.pruner.results

    def _batches(self, pool: Pool, job: Job, scorer: Scorer | None, sources: Sequence[Input]) -> Sequence[Batch]:
        """Return the batches in which the targets of a job are planned."""
        remaining = [target.numel for target in self.targets]
        if scorer is not None and job.sources.has_pruned:
            unreported = ScoredTensors(self.targets, self._reader(sources), scorer)
            own = [member for member in job.members if self.part.has(member)]
            there = {m: None for m in own if unreported.reader.on_device(self.targets[m])}
            tasks = {m: pool.submit(count_remaining, unreported, scorer, m) for m in own if m not in there}
            found = dict(zip(tasks, results(tasks.values()), strict=True))
            if there:
                from prunecli.engine.device_rows import remaining_on_devices  # noqa: PLC0415 - it needs torch

                found |= remaining_on_devices(unreported, list(there))
            counted = self.part.summed(found, len(remaining))
            for member in job.members:
                remaining[member] = counted[member]
        reader = self._reader(sources, lambda count: self.options.progress.advance(RANKING, count))
        step = self._window if self.options.device and scorer is None else None
        tensors = ScoredTensors(self.targets, reader, scorer, step, self.part)
        return plan_batches(job, tensors, remaining, self._plans, self.work.followers)

    def _begin_progress(self, bytes_to_rank: int, *, writes: bool) -> list[str]:
        """Announce the phases of the run and return the phase of each file; many files share a phase."""
        files, progress = self.checkpoint.files, self.options.progress
        phases = ["writing" if writes else "measuring"] * len(self.checkpoint.streams)
        if 1 < len(files) <= MOST_PHASES and self.checkpoint.assembly is None:
            phases = [f"{phase} {printable(file.path.name)}" for phase, file in zip(phases, files, strict=True)]
        sizes = dict.fromkeys(phases, 0)
        for phase, (first, end) in zip(phases, self.part.share.ranges, strict=False):  # the stream is part of the files
            sizes[phase] += end - first
        progress.begin({RANKING: bytes_to_rank, **sizes})
        progress.note(f"working with {self._threads} threads on {self._where}")
        return phases

    def writes_around_cache(self, size: int) -> bool:
        """Return whether an output of `size` bytes is written around the page cache, of which it would evict much."""
        # Chunks begin at any byte of a page, which writing around the page cache does not allow.
        suits = self.checkpoint.assembly is None and _is_large(size)
        return suits if self.options.direct is None else self.options.direct

    @property
    def kernels(self) -> str:
        """The kernels that compute, as a report names them."""
        return "torch" if self.options.device else kernels_name()

    @property
    def _where(self) -> str:
        """What computes, in words."""
        kernels = self.kernels
        words = "NumPy" if kernels == "numpy" else kernels.replace("native", "native kernels")
        return self.options.device or f"the CPU, with {words}"

    def _digests(self, sources: Sequence[Input], sinks: Sequence[Output | None]) -> tuple[str | None, str | None]:
        """Return the SHA-256 of the input and of the output, where requested; a directory has none."""
        if not self.options.sha256 or self.checkpoint.is_directory or self.part.group.rank:
            return None, None
        (source,), (sink,), (file,) = sources, sinks, self.checkpoint.files
        # Both files are read again, so the digests are those of the bytes that are stored.
        written = [] if sink is None else list(sink.written(file.size))
        output = _sha256(*written[0]) if len(written) == 1 else None
        return _sha256(_stored(source), file.stored_size), output

    def _estimate(self, sources: Sequence[Input], sinks: Sequence[Output | None]) -> Compressed | None:
        if not self.options.estimate or not all(sinks) or self.part.group.rank:
            return None
        from prunecli.engine.compression import estimate, sample  # noqa: PLC0415 - most runs do not need it

        before = sample([_readable(source) for source in sources], self.targets)
        moved = sinks[0].moved(self.targets) if sinks[0] else None
        if moved is None:
            after = sample([_written(sink) for sink in sinks if sink is not None], self.targets)
            return estimate(before, after, self.targets)
        files = [file for sink in sinks[:1] if sink is not None for file, _ in sink.written(0)]
        return estimate(before, sample(files, moved), self.targets, moved)


def _readable(source: Input) -> Descriptor | AssembledSource:
    """Return an input to read it again."""
    return source if isinstance(source, AssembledSource) else _file(source)


def _written(sink: Output) -> Descriptor | AssembledSource:
    """Return an output to read it."""
    if isinstance(sink, AssembledSink):
        return sink.reopened()
    ((file, _),) = sink.written(0)
    return file


def _file(stream: Input) -> Descriptor:
    """Return the file of an input; only files are read again, and tensors in memory never are."""
    if isinstance(stream, Source):
        return stream
    raise TypeError


def _stored(source: Input) -> Descriptor:
    """Return the file of an input as it is stored, not its inflated copy."""
    return source.stored if isinstance(source, Source) else _file(source)


def _sha256(file: Descriptor, size: int) -> str:
    """Return the SHA-256 of the first `size` bytes of `file`, in hexadecimal; CheckpointError if it has fewer."""
    import hashlib  # noqa: PLC0415 - its import takes longer than a small run, and most runs do not need it

    digest, buffer = hashlib.sha256(), memoryview(bytearray(1 << 20))
    with file.opened() as fd:
        for offset in range(0, size, len(buffer)):
            chunk = buffer[: size - offset]
            if read_all(fd, chunk, offset) < len(chunk):
                raise CheckpointError(f"a file of {size:,} bytes became shorter while it was being read")
            digest.update(chunk)
    return digest.hexdigest()


def _check_dtypes(targets: Sequence[TensorInfo], device: str | None) -> None:
    """Raise DeviceError for a target whose numbers the device does not have."""
    if device == "mps":
        for tensor in targets:
            if FLOATS[tensor.value_dtype].itemsize == FLOATS["F64"].itemsize:
                name = printable(repr(tensor.name))
                hint = Argument("device", "cpu")
                raise DeviceError(f"the device mps has no float64, which pruning {name} needs", hint=hint)


def _check_finite(targets: Sequence[TensorInfo], tensors: Mapping[int, TensorStats]) -> None:
    """Raise CheckpointError for the first target with weights that are not finite."""
    for index, stats in sorted(tensors.items()):
        if count := stats.nonfinite:
            name = printable(repr(targets[index].name))
            raise CheckpointError(
                f"{name} has {count} weights that are not finite, which a strict run does not accept",
                hint=("leave the tensor out with ", Argument("exclude", [printable(targets[index].name)])),
            )


def _is_large(size: int) -> bool:
    """Return whether an output of `size` bytes would evict much of the page cache."""
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return False
    return size > memory // DIRECT_SHARE
