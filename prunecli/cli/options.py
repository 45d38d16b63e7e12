"""The options that all commands share, as Typer types, and the parsers that turn text into a value or a sentence.

Nothing here knows what a value is good for.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeAlias

import typer
from typer import Argument, Context, Option

from prunecli.cli.parsers import sparsity, whole
from prunecli.errors import PruneError

# --- parsers


# --- completion


def complete_names(ctx: Context, incomplete: str) -> list[str]:
    """Return the names of tensors that start so, where a checkpoint is on the line already."""
    from prunecli.formats.open import open_checkpoint

    # The option that is being completed lacks its value, so that arguments were not assigned: they are left over.
    for ckpt in (ctx.params.get("ckpt"), *ctx.args):
        if ckpt and Path(ckpt).exists():
            with suppress(PruneError, OSError):
                names = (tensor.name for tensor in open_checkpoint(ckpt).tensors if tensor.unprunable_reason is None)
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


@dataclass(frozen=True, slots=True)
class SharedOptions:
    """The options that every pruning command has besides its own.

    Typer gets the fields as parameters: their names, types and defaults.
    """

    context: typer.Context
    ckpt: Ckpt
    output: Output = None
    report: Reports = None
    json: Json = False
    dry_run: DryRun = False
    force: Force = False
    in_place: InPlace = False
    sha256: Sha256 = False
    estimate: Estimate = False
    include: Include = None
    exclude: Exclude = None
    min_dim: MinDim = None
    min_numel: MinNumel = 0
    key: Key = None
    scores: Scores = None
    act_norms: ActNorms = None
    mask_in: MaskIn = None
    of: Of = "all"
    mask_out: MaskOut = None
    strict: Strict = False
    min_sparsity: MinSparsity = None
    max_sparsity: MaxSparsity = None
    max_tensor_sparsity: MaxTensorSparsity = None
    device: Device = "cpu"
    threads: Threads = 0
    quiet: Quiet = False
    verbose: Verbose = False
    no_progress: NoProgress = False
