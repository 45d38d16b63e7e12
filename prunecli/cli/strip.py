"""The command `prune strip`: drop everything but the weights, and print a table of what went."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from prunecli.cli import options, rewriting
from prunecli.cli.exit import warn
from prunecli.cli.value_options import flag_option, text_option

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
    str | None,
    text_option(
        "--format",
        "safetensors|torch",
        "The format of a directory, of standard output, or of an output without a name. [default: that of the input]",
    ),
]
DryRun = Annotated[bool, flag_option("-n --dry-run", "Print what would be dropped, and write no file.")]


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

    Drops the optimizer, the scheduler, gradients and moving averages, and removes the prefixes of wrappers from names.
    --to casts the weights. In a torch file other entries stay, such as the epoch.
    """
    rewriting.refuse_pipes(ckpt, output, json=json, dry_run=dry_run, in_place=in_place)

    from prunecli.api_convert import strip as write
    from prunecli.text.tables import write_blocks

    result = rewriting.rewritten(
        write,
        ckpt,
        output,
        dry_run=dry_run,
        progress=not (quiet or no_progress),
        last="flushing",
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
    )
    for warning in result.warnings:
        warn(warning)
    rewriting.print_result(result, lambda stream: write_blocks(_blocks(result), stream), json=json, quiet=quiet)
    return 0


# --- the printed result


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
    from prunecli.text.numbers import counted, format_bytes

    verb = "would be kept" if result.output_path is None else "kept"
    sizes = f"{format_bytes(result.input_bytes)} before, {format_bytes(result.output_bytes)} after"
    return f"{counted(result.tensors, 'tensor')} {verb}, {sizes}{rewriting.destination(result)}"
