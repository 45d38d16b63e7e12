"""Convert or strip a checkpoint file with one call."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from prunecli.conversion.layout import Layout, converted_output
from prunecli.conversion.stripping import Dropped, stripped
from prunecli.conversion.target import new_suffix
from prunecli.engine.options import RunOptions
from prunecli.engine.outputs import OutputRequest, plan_outputs
from prunecli.errors import OutputError
from prunecli.formats.open import open_checkpoint, open_listed
from prunecli.formats.output_names import default_output, path_in_result
from prunecli.formats.torch.data_pickle import keeping_pickle
from prunecli.io.limits import check_threads
from prunecli.io.targets import elsewhere
from prunecli.progress import NoProgress
from prunecli.remote.path import as_path
from prunecli.strategies.strip import Strip
from prunecli.text.escape import printable
from prunecli.text.json import dump_result

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from prunecli.checkpoint import Checkpoint, Keys, PathLike
    from prunecli.conversion.arrange import Converted
    from prunecli.engine.outputs import Outputs
    from prunecli.progress import Progress


@dataclass(frozen=True, slots=True)
class ConvertResult:
    """The result of `convert`.

    Attributes:
        input_path: The path of the input, or its label.
        output_path: The path of the output, "-" for a descriptor, None after a dry run.
        input_format: The format of the input.
        output_format: The format of the output.
        input_bytes: The size of all input files that contain tensors.
        output_bytes: The size of all output files that contain tensors.
        files: The names of the files of a directory; none for a single file.
        tensors: The number of tensors, tied names included.
        tied: The stored name of each tied name that is stored once and named in the metadata.
        texts: The numbers and strings that are in the metadata as texts.
        left_out: The names and kinds of what the output does not hold.
        facts: Sentences about what changes besides the format.
        seconds: The duration.
    """

    input_path: str
    output_path: str | None
    input_format: str
    output_format: str
    input_bytes: int
    output_bytes: int
    tensors: int
    files: tuple[str, ...] = ()
    tied: Mapping[str, str] = field(default_factory=dict)
    texts: tuple[str, ...] = ()
    left_out: tuple[tuple[str, str], ...] = ()
    facts: tuple[str, ...] = ()
    seconds: float = 0.0

    def to_json(self) -> str:
        """Return the result as a JSON object with a line break at its end; `schema` is the version of its keys."""
        return dump_result("convert", asdict(self))


def convert(  # noqa: PLR0913 - one keyword for each option
    path: PathLike,
    output: PathLike | int,
    *,
    format: str | None = None,  # noqa: A002 - the word of the command line
    max_shard_size: str | int | None = None,
    untie: bool = False,
    drop_rest: bool = False,
    key: Keys = None,
    threads: int = 0,
    force: bool = False,
    dry_run: bool = False,
    label: str | None = None,
    progress: Progress | None = None,
) -> ConvertResult:
    """Write the tensors of the checkpoint at `path` in another format; their bits do not change.

    From one torch file to another the pickled object stays as it is. Otherwise the output is a flat dict of tensors:
    strided tensors are written in row-major order, and a file of safetensors has numbers and strings in its metadata.

    Args:
        path: A checkpoint file, a directory of shards, or an index file of shards.
        output: The path of the result. Its suffix is the format: `.safetensors`, or `.pth`, `.pt`, `.bin`, `.ckpt` or
            `.th` for torch. A path without a suffix is a directory of shards with an index, as the libraries of Hugging
            Face write it. An open, writable file descriptor needs `format`.
        format: "safetensors" or "torch", for a directory or a descriptor; by default "safetensors".
        max_shard_size: The most bytes of a shard, as a number or as "5GB", which is also the default of a directory.
        untie: Store tied tensors once for each name. By default safetensors has them once and the other names in the
            metadata, as `save_model` writes it, and torch has one storage for all of them.
        drop_rest: Leave out what the new format cannot hold, such as an optimizer.
        key: The dotted path of the state_dict in a nested checkpoint, or several of them, or globs over them.
        threads: The number of threads; 0 takes as many as help.
        force: Replace an existing output.
        dry_run: Check that everything fits and write nothing.
        label: The name of the input in messages. By default its path.
        progress: Receives the progress, from any thread.

    Returns:
        What was written.

    Raises:
        PruneError: The input is damaged or has what the format cannot hold, or the output cannot be written. No output
            is written then.
    """
    check_threads(threads)
    layout = Layout(max_shard_size, untie=untie, drop_rest=drop_rest, format=format)
    with keeping_pickle():
        checkpoint = open_listed(path, key=key, label=label, remote=True)  # what the tensors are makes no difference
        if not isinstance(output, int) and os.path.realpath(output) == os.path.realpath(checkpoint.path):
            raise OutputError(f"the output {printable(str(output))} is the input itself", hint=elsewhere())
        made = converted_output(checkpoint, output, layout, own=False)
    if made is None:
        raise TypeError
    request = OutputRequest(output, (), force=force, dry_run=dry_run)
    outputs = plan_outputs(checkpoint, path, request, (), None, made.arrangement)
    options = RunOptions(threads=threads, progress=NoProgress() if progress is None else progress)
    from prunecli.engine.arranged_run import write_arranged

    return ConvertResult(
        **_common(checkpoint, made, outputs, label or str(as_path(path))),
        tied=made.tied,
        texts=made.texts,
        left_out=made.left_out,
        seconds=round(write_arranged(checkpoint, outputs, options).seconds, 3),
    )


def _common(checkpoint: Checkpoint, made: Converted, outputs: Outputs, label: str) -> dict[str, Any]:
    """Return the attributes that the results of both functions have."""
    return {
        "input_path": label,
        "output_path": path_in_result(outputs.checkpoint),
        "input_format": checkpoint.format,
        "output_format": made.arrangement.format,
        "input_bytes": checkpoint.stored_size,
        "output_bytes": made.arrangement.size,
        "tensors": made.tensors,
        "files": tuple(file.name for file in made.arrangement.outputs if file.name),
        "facts": made.facts,
    }


@dataclass(frozen=True, slots=True)
class StripResult:
    """The result of `strip`.

    Attributes:
        input_path: The path of the input, or its label.
        output_path: The path of the output, "-" for a descriptor, None after a dry run.
        input_format: The format of the input.
        output_format: The format of the output.
        input_bytes: The size of all input files that contain tensors.
        output_bytes: The size of all output files that contain tensors.
        tensors: The number of tensors that stay.
        dropped: What goes: name, role, number of tensors, and the bytes that only these use.
        casts: The dtypes before and after, the number of cast tensors, and the bytes saved.
        unwrapped: The number of names that lost the prefix of a wrapper.
        files: The names of the files of a directory; none for a single file.
        facts: Sentences about other changes.
        warnings: Sentences about weights that the cast loses.
        seconds: The duration.
    """

    input_path: str
    output_path: str | None
    input_format: str
    output_format: str
    input_bytes: int
    output_bytes: int
    tensors: int
    dropped: tuple[Dropped, ...] = ()
    casts: tuple[tuple[str, str, int, int], ...] = ()
    unwrapped: int = 0
    files: tuple[str, ...] = ()
    facts: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    seconds: float = 0.0

    def to_json(self) -> str:
        """Return the result as a JSON object with a line break at its end; `schema` is the version of its keys."""
        return dump_result("strip", asdict(self))


def strip(  # noqa: PLR0913 - one keyword for each option
    path: PathLike,
    output: PathLike | int | None = None,
    *,
    keep: str | Sequence[str] = "model",
    to: str | None = None,
    allow_overflow: bool = False,
    unwrap: bool = True,
    format: str | None = None,  # noqa: A002 - the word of the command line
    max_shard_size: str | int | None = None,
    untie: bool = False,
    key: Keys = None,
    threads: int = 0,
    force: bool = False,
    in_place: bool = False,
    dry_run: bool = False,
    label: str | None = None,
    progress: Progress | None = None,
) -> StripResult:
    """Write a training checkpoint without its optimizer, and without everything else but the weights.

    In a torch file the pickled object keeps its structure: entries such as the epoch stay. Other formats get what they
    can hold of these.

    Args:
        path: A checkpoint file, a directory of shards, or an index file of shards.
        output: The path of the result; its suffix is the format, see `convert`. By default `ckpt.stripped.pth` next to
            `ckpt.pth`.
        keep: "model" keeps the weights of the model, "ema" their moving averages under the names of the model (weights
            without an average stay), and patterns keep the tensors that match: globs over names, or regular expressions
            after `re:`.
        to: "fp16" or "bf16" casts the kept floating-point weights, rounded to nearest, half to even, as torch does.
        allow_overflow: Let finite weights become infinite by the cast; they are counted in any case.
        unwrap: Remove the prefixes of wrappers from names, such as `module.` and `_orig_mod.`.
        format: "safetensors" or "torch", for a directory, a descriptor or the default output. By default that of the
            input.
        max_shard_size: The most bytes of a shard.
        untie: Store tied tensors once for each name.
        key: The dotted path of the state_dict in a nested checkpoint, or several of them, or globs over them.
        threads: The number of threads; 0 takes as many as help.
        force: Replace an existing output.
        in_place: Replace the input.
        dry_run: Write nothing; a cast is still measured.
        label: The name of the input in messages. By default its path.
        progress: Receives the progress, from any thread.

    Returns:
        What went, and what that saves.

    Raises:
        PruneError: Nothing would be left, finite weights would become infinite, or the output cannot be written. No
            output is written then.
    """
    check_threads(threads)
    wanted = Strip(keep, to, allow_overflow, unwrap)
    checkpoint = open_checkpoint(path, key=key, label=label, remote=True)
    left = stripped(checkpoint, wanted)
    layout = Layout(max_shard_size, untie=untie, format=format)
    if output is None and not in_place:
        output = default_output(path, "stripped", suffix=new_suffix(checkpoint, format))
    request = OutputRequest(output, (), force=force, in_place=in_place, dry_run=dry_run)
    made = converted_output(checkpoint, output, layout, in_place=in_place, stripped=left)
    if made is None:
        raise TypeError
    outputs = plan_outputs(checkpoint, path, request, (), None, made.arrangement)
    options = RunOptions(threads=threads, progress=NoProgress() if progress is None else progress)
    from prunecli.engine.arranged_run import write_arranged

    written = write_arranged(checkpoint, replace(outputs, allow_overflow=allow_overflow), options)
    return StripResult(
        **_common(checkpoint, made, outputs, label or str(as_path(path))),
        dropped=left.dropped,
        casts=tuple((before, after, *counts) for (before, after), counts in left.casts.items()),
        unwrapped=left.unwrapped,
        warnings=written.warnings,
        seconds=round(written.seconds, 3),
    )
