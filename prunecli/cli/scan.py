"""The command `prune scan`: which tensors lose most of their norm when they are pruned by magnitude."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer  # noqa: TC002 - Typer evaluates annotations

from prunecli.cli import options
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

if TYPE_CHECKING:
    from pathlib import Path

    from prunecli.inspection.scan import Scan
    from prunecli.text.tables import View


def scan(
    context: typer.Context,
    ckpt: options.Ckpt,
    *,
    top: options.Top = None,
    all_tensors: options.AllTensors = False,
    html: options.Html = None,
    figure: options.Figure = None,
    force: options.ForcePage = False,
    include: options.Include = None,
    exclude: options.Exclude = None,
    min_dim: options.MinDim = None,
    key: options.Key = None,
    json: options.Json = False,
    no_progress: options.NoProgress = False,
) -> int:
    """Show which tensors are most sensitive to pruning.

    Shows the part of each tensor's sum of squares that remains without its smallest 10 to 99 percent of weights. The
    tensor that loses most comes first. It needs no data and no model.
    """
    shown = view(top, all_tensors=all_tensors, json=json)
    check_force(html, figure, force=force)

    with opened_checkpoint(ckpt, key, progress=not no_progress) as (checkpoint, label, progress):
        check_page_and_figure(html, figure, force=force, others=[file.path for file in checkpoint.files])

        from prunecli.inspection.scan import scan as scan_checkpoint

        result = scan_checkpoint(
            checkpoint, include=include or (), exclude=exclude or (), min_dim=min_dim, label=label, progress=progress
        )
    if html is not None:
        from prunecli.inspection.scan_html import to_html

        write_page(html, to_html(result, recorded(context)), force=force)
    if figure is not None:
        from prunecli.inspection.figures import draw_scan

        write_figure(figure, draw_scan(result, figure.suffix), force=force)
    _print(result, shown, html, figure, json=json)
    return 0


def _print(result: Scan, shown: View, html: Path | None, figure: Path | None, *, json: bool) -> None:
    from prunecli.inspection.scan_text import to_json, write_scan

    with printing(written=html or figure) as stream:
        if json:
            stream.write(to_json(result))
        else:
            write_scan(result, stream, shown)
            name_files(stream, html, figure)
