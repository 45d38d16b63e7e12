"""The findings of a check as text: a table that names every failure, or JSON. Reads and judges nothing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, TextIO

from prunecli.text.columns import Column, write
from prunecli.text.escape import printable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from prunecli.inspection.check import Finding

_COLUMNS = (
    Column("result", least=6),
    Column("condition", least=26),
    Column("tensor", least=14),
    Column("wanted", least=8),
    Column("got", least=12),
)


def write_findings(findings: Sequence[Finding], stream: TextIO, *, heading: str | None = None) -> None:
    """Write a line per finding, failures first, and a verdict, as a table on a terminal.

    `heading` names the checkpoint, where there are several. OSError where the stream takes no more.
    """
    if heading is not None:
        stream.write(f"{printable(heading)}\n\n")
    rows = [
        (
            "ok" if finding.holds else "FAILED",
            printable(finding.condition),
            "all" if finding.tensor is None else printable(finding.tensor),
            finding.wanted,
            finding.got,
        )
        for finding in sorted(findings, key=lambda finding: finding.holds)
    ]
    write(stream, _COLUMNS, rows, [_verdict(findings)] if heading is None else [_verdict(findings), ""])


def _verdict(findings: Sequence[Finding]) -> str:
    conditions = {finding.condition for finding in findings}
    failed = {finding.condition for finding in findings if not finding.holds}
    if len(conditions) == 1:
        return "the condition failed" if failed else "the condition holds"
    if failed:
        return f"{len(failed):,} of {len(conditions):,} conditions failed"
    return f"all {len(conditions):,} conditions hold"


def findings_json(results: Mapping[str, Sequence[Finding]]) -> str:
    """Return the findings on each checkpoint, by its path, as JSON (ASCII, stable key order), names verbatim."""
    document = {
        "schema": 1,
        "holds": all(finding.holds for findings in results.values() for finding in findings),
        "checkpoints": [
            {
                "checkpoint": path,
                "holds": all(finding.holds for finding in findings),
                "findings": [_values(finding) for finding in findings],
            }
            for path, findings in results.items()
        ],
    }
    return json.dumps(document, indent=1).replace("\x7f", "\\u007f") + "\n"


def _values(finding: Finding) -> dict[str, object]:
    return {
        "condition": finding.condition,
        "holds": finding.holds,
        "tensor": finding.tensor,
        "wanted": finding.wanted,
        "got": finding.got,
    }
