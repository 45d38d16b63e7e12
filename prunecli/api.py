"""Pruning in one call: what `prune` on the command line does, as a function.

Checks everything that can be checked cheaply before NumPy is imported and before a byte of the weights is read.
"""

from __future__ import annotations

import os
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

from prunecli.checkpoint import PathLike
from prunecli.engine.prepare import ScoreInputs, plan_work
from prunecli.engine.recipe_run import RecipeRun
from prunecli.errors import OutputError, UsageError
from prunecli.formats.open import open_checkpoint
from prunecli.formats.output_names import default_output, default_report
from prunecli.io.targets import check_output, check_writable_target, refuse_overwriting
from prunecli.kernels.devices import resolve
from prunecli.report.gates import GateError, Gates, failures
from prunecli.report.renderers import check_suffixes, draws_histograms, render_report
from prunecli.selection.select import Selector
from prunecli.strategies.mask import Mask
from prunecli.strategies.recipe import Recipe
from prunecli.text.escape import printable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from prunecli.checkpoint import Checkpoint
    from prunecli.engine.options import Options
    from prunecli.engine.work import Work
    from prunecli.io.files import Sink, Source
    from prunecli.io.memory import TensorsInMemory
    from prunecli.progress import Progress
    from prunecli.report.model import Report
    from prunecli.selection.select import Selection
    from prunecli.strategies.unstructured import Strategy


_ELSEWHERE = "a path beside that directory"


def prune(  # noqa: PLR0913 - one keyword per question a user may have
    path: PathLike,
    strategy: Strategy | Recipe,
    *,
    output: PathLike | int | None = None,
    reports: Sequence[PathLike] | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    min_dim: int | None = None,
    min_numel: int = 0,
    key: str | None = None,
    scores: PathLike | None = None,
    act_norms: PathLike | None = None,
    mask_in: PathLike | None = None,
    of: str = "all",
    mask_out: PathLike | None = None,
    device: str = "cpu",
    threads: int = 0,
    force: bool = False,
    in_place: bool = False,
    dry_run: bool = False,
    strict: bool = False,
    sha256: bool = False,
    estimate: bool = False,
    gates: Gates | None = None,
    label: str | None = None,
    command: Sequence[str] = (),
    progress: Progress | None = None,
) -> Report:
    """Write the checkpoint at `path` anew with the weights zeroed that `strategy` chooses, and say what was done.

    `output` is a path (None: `ckpt.pruned.pth` beside `ckpt.pth`) or an open, writable, seekable file descriptor.
    `reports` are paths that get a report, as JSON, CSV, Markdown or HTML by their suffix (None:
    `ckpt.pruned.report.json`; none on a dry run or for a descriptor). `include` and `exclude` are patterns over tensor
    names, see `prunecli.selection.select.Rules`; `key` is the dotted path of the state_dict in a nested checkpoint.

    `scores` names a checkpoint whose tensors are ranked in place of the weights, `act_norms` one with a norm for each
    input column, to multiply magnitudes by. Weights where the mask `mask_in` is 0 stay zero and are not counted:
    amounts are of what is left; `of` "remaining" takes the zeros for such a mask. `mask_out` gets the mask of what
    stays.

    `device` is "cpu", "auto", or one of torch's; `threads` 0 takes as many as help. Existing outputs are kept unless
    `force`, the input unless `in_place`. `dry_run` measures and writes no checkpoint, but a mask if one is asked for;
    `strict` refuses weights that are not finite. A result that does not pass the `gates` is
    not published: GateError. `sha256` reads both files once more, `estimate` compresses a sample of them.
    `label` names the input in messages and in the report, `command` is put into the report, and `progress` hears
    how far the work is.

    Raises PruneError, in one of its kinds, when something about that cannot be done. Then no checkpoint was written,
    but where the message says that it is.
    """
    _refuse_contradictions(include, exclude, output, mask_out, in_place=in_place, dry_run=dry_run, estimate=estimate)
    if threads < 0:
        raise UsageError(f"--threads is 0 or more, not {threads}", hint="--threads 2")
    checkpoint = open_checkpoint(path, key=key, label=label)
    rules = Selector(tuple(include), tuple(exclude), min_dim, min_numel)
    ranks = ScoreInputs(scores, act_norms, mask_in, of)
    plan: RecipeRun | Work = (
        RecipeRun(checkpoint, rules, strategy, ranks)
        if isinstance(strategy, Recipe)
        else plan_work(checkpoint, rules, strategy, ranks)
    )
    torch_device = resolve(device)
    force = force or in_place
    target = _target(checkpoint, path, output, in_place=in_place, dry_run=dry_run)
    report_paths = _report_paths(target, reports)
    masks = None if mask_out is None else Path(mask_out)
    _check(checkpoint, target, [*report_paths, *([] if masks is None else [masks])], force=force, in_place=in_place)
    _refuse_overwriting_inputs(_side_inputs(strategy, ranks), ranks.mask_in, target, report_paths, masks)

    from prunecli.engine.files import prune_files
    from prunecli.engine.options import Options
    from prunecli.progress import NoProgress

    progress = progress or NoProgress()
    _tell(progress, checkpoint, plan.selection)
    options = Options(
        device=torch_device,
        threads=threads,
        strict=strict,
        sha256=sha256,
        histograms=draws_histograms(report_paths),
        estimate=estimate,
        force=force,
        command=tuple(command),
        masks=masks,
        verify=None if gates is None else partial(_verify, gates),
        progress=progress,
    )

    def run_layer(work: Work, mask: int | None) -> Report:
        if mask is None:
            return prune_files(checkpoint, work, target, options)
        return prune_files(checkpoint, work, None, replace(options, masks=mask, verify=None, sha256=False))

    try:
        if isinstance(plan, RecipeRun):
            report = plan.run(run_layer, target.absolute().parent if isinstance(target, Path) else None)
        else:
            report = run_layer(plan, None)
    except GateError as error:
        error.report = replace(error.report, input_path=label or error.report.input_path)
        publish(error.report, report_paths if reports is not None else (), force=force)
        raise
    if label is not None:
        report = replace(report, input_path=label)
    progress.note(f"done in {report.seconds:.2f} s")
    publish(report, report_paths, force=force)
    return report


