"""The command `prune pack`, and the printed result of it and of `prune unpack`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from typer import Argument

from prunecli.cli import options, rewriting
from prunecli.cli.value_options import flag_option, text_option, whole_option
from prunecli.text.numbers import format_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prunecli.packing.pack import PackResult

Ckpt = Annotated[str, Argument(metavar="CKPT", help="A file of torch.save (.pth, .pt, .ckpt, .bin), or `-`.")]
Output = Annotated[
    str | None, text_option("-o --output", "PATH", "The result; `-` is standard output. [default: CKPT.packed.EXT]")
]
Level = Annotated[
    int,
    whole_option(
        "--level", "1-9", 6, "The compression level: 1 is the fastest, 9 gives the smallest file.", least=1, most=9
    ),
]
Json = Annotated[bool, flag_option("--json", "Print the result as JSON.")]
DryRun = Annotated[bool, flag_option("-n --dry-run", "Print the size that the result would have, and write no file.")]


def pack(
    ckpt: Ckpt,
    *,
    output: Output = None,
    level: Level = 6,
    threads: options.Threads = 0,
    json: Json = False,
    dry_run: DryRun = False,
    force: options.Force = False,
    in_place: options.InPlace = False,
    quiet: options.Quiet = False,
    no_progress: options.NoProgress = False,
) -> int:
    """Compress the weights of a torch file.

    The result is a zip that torch.load reads with nothing installed, also with weights_only=True. With mmap=True it
    raises, and so does the .bin loader of transformers. `prune unpack` restores the input byte for byte. All commands
    read packed files.
    """
    rewriting.refuse_pipes(ckpt, output, json=json, dry_run=dry_run, in_place=in_place)

    from prunecli.packing.pack import pack as pack_file

    packed = rewriting.rewritten(
        pack_file,
        ckpt,
        output,
        dry_run=dry_run,
        progress=not (quiet or no_progress),
        level=level,
        threads=threads,
        force=force,
        in_place=in_place,
    )
    rewriting.print_result(packed, lambda stream: stream.writelines(lines(packed)), json=json, quiet=quiet)
    return 0


def lines(packed: PackResult) -> Iterator[str]:
    """Yield the lines about a packed or an unpacked file."""
    done = packed.output_path is not None
    verb = f"{'' if done else 'would be '}{packed.command}ed"
    level = "" if packed.level is None else f" at level {packed.level}"
    after = f"{format_bytes(packed.output_bytes)} after ({packed.output_bytes / packed.input_bytes:.0%})"
    sizes = f"{format_bytes(packed.input_bytes)} before, {after}"
    where = f" -> {rewriting.place(packed)}" if done else "; nothing written (dry run)"
    yield f"{packed.compressed:,} of {packed.storages:,} storages {verb}{level}, {sizes}{where}\n"
    yield from (f"{line}\n" for line in ([""] if packed.notes else []))
    yield from (f"note      {note}\n" for note in packed.notes)
