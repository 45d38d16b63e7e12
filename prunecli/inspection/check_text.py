"""The findings of `check` as text and as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, TextIO

from prunecli.text.escape import printable
from prunecli.text.json import dump_json
from prunecli.text.tables import Block, Column, first_rows, write_blocks

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from prunecli.inspection.findings import Condition, Finding

    Spell = Callable[[Condition], str]  # returns a condition as text

SCHEMA = 1
"""The version of the document. It rises when a key is removed or changes its meaning."""

_COLUMNS = (
    Column("result", styles=(("ok", "green"), ("FAILED", "bold red"))),
    Column("condition", fold=26),
    Column("tensor", fold=14),
    Column("required", fold=8),
    Column("found", fold=12),
)


def write_findings(findings: Sequence[Finding], stream: TextIO, spell: Spell, *, heading: str | None = None) -> None:
    """Write a verdict and one line per finding, failures first. OSError if the stream takes no more.

    `heading` names the checkpoint if there are several. `spell` returns a condition as text.
    """
    shown, more = first_rows(sorted(findings, key=lambda finding: finding.holds), terminal=stream.isatty())
    where = "" if heading is None else f"{printable(heading)}: "
    style = "bold green" if all(finding.holds for finding in findings) else "bold red"
    end = () if heading is None else ("",)
    table = Block("", _COLUMNS, tuple(_cells(finding, spell) for finding in shown), (*more, *end))
    write_blocks([Block(where + _verdict(findings), style=style), table], stream)


def _cells(finding: Finding, spell: Spell) -> tuple[str, ...]:
    return (
        "ok" if finding.holds else "FAILED",
        printable(spell(finding.condition)),
        "all tensors" if finding.tensor is None else printable(finding.tensor),
        finding.wanted,
        finding.got,
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
