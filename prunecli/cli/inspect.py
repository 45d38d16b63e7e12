"""`prune inspect`: what is in a checkpoint, and what threshold gives what sparsity. Writes nothing."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated, TextIO, TypeAlias

from typer import Option

from prunecli.cli import options, parsers
from prunecli.cli.inputs import readable
from prunecli.cli.output import printing
from prunecli.cli.progress import show_progress
from prunecli.errors import UsageError

if TYPE_CHECKING:
    from prunecli.inspection.inspect import Inspection
    from prunecli.text.tables import View

Thresholds: TypeAlias = Annotated[
    bool, Option("--thresholds", help="Which --thr gives which sparsity: of all that would be pruned, and per tensor.")
]
Hist: TypeAlias = Annotated[
    str | None, Option(metavar="NAME", help="Draw the magnitudes of a tensor, or of all that a glob or `re:` matches.")
]
Top: TypeAlias = Annotated[
    int | None,
    Option(metavar="N", parser=parsers.whole("--top", "10", least=1), help="Only the N largest tensors, each."),
]
Every: TypeAlias = Annotated[bool, Option("--all", help="A line for every tensor, however many there are.")]
NoRead: TypeAlias = Annotated[bool, Option("--no-read", help="Read no weights: names, types and sizes only.")]
Json: TypeAlias = Annotated[bool, Option("--json", help="Print all of it as JSON.")]


def inspect(
    ckpt: options.Ckpt,
    *,
    thresholds: Thresholds = False,
    hist: Hist = None,
    top: Top = None,
    every: Every = False,
    no_read: NoRead = False,
    include: options.Include = None,
    exclude: options.Exclude = None,
    min_dim: options.MinDim = None,
    key: options.Key = None,
    json: Json = False,
    no_progress: options.NoProgress = False,
) -> int:
    """Show what is in a checkpoint.

    Its tensors with their zeros, what is tied, left over or not finite, and with --thresholds and --hist what to type
    after --thr. With -i, -x or --min-dim only the tensors that a pruning command would take.
    """
    if no_read and (thresholds or hist is not None):
        reads = "--thresholds" if thresholds else "--hist"
        raise UsageError(f"{reads} reads the weights, and --no-read forbids it", hint="leave out --no-read")
    view = _view(top, every=every, json=json)

    from prunecli.formats.open import open_checkpoint
    from prunecli.selection.select import Selector

    asked = any(option is not None for option in (include, exclude, min_dim))
    with ExitStack() as stack:
        path, label = readable(stack, ckpt)
        checkpoint = open_checkpoint(path, key=key, label=label)
        progress = stack.enter_context(show_progress(wanted=not no_progress))

        from prunecli.inspection.inspect import inspect as look_into

        found = look_into(
            checkpoint,
            rules=Selector(tuple(include or ()), tuple(exclude or ()), min_dim) if asked else None,
            read=not no_read,
            thresholds=thresholds,
            hist=hist,
            label=label or ckpt,
            progress=progress,
        )
    _tell(found, view, json=json)
    return 0


def _view(top: int | None, *, every: bool, json: bool) -> View:
    from prunecli.text.tables import View

    if top is not None and every:
        raise UsageError("--top and --all are two answers to one question", hint="--top 10, or --all")
    if json and (top is not None or every):
        given = "--all" if every else "--top"
        raise UsageError(f"{given} says what the text shows; JSON has every tensor", hint=f"leave out {given}")
    return View(top, every, hint="; --all lists each")


def _tell(found: Inspection, view: View, *, json: bool) -> None:
    """Print what was found on standard output, where there is one."""
    with printing() as stream:
        if stream is not None:
            _print(found, view, stream, json=json)


def _print(found: Inspection, view: View, stream: TextIO, *, json: bool) -> None:
    if json:
        from prunecli.inspection.inspect_json import to_json

        stream.write(to_json(found))
        return
    from prunecli.inspection.inspect_text import write_inspection

    write_inspection(found, stream, view)
