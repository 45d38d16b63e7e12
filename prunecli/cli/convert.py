"""The command `prune convert`: write a checkpoint in another format, and print what changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from typer import Argument

from prunecli.cli import options, rewriting
from prunecli.cli.value_options import flag_option, text_option
from prunecli.errors import UsageError

if TYPE_CHECKING:
    from prunecli.api_convert import ConvertResult

Output = Annotated[
    str,
    Argument(
        metavar="OUTPUT",
        help="A .safetensors or .pth file, a directory of shards, or `-`; .pt, .bin, .ckpt and .th are torch too.",
    ),
]
Format = Annotated[
    str | None,
    text_option(
        "--format",
        "safetensors|torch",
        "The format of a directory or of standard output. [default for a directory: safetensors]",
    ),
]
Json = Annotated[bool, flag_option("--json", "Print the result as JSON.")]
DryRun = Annotated[bool, flag_option("-n --dry-run", "Check that everything fits, and write no file.")]


def convert(
    ckpt: options.Ckpt,
    output: Output,
    *,
    format: Format = None,  # noqa: A002 - the flag
    max_shard_size: options.MaxShardSize = None,
    untie: options.Untie = False,
    drop_rest: options.DropRest = False,
    key: options.Key = None,
    json: Json = False,
    dry_run: DryRun = False,
    force: options.Force = False,
    threads: options.Threads = 0,
    quiet: options.Quiet = False,
    no_progress: options.NoProgress = False,
) -> int:
    """Write a checkpoint in another format.

    The output's suffix is the format; a path without one is a directory of shards with an index. The bits of the
    tensors do not change. What the new format cannot hold is an error that lists it, or is left out with --drop-rest.
    """
    _check(output, format, json=json and not dry_run)

    from prunecli.api_convert import convert as write

    written = rewriting.rewritten(
        write,
        ckpt,
        output,
        dry_run=dry_run,
        progress=not (quiet or no_progress),
        last="flushing",
        format=format,
        max_shard_size=max_shard_size,
        untie=untie,
        drop_rest=drop_rest,
        key=key,
        threads=threads,
        force=force,
    )
    rewriting.print_result(written, lambda stream: stream.writelines(_lines(written)), json=json, quiet=quiet)
    return 0


def _check(output: str, format_: str | None, *, json: bool) -> None:
    if output == "-" and json:
        raise UsageError("--json and the output `-` both need standard output", hint="OUTPUT, or leave out --json")
    if output == "-" and format_ is None:
        raise UsageError("standard output has no suffix that says the format", hint="--format safetensors")


def _lines(written: ConvertResult) -> list[str]:
    from prunecli.text.numbers import counted, format_bytes

    shards = f" in {counted(len(written.files), 'file')}" if written.files else ""
    sizes = f"{format_bytes(written.input_bytes)} before, {format_bytes(written.output_bytes)}{shards} after"
    verb = "would be converted" if written.output_path is None else "converted"
    formats = f"from {written.input_format} to {written.output_format}"
    sentence = f"{counted(written.tensors, 'tensor')} {verb} {formats}, {sizes}{rewriting.destination(written)}"
    lines = [sentence, *([""] if written.facts else []), *(f"note      {fact}" for fact in written.facts)]
    return [f"{line}\n" for line in lines]
