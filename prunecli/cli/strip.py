"""The command `prune strip`: drop everything but the weights, and print a table of what went."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated

from prunecli.cli import options
from prunecli.cli.exit import say
from prunecli.cli.output import printing
from prunecli.cli.pipes import readable, spooled_output
from prunecli.cli.progress import show_progress
from prunecli.cli.value_options import flag_option, text_option
from prunecli.errors import UsageError

if TYPE_CHECKING:
    from prunecli.api_convert import StripResult
    from prunecli.text.tables import Block

Output = Annotated[
    str | None,
    text_option(
        "-o --output",
        "PATH",
        "The result, in the format of its suffix; `-` is standard output. [default: CKPT.stripped.EXT]",
    ),
]
Keep = Annotated[
    list[str] | None,
    text_option(
        "--keep",
        "model|ema|GLOB",
        "Keep the model's weights, their moving averages under the same names, or the tensors that match; `re:` starts"
        " a regular expression. Repeatable. [default: model]",
    ),
]
To = Annotated[
    str | None,
    text_option("--to", "fp16|bf16", "Cast the floating-point weights, rounded to nearest, half to even."),
]
NoUnwrap = Annotated[bool, flag_option("--no-unwrap", "Keep prefixes such as module. and _orig_mod. in names.")]
Format = Annotated[
    str | None, text_option("--format", "safetensors|torch", "The format of a directory or of standard output.")
]
DryRun = Annotated[bool, flag_option("-n --dry-run", "Print what would go, write no file.")]


def strip(
    ckpt: options.Ckpt,
    *,
    output: Output = None,
    keep: Keep = None,
    to: To = None,
    allow_overflow: options.AllowOverflow = False,
    no_unwrap: NoUnwrap = False,
    format: Format = None,  # noqa: A002 - the flag
    max_shard_size: options.MaxShardSize = None,
    untie: options.Untie = False,
    key: options.Key = None,
    json: options.Json = False,
    dry_run: DryRun = False,
    force: options.Force = False,
    in_place: options.InPlace = False,
    threads: options.Threads = 0,
    quiet: options.Quiet = False,
    no_progress: options.NoProgress = False,
) -> int:
    """Drop everything but the weights of a training checkpoint.

    The optimizer, the scheduler, gradients and moving averages go, names lose the prefixes of wrappers, and --to casts
    the weights. In a torch file other entries stay, such as the epoch.
    """
    to_pipe = output == "-" and not dry_run
    _check(ckpt, output, json=json, dry_run=dry_run, in_place=in_place)

    from prunecli.api_convert import strip as write

    with ExitStack() as stack:
        path, label = readable(stack, ckpt)
        target = stack.enter_context(spooled_output()) if to_pipe else 1 if output == "-" else output
        result = write(
            path,
            target,
            keep=keep or "model",
            to=to,
            allow_overflow=allow_overflow,
            unwrap=not no_unwrap,
            format=format,
            max_shard_size=max_shard_size,
            untie=untie,
            key=key,
            threads=threads,
            force=force,
            in_place=in_place,
            dry_run=dry_run,
            label=label,
            progress=stack.enter_context(show_progress(wanted=not (quiet or no_progress), last="flushing")),
        )
    for warning in result.warnings:
        say(f"warning: {warning}")
    _print(result, to_pipe=to_pipe, json=json, quiet=quiet)
    return 0


def _check(ckpt: str, output: str | None, *, json: bool, dry_run: bool, in_place: bool) -> None:
    if dry_run:
        return
    if output == "-" and json:
        raise UsageError("--json and -o - both need standard output", hint="-o FILE, or leave out --json")
    if ckpt == "-" and output is None:
        if in_place:
            raise UsageError("a pipe cannot be stripped in place", hint="-o PATH, or -o -")
        raise UsageError("a checkpoint from a pipe has no name to derive the output's from", hint="-o PATH, or -o -")


# --- the printed result


def _print(result: StripResult, *, to_pipe: bool, json: bool, quiet: bool) -> None:
    """Print what went, on standard error if the checkpoint went to standard output."""
    from prunecli.text.tables import write_blocks

    with printing(to_stderr=to_pipe, written=result.output_path) as stream:
        if json:
            stream.write(result.to_json())
        elif not quiet:
            write_blocks(_blocks(result), stream)


def _blocks(result: StripResult) -> tuple[Block, ...]:
    from prunecli.text.escape import printable
    from prunecli.text.numbers import format_bytes
    from prunecli.text.tables import Block, Column

    dropped = [(one.name, one.role, one.tensors, one.nbytes) for one in result.dropped]
    casts = [(f"{a} to {b}", "cast", count, saved) for a, b, count, saved in result.casts]
    rows = [
        (printable(name), role, f"{count:,}", format_bytes(saved)) if count else (printable(name), role, "-", "-")
        for name, role, count, saved in (*dropped, *casts)
    ]
    columns = (Column("gone", fold=12), Column("role"), Column("tensors", right=True), Column("saved", right=True))
    notes = tuple(f"note      {fact}" for fact in _facts(result))
    return (
        Block(_sentence(result)),
        *([Block(lines=notes)] if notes else []),
        *([Block("", columns, tuple(rows))] if rows else []),
    )


def _facts(result: StripResult) -> tuple[str, ...]:
    from prunecli.text.numbers import counted

    nothing = ("there is nothing to drop",) if not (result.dropped or result.casts or result.unwrapped) else ()
    names = (f"{counted(result.unwrapped, 'name')} without the prefix of a wrapper",) if result.unwrapped else ()
    return (*nothing, *names, *result.facts)


def _sentence(result: StripResult) -> str:
    from prunecli.text.escape import printable
    from prunecli.text.numbers import counted, format_bytes

    verb = "would be kept" if result.output_path is None else "kept"
    sizes = f"{format_bytes(result.input_bytes)} before, {format_bytes(result.output_bytes)} after"
    where = "standard output" if result.output_path == "-" else printable(result.output_path or "")
    end = "; nothing written (dry run)" if result.output_path is None else f" -> {where}"
    return f"{counted(result.tensors, 'tensor')} {verb}, {sizes}{end}"
