"""The command `prune check`: options become conditions, and findings become a table and an exit code."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Annotated

from typer import Argument as Positional

from prunecli.cli import options, parsers
from prunecli.cli.hints import option_words
from prunecli.cli.output import printing, view
from prunecli.cli.pipes import readable
from prunecli.cli.progress import show_progress
from prunecli.cli.value_options import flag_option, text_option, whole_option
from prunecli.errors import Argument, UsageError
from prunecli.remote.urls import public

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from prunecli.inspection.findings import Condition, Finding

HOLDS, FAILED = 0, 1

Ckpts = Annotated[
    list[str],
    Positional(
        metavar="CKPT...",
        help="Files (.pth, safetensors), directories or indexes of shards, URLs (hf://ORG/MODEL), or `-`.",
    ),
]
MinSparsity = Annotated[
    list[str] | None,
    text_option(
        "--min-sparsity",
        "[GLOB=]S",
        "At least S (0.5 or 50%) of the selected weights is zero; after GLOB=, of the tensors that match. Repeatable.",
    ),
]
MaxSparsity = Annotated[
    list[str] | None, text_option("--max-sparsity", "[GLOB=]S", "At most S of them is zero. Repeatable.")
]
MinTensorSparsity = Annotated[
    list[str] | None, text_option("--min-tensor-sparsity", "[GLOB=]S", "At least S of each tensor is zero. Repeatable.")
]
MaxTensorSparsity = Annotated[
    list[str] | None, text_option("--max-tensor-sparsity", "[GLOB=]S", "At most S of each tensor is zero. Repeatable.")
]
Pattern = Annotated[
    str | None, text_option("--pattern", "K:G", "At most K of every G consecutive weights are not zero.")
]
Dim = Annotated[
    int | None,
    whole_option("--dim", "D", 1, "Groups of --pattern run along this dimension.  [default: the inputs]"),
]
For = Annotated[
    str | None,
    text_option(
        "--for",
        "torch",
        "With --pattern 2:4: torch.sparse.to_sparse_semi_structured takes each tensor.",
    ),
]
Finite = Annotated[bool, flag_option("--finite", "No weight is NaN or infinite.")]
NoAllZero = Annotated[bool, flag_option("--no-all-zero", "No tensor is all zero.")]
SameStructureAs = Annotated[
    str | None,
    text_option("--same-structure-as", "OTHER", "Every tensor has the name, dtype and shape it has in OTHER."),
]
OnlyZerosAddedSince = Annotated[
    str | None,
    text_option("--only-zeros-added-since", "OTHER", "Every tensor is OTHER's, bit for bit, except for new zeros."),
]


def check(
    ckpts: Ckpts,
    min_sparsity: MinSparsity = None,
    max_sparsity: MaxSparsity = None,
    min_tensor_sparsity: MinTensorSparsity = None,
    max_tensor_sparsity: MaxTensorSparsity = None,
    pattern: Pattern = None,
    dim: Dim = None,
    converter: For = None,
    finite: Finite = False,
    no_all_zero: NoAllZero = False,
    same_structure_as: SameStructureAs = None,
    only_zeros_added_since: OnlyZerosAddedSince = None,
    include: options.Include = None,
    exclude: options.Exclude = None,
    min_dim: options.MinDim = None,
    min_numel: options.MinNumel = 0,
    layout: options.Layout = None,
    key: options.Key = None,
    threads: options.Threads = 0,
    top: options.Top = None,
    all_tensors: options.AllTensors = False,
    json: options.Json = False,
    quiet: options.Silent = False,
    no_progress: options.NoProgress = False,
) -> int:
    """Exit with 1 unless all conditions hold.

    Writes nothing. Sparsity, --pattern, --finite and --no-all-zero examine the tensors that would be pruned; the
    comparisons with OTHER examine every tensor of the state_dict that -i and -x do not exclude. A sparsity holds to the
    nearest weight, as amounts do.
    """
    _refuse_pipes(ckpts, same_structure_as, only_zeros_added_since)
    shown = view(top, all_tensors=all_tensors, json=json)
    sparsities = (min_sparsity, max_sparsity, min_tensor_sparsity, max_tensor_sparsity)
    if not any((*sparsities, pattern, converter, finite, no_all_zero, same_structure_as, only_zeros_added_since)):
        raise UsageError("check needs a condition", hint=Argument("min_sparsity", "50%"))
    from prunecli.inspection.conditions import Finite, NoAllZero, OnlyZerosAdded, SameStructure

    conditions = [
        *_sparsities("min_sparsity", min_sparsity),
        *_sparsities("max_sparsity", max_sparsity, upper=True),
        *_sparsities("min_tensor_sparsity", min_tensor_sparsity, each=True),
        *_sparsities("max_tensor_sparsity", max_tensor_sparsity, upper=True, each=True),
        *_pattern(pattern, dim),
        *_convertible(pattern, converter),
        *([Finite()] if finite else []),
        *([NoAllZero()] if no_all_zero else []),
        *([] if same_structure_as is None else [SameStructure(same_structure_as)]),
        *([] if only_zeros_added_since is None else [OnlyZerosAdded(only_zeros_added_since)]),
    ]
    from prunecli.inspection.check import check as check_checkpoint
    from prunecli.inspection.check_text import findings_json, write_findings

    run = partial(
        check_checkpoint,
        conditions=conditions,
        include=include or (),
        exclude=exclude or (),
        min_dim=min_dim,
        min_numel=min_numel,
        layout=options.layouts(layout),
        key=key,
        threads=threads,
    )
    results: dict[str, tuple[Finding, ...]] = {}
    for ckpt in dict.fromkeys(ckpts):
        name, results[name] = _checked(ckpt, run, progress=not (quiet or no_progress))
        if not (json or quiet):
            with printing() as stream:
                write_findings(results[name], stream, _options, heading=name if len(ckpts) > 1 else None, view=shown)
    if json:
        with printing() as stream:
            stream.write(findings_json(results, _options))
    return HOLDS if all(finding.holds for findings in results.values() for finding in findings) else FAILED


def _checked(ckpt: str, run: Callable[..., tuple[Finding, ...]], *, progress: bool) -> tuple[str, tuple[Finding, ...]]:
    """Return the name of a checkpoint in messages, and what `run` finds in it."""
    with ExitStack() as stack:
        path, label = readable(stack, ckpt)
        bars = stack.enter_context(show_progress(wanted=progress))
        return label or public(ckpt), run(path, label=label, progress=bars)


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
        yield GroupPattern(*parsers.parse_pattern(pattern), dim)
    elif dim is not None:
        raise UsageError("--dim is the dimension of --pattern", hint=(Argument("pattern", "2:4"), Argument("dim", dim)))


def _convertible(pattern: str | None, converter: str | None) -> Iterator[Condition]:
    from prunecli.inspection.converters import Convertible

    if converter is None:
        return
    condition = Convertible(converter)
    if pattern is None or parsers.parse_pattern(pattern) != (2, 4):
        hint = (Argument("pattern", "2:4"), Argument("converter", condition.converter))
        raise UsageError("--for converts weights of the pattern 2:4", hint=hint)
    yield condition
