"""The options that all pruning commands share, as Typer types: what a command line can say besides its strategy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

from typer import Argument, Option

CHOOSE, WRITE, WORK = "Which tensors", "What is written", "How it works"

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
        rich_help_panel=WRITE,
    ),
]
Reports: TypeAlias = Annotated[
    list[Path] | None,
    Option(metavar="PATH", help="JSON report; repeatable. [default: OUTPUT.report.json]", rich_help_panel=WRITE),
]
Json: TypeAlias = Annotated[
    bool, Option("--json", help="Print the JSON report instead of the table.", rich_help_panel=WRITE)
]
Include: TypeAlias = Annotated[
    list[str] | None,
    Option(
        "-i",
        "--include",
        metavar="GLOB",
        help="Only tensors whose name matches; `re:` starts a regular expression. Repeatable.",
        rich_help_panel=CHOOSE,
    ),
]
Exclude: TypeAlias = Annotated[
    list[str] | None,
    Option("-x", "--exclude", metavar="GLOB", help="Not these tensors. Repeatable.", rich_help_panel=CHOOSE),
]
MinDim: TypeAlias = Annotated[
    int | None,
    Option(
        metavar="N",
        min=0,
        help="Only tensors of N dimensions or more. [default: 2, or 0 with --include]",
        rich_help_panel=CHOOSE,
    ),
]
MinNumel: TypeAlias = Annotated[
    int, Option(metavar="N", min=0, help="Only tensors of N weights or more.", rich_help_panel=CHOOSE)
]
Key: TypeAlias = Annotated[
    str | None,
    Option(metavar="DOTTED.PATH", help="Which nested dict is the state_dict. [default: found]", rich_help_panel=CHOOSE),
]
DryRun: TypeAlias = Annotated[
    bool, Option("-n", "--dry-run", help="Measure and report, write no checkpoint.", rich_help_panel=WRITE)
]
Force: TypeAlias = Annotated[bool, Option("-f", "--force", help="Replace existing outputs.", rich_help_panel=WRITE)]
InPlace: TypeAlias = Annotated[
    bool, Option("--in-place", help="Replace the input itself, atomically.", rich_help_panel=WRITE)
]
Sha256: TypeAlias = Annotated[
    bool,
    Option(
        "--sha256",
        help="Put the SHA-256 of input and output into the report; reads both once more.",
        rich_help_panel=WRITE,
    ),
]
Strict: TypeAlias = Annotated[
    bool, Option("--strict", help="Refuse weights that are NaN or infinite.", rich_help_panel=WORK)
]
Device: TypeAlias = Annotated[
    str,
    Option(metavar="DEVICE", help="cpu, auto, cuda, cuda:1, mps or xpu: the same result.", rich_help_panel=WORK),
]
Threads: TypeAlias = Annotated[int, Option(metavar="N", min=0, help="0: as many as help.", rich_help_panel=WORK)]
Quiet: TypeAlias = Annotated[bool, Option("-q", "--quiet", help="No table, no progress bar.", rich_help_panel=WORK)]
NoProgress: TypeAlias = Annotated[bool, Option("--no-progress", help="No progress bar.", rich_help_panel=WORK)]
