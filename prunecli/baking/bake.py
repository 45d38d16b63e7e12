"""Folding pruned weights back in one call: `x_orig` * `x_mask` becomes `x`, and nothing else of the file changes.

What torch.nn.utils.prune.remove does to a live model, done to a checkpoint file; nothing is unpickled.
"""

from __future__ import annotations

import json
import os
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from prunecli.baking.pairs import REMOVE, Folded, find_pairs
from prunecli.checkpoint import OUTSIDE, PathLike, Span
from prunecli.errors import CheckpointError, UsageError
from prunecli.formats.open import open_checkpoint
from prunecli.formats.output_names import default_output
from prunecli.formats.registry import format_of
from prunecli.formats.safetensors.format import SAFETENSORS
from prunecli.formats.safetensors.rewrite import rewrite_index, rewrite_safetensors
from prunecli.formats.shards import INDEX_SUFFIX
from prunecli.formats.strict_json import HEADER_LIMIT
from prunecli.io.output_files import output_files
from prunecli.io.parts import FilePlan, write_parts
from prunecli.io.scan import bytes_to_read
from prunecli.io.targets import check_output
from prunecli.progress import start
from prunecli.text.escape import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from prunecli.baking.fold import Target
    from prunecli.baking.pairs import Pair
    from prunecli.checkpoint import Checkpoint, TensorInfo
    from prunecli.io.files import Source
    from prunecli.progress import Progress

Names = dict[str, "str | None"]
"""What tensors are called after the folding, None where they are gone; those that keep their names are not in it."""

_FOLDABLE = (SAFETENSORS.name, "torch zip", "torch legacy")


@dataclass(frozen=True, slots=True)
class Baked:
    """What `bake` did: the `weights` it folded, in checkpoint order, and `notes` about what it left as it was.

    `output_path` is None after a dry run and "-" for a descriptor; sizes are in bytes, of all files that hold tensors.
    """

    weights: tuple[Folded, ...]
    notes: tuple[str, ...]
    input_path: str
    output_path: str | None
    format: str
    key: str
    input_bytes: int
    output_bytes: int

    def to_json(self) -> str:
        """Return it as JSON, ending in a line break; `schema` counts the versions of its keys."""
        weights = [{**asdict(one), "shape": list(one.shape), "sparsity": one.sparsity} for one in self.weights]
        values = {name: getattr(self, name) for name in self.__slots__}
        return json.dumps({"schema": 1, "command": "bake", **values, "weights": weights}, indent=2) + "\n"


def bake(  # noqa: PLR0913 - one keyword per question a user may have
    path: PathLike,
    output: PathLike | int | None = None,
    *,
    key: str | None = None,
    force: bool = False,
    in_place: bool = False,
    dry_run: bool = False,
    label: str | None = None,
    progress: Progress | None = None,
) -> Baked:
    """Write the checkpoint at `path` anew with each `x_orig` and `x_mask` folded into `x`, and say what was folded.

    `x` is +0.0 where the mask is 0 and keeps the bits of `x_orig` where it is 1; its key stands where `x_orig` stood,
    and the mask is gone. All else stays: other tensors, metadata, optimizer state, unknown objects. `output` is a
    path (None: `ckpt.baked.pth` beside `ckpt.pth`) or an open, writable file descriptor; an existing output is
    kept unless `force`, the input unless `in_place`. `key` is the dotted path of the state_dict in a nested
    checkpoint. `dry_run` reads and measures, and writes nothing. `label` names the input in messages;
    `progress` receives the progress.

    Raises PruneError, in one of its kinds, when something about that cannot be done; then nothing was written.
    """
    if in_place and output is not None:
        raise UsageError("--in-place writes to the input, so there is no other output", hint="leave out -o")
    checkpoint = open_checkpoint(path, key=key, label=label)
    label = label or str(path)
    if checkpoint.format not in _FOLDABLE:
        raise CheckpointError(
            f"{label} is {checkpoint.format}: only files of torch.save and safetensors can be folded",
            hint=REMOVE,
        )
    found = find_pairs(checkpoint, label)
    target = None if dry_run else _target(checkpoint, path, output, in_place=in_place)
    if isinstance(target, Path):
        _check(checkpoint, target, force=force, in_place=in_place)
    names: Names = {pair.mask.name: None for pair in found.pairs} | {pair.orig.name: pair.name for pair in found.pairs}
    plans = [_plan(checkpoint, at, names) for at in range(len(checkpoint.files))]
    weights = _write(checkpoint, plans, found.pairs, names, _Job(target, force or in_place, progress))
    return Baked(
        weights=weights,
        notes=found.notes,
        input_path=label,
        output_path=None if target is None else "-" if isinstance(target, int) else str(target),
        format=checkpoint.format,
        key=checkpoint.key,
        input_bytes=sum(file.size for file in checkpoint.files),
        output_bytes=sum(plan.size for plan in plans),
    )


@dataclass(frozen=True, slots=True)
class _Job:
    target: Path | int | None
    force: bool
    progress: Progress | None


def _target(checkpoint: Checkpoint, path: PathLike, output: PathLike | int | None, *, in_place: bool) -> Path | int:
    if in_place:
        return Path(os.path.realpath(checkpoint.path))
    if isinstance(output, int):
        if checkpoint.is_directory:
            raise UsageError("a directory of shards cannot go to a pipe", hint="-o DIRECTORY")
        return output
    return baked_output(path) if output is None else Path(output)


