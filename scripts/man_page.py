#!/usr/bin/env python
"""Print the manual page prune(1), from the texts of the help. `scripts/update_readme.py` writes it to docs/prune.1."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from prunecli.cli.command_list import COMMANDS, ENVIRONMENT, EXAMPLES, GROUPS, PRUNING, Example
from prunecli.cli.help import panels_of
from prunecli.cli.repair.command_line import typer_command
from prunecli.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

SHARED = "global"
"""The command whose shared options stand for those of all commands that prune."""


def page() -> str:
    """Return the manual page in the language of troff."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield f'.TH PRUNE 1 "" "prunecli {__version__}" "User Commands"'
    yield from (".SH NAME", r"prune \- zero weights in checkpoint files: the right ones, and nothing else")
    yield from (".SH SYNOPSIS", r".B prune", r"\fICOMMAND\fR [\fIOPTIONS\fR] [\fIARGUMENTS\fR]")
    yield ".SH DESCRIPTION"
    for group in GROUPS:
        yield f".SS {group}"
        for name, about in COMMANDS.items():
            if about.group == group:
                yield from (".TP", rf"\fBprune {name}\fR", _text(about.line))
    yield ".SH COMMANDS"
    for name in COMMANDS:
        yield from _command(name)
    yield ".SH OPTIONS OF ALL COMMANDS THAT PRUNE"
    for title, records in _parts(SHARED)[1][1:]:
        yield from (f".SS {title}", *_records(records))
    yield from (".SH ENVIRONMENT", *_records(ENVIRONMENT))
    yield from (".SH EXIT STATUS", *_records(STATUS))
    yield from (".SH EXAMPLES", *_examples(EXAMPLES))


STATUS = (
    ("0", "The command did its work, or all conditions hold."),
    ("1", "A condition or a gate failed, two checkpoints differ, or a search found nothing."),
    ("2", "The usage or an input is wrong."),
    ("130", "The run was interrupted."),
)


def _command(name: str) -> Iterator[str]:
    """Return the part about one command; the shared options of the commands that prune follow once, after all."""
    command, about = _command_of(name), COMMANDS[name]
    usage, (arguments, panels) = _context(command, name).get_usage(), _parts(name)
    yield f'.SS "{_text(usage.removeprefix("Usage: "))}"'
    for paragraph in (command.help or "").split("\n\n"):
        yield from (_text(" ".join(paragraph.split())), ".PP")
    for title, records in [("Arguments", arguments), *(panels[:1] if name in PRUNING else panels)]:
        if records:
            yield from (rf"\fI{_text(title)}\fR", *_records(records), ".PP")
    if about.text is not None:
        yield from _verbatim(*about.text)
    yield from _examples(about.examples)


def _command_of(name: str) -> Any:  # noqa: ANN401 - Typer's own
    return typer_command(name, ("CKPT", SHARED))


def _context(command: Any, name: str) -> Any:  # noqa: ANN401 - Typer's own
    context = command.make_context(name, [], resilient_parsing=True)
    context.info_name = f"prune {name}"
    return context


def _parts(name: str) -> Any:  # noqa: ANN401 - as panels_of
    command = _command_of(name)
    return panels_of(command, _context(command, name), COMMANDS[name])


def _records(records: Iterable[tuple[str, str]]) -> Iterator[str]:
    for flags, words in records:
        yield from (".TP", rf"\fB{_text(flags)}\fR", _text(" ".join(words.split())) or r"\&")


def _examples(examples: Iterable[Example]) -> Iterator[str]:
    for example in examples:
        yield from (".PP", f"{_text(example.purpose)}:", ".RS", ".nf", _text(example.line), ".fi", ".RE")


def _verbatim(title: str, text: str) -> Iterator[str]:
    yield from (".PP", f"{_text(title)}:", ".RS", ".nf", *map(_text, text.splitlines()), ".fi", ".RE")


def _text(text: str) -> str:
    """Escape a text for troff: its dashes are those that a user types."""
    escaped = text.replace("\\", r"\e").replace("-", r"\-")
    return rf"\&{escaped}" if escaped.startswith((".", "'")) else escaped


if __name__ == "__main__":
    sys.stdout.write(page())
