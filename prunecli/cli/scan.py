"""The command `prune scan`: which tensors lose most of their norm when they are pruned by magnitude."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from prunecli.cli import options
from prunecli.cli.command_list import OUTPUT
from prunecli.cli.output import check_export, printing, view
from prunecli.cli.pipes import opened_checkpoint
from prunecli.cli.value_options import flag_option, text_option
from prunecli.errors import Argument, UsageError

if TYPE_CHECKING:
    from prunecli.checkpoint import Checkpoint
    from prunecli.inspection.scan import Scan
    from prunecli.text.tables import View

Html = Annotated[Path | None, text_option("--html", "PATH", "Write the curves to an HTML page as well.", panel=OUTPUT)]
Force = Annotated[bool, flag_option("-f --force", "Replace an existing page.", panel=OUTPUT)]


def scan(
    ckpt: options.Ckpt,
    *,
    top: options.Top = None,
    all_tensors: options.AllTensors = False,
    html: Html = None,
    force: Force = False,
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
    if force and html is None:
        raise UsageError("--force replaces a page, and --html names none", hint="--html PATH --force")

    with opened_checkpoint(ckpt, key, progress=not no_progress) as (checkpoint, label, progress):
        _check_page(checkpoint, html, force=force)

        from prunecli.inspection.scan import scan as scan_checkpoint

        result = scan_checkpoint(
            checkpoint, include=include or (), exclude=exclude or (), min_dim=min_dim, label=label, progress=progress
        )
    _write_page(result, html, force=force)
    _print(result, shown, written=html, json=json)
    return 0


def _check_page(checkpoint: Checkpoint, path: Path | None, *, force: bool) -> None:
    if path is not None:
        files = [file.path for file in checkpoint.files]
        check_export(Argument("html", "scan.html"), path, force=force, others=files)


def _write_page(result: Scan, path: Path | None, *, force: bool) -> None:
    if path is not None:
        from prunecli.inspection.scan_html import to_html
        from prunecli.io.publish import publish_text

        publish_text(path, to_html(result), force=force)


def _print(result: Scan, shown: View, *, written: Path | None, json: bool) -> None:
    from prunecli.inspection.scan_text import to_json, write_scan

    with printing(written=written) as stream:
        if json:
            stream.write(to_json(result))
        else:
            write_scan(result, stream, shown)
