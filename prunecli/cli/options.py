"""The options that all commands share, as Typer types, and the parsers that turn text into a value or a sentence.

Nothing here knows what a value is good for.
"""

from __future__ import annotations

from contextlib import suppress
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

from typer import Argument, Context, Option

from prunecli.errors import PruneError, UsageError
from prunecli.report.gates import sparsity
from prunecli.text.escape import shown

if TYPE_CHECKING:
    from collections.abc import Callable

# --- parsers


def number(option: str, example: str) -> Callable[[str], float]:
    """Return the parser of an option that takes a number; it raises UsageError for other text."""

    def parse(text: str) -> float:
        try:
            return float(text)
        except ValueError:
            raise UsageError(f"{option} takes a number, not {text!r}", hint=f"{option} {example}") from None

    return parse


def whole(option: str, example: str, *, least: int | None = None) -> Callable[[str], int]:
    """Return the parser of an option that takes a whole number, `least` or more; UsageError for other text."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise UsageError(f"{option} takes a whole number, not {text!r}", hint=f"{option} {example}") from None
        if least is not None and value < least:
            raise UsageError(f"{option} is {least} or more, not {value}", hint=f"{option} {example}")
        return value

    return parse


def fraction(option: str) -> Callable[[str], float]:
    """Return the parser of an option that takes a part of something: 0.5, or 50%; UsageError for other text."""

    def parse(text: str) -> float:
        value = number(option, "0.5")(text.removesuffix("%"))
        value = _hundredth(text.removesuffix("%"), value) if text.endswith("%") else value
        if not 0 <= value <= 1:
            raise UsageError(f"{option} is 0 to 1 (or 0% to 100%), not {shown(text)}", hint=f"{option} 0.5")
        return value

    return parse


def parse_amount(text: str) -> float:
    """Return the fraction that "0.5", "50%" or "1.0" means; UsageError for a bare whole number and other text."""
    digits = text.removesuffix("%")
    value = number("--amount", "0.5, or --amount 50%")(digits)
    if text.endswith("%"):
        return _hundredth(digits, value)
    whole_number = digits.strip().removeprefix("+")
    if whole_number.isdecimal() and value:
        raise _ambiguous(whole_number)
    return value


def _hundredth(digits: str, value: float) -> float:
    """Return a hundredth of what `digits` say, in decimal: 99.9% is 0.999, and not the next number."""
    try:
        return float(Decimal(digits).scaleb(-2))
    except InvalidOperation:
        return value / 100


def _ambiguous(digits: str) -> UsageError:
    part = f", --amount {digits}% for that part of them" if 1 < int(digits) <= 100 else ""
    part = ", --amount 100% for all of them" if int(digits) == 1 else part
    return UsageError(
        f"--amount {digits} could mean a part or a number of weights", hint=f"--count {digits} for the number{part}"
    )


def parse_pattern(text: str) -> tuple[int, int]:
    """Return (2, 4) for "2:4"; UsageError for other text."""
    pair = _pair(text, ":")
    if pair is None:
        raise UsageError(f"--pattern is K:G, keep K of every G, not {text!r}", hint="--pattern 2:4")
    return pair


def parse_shape(text: str) -> tuple[int, int]:
    """Return (4, 8) for "4x8"; UsageError for other text."""
    pair = _pair(text, "x")
    if pair is None:
        raise UsageError(f"--shape is RxC, rows and columns of a tile, not {text!r}", hint="--shape 4x4")
    return pair


def _pair(text: str, between: str) -> tuple[int, int] | None:
    first, _, second = text.partition(between)
    if not (first.isascii() and first.isdigit() and second.isascii() and second.isdigit()):
        return None
    return int(first), int(second)


# --- completion


def complete_names(ctx: Context, incomplete: str) -> list[str]:
    """Return the names of tensors that start so, where a checkpoint is on the line already."""
    from prunecli.formats.open import open_checkpoint

    # The option that is being completed lacks its value, so that arguments were not assigned: they are left over.
    for ckpt in (ctx.params.get("ckpt"), *ctx.args):
        if ckpt and Path(ckpt).exists():
            with suppress(PruneError, OSError):
                names = (tensor.name for tensor in open_checkpoint(ckpt).tensors if tensor.fixed is None)
                return [name for name in names if name.startswith(incomplete) and name.isprintable()]
    return []


# --- types

Ckpt: TypeAlias = Annotated[
    str, Argument(metavar="CKPT", help="A .pth or safetensors file, a directory or index of shards, or `-`.")
]
Output: TypeAlias = Annotated[
    str | None,
    Option(
        "-o",
        "--output",
        metavar="PATH",
        help="Where the result goes; `-` is standard output. [default: CKPT.pruned.EXT]",
    ),
]
Reports: TypeAlias = Annotated[
    list[Path] | None,
    Option(
        metavar="PATH",
        help="Report, by its suffix .json, .csv, .md or .html; repeatable. [default: OUTPUT.report.json]",
    ),
]
Json: TypeAlias = Annotated[bool, Option("--json", help="Print the JSON report instead of the table.")]
DryRun: TypeAlias = Annotated[bool, Option("-n", "--dry-run", help="Measure and report, write no checkpoint.")]
Force: TypeAlias = Annotated[bool, Option("-f", "--force", help="Replace existing outputs.")]
InPlace: TypeAlias = Annotated[bool, Option("--in-place", help="Replace the input itself, whole or not at all.")]
Sha256: TypeAlias = Annotated[
    bool, Option("--sha256", help="Put the SHA-256 of input and output into the report; reads both once more.")
]
Estimate: TypeAlias = Annotated[
    bool, Option("--estimate", help="Compress a sample before and after, and tell what packing would give.")
]
Include: TypeAlias = Annotated[
    list[str] | None,
    Option(
        "-i",
        "--include",
        metavar="GLOB",
        autocompletion=complete_names,
        help="Only tensors whose name matches; `re:` starts a regular expression. Repeatable.",
    ),
]
Exclude: TypeAlias = Annotated[
    list[str] | None,
    Option("-x", "--exclude", metavar="GLOB", autocompletion=complete_names, help="Not these tensors. Repeatable."),
]
MinDim: TypeAlias = Annotated[
    int | None,
    Option(
        metavar="N",
        parser=whole("--min-dim", "2", least=0),
        help="Only tensors of N dimensions or more. [default: 2, or 0 with --include]",
    ),
]
MinNumel: TypeAlias = Annotated[
    int, Option(metavar="N", parser=whole("--min-numel", "1000", least=0), help="Only tensors of N weights or more.")
]
Key: TypeAlias = Annotated[
    str | None, Option(metavar="DOTTED.PATH", help="Which nested dict is the state_dict. [default: found]")
]
Scores: TypeAlias = Annotated[
    str | None,
    Option(metavar="FILE", help="Rank by these scores (same names and shapes) instead of magnitudes."),
]
ActNorms: TypeAlias = Annotated[
    str | None,
    Option(metavar="FILE", help="Rank by |w| times a norm for each input column (Wanda)."),
]
MaskIn: TypeAlias = Annotated[
    str | None,
    Option(metavar="FILE", help="What this mask says is pruned stays so; amounts are of what is left."),
]
Of: TypeAlias = Annotated[
    str, Option(metavar="all|remaining", help="Take amounts of all weights, or of those that are not zero yet.")
]
MaskOut: TypeAlias = Annotated[
    str | None, Option(metavar="PATH", help="Write the mask here (safetensors, 1 = kept), to go on from.")
]
Strict: TypeAlias = Annotated[bool, Option("--strict", help="Refuse weights that are NaN or infinite.")]
Device: TypeAlias = Annotated[
    str, Option(metavar="DEVICE", help="cpu, auto, cuda, cuda:1, mps or xpu; all give the same result.")
]
Threads: TypeAlias = Annotated[
    int,
    Option(metavar="N", parser=whole("--threads", "2", least=0), help="Threads to work with; 0 takes as many as help."),
]
MinSparsity: TypeAlias = Annotated[
    float | None,
    Option(
        metavar="S",
        parser=sparsity("--min-sparsity"),
        help="Write nothing and exit with 1 unless this part of the selected weights is zero.",
    ),
]
MaxSparsity: TypeAlias = Annotated[
    float | None, Option(metavar="S", parser=sparsity("--max-sparsity"), help="The same if more than this part is.")
]
MaxTensorSparsity: TypeAlias = Annotated[
    float | None,
    Option(metavar="S", parser=sparsity("--max-tensor-sparsity"), help="The same if more of any one tensor is."),
]
Quiet: TypeAlias = Annotated[bool, Option("-q", "--quiet", help="No table, no progress.")]
Verbose: TypeAlias = Annotated[bool, Option("-v", "--verbose", help="Tell on standard error what is done and how.")]
NoProgress: TypeAlias = Annotated[bool, Option("--no-progress", help="No progress bars, no progress lines.")]
