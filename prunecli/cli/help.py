"""The layout of the help: commands in groups, options in panels, and examples.

`-h` lists the command's own options and only names the others; `--help` explains all of them. The texts come from
`command_list` and from the commands' signatures. Typer's formatter writes them, so that no help imports Rich.
"""

from __future__ import annotations

import sys
import textwrap
from typing import TYPE_CHECKING, Any

from prunecli.cli.command_list import COMMANDS, ENVIRONMENT, EXAMPLES, GROUPS, OPTIONS, PANELS, RUNNING, Command
from prunecli.cli.light import LightCommand, LightGroup
from prunecli.text.colour import BOLD, painted, uses_colour

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from prunecli.cli.command_list import Example

Record = tuple[str, str]
"""The flags of an option and their explanation."""

_INDENT, _WIDEST, _NARROWEST = 2, 30, 20
"""Characters before a column, of the widest first column, and of the narrowest second one."""

_HELP = "Show the short help (-h) or all of it (--help)."
_UNKNOWN = Command("", "", ())


class HelpCommand(LightCommand):
    """A command whose help has its options in panels, its own first, and examples."""

    def format_options(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401 - Typer's own
        """Write the arguments, the panels and the examples."""
        ctx.color = uses_colour(sys.stdout)
        about = COMMANDS.get(ctx.info_name, _UNKNOWN)
        short = is_short(ctx)
        arguments, panels = panels_of(self, ctx, about)
        _section(formatter, "Arguments", arguments)
        for title, records in panels:
            if not short or title == about.panel:
                _section(formatter, title, records)
        if short:
            others = [(title, ", ".join(map(_flag, records))) for title, records in panels if title != about.panel]
            _section(formatter, "More options", others)
        elif about.text is not None:
            _verbatim(formatter, about.text[0], about.text[1].splitlines())
        _examples(formatter, about.examples[:1] if short else about.examples)
        if short:
            _verbatim(formatter, "All of the help", [f"prune {ctx.info_name} --help"])


class HelpGroup(LightGroup):
    """The program `prune`, whose help lists the commands in their groups."""

    def format_options(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401 - Typer's own
        """Write the groups of commands and the options; the full help has environment variables and examples too."""
        ctx.color = uses_colour(sys.stdout)
        listed = {name: self.commands[name].get_short_help_str(1000) for name in self.commands}
        width = max(map(len, listed))
        for group in GROUPS:
            lines = [(name.ljust(width), listed[name]) for name in listed if COMMANDS[name].group == group]
            _section(formatter, group, lines)
        records = [_record(parameter, ctx) for parameter in self.get_params(ctx)]
        _section(formatter, OPTIONS, [record for record in records if record])
        if is_short(ctx):
            return
        _section(formatter, "Environment variables", ENVIRONMENT)
        _examples(formatter, EXAMPLES)


def is_short(ctx: Any) -> bool:  # noqa: ANN401 - Typer's own
    """Return whether the command line asked for the short help: it has `-h` and no `--help`."""
    words = ctx.obj if isinstance(ctx.obj, tuple) else ()
    return "-h" in words and "--help" not in words


def panels_of(command: LightCommand, ctx: Any, about: Command) -> tuple[list[Record], list[tuple[str, list[Record]]]]:  # noqa: ANN401
    """Return the arguments, and the panels of options: the command's own first, then the shared ones in their order."""
    arguments: list[Record] = []
    panels: dict[str, list[Record]] = {about.panel: []}
    for parameter in command.get_params(ctx):
        record = _record(parameter, ctx)
        if record is None:
            continue
        if parameter.param_type_name == "argument":
            arguments.append(record)
        else:
            panels.setdefault(_panel(parameter) or about.panel, []).append(record)
    order = [about.panel, *(title for title in panels if title not in PANELS), *PANELS]
    return arguments, [(title, panels[title]) for title in dict.fromkeys(order) if panels.get(title)]


def _panel(parameter: Any) -> str | None:  # noqa: ANN401 - Typer's own
    panel = getattr(parameter, "rich_help_panel", None)
    return RUNNING if parameter.name == "help" else panel


def _record(parameter: Any, ctx: Any) -> Record | None:  # noqa: ANN401 - Typer's own
    record: Record | None = parameter.get_help_record(ctx)
    return (record[0], _HELP) if record is not None and parameter.name == "help" else record


def _flag(record: Record) -> str:
    """Return the long flag of an option, without the name of its value."""
    words = record[0].replace(",", " ").split()
    return next((word for word in words if word.startswith("--")), words[0])


def _section(formatter: Any, title: str, records: Sequence[Record]) -> None:  # noqa: ANN401 - Typer's own
    """Write the records in two columns. Lines break between words only: an option is never broken at its dashes."""
    if not records:
        return
    first = min(max(len(flags) for flags, _ in records), _WIDEST)
    width = max(formatter.width - first - 2 * _INDENT, _NARROWEST)
    with formatter.section(painted(title, BOLD, sys.stdout)):
        for flags, words in records:
            lines = textwrap.wrap(words, width, break_on_hyphens=False)
            if len(flags) > first:
                formatter.write(f"{'':{_INDENT}}{flags}\n")
                flags = ""  # noqa: PLW2901 - they have a line of their own
            for line in lines or [""]:
                formatter.write(f"{'':{_INDENT}}{flags:{first}}{'':{_INDENT}}{line}".rstrip() + "\n")
                flags = ""  # noqa: PLW2901 - other lines have none


def _examples(formatter: Any, examples: Iterable[Example]) -> None:  # noqa: ANN401 - Typer's own
    lines = [line for example in examples for line in (f"# {example.purpose}", example.line)]
    _verbatim(formatter, "Examples", lines)


def _verbatim(formatter: Any, title: str, lines: Iterable[str]) -> None:  # noqa: ANN401 - Typer's own
    """Write lines as they are: a command line or a recipe is never wrapped."""
    lines = list(lines)
    if lines:
        with formatter.section(painted(title, BOLD, sys.stdout)):
            for line in lines:
                formatter.write(f"{'':{_INDENT}}{line}".rstrip() + "\n")
