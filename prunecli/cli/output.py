"""The streams and the paths for the result of a command."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from io import StringIO
from typing import TYPE_CHECKING

from prunecli.cli.exit import silence
from prunecli.distributed.current import processes
from prunecli.errors import Argument, OutputError, UsageError
from prunecli.remote.urls import public

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path
    from typing import TextIO

    from typer import Context

    from prunecli.text.tables import View


@contextmanager
def printing(
    *, to_stderr: bool = False, written: str | Path | None = None, hint: Argument | None = None
) -> Iterator[TextIO]:
    """Return the stream for the result: standard output, or standard error if a checkpoint goes to standard output.

    A closed stream is replaced by a buffer that is not printed. Raises OutputError, with `hint`, if standard output
    takes no more; the message says that the file `written` exists in spite of the error.
    """
    stream = sys.stderr if to_stderr else sys.stdout
    try:
        yield StringIO() if stream is None else stream
        if stream is not None:
            stream.flush()  # a full disk is often noticed only here
    except BrokenPipeError:  # `exit_codes` ends the run quietly
        raise
    except OSError as error:
        silence(stream)
        if to_stderr:
            return
        done = "" if written is None else f"{written} is written, but "
        raise OutputError(f"{done}the result cannot be printed: {error.strerror}", hint=hint) from error


def recorded(context: Context) -> tuple[str, ...]:
    """Return the command line as pages and reports have it: without what is secret in URLs."""
    return tuple(map(public, context.obj or ()))


def view(top: int | None, *, all_tensors: bool, json: bool) -> View:
    """Return the part of the tensors that the text shows; UsageError for options that contradict each other."""
    from prunecli.text.tables import View

    if top is not None and all_tensors:
        raise UsageError("--top and --all exclude each other", hint="--top 10, or --all")
    if json and (top is not None or all_tensors):
        option = "--all" if all_tensors else "--top"
        raise UsageError(f"{option} limits the text only; JSON has every tensor", hint=f"leave out {option}")
    return View(top, all_tensors, hint="; --all lists each")


def check_force(*paths: Path | None, force: bool) -> None:
    """Raise UsageError for `force` without a page or a figure to replace."""
    if force and not any(paths):
        raise UsageError("--force replaces a page, and --html names none", hint="--html PATH --force")


def check_page(html: Path | None, *, force: bool, others: Iterable[Path]) -> None:
    """Raise before the work where the page cannot be written after it."""
    if html is not None:
        check_export(Argument("html", "page.html"), html, force=force, others=others)
        check_suffix(html, "html", "page", (".html", ".htm"))


def check_suffix(path: Path, argument: str, noun: str, suffixes: Sequence[str]) -> None:
    """Raise UsageError where the suffix of `path` belongs to another format; a path may have none."""
    from prunecli.text.escape import printable

    if path.suffix.lower() not in {*suffixes, ""}:
        example = Argument(argument, printable(str(path.with_suffix(suffixes[0]))))
        raise UsageError(f"a {noun} is written as {suffixes[0]}, not {printable(path.suffix)!r}", hint=example)


def write_page(html: Path, text: str, *, force: bool) -> None:
    """Write a page, of several processes in one of them; OutputError if it cannot be written."""
    from prunecli.io.publish import publish_text

    if processes().rank == 0:
        publish_text(html, text, force=force)


def check_drawing(figure: Path | None, *, force: bool, others: Iterable[Path]) -> None:
    """Raise before the work where the figure cannot be drawn, or written after it."""
    if figure is not None:
        check_export(Argument("figure", "figure.pdf"), figure, force=force, others=others)

        from prunecli.report.plots import check_figure

        check_figure(figure)


def check_page_and_figure(html: Path | None, figure: Path | None, *, force: bool, others: Iterable[Path]) -> None:
    """Raise before the work where the page or the figure cannot be written after it."""
    paths = list(others)
    check_page(html, force=force, others=paths)
    check_drawing(figure, force=force, others=[*paths, *([html] if html else [])])


def write_figure(figure: Path, data: bytes, *, force: bool) -> None:
    """Write a figure; OutputError if it cannot be written."""
    from prunecli.io.publish import publish_bytes

    publish_bytes(figure, data, force=force)


def name_files(stream: TextIO, html: Path | None, figure: Path | None = None) -> None:
    """Write the paths of the page and the figure below the result."""
    from prunecli.text.escape import printable

    named = [f"{what:<8} {printable(str(path))}\n" for what, path in (("page", html), ("figure", figure)) if path]
    stream.writelines(["\n", *named] if named else [])


def check_export(argument: Argument, path: Path, *, force: bool, others: Iterable[Path]) -> None:
    """Raise before the work where the page, table or plot cannot be written to `path` after it.

    `argument` is an example of the argument that gave `path`; `others` are the other files that the run reads or
    writes. Raises UsageError for a dash, because standard output has the result, and OutputError.
    """
    if str(path) == "-":
        raise UsageError(f"the {argument.name} output needs a path: standard output has the result", hint=argument)
    from prunecli.io.targets import check_writable_target

    check_writable_target(path, force=force, others=others, argument=argument.name)
