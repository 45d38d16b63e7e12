"""The command `prune bake`: pruned weights are folded back, and a table says which."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO, TypeAlias

from typer import Option

from prunecli.cli import options
from prunecli.cli.inputs import readable
from prunecli.cli.output import printing
from prunecli.cli.progress import show_progress
from prunecli.errors import UsageError
from prunecli.text.numbers import format_bytes

if TYPE_CHECKING:
    from prunecli.baking.bake import Baked
    from prunecli.text.tables import Block

Output: TypeAlias = Annotated[
    str | None,
    Option(
        "-o",
        "--output",
        metavar="PATH",
        help="Where the result goes; `-` is standard output. [default: CKPT.baked.EXT]",
    ),
]
Json: TypeAlias = Annotated[bool, Option("--json", help="Print what was folded as JSON instead of the table.")]
DryRun: TypeAlias = Annotated[bool, Option("-n", "--dry-run", help="Say what would be folded, write nothing.")]
Quiet: TypeAlias = Annotated[bool, Option("-q", "--quiet", help="No table.")]


def bake(
    ckpt: options.Ckpt,
    *,
    output: Output = None,
    key: options.Key = None,
    json: Json = False,
    dry_run: DryRun = False,
    force: options.Force = False,
    in_place: options.InPlace = False,
    quiet: Quiet = False,
    no_progress: options.NoProgress = False,
) -> int:
    """Fold pruned weights: x_orig * x_mask becomes x.

    For checkpoints saved while torch.nn.utils.prune was active. The key x stands where x_orig stood, the mask is gone,
    and everything else in the file stays as it is.
    """
    to_pipe = output == "-" and not dry_run
    if to_pipe and json:
        raise UsageError("--json and -o - both want standard output", hint="-o FILE, or leave out --json")
    if ckpt == "-" and output is None and not dry_run:
        if in_place:
            raise UsageError("a pipe cannot be folded in place", hint="-o PATH, or -o -")
        raise UsageError("a checkpoint from a pipe has no name to derive the output's from", hint="-o PATH, or -o -")

    from prunecli.baking.bake import bake as folded

    with ExitStack() as stack:
        path, label = readable(stack, ckpt)
        progress = stack.enter_context(show_progress(wanted=not (quiet or no_progress)))
        target = _target(stack, output, to_pipe=to_pipe)
        found = folded(
            path,
            target,
            key=key,
            force=force,
            in_place=in_place,
            dry_run=dry_run,
            label=label,
            progress=progress,
        )
    done = "" if found.output_path is None else f"{found.output_path} is written, but "
    with printing(sys.stderr if to_pipe else None, done=done) as stream:
        _tell(found, stream, json=json, quiet=quiet)
    return 0


def _target(stack: ExitStack, output: str | None, *, to_pipe: bool) -> Path | int | None:
    if not to_pipe:
        return None if output is None else Path(output)
    from prunecli.cli.pipes import spooled_output

    return stack.enter_context(spooled_output())


# --- what it says


def _tell(found: Baked, stream: TextIO | None, *, json: bool, quiet: bool) -> None:
    """Print what was folded, where there is a stream to print it to."""
    if stream is None or (quiet and not json):
        return
    if json:
        stream.write(found.to_json())
        return
    from prunecli.text.tables import write_blocks

    write_blocks(_blocks(found), stream)


def _blocks(found: Baked) -> tuple[Block, Block]:
    from prunecli.text.escape import printable
    from prunecli.text.numbers import format_shape, percent
    from prunecli.text.tables import Block, Column

    columns = (
        Column("weight", fold=12),
        Column("dtype", optional=2),
        Column("shape", optional=1),
        Column("weights", right=True),
        Column("masked", right=True, optional=3),
        Column("sparsity", right=True),
    )
    rows = tuple(
        (
            printable(one.name),
            one.dtype,
            format_shape(one.shape),
            f"{one.numel:,}",
            f"{one.masked:,}",
            percent(one.sparsity if one.numel else None),
        )
        for one in found.weights
    )
    return Block(columns=columns, rows=rows), Block(lines=(*_summary(found),))


def _summary(found: Baked) -> list[str]:
    from prunecli.text.escape import printable
    from prunecli.text.numbers import counted, percent

    numel, zeros = sum(one.numel for one in found.weights), sum(one.zeros for one in found.weights)
    sparsity = percent(zeros / numel if numel else None)
    verb = "folded" if found.output_path is not None else "would fold"
    where = "standard output" if found.output_path == "-" else printable(found.output_path or "")
    sizes = f"{format_bytes(found.output_bytes)}, {format_bytes(found.input_bytes)} before"
    return [
        f"got       {verb} {counted(len(found.weights), 'tensor')}, {numel:,} weights: {sparsity} zero",
        *(f"note      {note}" for note in found.notes),
        f"output    {where} ({sizes})" if found.output_path is not None else "output    nothing written (dry run)",
    ]
