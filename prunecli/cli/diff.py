"""The command `prune diff`: two checkpoints become a table of what differs, and an exit code."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Annotated

from typer import Argument, Option

from prunecli.cli import options
from prunecli.cli.inputs import readable
from prunecli.cli.output import printing
from prunecli.cli.progress import show_progress
from prunecli.errors import UsageError

SAME, DIFFERENT = 0, 1


def diff(
    a: Annotated[str, Argument(metavar="A", help="A checkpoint: a file, a directory or index of shards, or `-`.")],
    b: Annotated[str, Argument(metavar="B", help="Another.")],
    include: Annotated[
        list[str] | None,
        Option(
            "-i",
            "--include",
            metavar="GLOB",
            help="Only tensors whose name matches, and nothing beside them; `re:` starts a regular expression."
            " Repeatable.",
        ),
    ] = None,
    exclude: options.Exclude = None,
    key: options.Key = None,
    threads: options.Threads = 0,
    json: Annotated[bool, Option("--json", help="Print the differences as JSON.")] = False,
    quiet: Annotated[bool, Option("-q", "--quiet", help="No table; the exit code says it.")] = False,
    no_progress: options.NoProgress = False,
) -> int:
    """Tell how two checkpoints differ.

    Tensors are compared by name and bit for bit, whatever container each is in; metadata and other entries, records and
    files where both containers are of one kind. Exits with 0 if all is the same, with 1 if something differs.
    """
    if a == b == "-":
        raise UsageError("only one checkpoint can come through standard input", hint="prune diff A - < B")

    from prunecli.inspection.diff import diff as compared

    with ExitStack() as stack:
        (first, first_label), (second, second_label) = (readable(stack, ckpt) for ckpt in (a, b))
        progress = stack.enter_context(show_progress(wanted=not (quiet or no_progress)))
        difference = compared(
            first,
            second,
            include=include or (),
            exclude=exclude or (),
            key=key,
            threads=threads,
            labels=(first_label, second_label),
            progress=progress,
        )
    with printing() as stream:
        if stream is not None and (json or not quiet):
            from prunecli.inspection.diff_text import difference_json, write_difference

            if json:
                stream.write(difference_json(difference))
            else:
                write_difference(difference, stream)
    return SAME if difference.same else DIFFERENT