def _refuse_contradictions(
    include: Sequence[str],
    exclude: Sequence[str],
    output: PathLike | int | None,
    mask_out: PathLike | None,
    *,
    in_place: bool,
    dry_run: bool,
    estimate: bool,
) -> None:
    """Raise UsageError for what cannot be meant."""
    if isinstance(include, str) or isinstance(exclude, str):
        raise UsageError("include and exclude are lists of patterns, not one text", hint='include=["*.weight"]')
    if mask_out is not None and str(mask_out) in {"", "-"}:
        raise UsageError("--mask-out takes a path: a mask does not go to a pipe", hint="--mask-out mask.safetensors")
    if in_place and output is not None:
        raise UsageError("--in-place writes to the input, so there is no other output", hint="leave out -o")
    if estimate and dry_run:
        raise UsageError("an estimate needs an output to compress a sample of", hint="leave out -n or --estimate")


def _verify(gates: Gates, report: Report) -> None:
    """Raise GateError where `report` does not pass: what was written is dropped then."""
    if found := failures(report, gates):
        nothing = replace(report, output_path=None, output_bytes=None, output_sha256=None)
        raise GateError(found, replace(nothing, warnings=(*report.warnings, *found)))


def _tell(progress: Progress, checkpoint: Checkpoint, selection: Selection) -> None:
    """Note what was found and what is going to be pruned."""
    size = sum(file.size for file in checkpoint.files)
    key = f", state_dict at {printable(checkpoint.key)}" if checkpoint.key else ""
    progress.note(
        f"{printable(str(checkpoint.path))}: {checkpoint.format}, {size:,} bytes, "
        f"{len(checkpoint.tensors)} tensors{key}"
    )
    for target in selection.targets:
        also = f", also {', '.join(map(printable, target.aliases))}" if target.aliases else ""
        shape = "x".join(map(str, target.tensor.shape))
        progress.note(f"selected {printable(target.tensor.name)} ({target.tensor.dtype} {shape}){also}")
    for skipped in selection.skipped:
        progress.note(f"skipped {printable(skipped.tensor.name)}: {printable(skipped.reason)}")


