"""The report of a run: one row per tensor, and the facts about the input, the output and the run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prunecli.engine.outcome import outcome_notices
from prunecli.engine.run_copies import about_copies
from prunecli.formats.output_names import path_in_result
from prunecli.layouts.packed import packed_sentence
from prunecli.layouts.scales import scaled_sentence
from prunecli.plans import Cut
from prunecli.report.model import Report, Row
from prunecli.report.sentences import facts_about, warnings_for
from prunecli.selection.notices import stacks_fact
from prunecli.version import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from prunecli.checkpoint import Checkpoint, TensorInfo
    from prunecli.engine.run import Run, RunResult
    from prunecli.engine.work import Job, Work
    from prunecli.selection.select import Skipped


def make_report(run: Run, result: RunResult, output: Path | int | None, seconds: float) -> Report:
    """Return the report of an executed run that wrote `output` (a path, a descriptor, or None) in `seconds`."""
    checkpoint, options = run.checkpoint, run.options
    targets = _target_rows(checkpoint, run.work, result)
    rows, copies = _rows(checkpoint, run.work, targets), about_copies(checkpoint, run.work.selection)
    size = sum(file.size for file in checkpoint.files)
    return Report(
        rows=rows,
        strategy=run.work.description,
        input_path=options.label or str(checkpoint.path),
        format=checkpoint.format,
        input_bytes=checkpoint.stored_size,
        version=__version__,
        output_path=path_in_result(output),
        output_bytes=None if output is None else size,
        input_sha256=result.input_sha256,
        output_sha256=result.output_sha256,
        keys=checkpoint.keys,
        parts=checkpoint.parts,
        left_alone=copies.left_alone,
        device=options.device or "cpu",
        kernels=run.kernels,
        seconds=round(seconds, 3),
        command=options.command,
        dry_run=output is None,
        warnings=(*run.work.warnings, *copies.warnings, *outcome_notices(run.work, targets), *warnings_for(rows)),
        facts=(*_facts(checkpoint, run), *copies.facts),
        compressed=result.compressed,
        histograms={
            run.targets[index].name: stats.histogram
            for index, stats in sorted(result.tensors.items())
            if stats.histogram is not None
        },
    )


def _facts(checkpoint: Checkpoint, run: Run) -> tuple[str, ...]:
    packed = packed_sentence(tensor.packed for tensor in checkpoint.tensors)
    others = facts_about(checkpoint.unprunable_entries)
    kinds = (packed, scaled_sentence(run.targets), stacks_fact(run.targets))
    return (*checkpoint.notes, *run.work.facts, *others, *filter(None, kinds))


def _target_rows(checkpoint: Checkpoint, work: Work, result: RunResult) -> list[Row]:
    """Return a row per target."""
    jobs = _jobs_by_target(work)
    return [_target_row(checkpoint, work, jobs, result, index) for index in range(len(work.selection.targets))]


def _rows(checkpoint: Checkpoint, work: Work, targets: Sequence[Row]) -> tuple[Row, ...]:
    """Return a row per tensor, in checkpoint order."""
    position = {tensor.name: index for index, tensor in enumerate(checkpoint.tensors)}
    skipped = [_skipped_row(one, _file_name(checkpoint, one.tensor)) for one in work.selection.skipped]
    return tuple(sorted([*targets, *skipped], key=lambda row: position[row.name]))


def _skipped_row(skipped: Skipped, file: str) -> Row:
    tensor = skipped.tensor
    return Row(
        name=tensor.name,
        dtype=tensor.dtype,
        shape=tensor.shape,
        numel=tensor.numel,
        file=file,
        selected=False,
        reason=skipped.reason,
        packed=None if tensor.packed is None else tensor.packed.weights,
        tied_to=skipped.tied_to,
        meaning=tensor.layout,
    )


def _jobs_by_target(work: Work) -> Mapping[int, Job]:
    jobs = {member: job for job in work.jobs for member in job.members}
    return {**jobs, **{follower: jobs[leader] for leader, follower in work.followers.items()}}


def _file_name(checkpoint: Checkpoint, tensor: TensorInfo) -> str:
    """Return the name of the shard that holds a tensor, "" for a checkpoint of one file, and for one in chunks."""
    if not checkpoint.is_directory:
        return ""
    path = checkpoint.streams[tensor.file].path
    return "" if path == checkpoint.path else path.relative_to(checkpoint.path).as_posix()


def _target_row(checkpoint: Checkpoint, work: Work, jobs: Mapping[int, Job], result: RunResult, index: int) -> Row:
    target, plan, stats = work.selection.targets[index], result.plans[index], result.tensors[index]
    tensor, cut = target.tensor, plan if isinstance(plan, Cut) else Cut(0)
    return Row(
        name=tensor.name,
        dtype=tensor.dtype,
        shape=tensor.shape,
        numel=tensor.numel,
        file=_file_name(checkpoint, tensor),
        zeros_before=stats.zeros_before,
        zeros_after=stats.zeros_after,
        pruned=stats.zeros_after - stats.zeros_before,
        rule=work.rules.get(index) or jobs[index].strategy.rule,
        cut=plan.value,
        ties=cut.equal,
        ties_pruned=cut.equal_pruned,
        l2_kept=None if stats.l2_kept is None else round(stats.l2_kept, 6),
        largest_pruned=stats.largest_pruned,
        smallest_kept=stats.smallest_kept,
        zero_rows=stats.zero_rows,
        zero_cols=stats.zero_cols,
        two_four=stats.two_four,
        nonfinite=stats.nonfinite,
        aliases=target.aliases,
        scaled_by=None if tensor.scale is None else tensor.scale.tensor.name,
        meaning=tensor.layout,
    )
