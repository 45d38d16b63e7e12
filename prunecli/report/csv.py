"""A report as CSV (RFC 4180) for spreadsheets and data frames: a header and one row per tensor.

The columns are the keys of a tensor's record in the JSON form. Names are escaped so that they print and cannot be
formulas; only the JSON form has them verbatim.
"""

from __future__ import annotations

import csv
import re
from io import StringIO
from math import isinf
from typing import TYPE_CHECKING

from prunecli.report.model import COLUMNS
from prunecli.text.escape import printable

if TYPE_CHECKING:
    from prunecli.report.model import Report

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\uff1d", "\uff0b", "\uff0d", "\uff20", "|", "%")
"""Beginnings that a spreadsheet runs: formulas, their full-width forms, and DDE calls (OWASP)."""

_BEGINNING = re.compile(rf'(^|;[\s"]*)(?=[{re.escape("".join(FORMULA))}])')
"""The places before FORMULA: the start of a text, and after a semicolon, at which many spreadsheets divide a line."""


def to_csv(report: Report) -> str:
    r"""Return one line per tensor, in the order of the checkpoint, each ending in \r\n (RFC 4180).

    Unknown values are empty, booleans are `true` or `false`, shapes read `16x3x3` and aliases are joined by "; ".
    Characters that are not printable become escapes. A text that a spreadsheet would run gets a `'` in front, also
    after a semicolon, where a spreadsheet may begin another cell.
    """
    out = StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    for row in report.rows:
        writer.writerow(_cell(name, getattr(row, name)) for name in COLUMNS)
    return out.getvalue()


def _cell(name: str, value: object) -> str:
    if value is None:
        return ""
    # Before int: a bool is an int as well.
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, (tuple, list)):
        value = ("x" if name == "shape" else "; ").join(map(str, value))
    return _BEGINNING.sub(r"\1'", printable(str(value)))
