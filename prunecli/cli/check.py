"""The command `prune check`: options become conditions, findings a table and an exit code."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated, TypeAlias

from typer import Argument, Option

from prunecli.cli import options, parsers
from prunecli.cli.inputs import readable
from prunecli.cli.output import printing
from prunecli.cli.parsers import sparsity
from prunecli.cli.progress import show_progress
from prunecli.errors import UsageError
from prunecli.report.gates import Bound

if TYPE_CHECKING:
    from prunecli.inspection.check import Condition, Finding

HOLDS, FAILED = 0, 1

_Bounds: TypeAlias = list[str] | None
_Other: TypeAlias = str | None

MinSparsity: TypeAlias = Annotated[
    _Bounds,
    Option(
        metavar="[GLOB=]S",
        help="At least S of the selected weights is zero, 0.5 or 50%; after GLOB=, of the tensors it matches."
        " Repeatable.",
    ),
]
MaxSparsity: TypeAlias = Annotated[_Bounds, Option(metavar="[GLOB=]S", help="At most S of them is zero. Repeatable.")]
MinTensorSparsity: TypeAlias = Annotated[
    _Bounds, Option(metavar="[GLOB=]S", help="At least S of each tensor is zero. Repeatable.")
]
MaxTensorSparsity: TypeAlias = Annotated[
    _Bounds, Option(metavar="[GLOB=]S", help="At most S of each tensor is zero. Repeatable.")
]


def check(
    ckpts: Annotated[
        list[str],
        Argument(metavar="CKPT...", help="Files (.pth, safetensors), directories or indexes of shards, or `-`."),
    ],
    min_sparsity: MinSparsity = None,
    max_sparsity: MaxSparsity = None,
    min_tensor_sparsity: MinTensorSparsity = None,
    max_tensor_sparsity: MaxTensorSparsity = None,
    pattern: Annotated[
        str | None, Option(metavar="K:G", help="At most K of every G consecutive weights are not zero.")
    ] = None,
    dim: Annotated[
        int | None,
        Option(
            metavar="D",
            parser=parsers.whole("--dim", "1"),
            help="Groups of --pattern run along this dimension.  [default: 1]",
        ),
    ] = None,
    finite: Annotated[bool, Option("--finite", help="No weight is NaN or infinite.")] = False,
    no_all_zero: Annotated[bool, Option("--no-all-zero", help="No tensor is zero throughout.")] = False,
    same_structure_as: Annotated[
        _Other, Option(metavar="OTHER", help="Every tensor has the name, dtype and shape it has in OTHER.")
    ] = None,
    only_zeros_added_since: Annotated[
        _Other, Option(metavar="OTHER", help="Every tensor is OTHER's, bit for bit, but for zeros.")
    ] = None,
    include: options.Include = None,
    exclude: options.Exclude = None,
    min_dim: options.MinDim = None,
    min_numel: options.MinNumel = 0,
    key: options.Key = None,
    threads: options.Threads = 0,
    json: Annotated[bool, Option("--json", help="Print the findings as JSON.")] = False,
    quiet: Annotated[bool, Option("-q", "--quiet", help="No table; the exit code says it.")] = False,
    no_progress: options.NoProgress = False,
) -> int:
    """Exit with 1 unless all conditions hold.

    Nothing is written. Sparsity, --pattern, --finite and --no-all-zero look at the tensors that pruning would select;
    the comparisons with OTHER at every tensor of the state_dict, or those that -i and -x leave. A sparsity is met to
    the nearest weight, as amounts are.
    """
    if ckpts.count("-") > 1:
        raise UsageError("only one checkpoint can come through standard input", hint="prune check - < CKPT")
    for option, other in (
        ("--same-structure-as", same_structure_as),
        ("--only-zeros-added-since", only_zeros_added_since),
    ):
        if other == "-":
            raise UsageError(
                f"{option} takes a path: only CKPT can be a pipe", hint=f"prune check - {option} OTHER < CKPT"
            )
    conditions = [
        *_sparsities("--min-sparsity", min_sparsity),
        *_sparsities("--max-sparsity", max_sparsity, upper=True),
        *_sparsities("--min-tensor-sparsity", min_tensor_sparsity, each=True),
        *_sparsities("--max-tensor-sparsity", max_tensor_sparsity, upper=True, each=True),
        *_pattern(pattern, dim),
        *_others(finite=finite, no_all_zero=no_all_zero, structure=same_structure_as, since=only_zeros_added_since),
    ]

    from prunecli.inspection.check import check as checked
    from prunecli.inspection.check_text import findings_json, write_findings

    results: dict[str, tuple[Finding, ...]] = {}
    for ckpt in dict.fromkeys(ckpts):
        with ExitStack() as stack:
            path, label = readable(stack, ckpt)
            progress = stack.enter_context(show_progress(wanted=not (quiet or no_progress)))
            findings = checked(
                path,
                conditions,
                include=include or (),
                exclude=exclude or (),
                min_dim=min_dim,
                min_numel=min_numel,
                key=key,
                threads=threads,
                label=label,
                progress=progress,
            )
        results[label or ckpt] = findings
        with printing() as stream:
            if stream is not None and not (json or quiet):
                write_findings(findings, stream, heading=(label or ckpt) if len(ckpts) > 1 else None)
    with printing() as stream:
        if stream is not None and json:
            stream.write(findings_json(results))
    return HOLDS if all(finding.holds for findings in results.values() for finding in findings) else FAILED


def _sparsities(option: str, given: list[str] | None, *, upper: bool = False, each: bool = False) -> list[Condition]:
    """Return the condition that each of "50%" and "encoder.*=50%" is; a name may have an equals sign, S has none."""
    from prunecli.inspection.conditions import Sparsity

    conditions: list[Condition] = []
    for text in given or ():
        glob, equals, fraction = text.rpartition("=")
        if equals and not glob:
            raise UsageError(f"{option} {text} has no pattern before the `=`", hint=f"{option} {fraction or '50%'}")
        bound = Bound(sparsity(option)(fraction), upper)
        conditions.append(Sparsity(bound, glob or None, each))
    return conditions


def _pattern(pattern: str | None, dim: int | None) -> list[Condition]:
    from prunecli.inspection.conditions import Pattern

    if pattern is None:
        if dim is not None:
            raise UsageError("--dim says along which dimension --pattern runs", hint=f"--pattern 2:4 --dim {dim}")
        return []
    return [Pattern(*parsers.parse_pattern(pattern), 1 if dim is None else dim)]


def _others(*, finite: bool, no_all_zero: bool, structure: str | None, since: str | None) -> list[Condition]:
    from prunecli.inspection import conditions

    asked: list[Condition | None] = [
        conditions.Finite() if finite else None,
        conditions.NoAllZero() if no_all_zero else None,
        None if structure is None else conditions.SameStructure(structure),
        None if since is None else conditions.OnlyZerosAdded(since),
    ]
    return [condition for condition in asked if condition is not None]
