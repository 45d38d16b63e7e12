"""The files that a run writes: named, checked before the run starts, and the reports written after it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from prunecli.errors import Argument, OutputError, UsageError
from prunecli.formats.output_names import check_mask_suffix, default_output, default_report
from prunecli.formats.own_files import is_report_of
from prunecli.formats.shards import is_index
from prunecli.io.publish import UnflushedError, publish_bytes
from prunecli.io.targets import (
    check_checkpoint_output,
    check_output,
    check_side_outputs,
    check_writable_target,
    output_target,
    refuse_both,
    refuse_overwriting,
)
from prunecli.remote.path import as_path
from prunecli.report.renderers import check_suffixes, render_report
from prunecli.text.escape import printable
from prunecli.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prunecli.checkpoint import Checkpoint, PathLike
    from prunecli.io.arrangement import Arrangement
    from prunecli.report.model import Report


@dataclass(frozen=True, slots=True)
class OutputRequest:
    """Where the user wants the results.

    Attributes:
        output: A path, an open and seekable file descriptor, or None for the default name next to the input.
        reports: The paths of the reports; empty for none, None for one JSON report next to the output.
        mask_out: The path of the mask, or None for no mask.
        force: Whether existing files are replaced.
        in_place: Whether the input is replaced.
        dry_run: Whether no checkpoint is written.
    """

    output: PathLike | int | None = None
    reports: Sequence[PathLike] | None = None
    mask_out: PathLike | None = None
    force: bool = False
    in_place: bool = False
    dry_run: bool = False

    def __post_init__(self) -> None:
        """Raise UsageError for requests that contradict themselves."""
        if self.mask_out is not None and str(self.mask_out) in {"", "-"}:
            hint = Argument("mask_out", "mask.safetensors")
            raise UsageError("the mask needs a path, because it cannot go to a pipe", hint=hint)
        if self.mask_out is not None:
            check_mask_suffix(self.mask_out)
        refuse_both(self.output, in_place=self.in_place)


@dataclass(frozen=True, slots=True)
class Outputs:
    """The files that a run writes, with every path decided and checked.

    Attributes:
        checkpoint: The path of the pruned checkpoint, an open file descriptor, or None on a dry run.
        reports: The paths of the reports.
        mask: The path of the mask, an open file descriptor, or None.
        force: Whether existing files are replaced.
        in_place: Whether the checkpoint replaces the input.
        arrangement: The layout of the checkpoint, or None if it is that of the input.
        facts: Sentences about the new layout, for the report.
        allow_overflow: Whether a cast may make finite weights infinite.
    """

    checkpoint: Path | int | None = None
    reports: tuple[Path, ...] = ()
    mask: Path | int | None = None
    force: bool = False
    in_place: bool = False
    arrangement: Arrangement | None = None
    facts: tuple[str, ...] = ()
    allow_overflow: bool = False

    @property
    def arranged(self) -> Arrangement:
        """The layout of the checkpoint, where it has one of its own; TypeError otherwise."""
        if self.arrangement is None:
            raise TypeError
        return self.arrangement

    def replaces(self, path: Path) -> bool:
        """Return whether an existing report or mask at `path` is replaced: with force, or if it is our own report."""
        if self.force or not isinstance(self.checkpoint, Path):
            return self.force
        return path in self.reports and is_report_of(path, self.checkpoint)


def plan_outputs(
    checkpoint: Checkpoint,
    path: PathLike,
    request: OutputRequest,
    kept: Sequence[Path],
    mask_in: PathLike | None,
    arrangement: Arrangement | None = None,
) -> Outputs:
    """Return the outputs of a run, after checking that each of them can be written.

    `path` is the input as the user named it, `kept` are the files that the run reads besides the checkpoint and
    `mask_in`. A new mask may replace `mask_in`; no other output may replace a file that the run reads. With an
    `arrangement` the checkpoint has another layout than the input. Raises UsageError and OutputError.
    """
    target = None
    directory = checkpoint.is_directory if arrangement is None else arrangement.is_directory
    if not request.dry_run:
        default = partial(default_output, path)
        target = output_target(checkpoint, request.output, default, in_place=request.in_place, directory=directory)
    mask = None if request.mask_out is None else Path(request.mask_out)
    reports = _report_paths(target, request.reports)
    outputs = Outputs(target, reports, mask, force=request.force, in_place=request.in_place, arrangement=arrangement)
    written = [target] if isinstance(target, Path) else []
    masks = [] if mask is None else [mask]
    for output in written:
        names = None if arrangement is None else arrangement.names
        check_checkpoint_output(
            checkpoint, output, force=request.force, in_place=request.in_place, directory=directory, names=names
        )
    folders = [*([checkpoint.path] if _is_folder(checkpoint, path) else ()), *(written if directory else ())]
    check_side_outputs(checkpoint, written, reports, masks, outputs.replaces, folders=folders)
    read = kept if mask_in is None else [*kept, Path(mask_in)]
    for output in (*reports, *written):
        refuse_overwriting(output, read)
    for output in masks:
        refuse_overwriting(output, kept)
    return outputs


def _is_folder(checkpoint: Checkpoint, path: PathLike) -> bool:
    """Return whether all files of a folder are the input: not if the user named a model with numbers in other files."""
    named = as_path(path)
    return checkpoint.is_directory and (named.is_dir() or is_index(named))


def check_paths(request: OutputRequest) -> None:
    """Raise OutputError where an output cannot be written, before the input, such as a long pipe, is read.

    `plan_outputs` checks the same and more, when the input is known.
    """
    target = None if request.output is None or request.dry_run else Path(str(request.output))
    if target == Path("-"):
        target = None
    if target is not None:
        check_output(target, sources=(), force=request.force, in_place=False)
    outputs = Outputs(target, _report_paths(target, request.reports), force=request.force)
    for path in outputs.reports:
        check_writable_target(path, force=outputs.replaces(path), argument="reports")
    if request.mask_out is not None:
        check_writable_target(Path(request.mask_out), force=request.force, argument="mask_out")


def _report_paths(target: Path | int | None, reports: Sequence[PathLike] | None) -> tuple[Path, ...]:
    if reports is None:
        return (default_report(target),) if isinstance(target, Path) else ()
    paths = tuple(Path(report) for report in reports)
    check_suffixes(paths)
    return paths


def publish_reports(report: Report, outputs: Outputs) -> None:
    """Write `report` to every report path, each in the form of its suffix.

    Raises OutputError where a report cannot be written; the message says so if the checkpoint is written already.
    """
    try:
        for path in outputs.reports:
            publish_bytes(path, render_report(report, path.suffix), force=outputs.replaces(path))
    except OutputError as error:
        if report.output_path is None or isinstance(error, UnflushedError):
            raise
        message = f"{printable(report.output_path)} is written, but its report is not: {error}"
        hint = (Argument("reports", ["PATH.json"]), " on another filesystem")
        raise OutputError(message, hint=hint) from error
