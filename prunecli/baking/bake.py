"""Fold pruned weights of a checkpoint file: `x_orig` * `x_mask` becomes `x`, and nothing else changes.

The result is the one of torch.nn.utils.prune.remove on the model. Nothing is unpickled.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from prunecli.baking.pairs import find_pairs
from prunecli.checkpoint import OUTSIDE, Keys, PathLike, Span
from prunecli.errors import CheckpointError
from prunecli.formats.json_rewrite import rewrite_index
from prunecli.formats.open import open_checkpoint
from prunecli.formats.output_names import default_output, path_in_result, rewritten_target
from prunecli.formats.registry import format_of
from prunecli.formats.strict_json import HEADER_LIMIT
from prunecli.io.output_files import output_files
from prunecli.io.parts import FilePlan, write_parts
from prunecli.io.scan import bytes_to_read
from prunecli.io.targets import refuse_both
from prunecli.layouts.reparametrized import REMOVE
from prunecli.progress import start
from prunecli.text.escape import printable
from prunecli.text.json import dump_result

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from prunecli.baking.fold import FoldedWeight, Output
    from prunecli.baking.pairs import Pair
    from prunecli.checkpoint import Checkpoint, TensorInfo
    from prunecli.io.descriptors import Descriptor
    from prunecli.io.files import Source
    from prunecli.progress import Progress


@dataclass(frozen=True, slots=True)
class BakeResult:
    """The result of `bake`.

    Attributes:
        weights: The folded weights, in checkpoint order.
        notes: Sentences about similar tensors that were not folded.
        input_path: The path of the input, or its label.
        output_path: The path of the output, "-" for a descriptor, None after a dry run.
        format: The format of the checkpoint.
        key: The dotted path of the state_dict, "" for the top of the file or for several.
        keys: The dotted paths of all state_dicts. If there are several, names start with the path.
        input_bytes: The size of all input files that contain tensors.
        output_bytes: The size of all output files that contain tensors.
    """

    weights: tuple[FoldedWeight, ...]
    notes: tuple[str, ...]
    input_path: str
    output_path: str | None
    format: str
    key: str
    keys: tuple[str, ...]
    input_bytes: int
    output_bytes: int

    def to_json(self) -> str:
        """Return the result as a JSON object with a line break at its end; `schema` is the version of its keys."""
        weights = [{**asdict(one), "shape": list(one.shape), "sparsity": one.sparsity} for one in self.weights]
        values = {name: getattr(self, name) for name in self.__slots__}
        return dump_result("bake", {**values, "weights": weights})


def bake(  # noqa: PLR0913 - one keyword for each option
    path: PathLike,
    output: PathLike | int | None = None,
    *,
    key: Keys = None,
    force: bool = False,
    in_place: bool = False,
    dry_run: bool = False,
    label: str | None = None,
    progress: Progress | None = None,
) -> BakeResult:
    """Fold the masks of torch.nn.utils.prune into their weights and write the checkpoint with plain weights.

    `x` replaces `x_orig` under the same position in the file: +0.0 where `x_mask` is 0, the bits of `x_orig` where it
    is 1. The masks are removed; all other tensors, metadata and objects are copied unchanged.

    Args:
        path: The checkpoint: a file of torch.save, a safetensors file, or a directory or index of shards of these.
        output: The path of the result, or an open and writable file descriptor. None means `ckpt.baked.pth` next to
            `ckpt.pth`.
        key: The dotted path of the state_dict inside the file, or several of them, or globs. None looks for it.
        force: Whether an existing output is replaced.
        in_place: Whether the input is replaced.
        dry_run: Whether to measure the result without writing it.
        label: The name of the input in messages. None means `path`.
        progress: Receives the progress.

    Returns:
        The folded weights, with the number of their zeros.

    Raises:
        PruneError: If the checkpoint cannot be read, has no weight to fold or one that cannot be folded, or if the
            output cannot be written. No output is written then.
    """
    refuse_both(output, in_place=in_place)
    checkpoint = open_checkpoint(path, key=key, label=label)
    label = label or str(path)
    _check_formats(checkpoint, label)
    pruned = find_pairs(checkpoint, label)
    _refuse_module(checkpoint, label)
    default = partial(default_output, path, "baked")
    target = None if dry_run else rewritten_target(checkpoint, output, default, force=force, in_place=in_place)
    job = _Job(checkpoint, pruned.pairs, _new_names(pruned.pairs), target, force or in_place, progress)
    plans = [job.plan(index) for index in range(len(checkpoint.files))]
    return BakeResult(
        weights=_write(job, plans),
        notes=pruned.notes,
        input_path=label,
        output_path=path_in_result(target),
        format=checkpoint.format,
        key=checkpoint.key,
        keys=checkpoint.keys,
        input_bytes=checkpoint.stored_size,
        output_bytes=sum(plan.size for plan in plans),
    )


def _new_names(pairs: Sequence[Pair]) -> dict[str, str | None]:
    masks: dict[str, str | None] = {pair.mask.name: None for pair in pairs}
    return masks | {pair.orig.name: pair.name for pair in pairs}


def _check_formats(checkpoint: Checkpoint, label: str) -> None:
    for file in checkpoint.files:
        if format_of(file).rewrite is None:
            raise CheckpointError(
                f"{label} is {file.format}: only files of torch.save and safetensors files can be folded", hint=REMOVE
            )


def _refuse_module(checkpoint: Checkpoint, label: str) -> None:
    if checkpoint.is_module:
        raise CheckpointError(
            f"{label} is a whole pickled module, whose hooks apply the masks: they cannot be folded in the file",
            hint=REMOVE,
        )


@dataclass(frozen=True, slots=True)
class _Job:
    """The weights to fold, and where and how the result is written.

    `names` maps each tensor that is renamed to its new name, and each that is removed to None.
    """

    checkpoint: Checkpoint
    pairs: tuple[Pair, ...]
    names: Mapping[str, str | None]
    target: Path | int | None
    force: bool
    progress: Progress | None

    def new_names(self, index: int) -> Iterator[tuple[TensorInfo, str | None]]:
        """Yield the tensors of file number `index` with their new names, None if they are removed."""
        for tensor in self.checkpoint.tensors:
            if tensor.file == index:
                outside = tensor.unprunable_reason == OUTSIDE
                yield tensor, tensor.name if outside else self.names.get(tensor.name, tensor.name)

    def plan(self, index: int) -> FilePlan:
        """Return the plan of the output for file number `index`."""
        file = self.checkpoint.files[index]
        prefix = f"{self.checkpoint.key}." if self.checkpoint.key else ""
        changed = {
            prefix + tensor.name: None if new is None else prefix + new
            for tensor, new in self.new_names(index)
            if new != tensor.name
        }
        rewrite = format_of(file).rewrite
        if not changed or rewrite is None:
            return FilePlan((Span(0, file.size),))
        with file.path.open("rb") as stream:
            return rewrite(stream, str(file.path), changed)


def _write(job: _Job, plans: Sequence[FilePlan]) -> tuple[FoldedWeight, ...]:
    from prunecli.baking.fold import Output, fold_all  # noqa: PLC0415 - imports NumPy, which errors do not need
    from prunecli.io.reader import open_files  # noqa: PLC0415

    with open_files(job.checkpoint) as sources, _outputs(job, plans, sources) as files:
        outputs: list[Output | None] = []
        for source, plan, file in zip(sources, plans, files, strict=True):
            if file is not None:
                with file.opened() as fd:
                    write_parts(source, fd, plan.parts, advance=start(job.progress, "copying", plan.size))
            outputs.append(None if file is None else Output(file, plan, plan.copied_ranges()))
        size = bytes_to_read(tensor for pair in job.pairs for tensor in (pair.orig, pair.mask))
        folded = fold_all(job.checkpoint, sources, job.pairs, outputs, start(job.progress, "folding", size))
        for source in sources:
            source.check_unchanged()
        for index, output in enumerate(outputs):
            if output is not None:
                _check_output(job, index, output)
    return folded


@contextmanager
def _outputs(job: _Job, plans: Sequence[FilePlan], sources: Sequence[Source]) -> Iterator[Sequence[Descriptor | None]]:
    """Open one output per file, published together at the end; None for each on a dry run."""
    if job.target is None:
        yield [None] * len(plans)
        return
    sizes = [plan.size for plan in plans]
    replacement = partial(_new_index, job.checkpoint, job.names)
    with output_files(job.checkpoint, sources, job.target, sizes, force=job.force, replacement=replacement) as files:
        yield files


def _new_index(checkpoint: Checkpoint, names: Mapping[str, str | None], relative: Path) -> bytes | None:
    """Return the new content of the index of the shards; None for all other files of the directory."""
    path = checkpoint.path / relative
    if relative != checkpoint.index or path.stat().st_size > HEADER_LIMIT:
        return None
    sizes = {tensor.name: tensor.nbytes for tensor in checkpoint.tensors}
    return rewrite_index(path.read_bytes(), names, sizes, str(path))


def _check_output(job: _Job, index: int, output: Output) -> None:
    """Read the new file with its own reader; CheckpointError if a tensor is not where its bytes were copied."""
    expected = {}
    for tensor, new in job.new_names(index):
        if new is not None:
            offset = output.offset_of(tensor.span.start, tensor.span.end) if tensor.span.length else 0
            expected[new] = _layout(tensor, offset)
    file = job.checkpoint.files[index]
    with output.file.opened() as fd, os.fdopen(os.dup(fd), "rb") as stream:
        tensors = format_of(file).read(stream, str(file.path), job.checkpoint.keys).tensors
    actual = {tensor.name: _layout(tensor, tensor.span.start if tensor.span.length else 0) for tensor in tensors}
    if actual != expected:
        wrong = sorted(name for name in actual.keys() | expected.keys() if actual.get(name) != expected.get(name))
        raise CheckpointError(
            f"{file.path} cannot be rewritten safely: {printable(wrong[0])} would change", hint=REMOVE
        )


def _layout(tensor: TensorInfo, offset: int) -> tuple[object, ...]:
    shape, strides = tensor.shape, tensor.strides
    return (tensor.dtype, shape, strides, tensor.offset, tensor.big_endian, offset, tensor.span.length)
