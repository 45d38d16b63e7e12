"""The command `prune inspect`: the tensors of a checkpoint, and the threshold for each sparsity."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer  # noqa: TC002 - Typer evaluates annotations

from prunecli.cli import options
from prunecli.cli.exit import say
from prunecli.cli.output import (
    check_force,
    check_page_and_figure,
    name_files,
    printing,
    recorded,
    view,
    write_figure,
    write_page,
)
from prunecli.cli.pipes import opened_checkpoint
from prunecli.cli.processes import refuse_together
from prunecli.cli.value_options import flag_option, text_option
from prunecli.errors import UsageError
from prunecli.remote.urls import is_url
from prunecli.text.numbers import format_bytes

if TYPE_CHECKING:
    from pathlib import Path

    from prunecli.inspection.inspect import Inspection
    from prunecli.text.tables import View

Thresholds = Annotated[
    bool,
    flag_option("--thresholds", "The --thr for each sparsity, over all tensors that would be pruned and per tensor."),
]
Hist = Annotated[
    str | None, text_option("--hist", "NAME", "Draw the magnitudes of a tensor, or of all that match a glob or `re:`.")
]
Evidence = Annotated[bool, flag_option("-v --verbose", "Show what each layout was decided from.")]
NoRead = Annotated[bool, flag_option("--no-read", "Read no weights: names, dtypes and sizes only.")]
Read = Annotated[
    bool, flag_option("--read", "Read the weights of a model that is elsewhere, too (hf://, s3://, https://).")
]


def inspect(
    context: typer.Context,
    ckpt: options.Ckpt,
    *,
    thresholds: Thresholds = False,
    hist: Hist = None,
    top: options.Top = None,
    all_tensors: options.AllTensors = False,
    no_read: NoRead = False,
    read: Read = False,
    verbose: Evidence = False,
    include: options.Include = None,
    exclude: options.Exclude = None,
    min_dim: options.MinDim = None,
    layout: options.Layout = None,
    key: options.Key = None,
    html: options.Html = None,
    figure: options.Figure = None,
    force: options.ForcePage = False,
    json: options.Json = False,
    no_progress: options.NoProgress = False,
) -> int:
    """Show what is in a checkpoint.

    Lists the tensors with their layouts, zeros, tied names, leftovers of pruning and values that are not finite.
    --thresholds and --hist help to choose a --thr. With -i, -x or --min-dim it lists only the tensors that would be
    pruned.
    """
    if thresholds or hist is not None:
        refuse_together("--thresholds" if thresholds else "--hist", "start one process")
    if read and no_read:
        raise UsageError("--read and --no-read contradict each other", hint="leave out one of them")
    _refuse_no_read(no_read=no_read, thresholds=thresholds, hist=hist)
    shown = view(top, all_tensors=all_tensors, json=json)
    check_force(html, figure, force=force)
    if figure is not None and hist is None:
        raise UsageError("--figure draws the histogram of --hist", hint="--hist '*' --figure PATH")

    with opened_checkpoint(ckpt, key, progress=not no_progress) as (checkpoint, label, progress):
        check_page_and_figure(html, figure, force=force, others=[file.path for file in checkpoint.files])

        from prunecli.inspection.inspect import inspect as inspect_checkpoint

        result = inspect_checkpoint(
            checkpoint,
            include=include or (),
            exclude=exclude or (),
            min_dim=min_dim,
            layout=options.layouts(layout),
            read=True if read else False if no_read else None,
            thresholds=thresholds,
            hist=hist,
            label=label,
            progress=progress,
        )
    if html is not None:
        from prunecli.inspection.inspect_html import to_html

        write_page(html, to_html(result, recorded(context)), force=force)
    if figure is not None and result.histogram is not None:
        from prunecli.inspection.figures import draw_histogram

        write_figure(figure, draw_histogram(result.histogram, result.path, figure.suffix), force=force)
    _print(result, shown, (html, figure), json=json, evidence=verbose)
    if is_url(ckpt) and not (read or no_read or json):
        say(f"hint: --read counts zeros; it reads {format_bytes(sum(size for _, size in result.files))}")
    return 0


def _refuse_no_read(*, no_read: bool, thresholds: bool, hist: str | None) -> None:
    if no_read and (thresholds or hist is not None):
        option = "--thresholds" if thresholds else "--hist"
        raise UsageError(f"{option} reads the weights, which --no-read forbids", hint="leave out --no-read")


def _print(
    result: Inspection, shown: View, written: tuple[Path | None, Path | None], *, json: bool, evidence: bool
) -> None:
    from prunecli.inspection.inspect_json import to_json
    from prunecli.inspection.inspect_text import write_inspection

    with printing(written=written[0] or written[1]) as stream:
        if json:
            stream.write(to_json(result))
        else:
            write_inspection(result, stream, shown, evidence=evidence)
            name_files(stream, *written)
