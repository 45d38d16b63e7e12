"""The findings of `check` as text and as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, TextIO

from prunecli.text.escape import printable
from prunecli.text.json import dump_json
from prunecli.text.name_ranges import lines_of
from prunecli.text.numbers import counted
from prunecli.text.tables import MOST_ROWS, Block, Column, View, write_blocks

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from prunecli.inspection.findings import Condition, Finding

    Spell = Callable[[Condition], str]  # returns a condition as text

SCHEMA = 1
"""The version of the document. It rises when a key is removed or changes its meaning."""

_COLUMNS = (
    Column("result", styles=(("ok", "green"), ("FAILED", "bold red"))),
    Column("condition", fold=14),
    Column("tensor", fold=12),
    Column("tensors", right=True, optional=1),
    Column("required", fold=8),
    Column("found", fold=10),
)


def write_findings(
    findings: Sequence[Finding],
    stream: TextIO,
    spell: Spell,
    *,
    heading: str | None = None,
    view: View = View(),  # noqa: B008 - a frozen value
) -> None:
    """Write a verdict and the findings, failures first. OSError if the stream takes no more.

    Failures of tensors whose names differ only in numbers share a line if there are many. `heading` names the
    checkpoint if there are several. `spell` returns a condition as text.
    """
    table = _table(findings, spell, view, terminal=stream.isatty())
    where = "" if heading is None else f"{printable(heading)}: "
    style = "bold green" if all(finding.holds for finding in findings) else "bold red"
    end = Block() if heading is None else Block(lines=("",))
    write_blocks([Block(where + _verdict(findings), style=style), table, end], stream)


def _table(findings: Sequence[Finding], spell: Spell, view: View, *, terminal: bool) -> Block:
    lines = lines_of(
        sorted(findings, key=lambda finding: finding.holds),
        lambda finding: finding.tensor or "",
        lambda finding: (finding.holds, finding.condition, finding.wanted),
        view,
    )
    most = view.top or (MOST_ROWS if terminal and not view.every else len(lines))
    hidden = sum(len(group) for _, group in lines[most:])
    more = (f"{counted(hidden, 'more result')} not shown{view.hint or '; the JSON output has all'}",) if hidden else ()
    single = all(len(group) == 1 for _, group in lines[:most])
    table = Block("", _COLUMNS, tuple(_cells(name, group, spell) for name, group in lines[:most]), more)
    return table.without("tensors") if single else table


def _cells(name: str, group: Sequence[Finding], spell: Spell) -> tuple[str, ...]:
    first = group[0]
    same = len({finding.got for finding in group}) == 1
    return (
        "ok" if first.holds else "FAILED",
        printable(spell(first.condition)),
        printable(name) or "all tensors",
        f"{len(group):,}",
        first.wanted,
        first.got if same else f"first: {first.got}",
    )


def _verdict(findings: Sequence[Finding]) -> str:
    conditions = {finding.condition for finding in findings}
    failed = {finding.condition for finding in findings if not finding.holds}
    if len(conditions) == 1:
        return "the condition failed" if failed else "the condition holds"
    if failed:
        return f"{len(failed):,} of {len(conditions):,} conditions failed"
    return f"all {len(conditions):,} conditions hold"


def findings_json(results: Mapping[str, Sequence[Finding]], spell: Spell) -> str:
    """Return the findings of each checkpoint, by its path, as JSON (ASCII, stable key order), names verbatim."""
    return dump_json(
        {
            "schema": SCHEMA,
            "holds": all(finding.holds for findings in results.values() for finding in findings),
            "checkpoints": [
                {
                    "checkpoint": path,
                    "holds": all(finding.holds for finding in findings),
                    "findings": [_record(finding, spell) for finding in findings],
                }
                for path, findings in results.items()
            ],
        }
    )


def _record(finding: Finding, spell: Spell) -> dict[str, object]:
    return {
        "condition": spell(finding.condition),
        "holds": finding.holds,
        "tensor": finding.tensor,
        "wanted": finding.wanted,
        "got": finding.got,
    }
