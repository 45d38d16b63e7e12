"""The metric in the output of an evaluation command: the last number, or the last match of a pattern.

Only text is read here; `evaluate.py` runs the command.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass
from decimal import Decimal
from math import isfinite

from prunecli.errors import Argument, UsageError
from prunecli.selection.time_limit import SECONDS, TooSlowError, limited_time
from prunecli.text.escape import printable, quoted

_LINE_LIMIT = 160
"""Characters of a line of output that are shown."""

_COLOURS = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
_NUMBER = re.compile(
    # A number that stands alone: not part of a word, a path, a version, a date, a time or a number with commas.
    r"(?<![\w./%+-])(?<![0-9]:)(?!(?<=[0-9],)[0-9]{3}(?![0-9]))"
    r"([+-]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[+-]?[0-9]+)?|nan|inf(?:inity)?))(?: ?(%))?"
    r"(?![\w/%]|[.,:-]\w)",
    re.IGNORECASE,
)


_WORDS = re.compile(r"[A-Za-z][\w@-]{0,30}(?: [A-Za-z][\w@-]{0,30}){0,2}(?=[\s:=|]{0,5}$)")
"""Up to three words at the end of a text, and the marks after them."""


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric: its exact value (98.4% is 0.984) and the line of output that contained it."""

    value: Decimal
    line: str


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """Compile the regular expression of a metric; UsageError if it is malformed."""
    try:
        return re.compile(pattern, re.MULTILINE)
    except (re.error, RecursionError, OverflowError) as error:
        reason = "it has too many groups within groups" if isinstance(error, RecursionError) else str(error)
        raise UsageError(
            f"the metric {quoted(pattern)} is not a regular expression: {reason}",
            hint=Argument("metric", r"accuracy: (\S+)"),
        ) from None


def find_metric(text: str, pattern: re.Pattern[str] | None = None) -> Metric | None:
    """Return the last number in `text` that stands alone, or None. A percentage is divided by 100.

    With `pattern`, the number is read from its last match, or from the first group of that match. A number inside a
    word, a path (`443/450`), a version or a date does not count; NaN and infinities do. Raises UsageError if the
    pattern takes too long.
    """
    text = without_colours(text)
    try:
        with limited_time():
            matches = deque((_NUMBER if pattern is None else pattern).finditer(text), maxlen=1)
    except TooSlowError:
        what = "" if pattern is None else f" {quoted(pattern.pattern)}"
        raise UsageError(
            f"the pattern{what} takes more than {SECONDS:g} seconds to match the output of the evaluation",
            hint=Argument("metric", r"accuracy: (\S+)"),
        ) from None
    if not matches:
        return None
    line = _line_at(text, matches[0].start())
    if pattern is None:
        return Metric(_value(matches[0]), line)
    number = find_metric(matches[0][1 if pattern.groups else 0] or "")
    return None if number is None else Metric(number.value, line)


def name_in(line: str) -> str:
    """Return the words before the last number of a line of output, "val accuracy" of "val accuracy: 0.98".

    Returns "metric" if there are none.
    """
    matches = deque(_NUMBER.finditer(line), maxlen=1)
    words = _WORDS.search(line[: matches[0].start()]) if matches else None
    return words[0].strip(" _-@") if words else "metric"


def without_colours(text: str) -> str:
    """Return `text` without the escape sequences that colour a terminal."""
    return _COLOURS.sub("", text)


def shortened(line: str) -> str:
    """Return a line of output escaped for a terminal and cut after 160 characters."""
    line = printable(line)
    return line if len(line) <= _LINE_LIMIT else f"{line[: _LINE_LIMIT - 3]}..."


def _value(number: re.Match[str]) -> Decimal:
    """Return the exact number. A number outside the range of a float becomes infinite or zero."""
    rounded = float(number[1])
    if not (isfinite(rounded) and rounded):
        return Decimal(rounded)
    return Decimal(number[1]) / 100 if number[2] else Decimal(number[1])


def _line_at(text: str, index: int) -> str:
    start = max(text.rfind("\n", 0, index), text.rfind("\r", 0, index)) + 1
    return shortened(" ".join(text[start:].split("\n", 1)[0].split("\r", 1)[0].split()))
