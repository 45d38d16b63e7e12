"""What the commands have in common that write a checkpoint once more: bake, convert, pack, strip and unpack."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, NamedTuple, Protocol

from prunecli.cli.output import printing
from prunecli.cli.pipes import readable, spooled_output
from prunecli.cli.progress import show_progress
from prunecli.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from typing import TextIO

    from prunecli.progress import Progress


class Files(NamedTuple):
    """The arguments of a function that writes a checkpoint: what it reads and writes, and who hears of the progress."""

    path: str | Path
    output: str | int | None
    label: str | None
    progress: Progress


class Result(Protocol):
    """The result of such a function."""

    @property
    def output_path(self) -> str | None:
        """The path of the output, "-" for standard output, None after a dry run."""

    def to_json(self) -> str:
        """Return the result as JSON."""


def refuse_pipes(ckpt: str, output: str | None, *, json: bool, dry_run: bool, in_place: bool) -> None:
    """Raise UsageError for pipes that cannot be: they have no name and cannot be replaced."""
    if dry_run:
        return
    if output == "-" and json:
        raise UsageError("--json and -o - both need standard output", hint="-o FILE, or leave out --json")
    if ckpt == "-" and output is None:
        if in_place:
            raise UsageError("a pipe cannot be replaced in place", hint="-o PATH, or -o -")
        raise UsageError("a checkpoint from a pipe has no name to derive the output's from", hint="-o PATH, or -o -")


@contextmanager
def opened(ckpt: str, output: str | None, *, dry_run: bool, progress: bool, last: str | None = None) -> Iterator[Files]:
    """Yield what a function of the library reads and writes; a dash is standard input or standard output.

    `last` labels a bar of progress whose phases are all complete.
    """
    with ExitStack() as stack:
        path, label = readable(stack, ckpt)
        target: str | int | None = output
        if output == "-":
            target = 1 if dry_run else stack.enter_context(spooled_output())
        yield Files(path, target, label, stack.enter_context(show_progress(wanted=progress, last=last)))


def print_result(result: Result, write: Callable[[TextIO], None], *, json: bool, quiet: bool) -> None:
    """Print a result as JSON or by `write`, on standard error if the checkpoint went to standard output."""
    with printing(to_stderr=result.output_path == "-", written=result.output_path) as stream:
        if json:
            stream.write(result.to_json())
        elif not quiet:
            write(stream)


def destination(result: Result) -> str:
    """Return the end of the sentence about a result: where the output is."""
    return "; nothing written (dry run)" if result.output_path is None else f" -> {place(result)}"


def place(result: Result) -> str:
    """Return the path of the output, or "standard output"."""
    from prunecli.text.escape import printable

    return "standard output" if result.output_path == "-" else printable(result.output_path or "")
