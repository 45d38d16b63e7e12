"""The command `prune check`: options become conditions, and findings become a table and an exit code."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, TypeAlias

from typer import Argument, Option

from prunecli.cli import options, parsers
from prunecli.cli.hints import option_words
from prunecli.cli.output import printing
from prunecli.cli.pipes import readable
from prunecli.cli.progress import show_progress
from prunecli.errors import UsageError
from prunecli.selection.select import Selector

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prunecli.inspection.findings import Condition, Finding

HOLDS, FAILED = 0, 1

Ckpts: TypeAlias = Annotated[
    list[str],
    Argument(metavar="CKPT...", help="Files (.pth, safetensors), directories or indexes of shards, or `-`."),
]
MinSparsity: TypeAlias = Annotated[
    list[str] | None,
    Option(
        "--min-sparsity",
        metavar="[GLOB=]S",
        help="At least S (0.5 or 50%) of the selected weights is zero; after GLOB=, of the tensors that match."
        " Repeatable.",
    ),
]
MaxSparsity: TypeAlias = Annotated[
    list[str] | None, Option("--max-sparsity", metavar="[GLOB=]S", help="At most S of them is zero. Repeatable.")
]
MinTensorSparsity: TypeAlias = Annotated[
    list[str] | None,
    Option("--min-tensor-sparsity", metavar="[GLOB=]S", help="At least S of each tensor is zero. Repeatable."),
]
MaxTensorSparsity: TypeAlias = Annotated[
    list[str] | None,
    Option("--max-tensor-sparsity", metavar="[GLOB=]S", help="At most S of each tensor is zero. Repeatable."),
]
Pattern: TypeAlias = Annotated[
    str | None,
    Option("--pattern", metavar="K:G", help="At most K of every G consecutive weights are not zero."),
]
Dim: TypeAlias = Annotated[
    int | None,
    Option(
        "--dim",
        metavar="D",
        parser=parsers.whole("dim", 1),
        help="Groups of --pattern run along this dimension.  [default: 1]",
    ),
]
Finite: TypeAlias = Annotated[bool, Option("--finite", help="No weight is NaN or infinite.")]
NoAllZero: TypeAlias = Annotated[bool, Option("--no-all-zero", help="No tensor is all zero.")]
SameStructureAs: TypeAlias = Annotated[
    str | None,
    Option("--same-structure-as", metavar="OTHER", help="Every tensor has the name, dtype and shape it has in OTHER."),
]
OnlyZerosAddedSince: TypeAlias = Annotated[
    str | None,
    Option(
        "--only-zeros-added-since", metavar="OTHER", help="Every tensor is OTHER's, bit for bit, except for new zeros."
    ),
]
Quiet: TypeAlias = Annotated[bool, Option("-q", "--quiet", help="Print nothing; only the exit code is the result.")]


def check(
    ckpts: Ckpts,
    min_sparsity: MinSparsity = None,
    max_sparsity: MaxSparsity = None,
    min_tensor_sparsity: MinTensorSparsity = None,
    max_tensor_sparsity: MaxTensorSparsity = None,
    pattern: Pattern = None,
    dim: Dim = None,
    finite: Finite = False,
    no_all_zero: NoAllZero = False,
    same_structure_as: SameStructureAs = None,
    only_zeros_added_since: OnlyZerosAddedSince = None,
    include: options.Include = None,
    exclude: options.Exclude = None,
    min_dim: options.MinDim = None,
    min_numel: options.MinNumel = 0,
    key: options.Key = None,
    threads: options.Threads = 0,
    json: options.Json = False,
    quiet: Quiet = False,
    no_progress: options.NoProgress = False,
) -> int:
    """Exit with 1 unless all conditions hold.

    Writes nothing. Sparsity, --pattern, --finite and --no-all-zero examine the tensors that would be pruned; the
    comparisons with OTHER examine every tensor of the state_dict that -i and -x do not exclude. A sparsity holds to the
    nearest weight, as amounts do.
    """
    _refuse_pipes(ckpts, same_structure_as, only_zeros_added_since)
    conditions = [
        *_sparsities("min_sparsity", min_sparsity),
        *_sparsities("max_sparsity", max_sparsity, upper=True),
        *_sparsities("min_tensor_sparsity", min_tensor_sparsity, each=True),
        *_sparsities("max_tensor_sparsity", max_tensor_sparsity, upper=True, each=True),
        *_pattern(pattern, dim),
        *_others(finite=finite, no_all_zero=no_all_zero, structure=same_structure_as, since=only_zeros_added_since),
    ]
    selector = Selector(tuple(include or ()), tuple(exclude or ()), min_dim, min_numel)
    return _check_all(ckpts, conditions, _Settings(selector, key, threads, json, quiet, quiet or no_progress))


@dataclass(frozen=True, slots=True)
class _Settings:
    """The options that hold for every checkpoint."""

    selector: Selector
    key: str | None
    threads: int
    json: bool
    quiet: bool
    silent: bool


def _check_all(ckpts: list[str], conditions: list[Condition], settings: _Settings) -> int:
    """Check each checkpoint and print its findings; return the exit code."""
    if not conditions:
        raise UsageError("check needs a condition", hint="--min-sparsity 50%, --pattern 2:4, --finite, or another")
    from prunecli.inspection.check_text import findings_json, write_findings

    results: dict[str, tuple[Finding, ...]] = {}
    for ckpt in dict.fromkeys(ckpts):
        label = "standard input" if ckpt == "-" else ckpt
        results[label] = findings = _findings(ckpt, conditions, settings)
        with printing() as stream:
            if stream is not None and not (settings.json or settings.quiet):
                write_findings(findings, stream, _options, heading=label if len(ckpts) > 1 else None)
    with printing() as stream:
        if stream is not None and settings.json:
            stream.write(findings_json(results, _options))
    return HOLDS if all(finding.holds for findings in results.values() for finding in findings) else FAILED


def _findings(ckpt: str, conditions: list[Condition], settings: _Settings) -> tuple[Finding, ...]:
    from prunecli.inspection.check import check as check_checkpoint

    selector = settings.selector
    with ExitStack() as stack:
        path, label = readable(stack, ckpt)
        return check_checkpoint(
            path,
            conditions,
            include=selector.include,
            exclude=selector.exclude,
            min_dim=selector.min_dim,
            min_numel=selector.min_numel,
            key=settings.key,
            threads=settings.threads,
            label=label,
            progress=stack.enter_context(show_progress(wanted=not settings.silent)),
        )


# --- conditions


def _options(condition: Condition) -> str:
    """Return a condition as the options that ask for it."""
    return " ".join(word for argument in condition.arguments for word in option_words(argument))


def _refuse_pipes(ckpts: list[str], structure: str | None, since: str | None) -> None:
    if ckpts.count("-") > 1:
        raise UsageError("only one checkpoint can come through standard input", hint="prune check - < CKPT")
    for option, other in (("--same-structure-as", structure), ("--only-zeros-added-since", since)):
        if other == "-":
            hint = f"prune check - {option} OTHER < CKPT"
            raise UsageError(f"{option} needs a path: only CKPT can be a pipe", hint=hint)


def _sparsities(name: str, texts: list[str] | None, *, upper: bool = False, each: bool = False) -> Iterator[Condition]:
    """Yield the condition for each of "50%" and "encoder.*=50%"; a tensor's name may contain an equals sign."""
    from prunecli.inspection.conditions import MaxSparsity, MinSparsity

    make = MaxSparsity if upper else MinSparsity
    for text in texts or ():
        glob, equals, fraction = text.rpartition("=")
        if equals and not glob:
            option = f"--{name.replace('_', '-')}"
            raise UsageError(f"{option} {text} has no pattern before the `=`", hint=f"{option} {fraction or '50%'}")
        yield make(parsers.fraction(name)(fraction), glob or None, each)


def _pattern(pattern: str | None, dim: int | None) -> Iterator[Condition]:
    from prunecli.inspection.conditions import GroupPattern

    if pattern is not None:
        yield GroupPattern(*parsers.parse_pattern(pattern), 1 if dim is None else dim)
    elif dim is not None:
        raise UsageError("--dim is the dimension of --pattern", hint=f"--pattern 2:4 --dim {dim}")


def _others(*, finite: bool, no_all_zero: bool, structure: str | None, since: str | None) -> Iterator[Condition]:
    from prunecli.inspection import conditions

    if finite:
        yield conditions.Finite()
    if no_all_zero:
        yield conditions.NoAllZero()
    if structure is not None:
        yield conditions.SameStructure(structure)
    if since is not None:
        yield conditions.OnlyZerosAdded(since)
