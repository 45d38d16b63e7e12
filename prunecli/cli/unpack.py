"""The command `prune unpack`: the file that was packed, byte for byte."""

from __future__ import annotations

from typing import Annotated

from prunecli.cli import options, rewriting
from prunecli.cli.pack import Ckpt, DryRun, Json, lines
from prunecli.cli.value_options import text_option

Output = Annotated[
    str | None,
    text_option(
        "-o --output",
        "PATH",
        "The result; `-` is standard output. [default: CKPT without .packed, or CKPT.unpacked.EXT]",
    ),
]


def unpack(
    ckpt: Ckpt,
    *,
    output: Output = None,
    threads: options.Threads = 0,
    json: Json = False,
    dry_run: DryRun = False,
    force: options.Force = False,
    in_place: options.InPlace = False,
    quiet: options.Quiet = False,
    no_progress: options.NoProgress = False,
) -> int:
    """Restore a packed torch file byte for byte.

    A zip that another program compressed is written with the same records uncompressed.
    """
    rewriting.refuse_pipes(ckpt, output, json=json, dry_run=dry_run, in_place=in_place)

    from prunecli.packing.pack import unpack as unpack_file

    progress = not (quiet or no_progress)
    unpacked = rewriting.rewritten(
        unpack_file, ckpt, output, dry_run=dry_run, progress=progress, threads=threads, force=force, in_place=in_place
    )
    rewriting.print_result(unpacked, lambda stream: stream.writelines(lines(unpacked)), json=json, quiet=quiet)
    return 0
