"""Prune a checkpoint file or a state_dict with one call.

Everything that can be checked cheaply is checked before NumPy is imported and before any weight is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from prunecli.conversion.layout import Layout, converted_output
from prunecli.distributed.meshes import is_dtensor
from prunecli.engine.device_errors import device_errors
from prunecli.engine.options import RunOptions
from prunecli.engine.outputs import OutputRequest, plan_outputs, publish_reports
from prunecli.engine.prepare import prepare_work
from prunecli.engine.score_files import ScoreInputs
from prunecli.engine.work import Work
from prunecli.errors import Argument, UsageError
from prunecli.formats.open import open_checkpoint
from prunecli.io.limits import check_threads
from prunecli.kernels.devices import resolve
from prunecli.layouts.decide import with_layouts
from prunecli.progress import NoProgress, Progress
from prunecli.remote.path import RemotePath
from prunecli.report.gates import GateError, Gates
from prunecli.report.renderers import draws_histograms
from prunecli.selection.select import Selector
from prunecli.strategies.recipe import Recipe
from prunecli.text.escape import printable
from prunecli.text.numbers import format_shape
from prunecli.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import TypeAlias

    from prunecli.checkpoint import Checkpoint, Keys, PathLike
    from prunecli.conversion.stripping import Stripped
    from prunecli.engine.outputs import Outputs
    from prunecli.engine.recipe_run import RecipeRun
    from prunecli.engine.sharded.memory import ShardedTensors
    from prunecli.io.memory import TensorsInMemory
    from prunecli.report.model import Report
    from prunecli.selection.select import Selection
    from prunecli.strategies.strategy import Strategy
    from prunecli.strategies.strip import Strip

    _Tensors: TypeAlias = TensorsInMemory | ShardedTensors
    _Alike: TypeAlias = Callable[[Callable[[], RecipeRun | Work]], RecipeRun | Work]


def prune(  # noqa: PLR0913 - one keyword for each option of the command line
    path: PathLike,
    strategy: Strategy | Recipe,
    *,
    output: PathLike | int | None = None,
    reports: Sequence[PathLike] | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    min_dim: int | None = None,
    min_numel: int = 0,
    layout: Mapping[str, str] | None = None,
    key: Keys = None,
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
    max_shard_size: str | int | None = None,
    untie: bool = False,
    drop_rest: bool = False,
    strip: Strip | None = None,
    strict: bool = False,
    sha256: bool = False,
    estimate: bool = False,
    gates: Gates | None = None,
    label: str | None = None,
    command: Sequence[str] = (),
    progress: Progress | None = None,
) -> Report:
    """Write a copy of the checkpoint at `path` in which the weights chosen by `strategy` are zero.

    All other bytes are copied unchanged. The output appears under its name complete, or not at all.

    Args:
        path: A checkpoint file, a directory of shards, or an index file of shards; or the URL of one, which is read
            once: `hf://ORG/MODEL`, `s3://BUCKET/FOLDER`, `https://HOST/model.safetensors`.
        strategy: Decides which weights of each tensor become zero, such as `Threshold(0.1)`, or a `Recipe` of rules.
        output: A path, or an open, writable, seekable file descriptor. By default `ckpt.pruned.pth` next to
            `ckpt.pth`. Its suffix is meant: `.safetensors` is written as safetensors, `.pth` by torch; see `convert`.
        reports: Paths that get a report, as JSON, CSV, Markdown or HTML by their suffix; `()` writes none. By default
            one JSON report next to the output; none on a dry run or for a descriptor. A JSON report of an earlier run
            about the same output is replaced.
        include: Patterns over tensor names: globs, or regular expressions after `re:`. By default all weights.
        exclude: Patterns of the tensors that stay unchanged.
        min_dim: The fewest dimensions of a tensor that is pruned. By default 2.
        min_numel: The fewest elements of a tensor that is pruned.
        layout: The meaning of dimensions by pattern over tensor names, such as `{"*.c_fc.weight": "in-out"}`:
            "out-in", "in-out", "experts" or "experts-in-out". By default it is decided from the checkpoint.
        key: The dotted path of the state_dict in a nested checkpoint, or several of them, or globs over them. By
            default it is found. Each of several is ranked separately, and the names of its tensors start with its key.
        scores: A checkpoint with a score for every weight; the scores are ranked in place of the magnitudes.
        act_norms: A checkpoint with a norm for every input; magnitudes are multiplied by them before ranking.
        mask_in: A mask, 1 = kept. Weights with a 0 become zero and are not counted: amounts are of the others.
        of: "all", or "remaining" to treat the zeros of the weights as such a mask.
        mask_out: A path that gets the mask of the kept weights, 1 = kept.
        device: "cpu", a device of torch such as "cuda:0", or "auto", which is a device where it saves more time than
            its start takes.
        threads: The number of threads; 0 takes as many as help.
        force: Replace existing outputs.
        in_place: Replace the input.
        dry_run: Write no checkpoint; the report still holds measured numbers, and a mask is written if requested.
        max_shard_size: Write a directory of shards of at most this size, such as "5GB".
        untie: In a new layout, store tied tensors once for each name.
        drop_rest: In a new format, leave out what it cannot hold.
        strip: Drop the optimizer and everything else but the weights in the same pass, and cast them; see `strip`.
        strict: Raise CheckpointError if a weight is not finite.
        sha256: Read the input and the output again and put their digests into the report.
        estimate: Compress a sample of both and put the estimated sizes into the report.
        gates: Bounds on the sparsity of the result.
        label: The name of the input in messages and in the report. By default its path.
        command: The command line that the report records.
        progress: Receives the progress, from any thread.

    Returns:
        What was done, measured from what was written.

    Raises:
        GateError: The result does not meet `gates`; no checkpoint and no mask was written.
        PruneError: The request or the input is wrong, or an output cannot be written. No checkpoint was written,
            unless the message says so.
    """
    request = PruneRequest(
        path,
        strategy,
        Selector(include, exclude, min_dim, min_numel, layout or {}),
        ScoreInputs(scores, act_norms, mask_in, of),
        OutputRequest(output, reports, mask_out, force=force, in_place=in_place, dry_run=dry_run),
        RunOptions(
            threads=threads,
            strict=strict,
            sha256=sha256,
            estimate=estimate,
            gates=gates,
            label=label,
            command=tuple(command),
            progress=NoProgress() if progress is None else progress,
        ),
        key,
        device,
        Layout(max_shard_size, untie=untie, drop_rest=drop_rest, strip=strip),
    )
    return prune_request(request)[0]


@dataclass(frozen=True, slots=True)
class PruneRequest:
    """The arguments of `prune`, grouped by what they decide."""

    path: PathLike
    strategy: Strategy | Recipe
    selector: Selector = field(default_factory=Selector)
    scores: ScoreInputs = field(default_factory=ScoreInputs)
    outputs: OutputRequest = field(default_factory=OutputRequest)
    options: RunOptions = field(default_factory=RunOptions)
    key: Keys = None
    device: str = "cpu"
    layout: Layout = field(default_factory=Layout)

    def __post_init__(self) -> None:
        """Raise UsageError for arguments that are out of range or contradict each other."""
        check_threads(self.options.threads)
        if self.options.estimate and self.outputs.dry_run:
            hint = ("leave out ", Argument("dry_run", True), " or ", Argument("estimate", True))
            raise UsageError("an estimate compresses a sample of the output, and a dry run writes none", hint=hint)


def prune_request(request: PruneRequest) -> tuple[Report, tuple[Path, ...]]:
    """Do what `prune` does, and return the report and the paths where reports were written."""
    options = request.options
    original = checkpoint = open_checkpoint(request.path, key=request.key, label=options.label, remote=True)
    stripped = _stripped(original, request)
    if stripped is not None:
        checkpoint = stripped.checkpoint
    plan = _plan(checkpoint, request.strategy, request.selector, request.scores)
    if isinstance(original.path, RemotePath):
        from prunecli.engine.elsewhere import check_plan

        check_plan(original, plan, options)
    device = _device(request.device, plan, options)
    kept = _side_inputs(request.strategy, request.scores)
    target, in_place = request.outputs.output, request.outputs.in_place
    made = converted_output(original, target, request.layout, in_place=in_place, stripped=stripped)
    arrangement = None if made is None else made.arrangement
    outputs = plan_outputs(original, request.path, request.outputs, kept, request.scores.mask_in, arrangement)
    if made is not None:
        facts = made.facts if stripped is None else (*stripped.facts, *made.facts)
        if made.arrangement.format != original.format:
            facts = (f"written as {made.arrangement.format}", *facts)
        allowed = stripped is not None and stripped.allow_overflow
        outputs = replace(outputs, facts=facts, allow_overflow=allowed)
    if options.group.size > 1:
        from prunecli.engine.agreed import agree_on  # for several processes only

        agree_on(options, checkpoint, plan.selection, outputs, [*kept, request.scores.mask_in])
    options = replace(options, device=device, histograms=draws_histograms(outputs.reports))
    _note_selection(options.progress, checkpoint, plan.selection)
    try:
        with device_errors(device):
            report = _run(checkpoint, plan, outputs, options)
    except GateError as error:
        if request.outputs.reports is not None and options.group.rank == 0:
            publish_reports(error.report, outputs)
        raise
    options.progress.note(f"done in {report.seconds:.2f} s")
    if options.group.rank == 0:
        publish_reports(report, outputs)
    return report, outputs.reports


def _stripped(checkpoint: Checkpoint, request: PruneRequest) -> Stripped | None:
    """Return what the request, or its recipe, strips of a checkpoint; None if it strips nothing."""
    own = request.strategy.strip if isinstance(request.strategy, Recipe) else None
    strip = request.layout.strip or own
    if strip is None:
        return None
    from prunecli.conversion.stripping import stripped

    return stripped(checkpoint, strip)


def _plan(
    checkpoint: Checkpoint, strategy: Strategy | Recipe, selector: Selector, scores: ScoreInputs
) -> RecipeRun | Work:
    if isinstance(strategy, Recipe):
        from prunecli.engine.recipe_run import RecipeRun

        return RecipeRun(checkpoint, selector, strategy, scores)
    return prepare_work(checkpoint, selector, strategy, scores)


def _device(name: str, plan: RecipeRun | Work, options: RunOptions) -> str | None:
    """Return the torch device for `name`, or None for the CPU."""
    if name != "auto":
        return resolve(name)
    from prunecli.engine.device_choice import choose_device  # it imports NumPy

    return choose_device(plan.pruned_by, plan.selection, options)


def _run(checkpoint: Checkpoint, plan: RecipeRun | Work, outputs: Outputs, options: RunOptions) -> Report:
    """Write the outputs of one strategy, or of a recipe, of which all passes but the last write only a mask."""
    from prunecli.engine.files import prune_files  # it imports the engine

    if isinstance(plan, Work):
        return prune_files(checkpoint, plan, outputs, options)

    def run_pass(work: Work, mask: int | None) -> Report:
        if mask is None:
            return prune_files(checkpoint, work, outputs, options)
        mask_only = replace(outputs, checkpoint=None, mask=mask, arrangement=None)
        return prune_files(checkpoint, work, mask_only, replace(options, gates=None, sha256=False))

    target = outputs.checkpoint
    return plan.run(run_pass, target.absolute().parent if isinstance(target, Path) else None)


def _note_selection(progress: Progress, checkpoint: Checkpoint, selection: Selection) -> None:
    """Note what the checkpoint is, and which of its tensors are selected and skipped."""
    size = checkpoint.stored_size
    key = f", state_dict at {printable(', '.join(checkpoint.keys))}" if checkpoint.keys else ""
    path, count = printable(str(checkpoint.path)), len(checkpoint.tensors)
    progress.note(f"{path}: {checkpoint.format}, {size:,} bytes, {count} tensors{key}")
    if not getattr(progress, "wants_notes", True):
        return
    for target in selection.targets:
        also = f", also {', '.join(map(printable, target.aliases))}" if target.aliases else ""
        shape = format_shape(target.tensor.shape)
        progress.note(f"selected {printable(target.tensor.name)} ({target.tensor.dtype} {shape}){also}")
    for skipped in selection.skipped:
        progress.note(f"skipped {printable(skipped.tensor.name)}: {printable(skipped.reason)}")


def _side_inputs(strategy: Strategy | Recipe, scores: ScoreInputs) -> list[Path]:
    """Return the files that a run reads besides the checkpoint and the mask it starts from."""
    return [Path(path) for path in (scores.scores, scores.act_norms, *strategy.input_files) if path is not None]


def prune_state_dict(  # noqa: PLR0913 - one keyword for each option
    state_dict: Mapping[str, object],
    strategy: Strategy | Recipe,
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    min_dim: int | None = None,
    min_numel: int = 0,
    layout: Mapping[str, str] | None = None,
    scores: PathLike | None = None,
    act_norms: PathLike | None = None,
    mask_in: PathLike | None = None,
    of: str = "all",
    device: str = "cpu",
    threads: int = 0,
    dry_run: bool = False,
    strict: bool = False,
) -> Report:
    """Zero the weights of `state_dict` that `strategy` chooses, in place.

    The result is the same, bit for bit, as that of `prune` on a file with the same tensors. Ties at a cutoff are
    broken by the order of the dict. Tied tensors are pruned once. Values that are not tensors are ignored; sparse,
    quantized and meta tensors are named in the report's `facts`.

    If some tensors are DTensors, all processes of their device meshes call this together, with the same arguments. Each
    prunes its own parts, as if one process had the whole tensors, and all get the same report.

    Args:
        state_dict: A flat dict of torch tensors by name, such as `model.state_dict()`. The tensors are the model's
            own: on the CPU or on devices, parameters that require grad, transposed, sliced, or DTensors.
        strategy: Decides which weights of each tensor become zero; see `prune`, also for the other arguments.
        include: Patterns over tensor names.
        exclude: Patterns of the tensors that stay unchanged.
        min_dim: The fewest dimensions of a tensor that is pruned. By default 2.
        min_numel: The fewest elements of a tensor that is pruned.
        layout: The meaning of dimensions by pattern.
        scores: A checkpoint with a score for every weight.
        act_norms: A checkpoint with a norm for every input.
        mask_in: A mask whose zeros become zero and are not counted.
        of: "all", or "remaining".
        device: The device that computes for tensors on the CPU: by default the CPU; another device gets them in
            windows. Tensors on a device are computed there, and only counts and a few scores leave it.
        threads: The number of threads; 0 takes as many as help.
        dry_run: Measure, and change nothing.
        strict: Raise CheckpointError if a weight is not finite.

    Returns:
        What was done.

    Raises:
        PruneError: The request or a tensor is wrong. No tensor was changed: what may be wrong with weights, scores,
            masks and scales is found before the first weight changes, if need be by a first pass that only reads.
        DeviceError: A device failed, was lost, or has too little memory; the message says what state the tensors are
            in. If that happens while weights are changed, or the call is interrupted then, some weights are pruned
            and others are not: repeat it with a threshold or a mask, or load the weights again. The same holds for the
            PruneError that says that an exchange with another process failed.
    """
    from prunecli.engine.in_memory import needs_rehearsal, prune_in_memory  # it imports NumPy

    check_threads(threads)
    chosen = Selector(include, exclude, min_dim, min_numel, layout or {})
    inputs = ScoreInputs(scores, act_norms, mask_in, of)
    with _in_memory(state_dict) as (memory, alike):
        plan = alike(lambda: _plan(with_layouts(memory.checkpoint), strategy, chosen, inputs))
        options = RunOptions(threads=threads, strict=strict)
        options = replace(options, device=_device(device, plan, options))

        def run_pass(work: Work, mask: int | None) -> Report:
            only_measured = dry_run or mask is not None
            if only_measured or needs_rehearsal(work, options):
                rehearsal = prune_in_memory(memory, work, options, write=False, mask=mask)
                if only_measured:
                    return rehearsal
            return prune_in_memory(memory, work, options, write=True)

        return run_pass(plan, None) if isinstance(plan, Work) else plan.run(run_pass, None, memory.together)


@contextmanager
def _in_memory(state_dict: Mapping[str, object]) -> Iterator[tuple[_Tensors, _Alike]]:
    """List the tensors; the second value returns the plan that its argument makes, the same in all processes."""
    if not (isinstance(state_dict, Mapping) and any(map(is_dtensor, state_dict.values()))):
        from prunecli.io.memory import state_dict_checkpoint

        yield state_dict_checkpoint(state_dict), lambda make: make()
        return
    from prunecli.engine.sharded.memory import sharded_tensors
    from prunecli.engine.sharded.run import plan_together

    with sharded_tensors(state_dict) as memory:
        yield memory, lambda make: plan_together(memory, make)
