"""`prune scan`: which tensors break first when pruned by magnitude. Changes no checkpoint."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO, TypeAlias

from typer import Option

from prunecli.cli import options, parsers
from prunecli.cli.inputs import readable
from prunecli.cli.output import check_paper, printing
from prunecli.cli.progress import show_progress
from prunecli.errors import UsageError

if TYPE_CHECKING:
    from prunecli.inspection.scan import Scan
    from prunecli.text.tables import View

Html: TypeAlias = Annotated[Path | None, Option(metavar="PATH", help="Write the curves as an HTML page, too.")]
Force: TypeAlias = Annotated[bool, Option("-f", "--force", help="Replace an existing page.")]
Top: TypeAlias = Annotated[
    int | None,
    Option(metavar="N", parser=parsers.whole("--top", "10", least=1), help="Only the N tensors that break first."),
]
Every: TypeAlias = Annotated[bool, Option("--all", help="A line for every tensor, however many there are.")]
Json: TypeAlias = Annotated[bool, Option("--json", help="Print all of it as JSON.")]


def scan(
    ckpt: options.Ckpt,
    *,
    top: Top = None,
    every: Every = False,
    html: Html = None,
    force: Force = False,
    include: options.Include = None,
    exclude: options.Exclude = None,
    min_dim: options.MinDim = None,
    key: options.Key = None,
    json: Json = False,
    no_progress: options.NoProgress = False,
) -> int:
    """Show which tensors break first when pruned.

    What is left of each tensor's sum of squares when it loses its smallest weights, from 10 to 99 percent of them, the
    weakest tensor on top. No data and no model is needed.
    """
    view = _view(top, every=every, json=json)
    if force and html is None:
        raise UsageError("--force replaces a page, and --html names none", hint="--html PATH --force")

    from prunecli.formats.open import open_checkpoint
    from prunecli.selection.select import Selector

    rules = Selector(tuple(include or ()), tuple(exclude or ()), min_dim)
    with ExitStack() as stack:
        path, label = readable(stack, ckpt)
        checkpoint = open_checkpoint(path, key=key, label=label)
        progress = stack.enter_context(show_progress(wanted=not no_progress))
        if html is not None:
            check_paper("--html", html, force=force, others=[file.path for file in checkpoint.files])

        from prunecli.inspection.scan import scan as look_at

        found = look_at(checkpoint, rules, label=label or ckpt, progress=progress)
    if html is not None:
        from prunecli.inspection.scan_html import to_html
        from prunecli.io.publish import publish_text

        publish_text(html, to_html(found), force=force)
    _tell(found, view, html, json=json)
    return 0


def _view(top: int | None, *, every: bool, json: bool) -> View:
    from prunecli.text.tables import View

    if top is not None and every:
        raise UsageError("--top and --all are two answers to one question", hint="--top 10, or --all")
    if json and (top is not None or every):
        given = "--all" if every else "--top"
        raise UsageError(f"{given} says what the text shows; JSON has every tensor", hint=f"leave out {given}")
    return View(top, every, hint="; --all lists each")


def _tell(found: Scan, view: View, html: Path | None, *, json: bool) -> None:
    """Print what was found on standard output, where there is one."""
    with printing(done="" if html is None else f"{html} is written, but ") as stream:
        if stream is not None:
            _print(found, view, stream, json=json)


def _print(found: Scan, view: View, stream: TextIO, *, json: bool) -> None:
    from prunecli.inspection.scan_text import to_json, write_scan

    if json:
        stream.write(to_json(found))
    else:
        write_scan(found, stream, view)
