"""The options that several commands share, as annotated types for Typer, and the completion of tensor names."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Context

from prunecli.cli.command_list import GATES, OUTPUT, RUNNING, TENSORS, ZERO
from prunecli.cli.value_options import flag_option, fraction_option, text_option, whole_option
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


def complete_devices(incomplete: str) -> list[str]:
    """Return the devices that start with `incomplete`; which of them are there, only torch could say."""
    return [name for name in ("auto", "cpu", "cuda", "mps", "xpu") if name.startswith(incomplete)]


# --- the checkpoint and its tensors

Ckpt = Annotated[
    str,
    Argument(
        metavar="CKPT",
        help="A .pth or safetensors file, a directory or index of shards, a URL (hf://, s3://, https://), or `-`.",
    ),
]
LocalCkpt = Annotated[
    str, Argument(metavar="CKPT", help="A .pth or safetensors file, a directory or index of shards, or `-`.")
]
Include = Annotated[
    list[str] | None,
    text_option(
        "-i --include",
        "GLOB",
        "Only tensors whose name matches; `re:` starts a regular expression. Repeatable.",
        autocompletion=complete_names,
        panel=TENSORS,
    ),
]
Exclude = Annotated[
    list[str] | None,
    text_option(
        "-x --exclude", "GLOB", "Skip tensors that match. Repeatable.", autocompletion=complete_names, panel=TENSORS
    ),
]
MinDim = Annotated[
    int | None,
    whole_option(
        "--min-dim",
        "N",
        2,
        "Only tensors of N dimensions or more. [default: 2, unless -i has the full name]",
        least=0,
        panel=TENSORS,
    ),
]
MinNumel = Annotated[
    int, whole_option("--min-numel", "N", 1000, "Only tensors of N weights or more.", least=0, panel=TENSORS)
]
Layout = Annotated[
    list[str] | None,
    text_option(
        "--layout",
        "GLOB=ORDER",
        "State what the dimensions of matching tensors are: out-in, in-out, experts or experts-in-out. Repeatable."
        " [default: decided from the file, see `prune inspect`]",
        panel=TENSORS,
    ),
]
Key = Annotated[
    list[str] | None,
    text_option(
        "--key",
        "DOTTED.PATH",
        "The nested dict that is the state_dict; globs and several are allowed, each ranked separately. Repeatable."
        " [default: detected]",
        panel=TENSORS,
    ),
]

# --- ranking

Scores = Annotated[
    str | None,
    text_option("--scores", "FILE", "Rank by these scores (same names and shapes) instead of magnitudes.", panel=ZERO),
]
ActNorms = Annotated[
    str | None, text_option("--act-norms", "FILE", "Rank by |w| times a norm for each input (Wanda).", panel=ZERO)
]
MaskIn = Annotated[
    str | None,
    text_option(
        "--mask-in", "FILE", "Keep this mask's pruned weights pruned; apply the amount to the rest.", panel=ZERO
    ),
]
Of = Annotated[
    str,
    text_option("--of", "all|remaining", "Take amounts of all weights, or of those that are not zero yet.", panel=ZERO),
]

# --- outputs

Output = Annotated[
    str | None,
    text_option(
        "-o --output",
        "PATH",
        "The result, in the format of its suffix; `-` is standard output. [default: CKPT.pruned.EXT]",
        panel=OUTPUT,
    ),
]
MaxShardSize = Annotated[
    str | None,
    text_option("--max-shard-size", "SIZE", "Write a directory of shards of at most SIZE, such as 5GB.", panel=OUTPUT),
]
Untie = Annotated[bool, flag_option("--untie", "In a new format, store tied tensors once per name.", panel=OUTPUT)]
DropRest = Annotated[
    bool, flag_option("--drop-rest", "Leave out what a new format cannot hold, such as an optimizer.", panel=OUTPUT)
]
StripTo = Annotated[
    list[str] | None,
    text_option(
        "--strip",
        "model|ema|GLOB",
        "Drop everything but the model's weights, its moving averages or matching tensors, as `prune strip` does."
        " Repeatable.",
        panel=OUTPUT,
    ),
]
To = Annotated[
    str | None,
    text_option("--to", "fp16|bf16", "Cast the weights, rounded to nearest; needs --strip.", panel=OUTPUT),
]
AllowOverflow = Annotated[
    bool, flag_option("--allow-overflow", "Let weights beyond the range of fp16 become infinite.", panel=OUTPUT)
]
Reports = Annotated[
    list[Path] | None,
    text_option(
        "--report",
        "PATH",
        "Report, by its suffix .json, .csv, .md, .html, or a figure: .svg, .png, .pdf; `-` prints JSON. Repeatable."
        " [default: OUTPUT.report.json]",
        panel=OUTPUT,
    ),
]
NoReport = Annotated[bool, flag_option("--no-report", "Write no report.", panel=OUTPUT)]
MaskOut = Annotated[
    str | None,
    text_option(
        "--mask-out",
        "PATH",
        "Write the mask, a bit for each weight, for a later --mask-in or `prune mask`.",
        panel=OUTPUT,
    ),
]
ReportJson = Annotated[bool, flag_option("--json", "Print the JSON report instead of the table.", panel=OUTPUT)]
DryRun = Annotated[
    bool,
    flag_option(
        "-n --dry-run",
        "Write no checkpoint: only measure, and write the --report and --mask-out files that are named.",
        panel=OUTPUT,
    ),
]
Force = Annotated[bool, flag_option("-f --force", "Replace existing outputs.", panel=OUTPUT)]
InPlace = Annotated[bool, flag_option("--in-place", "Replace the input itself, in one atomic step.", panel=OUTPUT)]
Sha256 = Annotated[
    bool,
    flag_option("--sha256", "Put the SHA-256 of input and output into the report; reads both once more.", panel=OUTPUT),
]
Estimate = Annotated[
    bool, flag_option("--estimate", "Estimate the compressed sizes before and after, from a sample.", panel=OUTPUT)
]

# --- conditions of the run

Strict = Annotated[bool, flag_option("--strict", "Refuse weights that are NaN or infinite.", panel=GATES)]
MinSparsity = Annotated[
    float | None,
    fraction_option(
        "--min-sparsity",
        "S",
        "Write nothing and exit with 1 unless at least S (0.5 or 50%) of the selected weights is zero.",
        panel=GATES,
    ),
]
MaxSparsity = Annotated[
    float | None, fraction_option("--max-sparsity", "S", "The same unless at most S of them is zero.", panel=GATES)
]
MaxTensorSparsity = Annotated[
    float | None,
    fraction_option("--max-tensor-sparsity", "S", "The same unless at most S of each tensor is zero.", panel=GATES),
]
Device = Annotated[
    str,
    text_option(
        "--device",
        "DEVICE",
        "cpu, auto, cuda, cuda:1, mps or xpu; all give the same result.",
        panel=RUNNING,
        envvar="PRUNE_DEVICE",
        autocompletion=complete_devices,
    ),
]
Threads = Annotated[
    int,
    whole_option(
        "--threads",
        "N",
        2,
        "Number of threads; 0 means two more than the CPUs, at most 4 without compiled kernels.",
        panel=RUNNING,
        envvar="PRUNE_THREADS",
        least=0,
        most=MAX_THREADS,
    ),
]

# --- printing

Figure = Annotated[
    Path | None,
    text_option("--figure", "PATH", "Draw a figure as well: .svg, .png or .pdf. Needs matplotlib.", panel=OUTPUT),
]
Html = Annotated[Path | None, text_option("--html", "PATH", "Write the result as an HTML page as well.", panel=OUTPUT)]
ForcePage = Annotated[bool, flag_option("-f --force", "Replace an existing page.", panel=OUTPUT)]
Json = Annotated[bool, flag_option("--json", "Print the result as JSON.", panel=OUTPUT)]
Top = Annotated[
    int | None,
    whole_option(
        "--top",
        "N",
        10,
        "Print the first N tensors only: the most pruned or changed, the largest, or the most sensitive.",
        least=1,
        panel=OUTPUT,
    ),
]
AllTensors = Annotated[
    bool, flag_option("--all", "Print a line for every tensor, however many there are.", panel=OUTPUT)
]
Quiet = Annotated[bool, flag_option("-q --quiet", "Print no table and no progress.", panel=RUNNING)]
Silent = Annotated[bool, flag_option("-q --quiet", "Print nothing; only the exit code is the result.", panel=RUNNING)]
Verbose = Annotated[bool, flag_option("-v --verbose", "Print details of the run on standard error.", panel=RUNNING)]
NoProgress = Annotated[bool, flag_option("--no-progress", "Print no progress bars or lines.", panel=RUNNING)]


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
    max_shard_size: MaxShardSize = None
    untie: Untie = False
    drop_rest: DropRest = False
    strip: StripTo = None
    to: To = None
    allow_overflow: AllowOverflow = False
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
    top: Top = None
    all_tensors: AllTensors = False
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
