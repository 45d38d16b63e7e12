"""The options that several commands share, as annotated types for Typer, and the completion of tensor names.

Every option names its flag: Typer 0.27 would take a metavar that equals the parameter's name for the flag.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeAlias

import typer
from typer import Argument, Context, Option

from prunecli.cli.parsers import fraction, whole
from prunecli.errors import PruneError


def complete_names(ctx: Context, incomplete: str) -> list[str]:
    """Return the names of prunable tensors that start with `incomplete`, if the command line names a checkpoint."""
    from prunecli.formats.open import open_checkpoint

    # The option that is being completed has no value yet, so the parser leaves the arguments in `args`.
    for ckpt in (ctx.params.get("ckpt"), *ctx.args):
        if ckpt and Path(ckpt).exists():
            with suppress(PruneError, OSError):
                names = (t.name for t in open_checkpoint(ckpt).tensors if t.unprunable_reason is None)
                return [name for name in names if name.startswith(incomplete) and name.isprintable()]
    return []


# --- the checkpoint and its tensors

Ckpt: TypeAlias = Annotated[
    str, Argument(metavar="CKPT", help="A .pth or safetensors file, a directory or index of shards, or `-`.")
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
    Option(
        "-x", "--exclude", metavar="GLOB", autocompletion=complete_names, help="Skip tensors that match. Repeatable."
    ),
]
MinDim: TypeAlias = Annotated[
    int | None,
    Option(
        "--min-dim",
        metavar="N",
        parser=whole("min_dim", 2, least=0),
        help="Only tensors of N dimensions or more. [default: 2, or 0 with --include]",
    ),
]
MinNumel: TypeAlias = Annotated[
    int,
    Option(
        "--min-numel",
        metavar="N",
        parser=whole("min_numel", 1000, least=0),
        help="Only tensors of N weights or more.",
    ),
]
Key: TypeAlias = Annotated[
    str | None,
    Option("--key", metavar="DOTTED.PATH", help="The nested dict that is the state_dict. [default: detected]"),
]

# --- ranking

Scores: TypeAlias = Annotated[
    str | None,
    Option("--scores", metavar="FILE", help="Rank by these scores (same names and shapes) instead of magnitudes."),
]
ActNorms: TypeAlias = Annotated[
    str | None,
    Option("--act-norms", metavar="FILE", help="Rank by |w| times a norm for each input column (Wanda)."),
]
MaskIn: TypeAlias = Annotated[
    str | None,
    Option(
        "--mask-in",
        metavar="FILE",
        help="Keep this mask's pruned weights pruned; apply the amount to the rest.",
    ),
]
Of: TypeAlias = Annotated[
    str,
    Option("--of", metavar="all|remaining", help="Take amounts of all weights, or of those that are not zero yet."),
]

# --- outputs

Output: TypeAlias = Annotated[
    str | None,
    Option("-o", "--output", metavar="PATH", help="The result; `-` is standard output. [default: CKPT.pruned.EXT]"),
]
Reports: TypeAlias = Annotated[
    list[Path] | None,
    Option(
        "--report",
        metavar="PATH",
        help="Report, by its suffix .json, .csv, .md or .html; repeatable. [default: OUTPUT.report.json]",
    ),
]
MaskOut: TypeAlias = Annotated[
    str | None,
    Option("--mask-out", metavar="PATH", help="Write the mask (safetensors, 1 = kept) for a later --mask-in."),
]
ReportJson: TypeAlias = Annotated[bool, Option("--json", help="Print the JSON report instead of the table.")]
DryRun: TypeAlias = Annotated[bool, Option("-n", "--dry-run", help="Measure and report, write no checkpoint.")]
Force: TypeAlias = Annotated[bool, Option("-f", "--force", help="Replace existing outputs.")]
InPlace: TypeAlias = Annotated[bool, Option("--in-place", help="Replace the input itself, in one atomic step.")]
Sha256: TypeAlias = Annotated[
    bool, Option("--sha256", help="Put the SHA-256 of input and output into the report; reads both once more.")
]
Estimate: TypeAlias = Annotated[
    bool, Option("--estimate", help="Estimate the compressed sizes before and after, from a sample.")
]

# --- conditions of the run

Strict: TypeAlias = Annotated[bool, Option("--strict", help="Refuse weights that are NaN or infinite.")]
MinSparsity: TypeAlias = Annotated[
    float | None,
    Option(
        "--min-sparsity",
        metavar="S",
        parser=fraction("min_sparsity"),
        help="Write nothing and exit with 1 unless this part of the selected weights is zero.",
    ),
]
MaxSparsity: TypeAlias = Annotated[
    float | None,
    Option(
        "--max-sparsity", metavar="S", parser=fraction("max_sparsity"), help="The same if more than this part is zero."
    ),
]
MaxTensorSparsity: TypeAlias = Annotated[
    float | None,
    Option(
        "--max-tensor-sparsity",
        metavar="S",
        parser=fraction("max_tensor_sparsity"),
        help="The same if more than this part of any one tensor is zero.",
    ),
]
Device: TypeAlias = Annotated[
    str,
    Option("--device", metavar="DEVICE", help="cpu, auto, cuda, cuda:1, mps or xpu; all give the same result."),
]
Threads: TypeAlias = Annotated[
    int,
    Option(
        "--threads",
        metavar="N",
        parser=whole("threads", 2, least=0),
        help="Number of threads; 0 chooses it by the CPUs.",
    ),
]

# --- printing

Json: TypeAlias = Annotated[bool, Option("--json", help="Print the result as JSON.")]
Top: TypeAlias = Annotated[
    int | None,
    Option("--top", metavar="N", parser=whole("top", 10, least=1), help="Print the first N tensors only."),
]
AllTensors: TypeAlias = Annotated[bool, Option("--all", help="Print a line for every tensor, however many there are.")]
Quiet: TypeAlias = Annotated[bool, Option("-q", "--quiet", help="Print no table and no progress.")]
Verbose: TypeAlias = Annotated[bool, Option("-v", "--verbose", help="Print details of the run on standard error.")]
NoProgress: TypeAlias = Annotated[bool, Option("--no-progress", help="Print no progress bars or lines.")]


@dataclass(frozen=True, eq=False, repr=False)
class SharedOptions:
    """The options that every pruning command has besides its own.

    Typer gets the fields as parameters: their names, types and defaults.
    """

    context: typer.Context
    ckpt: Ckpt
    output: Output = None
    report: Reports = None
    json: ReportJson = False
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
