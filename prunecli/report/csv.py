"""A report as CSV (RFC 4180): a header, and one row per tensor, for spreadsheets and data frames.

The columns are the keys of a tensor's record in the JSON form. Names are made printable and cannot be formulas: who
needs them to the letter reads the JSON form.
"""

from __future__ import annotations

import csv
from dataclasses import fields
from io import StringIO
from math import isinf
from typing import TYPE_CHECKING

from prunecli.report.model import Row
from prunecli.text.escape import printable

if TYPE_CHECKING:
    from prunecli.report.model import Report

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\uff1d", "\uff0b", "\uff0d", "\uff20", "|", "%")
"""What a text must not begin with in a spreadsheet: formulas, their full-width forms, and DDE calls (OWASP)."""


def to_csv(report: Report) -> str:
    r"""Return one line per tensor, in checkpoint order, each ending in \r\n as RFC 4180 has it.

    What is unknown is empty, truth is `true` or `false`, shapes read `16x3x3` and aliases are joined by "; ".
    Characters that cannot be printed are escapes, and a text that a spreadsheet would run gets a `'` in front.
    """
    out = StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    names = [*(f.name for f in fields(Row)), "sparsity_before", "sparsity_after"]
    writer.writerow(names)
    for row in report.rows:
        writer.writerow(_cell(name, getattr(row, name)) for name in names)
    return out.getvalue()


def _cell(name: str, value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, (tuple, list)):
        value = ("x" if name == "shape" else "; ").join(map(str, value))
    return _text(str(value))


def _text(text: str) -> str:
    text = printable(text)
    return f"'{text}" if text.startswith(FORMULA) else text
