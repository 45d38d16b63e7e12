"""The command `prune diff`: a table of the differences between two checkpoints, and an exit code."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument

from prunecli.cli import options
from prunecli.cli.command_list import TENSORS
from prunecli.cli.output import check_force, check_page, name_files, printing, recorded, view, write_page
from prunecli.cli.pipes import readable
from prunecli.cli.progress import show_progress
from prunecli.cli.value_options import text_option
from prunecli.errors import UsageError

if TYPE_CHECKING:
    from prunecli.inspection.diff import Difference
    from prunecli.text.tables import View

SAME, DIFFERENT = 0, 1

First = Annotated[
    str, Argument(metavar="A", help="A checkpoint: a file, a directory or index of shards, hf://ORG/MODEL, or `-`.")
]
Second = Annotated[str, Argument(metavar="B", help="Another checkpoint.")]
Include = Annotated[
    list[str] | None,
    text_option(
        "-i --include",
        "GLOB",
        "Only tensors whose name matches, and no metadata or other entries; `re:` starts a regular expression."
        " Repeatable.",
        autocompletion=options.complete_names,
        panel=TENSORS,
    ),
]


def diff(
    context: typer.Context,
    a: First,
    b: Second,
    include: Include = None,
    exclude: options.Exclude = None,
    key: options.Key = None,
    threads: options.Threads = 0,
    top: options.Top = None,
    all_tensors: options.AllTensors = False,
    html: options.Html = None,
    force: options.ForcePage = False,
    json: options.Json = False,
    quiet: options.Silent = False,
    no_progress: options.NoProgress = False,
) -> int:
    """Show how two checkpoints differ.

    Compares tensors by name and bit for bit, in any two containers. Metadata, other entries, records and files are
    compared if both containers are of one kind. Exits with 0 if nothing differs and with 1 otherwise.
    """
    if a == b == "-":
        raise UsageError("only one checkpoint can come through standard input", hint="prune diff A - < B")

    shown = view(top, all_tensors=all_tensors, json=json)
    check_force(html, force=force)
    check_page(html, force=force, others=[Path(a), Path(b)])

    from prunecli.inspection.diff import diff as compare

    with ExitStack() as stack:
        (first, first_label), (second, second_label) = (readable(stack, ckpt) for ckpt in (a, b))
        difference = compare(
            first,
            second,
            include=include or (),
            exclude=exclude or (),
            key=key,
            threads=threads,
            labels=(first_label, second_label),
            progress=stack.enter_context(show_progress(wanted=not (quiet or no_progress))),
        )
    if html is not None:
        from prunecli.inspection.diff_html import to_html

        write_page(html, to_html(difference, recorded(context)), force=force)
    _print(difference, shown, written=html, json=json, quiet=quiet)
    return SAME if difference.same else DIFFERENT


def _print(difference: Difference, shown: View, *, written: Path | None, json: bool, quiet: bool) -> None:
    from prunecli.inspection.diff_text import difference_json, write_difference

    with printing(written=written) as stream:
        if json:
            stream.write(difference_json(difference))
        elif not quiet:
            write_difference(difference, stream, shown)
            name_files(stream, written)
