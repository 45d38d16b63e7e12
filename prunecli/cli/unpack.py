"""The command `prune unpack`: the file that was packed, byte for byte."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from prunecli.cli import options
from prunecli.cli.pack import Ckpt, DryRun, Json, refuse_pipes, run
from prunecli.cli.value_options import text_option

if TYPE_CHECKING:
    from pathlib import Path

    from prunecli.packing.pack import PackResult

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

    Of a zip that another program has compressed, it writes one with the same records uncompressed.
    """
    from prunecli.packing.pack import unpack as unpack_file

    def work(path: str | Path, **settings: Any) -> PackResult:  # noqa: ANN401 - as `unpack_file`
        return unpack_file(path, threads=threads, force=force, in_place=in_place, dry_run=dry_run, **settings)

    refuse_pipes(ckpt, output, json=json, dry_run=dry_run, in_place=in_place)
    return run(work, ckpt, None if dry_run else output, json=json, quiet=quiet, progress=not (quiet or no_progress))
