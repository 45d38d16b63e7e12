"""The options that several commands share, as annotated types for Typer, and the completion of tensor names."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Context, Option

from prunecli.cli.value_options import fraction_option, text_option, whole_option
from prunecli.errors import PruneError, UsageError
from prunecli.io.limits import MAX_THREADS

_COMPLETED = re.compile(r"[A-Za-z0-9._/][A-Za-z0-9._/-]*")
"""The tensor names that completion offers.

A name comes from the file, bash puts it on the command line as it is, and Typer's function for zsh evaluates it: any
other character could run a command. A name that starts with a dash could be an option.
"""


def complete_names(ctx: Context, incomplete: str) -> list[str]:
    """Return the names of prunable tensors that start with `incomplete`, if the command line names a checkpoint."""
    from prunecli.formats.open import open_checkpoint

    # The option that is being completed has no value yet, so the parser leaves the arguments in `args`.
    for ckpt in (ctx.params.get("ckpt"), *ctx.args):
        if ckpt and Path(ckpt).exists():
            with suppress(PruneError, OSError):
                names = (t.name for t in open_checkpoint(ckpt).tensors if t.unprunable_reason is None)
                return [name for name in names if name.startswith(incomplete) and _COMPLETED.fullmatch(name)]
    return []


# --- the checkpoint and its tensors

Ckpt = Annotated[
    str, Argument(metavar="CKPT", help="A .pth or safetensors file, a directory or index of shards, or `-`.")
]
Include = Annotated[
    list[str] | None,
    text_option(
        "-i --include",
        "GLOB",
        "Only tensors whose name matches; `re:` starts a regular expression. Repeatable.",
        autocompletion=complete_names,
    ),
]
Exclude = Annotated[
    list[str] | None,
    text_option("-x --exclude", "GLOB", "Skip tensors that match. Repeatable.", autocompletion=complete_names),
]
MinDim = Annotated[
    int | None,
    whole_option(
        "--min-dim", "N", 2, "Only tensors of N dimensions or more. [default: 2, unless -i has the full name]", least=0
    ),
]
MinNumel = Annotated[int, whole_option("--min-numel", "N", 1000, "Only tensors of N weights or more.", least=0)]
Layout = Annotated[
    list[str] | None,
    text_option(
        "--layout",
        "GLOB=ORDER",
        "State what the dimensions of matching tensors are: out-in, in-out, experts or experts-in-out. Repeatable."
        " [default: decided from the file, see `prune inspect`]",
    ),
]
Key = Annotated[
    list[str] | None,
    text_option(
        "--key",
        "DOTTED.PATH",
        "The nested dict that is the state_dict; globs and several are allowed, each ranked for itself. Repeatable."
        " [default: detected]",
    ),
]

# --- ranking

Scores = Annotated[
    str | None, text_option("--scores", "FILE", "Rank by these scores (same names and shapes) instead of magnitudes.")
]
ActNorms = Annotated[str | None, text_option("--act-norms", "FILE", "Rank by |w| times a norm for each input (Wanda).")]
MaskIn = Annotated[
    str | None,
    text_option("--mask-in", "FILE", "Keep this mask's pruned weights pruned; apply the amount to the rest."),
]
Of = Annotated[
    str, text_option("--of", "all|remaining", "Take amounts of all weights, or of those that are not zero yet.")
]

# --- outputs

Output = Annotated[
    str | None, text_option("-o --output", "PATH", "The result; `-` is standard output. [default: CKPT.pruned.EXT]")
]
Reports = Annotated[
    list[Path] | None,
    text_option(
        "--report",
        "PATH",
        "Report, by its suffix .json, .csv, .md or .html; `-` prints JSON. Repeatable. [default: OUTPUT.report.json]",
    ),
]
NoReport = Annotated[bool, Option("--no-report", help="Write no report.")]
MaskOut = Annotated[
    str | None, text_option("--mask-out", "PATH", "Write the mask (safetensors, 1 = kept) for a later --mask-in.")
]
ReportJson = Annotated[bool, Option("--json", help="Print the JSON report instead of the table.")]
DryRun = Annotated[bool, Option("-n", "--dry-run", help="Measure and report, write no checkpoint.")]
Force = Annotated[bool, Option("-f", "--force", help="Replace existing outputs.")]
InPlace = Annotated[bool, Option("--in-place", help="Replace the input itself, in one atomic step.")]
Sha256 = Annotated[
    bool, Option("--sha256", help="Put the SHA-256 of input and output into the report; reads both once more.")
]
Estimate = Annotated[bool, Option("--estimate", help="Estimate the compressed sizes before and after, from a sample.")]

# --- conditions of the run

Strict = Annotated[bool, Option("--strict", help="Refuse weights that are NaN or infinite.")]
MinSparsity = Annotated[
    float | None,
    fraction_option(
        "--min-sparsity", "S", "Write nothing and exit with 1 unless this part of the selected weights is zero."
    ),
]
MaxSparsity = Annotated[
    float | None, fraction_option("--max-sparsity", "S", "The same if more than this part is zero.")
]
MaxTensorSparsity = Annotated[
    float | None,
    fraction_option("--max-tensor-sparsity", "S", "The same if more than this part of any one tensor is zero."),
]
Device = Annotated[
    str, text_option("--device", "DEVICE", "cpu, auto, cuda, cuda:1, mps or xpu; all give the same result.")
]
Threads = Annotated[
    int, whole_option("--threads", "N", 2, "Number of threads; 0 chooses it by the CPUs.", least=0, most=MAX_THREADS)
]

# --- printing

Json = Annotated[bool, Option("--json", help="Print the result as JSON.")]
Top = Annotated[int | None, whole_option("--top", "N", 10, "Print the first N tensors only.", least=1)]
AllTensors = Annotated[bool, Option("--all", help="Print a line for every tensor, however many there are.")]
Quiet = Annotated[bool, Option("-q", "--quiet", help="Print no table and no progress.")]
Silent = Annotated[bool, Option("-q", "--quiet", help="Print nothing; only the exit code is the result.")]
Verbose = Annotated[bool, Option("-v", "--verbose", help="Print details of the run on standard error.")]
NoProgress = Annotated[bool, Option("--no-progress", help="Print no progress bars or lines.")]


def layouts(texts: list[str] | None) -> dict[str, str]:
    """Return the layouts by pattern that the options --layout state; UsageError for one that is malformed."""
    from prunecli.layouts.overrides import parse_layout

    return dict(map(parse_layout, texts or ()))


@dataclass(frozen=True, eq=False, repr=False)
class SharedOptions:
    """The options that every pruning command has besides its own.

    Typer gets the fields as parameters: their names, types and defaults.
    """

    context: typer.Context
    ckpt: Ckpt
    output: Output = None
    report: Reports = None
    no_report: NoReport = False
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
    layout: Layout = None
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

    @property
    def prints_json(self) -> bool:
        """Whether the JSON report is printed in place of the table."""
        return self.json or (self.report_paths is not None and len(self.report_paths) < len(self.report or ()))

    @property
    def report_paths(self) -> list[Path] | None:
        """The paths of the report files; empty for none, None for the default."""
        return report_paths(self.report, no_report=self.no_report)


def report_paths(reports: list[Path] | None, *, no_report: bool) -> list[Path] | None:
    """Return the paths of the report files, without `-`; UsageError if the options contradict each other."""
    if not no_report:
        return None if reports is None else [path for path in reports if str(path) != "-"]
    if reports is not None:
        raise UsageError("--report and --no-report contradict each other", hint="leave out one of them")
    return []