def baked_output(path: PathLike) -> Path:
    """Name the output for a checkpoint: `.baked` before the suffix of a file, after the name of a directory."""
    pruned = default_output(path)
    before, _, after = pruned.name.rpartition(".pruned")
    return pruned.with_name(f"{before}.baked{after}")


def _check(checkpoint: Checkpoint, target: Path, *, force: bool, in_place: bool) -> None:
    """Refuse now what could not be published later."""
    sources = [file.path for file in checkpoint.files]
    names = None
    if checkpoint.is_directory:
        sources.append(checkpoint.path)
        names = {path.relative_to(checkpoint.path).as_posix() for path in sources[:-1]}
        for companion in checkpoint.other_files:
            names.update(part.as_posix() for part in (companion, *companion.parents[:-1]))
    check_output(target, sources=sources, force=force or in_place, in_place=in_place, names=names)


def _plan(checkpoint: Checkpoint, at: int, names: Names) -> FilePlan:
    """Return how the file number `at` is made anew."""
    file = checkpoint.files[at]
    here = [t.name for t in checkpoint.tensors if t.file == at and t.name in names and t.unprunable_reason != OUTSIDE]
    if not here:
        return FilePlan((Span(0, file.size),))
    label = str(file.path)
    with file.path.open("rb") as stream:
        if checkpoint.format == SAFETENSORS.name:
            return rewrite_safetensors(stream, label, {name: names[name] for name in here})
        from prunecli.formats.torch.rewrite import rewrite_torch  # noqa: PLC0415 - the reader of one format is enough

        above = f"{checkpoint.key}." if checkpoint.key else ""
        paths = {above + name: _below(above, names[name]) for name in here}
        return rewrite_torch(stream, label, paths)


def _below(above: str, name: str | None) -> str | None:
    return None if name is None else above + name


# --- writing


def _write(
    checkpoint: Checkpoint, plans: Sequence[FilePlan], pairs: Sequence[Pair], names: Names, job: _Job
) -> tuple[Folded, ...]:
    from prunecli.baking.fold import Target, fold_all  # noqa: PLC0415 - imports NumPy, which errors do not need
    from prunecli.io.reader import open_sources  # noqa: PLC0415

    with open_sources(checkpoint) as sources, _outputs(checkpoint, plans, sources, names, job) as fds:
        targets: list[Target | None] = []
        for source, plan, fd in zip(sources, plans, fds, strict=True):
            if fd is not None:
                write_parts(source, fd, plan.parts, advance=start(job.progress, "copying", plan.size))
            targets.append(None if fd is None else Target(fd, plan, plan.copied_ranges()))
        advance = start(job.progress, "folding", bytes_to_read(t for pair in pairs for t in (pair.orig, pair.mask)))
        folded = fold_all(checkpoint, sources, pairs, targets, advance)
        for source in sources:
            source.check_unchanged()
        for at, target in enumerate(targets):
            if target is not None:
                _check_result(checkpoint, at, target, names)
    return folded


@contextmanager
def _outputs(
    checkpoint: Checkpoint, plans: Sequence[FilePlan], sources: Sequence[Source], names: Names, job: _Job
) -> Iterator[Sequence[int | None]]:
    """Give a descriptor per file, None on a dry run; the files are published together when the block ends well."""
    if job.target is None:
        yield [None] * len(plans)
        return
    sizes = [plan.size for plan in plans]
    replacement = partial(_new_index, checkpoint, names)
    with output_files(checkpoint, sources, job.target, sizes, force=job.force, replacement=replacement) as fds:
        yield fds


def _new_index(checkpoint: Checkpoint, names: Names, relative: Path) -> bytes | None:
    """Return the new content of an index that lists folded tensors, None for any other file of the directory."""
    path = checkpoint.path / relative
    if not relative.name.endswith(INDEX_SUFFIX) or len(relative.parts) > 1 or path.stat().st_size > HEADER_LIMIT:
        return None
    sizes = {tensor.name: tensor.nbytes for tensor in checkpoint.tensors}
    return rewrite_index(path.read_bytes(), names, sizes, str(path))


# --- proof


def _check_result(checkpoint: Checkpoint, at: int, target: Target, names: Names) -> None:
    """Read the new file as any file is read, and refuse it unless it holds every tensor where its bytes are."""
    expected = {}
    for tensor in checkpoint.tensors:
        new = tensor.name if tensor.unprunable_reason == OUTSIDE else names.get(tensor.name, tensor.name)
        if tensor.file == at and new is not None:
            start = target.where(tensor.span.start, tensor.span.end) if tensor.span.length else 0
            expected[new] = _told(tensor, start)
    label = str(checkpoint.files[at].path)
    with os.fdopen(os.dup(target.fd), "rb") as stream:
        tensors = format_of(checkpoint).read(stream, label, checkpoint.key or None).tensors
    found = {tensor.name: _told(tensor, tensor.span.start if tensor.span.length else 0) for tensor in tensors}
    if found != expected:
        wrong = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
        raise CheckpointError(
            f"{label} cannot be rewritten with certainty: {printable(wrong[0])} would not be what it is", hint=REMOVE
        )


def _told(tensor: TensorInfo, start: int) -> tuple[object, ...]:
    shape, strides = tensor.shape, tensor.strides
    return (tensor.dtype, shape, strides, tensor.offset, tensor.big_endian, start, tensor.span.length)
