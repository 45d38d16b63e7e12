"""The findings of a check as text: a table that names every failure, or JSON. Reads and judges nothing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, TextIO

from prunecli.columns import Column, write
from prunecli.escape import shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prunecli.check import Finding

_COLUMNS = (
    Column("result", least=6),
    Column("condition", least=26),
    Column("tensor", least=14),
    Column("wanted", least=8),
    Column("got", least=12),
)


def write_findings(findings: Sequence[Finding], stream: TextIO) -> None:
    """Write a line per finding and a verdict, as a table on a terminal; OSError where the stream takes no more."""
    rows = [
        (
            "ok" if finding.holds else "FAILED",
            shown(finding.condition),
            "all" if finding.tensor is None else shown(finding.tensor),
            finding.wanted,
            finding.got,
        )
        for finding in sorted(findings, key=lambda finding: finding.holds)
    ]
    write(stream, _COLUMNS, rows, [_verdict(findings)])


def _verdict(findings: Sequence[Finding]) -> str:
    conditions = {finding.condition for finding in findings}
    failed = {finding.condition for finding in findings if not finding.holds}
    what = "condition" if len(conditions) == 1 else "conditions"
    if failed:
        return f"{len(failed):,} of {len(conditions):,} {what} failed"
    return "the condition holds" if len(conditions) == 1 else f"all {len(conditions):,} conditions hold"


def findings_json(findings: Sequence[Finding], path: str) -> str:
    """Return the findings on the checkpoint at `path` as JSON (ASCII, stable key order), names verbatim."""
    document = {
        "schema": 1,
        "checkpoint": path,
        "holds": all(finding.holds for finding in findings),
        "findings": [
            {
                "condition": finding.condition,
                "holds": finding.holds,
                "tensor": finding.tensor,
                "wanted": finding.wanted,
                "got": finding.got,
            }
            for finding in findings
        ],
    }
    return json.dumps(document, indent=1).replace("\x7f", "\\u007f") + "\n"
