"""What the commands have in common that write a checkpoint once more: bake, convert, pack, strip and unpack."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from prunecli.cli.output import printing
from prunecli.cli.pipes import readable, spooled_output
from prunecli.cli.progress import show_progress
from prunecli.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TextIO


R = TypeVar("R")


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


def rewritten(
    write: Callable[..., R],
    ckpt: str,
    output: str | None,
    *,
    dry_run: bool,
    progress: bool,
    last: str | None = None,
    **keywords: Any,  # noqa: ANN401 - those of `write`
) -> R:
    """Return the result of `write`, the function of the library; a dash is standard input or standard output.

    `last` labels a bar of progress whose phases are all complete.
    """
    with ExitStack() as stack:
        path, label = readable(stack, ckpt)
        target: str | int | None = output
        if output == "-":
            target = 1 if dry_run else stack.enter_context(spooled_output())
        bars = stack.enter_context(show_progress(wanted=progress, last=last))
        return write(path, target, dry_run=dry_run, label=label, progress=bars, **keywords)


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
