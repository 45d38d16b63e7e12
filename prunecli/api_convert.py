"""Convert a checkpoint file to another format with one call."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING

from prunecli.conversion.layout import Layout, converted_output
from prunecli.engine.options import RunOptions
from prunecli.engine.outputs import OutputRequest, plan_outputs
from prunecli.formats.open import open_checkpoint
from prunecli.io.limits import check_threads
from prunecli.progress import NoProgress

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

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
        return json.dumps({"schema": 1, "command": "convert", **asdict(self)}, indent=2) + "\n"


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
    checkpoint = open_checkpoint(path, key=key, label=label)
    layout = Layout(max_shard_size, untie=untie, drop_rest=drop_rest, format=format)
    made = converted_output(checkpoint, output, layout, own=False)
    if made is None:
        raise TypeError
    request = OutputRequest(output, (), force=force, dry_run=dry_run)
    outputs = plan_outputs(checkpoint, path, request, (), None, made.arrangement)
    options = RunOptions(threads=threads, progress=NoProgress() if progress is None else progress)
    return replace(_result(checkpoint, made, outputs, label or str(path)), seconds=_write(checkpoint, outputs, options))


def _write(checkpoint: Checkpoint, outputs: Outputs, options: RunOptions) -> float:
    from prunecli.engine.arranged_run import write_arranged

    return round(write_arranged(checkpoint, outputs, options).seconds, 3)


def _result(checkpoint: Checkpoint, made: Converted, outputs: Outputs, label: str) -> ConvertResult:
    arrangement = made.arrangement
    return ConvertResult(
        input_path=label,
        output_path=_name(outputs.checkpoint),
        input_format=checkpoint.format,
        output_format=arrangement.format,
        input_bytes=sum(file.stored_size for file in checkpoint.files),
        output_bytes=arrangement.size,
        tensors=made.tensors,
        files=tuple(file.name for file in arrangement.outputs if file.name),
        tied=made.tied,
        texts=made.texts,
        left_out=made.left_out,
        facts=made.facts,
    )


def _name(output: Path | int | None) -> str | None:
    return None if output is None else "-" if isinstance(output, int) else str(output)