def publish(report: Report, report_paths: Sequence[Path], *, force: bool) -> None:
    """Write `report` to each of `papers`; an OutputError tells when the checkpoint itself is written."""
    from prunecli.io.publish import UnflushedError, publish_text

    try:
        for paper in report_paths:
            publish_text(paper, render_report(report, paper.suffix), force=force)
    except OutputError as error:
        if report.output_path is None or isinstance(error, UnflushedError):
            raise
        message = f"{printable(report.output_path)} is written, but not its report: {error}"
        raise OutputError(message, hint="--report PATH.json on another filesystem") from error


def _target(
    checkpoint: Checkpoint, path: PathLike, output: PathLike | int | None, *, in_place: bool, dry_run: bool
) -> Path | int | None:
    """Return where the result goes: a path, a descriptor, or nowhere."""
    if dry_run:
        return None
    if in_place:
        return Path(os.path.realpath(checkpoint.path))
    if isinstance(output, int):
        if checkpoint.is_directory:
            raise UsageError("a directory of shards cannot go to a pipe", hint="-o DIRECTORY")
        return output
    return default_output(path) if output is None else Path(output)


def _report_paths(target: Path | int | None, reports: Sequence[PathLike] | None) -> list[Path]:
    if reports is None:
        return [default_report(target)] if isinstance(target, Path) else []
    report_paths = [Path(report) for report in reports]
    check_suffixes(report_paths)
    return report_paths


def _check(
    checkpoint: Checkpoint, target: Path | int | None, report_paths: Sequence[Path], *, force: bool, in_place: bool
) -> None:
    """Refuse now what could not be published later."""
    inputs = [file.path for file in checkpoint.files]
    if isinstance(target, Path):
        names = None
        if checkpoint.is_directory:
            inputs.append(checkpoint.path)
            names = {file.path.relative_to(checkpoint.path).as_posix() for file in checkpoint.files}
            for companion in checkpoint.other_files:
                names.update(part.as_posix() for part in (companion, *companion.parents[:-1]))
        check_output(target, sources=inputs, force=force, in_place=in_place, names=names)
    for at, paper in enumerate(report_paths):
        folders = [checkpoint.path, *([target] if isinstance(target, Path) else [])] if checkpoint.is_directory else []
        for folder in folders:
            if _inside(paper, folder):
                kind = "output" if folder == target else "input"
                raise OutputError(
                    f"{printable(str(paper))} lies inside the {kind} {printable(str(folder))}", hint=_ELSEWHERE
                )
        others = [*inputs, *report_paths[:at], *([target] if isinstance(target, Path) else [])]
        check_writable_target(paper, force=force, others=others)


def _side_inputs(strategy: Strategy | Recipe, ranks: ScoreInputs) -> list[Path]:
    """Return what the run reads besides the checkpoint, but for the mask it starts from."""
    rules = [rule.strategy for rule in strategy.rules] if isinstance(strategy, Recipe) else [strategy]
    paths = [ranks.scores, ranks.act_norms, *(rule.path for rule in rules if isinstance(rule, Mask))]
    if isinstance(strategy, Recipe) and strategy.path:
        paths.append(strategy.path)
    return [Path(path) for path in paths if path is not None]


def _refuse_overwriting_inputs(
    asides: Sequence[Path],
    mask_in: PathLike | None,
    target: Path | int | None,
    report_paths: Sequence[Path],
    masks: Path | None,
) -> None:
    """Refuse outputs that would overwrite what the run reads; a mask may follow the one it started from."""
    kept = asides if mask_in is None else [*asides, Path(mask_in)]
    for output in [*report_paths, *([target] if isinstance(target, Path) else [])]:
        refuse_overwriting(output, kept)
    if masks is not None:
        refuse_overwriting(masks, asides)


