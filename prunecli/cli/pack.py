"""The command `prune pack`, and what it shares with `prune unpack`: pipes, and the printed result."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument

from prunecli.cli import options
from prunecli.cli.output import printing
from prunecli.cli.pipes import readable, spooled_output
from prunecli.cli.progress import show_progress
from prunecli.cli.value_options import flag_option, text_option, whole_option
from prunecli.errors import UsageError
from prunecli.text.numbers import format_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from prunecli.packing.pack import PackResult

Ckpt = Annotated[str, Argument(metavar="CKPT", help="A file of torch.save (.pth, .pt, .ckpt, .bin), or `-`.")]
Output = Annotated[
    str | None, text_option("-o --output", "PATH", "The result; `-` is standard output. [default: CKPT.packed.EXT]")
]
Level = Annotated[
    int, whole_option("--level", "1-9", 6, "The effort: 1 is fast, 9 finds the most repetitions.", least=1, most=9)
]
Json = Annotated[bool, flag_option("--json", "Print the result as JSON.")]
DryRun = Annotated[bool, flag_option("-n --dry-run", "Print the size that the result would have, write no file.")]


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
    from prunecli.packing.pack import pack as pack_file

    def work(path: str | Path, **settings: Any) -> PackResult:  # noqa: ANN401 - as `pack_file`
        return pack_file(
            path, level=level, threads=threads, force=force, in_place=in_place, dry_run=dry_run, **settings
        )

    refuse_pipes(ckpt, output, json=json, dry_run=dry_run, in_place=in_place)
    return run(work, ckpt, None if dry_run else output, json=json, quiet=quiet, progress=not (quiet or no_progress))


# --- shared with `unpack`


def refuse_pipes(ckpt: str, output: str | None, *, json: bool, dry_run: bool, in_place: bool) -> None:
    """Raise UsageError for pipes that cannot be."""
    if dry_run:
        return
    if output == "-" and json:
        raise UsageError("--json and -o - both need standard output", hint="-o FILE, or leave out --json")
    if ckpt == "-" and output is None:
        if in_place:
            raise UsageError("a pipe cannot be replaced in place", hint="-o PATH, or -o -")
        raise UsageError("a checkpoint from a pipe has no name to derive the output's from", hint="-o PATH, or -o -")


def run(
    work: Callable[..., PackResult], ckpt: str, output: str | None, *, json: bool, quiet: bool, progress: bool
) -> int:
    """Do `work` on a checkpoint, print the result, and return the exit code."""
    to_pipe = output == "-"
    with ExitStack() as stack:
        path, label = readable(stack, ckpt)
        target = stack.enter_context(spooled_output()) if to_pipe else None if output is None else Path(output)
        bars = stack.enter_context(show_progress(wanted=progress))
        packed = work(path, output=target, label=label, progress=bars)
    with printing(to_stderr=to_pipe, written=packed.output_path) as stream:
        if json:
            stream.write(packed.to_json())
        elif not quiet:
            stream.writelines(f"{line}\n" for line in _lines(packed))
    return 0


def _lines(packed: PackResult) -> Iterator[str]:
    from prunecli.text.escape import printable

    done = packed.output_path is not None
    verb = f"{'' if done else 'would '}{packed.command}{'ed' if done else ''}"
    level = "" if packed.level is None else f", level {packed.level}"
    yield f"got       {verb} {packed.compressed:,} of {packed.storages:,} storages{level}"
    yield from (f"note      {note}" for note in packed.notes)
    ratio = packed.output_bytes / packed.input_bytes
    sizes = f"{format_bytes(packed.output_bytes)}, {format_bytes(packed.input_bytes)} before: {ratio:.2f} of it"
    if not done:
        yield f"output    nothing written (dry run); it would have {sizes}"
        return
    where = "standard output" if packed.output_path == "-" else printable(packed.output_path or "")
    yield f"output    {where} ({sizes})"