def _inside(path: Path, folder: Path) -> bool:
    return Path(os.path.realpath(folder)) in Path(os.path.realpath(path)).parents


FETCHED_WINDOW = 1 << 24
"""Bytes of a window of tensors that lie on a device: each is fetched and sent back."""


def prune_state_dict(  # noqa: PLR0913 - one keyword per question a user may have
    state_dict: Mapping[str, object],
    strategy: Strategy | Recipe,
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    min_dim: int | None = None,
    min_numel: int = 0,
    scores: PathLike | None = None,
    act_norms: PathLike | None = None,
    mask_in: PathLike | None = None,
    of: str = "all",
    device: str = "cpu",
    threads: int = 0,
    dry_run: bool = False,
    strict: bool = False,
) -> Report:
    """Zero the weights of `state_dict` that `strategy` chooses, in place, and say what was done.

    `state_dict` is a flat dict of torch tensors by name, such as `model.state_dict()`, whose tensors are the model's
    own: on the CPU or on devices, parameters that require grad, transposed or sliced. The result is bit for bit
    what `prunecli.prune` makes of the same dict saved to a file, where all keywords are explained; among equals at a
    cut, tensors go in the order of the dict. Tied tensors are pruned once; what is no tensor is passed over, and
    sparse, quantized and meta tensors are named in the report's `facts`. `device` is where numbers are compared;
    the tensors stay where they are.

    Raises PruneError, and then nothing has changed: all is rehearsed first, so the weights are read twice. A run that
    is interrupted in its second half, or whose device fails, leaves some weights pruned and others not yet; to run
    it again is safe with a threshold or a mask, for an amount load the weights anew.
    """
    if threads < 0:
        raise UsageError(f"--threads is 0 or more, not {threads}", hint="--threads 2")
    from prunecli.engine.options import Options
    from prunecli.io.memory import state_dict_checkpoint

    memory = state_dict_checkpoint(state_dict)
    rules = Selector(tuple(include), tuple(exclude), min_dim, min_numel)
    ranks = ScoreInputs(scores=scores, act_norms=act_norms, mask_in=mask_in, of=of)
    window = FETCHED_WINDOW if memory.on_device else 0
    options = Options(device=resolve(device), threads=threads, window=window, strict=strict)

    def run_layer(work: Work, mask: int | None) -> Report:
        rehearsed = _run_in_memory(memory, work, options, write=False, mask=mask)
        return rehearsed if dry_run or mask is not None else _run_in_memory(memory, work, options, write=True)

    if isinstance(strategy, Recipe):
        return RecipeRun(memory.checkpoint, rules, strategy, ranks).run(run_layer, None)
    return run_layer(plan_work(memory.checkpoint, rules, strategy, ranks), None)


def _run_in_memory(
    memory: TensorsInMemory, work: Work, options: Options, *, write: bool, mask: int | None = None
) -> Report:
    """Read and measure, with `write` put the results back, and write what stays to the descriptor `mask`."""
    from prunecli.engine.run import Run
    from prunecli.formats.safetensors.mask_writer import MaskLayout, MaskSink

    began = time.monotonic()
    run = Run(memory.checkpoint, work, options)
    # A region has all that is asked of a file to read and of one to write.
    sources = cast("Sequence[Source]", memory.regions)
    sinks: Sequence[Sink | None] = cast("Sequence[Sink]", memory.regions) if write else [None] * len(sources)
    masks = None if mask is None else MaskSink(mask, MaskLayout(run.targets))
    memory.synchronize()
    try:
        run.execute(sources, sinks, masks)
    finally:
        if write:
            memory.synchronize()
            memory.mark_changed(name for t in work.selection.targets for name in (t.tensor.name, *t.aliases))
    output: Path | None = memory.checkpoint.path if write else None
    return run.report(output, time.monotonic() - began)
