"""A report as GitHub's Markdown: for a comment on a pull request, or a job's summary.

It stays below the length a comment may have, however many tensors there are and however long their names. What comes
from a checkpoint or a command line cannot break a table, be markup, mention people or become a link.
"""

from __future__ import annotations

import re
import shlex
from itertools import count as numbers
from typing import TYPE_CHECKING

from prunecli.report.text import request
from prunecli.text.escape import printable
from prunecli.text.numbers import format_bytes, magnitude, number, percent, shape, tensors

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from prunecli.report.model import Report, Row

LIMIT = 60_000
"""Characters of a whole report: a comment on GitHub holds 65,536."""

TOP = 12
"""Tensors in the table that is always open: the most pruned."""

SENTENCE = "A dense file with zeros is neither smaller nor faster by itself."
"""What everybody asks after the first prune."""

_NAME = 100  # characters of a name
_TEXT = 300  # characters of a sentence
_LINES = 8  # warnings, facts, reasons
_PLAIN = re.compile(r"[A-Za-z0-9_.:/-]+")
_HEAD = """\
| tensor | dtype | shape | weights | zero before | zero after | zeroed | cut |
|:--|:--|:--|--:|--:|--:|--:|--:|"""


def to_markdown(report: Report) -> str:
    """Return `report` as a heading, warnings, totals, the most pruned tensors, and the rest folded away."""
    parts = [_heading(report), *_warnings(report), _totals(report), *_worth(report)]
    end = [*_skipped(report.rows), *_provenance(report)]
    room = LIMIT - sum(len(part) + 2 for part in (*parts, *end))
    return "\n\n".join([*parts, *_tables(report, room), *end]) + "\n"


# --- what comes from outside


def code(name: str, limit: int = _NAME) -> str:
    """Return `name` as code, cut in its middle where it is longer than `limit`."""
    name = _cut(printable(name), limit)
    return f"`{name}`" if _PLAIN.fullmatch(name) else f"<code>{_entities(name) or '&nbsp;'}</code>"


def text(words: str) -> str:
    """Return `words` so that they read as they are: no markup, no mention of anybody, no link."""
    return re.sub(r"(&#(?:64|35);)", "\\1\u200b", _entities(_cut(printable(words), _TEXT).strip()))


def _entities(words: str) -> str:
    """Spell as references what could mean something: most marks of ASCII, and what makes a link or begins a list."""
    marks = r"[!-$&'*+;<>?@\[\\\]^`{|}~]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|:(?=//)|(?<=www)\.|^[-=](?=[-=\s]|$)"
    lists = r"^(\d+)([.)])(?=\s|$)"
    spelled = re.sub(marks, lambda found: f"&#{ord(found[0])};", words, flags=re.IGNORECASE)
    return re.sub(lists, lambda found: f"{found[1]}&#{ord(found[2])};", spelled)


def _cut(words: str, limit: int) -> str:
    if len(words) <= limit:
        return words
    return f"{words[: limit * 2 // 3]}\u2026{words[-limit // 4 :]} ({len(words):,} characters)"


# --- parts


def _heading(report: Report) -> str:
    chosen = report.selected
    verb = "would be" if report.dry_run else "are"
    done = f"### {percent(chosen.sparsity_after)} of {chosen.numel:,} selected weights {verb} zero"
    what = f"{code(report.input_path)} &rarr; {code(report.output_path)}" if report.output_path else "Dry run of "
    where = what if report.output_path else what + code(report.input_path) + ": nothing was written"
    return f"{done}\n\n{where}, by {code(request(report), _TEXT)}"


def _warnings(report: Report) -> list[str]:
    lines = [f"> {text(warning)}" for warning in report.warnings[:_LINES]]
    return ["> [!WARNING]\n" + "\n>\n".join(lines)] if lines else []


def _totals(report: Report) -> str:
    chosen, every = report.selected, report.all
    least = "" if every.numel == every.numel_read else "at least "
    before, after = percent(chosen.sparsity_before), percent(chosen.sparsity_after)
    part = f"{number(every.pruned)} ({percent(every.pruned_fraction)})"
    return f"""\
| | tensors | weights | zeroed by this run | zero before | zero after |
|:--|--:|--:|--:|--:|--:|
| selected | {chosen.tensors:,} | {chosen.numel:,} | {number(chosen.pruned)} | {before} | **{after}** |
| all parameters | {every.tensors:,} | {every.numel:,} | {part} | | {least}{percent(every.sparsity_at_least)} |"""


def _worth(report: Report) -> list[str]:
    disk = report.on_disk
    parts = [f"{format_bytes(disk.dense_bytes)} dense"]
    if disk.bitmask_bytes is not None:
        parts.append(f"{format_bytes(disk.bitmask_bytes)} as bitmask and non-zeros")
    if disk.compressed is not None:
        parts.append(
            f"about {format_bytes(disk.compressed.bytes_after)} with {disk.compressed.method} "
            f"({format_bytes(disk.compressed.bytes_before)} before)"
        )
    fits = "" if disk.two_four is None else f" 2:4 fits {disk.two_four:,} of {tensors(report.selected.tensors)}."
    return [f"**On disk:** {', '.join(parts)}.{fits} {SENTENCE}"]


def _tables(report: Report, room: int) -> list[str]:
    """Show the most pruned tensors, and below a fold as many of the others as there is room for."""
    chosen = [row for row in report.rows if row.selected]
    order = sorted(range(len(chosen)), key=lambda at: (-(chosen[at].pruned or 0), at))
    top, rest = sorted(order[:TOP]), sorted(order[TOP:])
    shown_first = [_HEAD, *(_line(chosen[at]) for at in top)]
    found = ["\n".join(shown_first)]
    if rest:
        fold = f"<details>\n<summary>{tensors(len(rest))} more, pruned less</summary>\n\n{_HEAD}\n"
        found.append(fold + _fitting(chosen, rest, room - len(found[0]) - len(fold) - 200) + "\n\n</details>")
    return found


def _fitting(rows: Sequence[Row], places: Iterable[int], room: int) -> str:
    """Return as many lines as fit, and how many did not."""
    lines = [_line(rows[at]) for at in places]
    for fit, used in zip(numbers(), _running(lines), strict=False):
        if used > room:
            return "\n".join([*lines[:fit], "", f"and {len(lines) - fit:,} more: the JSON and CSV reports have all."])
    return "\n".join(lines)


def _running(lines: Iterable[str]) -> Iterable[int]:
    total = 0
    for line in lines:
        total += len(line) + 1
        yield total


def _line(row: Row) -> str:
    tied = f" (+{len(row.aliases)} tied)" if row.aliases else ""
    cells = (
        code(row.name) + tied,
        text(row.dtype),
        _cut(shape(row), _NAME).replace("x", "&times;"),
        f"{row.numel:,}",
        percent(row.sparsity_before),
        percent(row.sparsity_after),
        number(row.pruned),
        magnitude(row.cut),
    )
    return f"| {' | '.join(cells)} |"


def _skipped(rows: Iterable[Row]) -> list[str]:
    reasons: dict[str, int] = {}
    for row in rows:
        if not row.selected:
            why = row.reason or "not selected"
            reasons[why] = reasons.get(why, 0) + 1
    if not reasons:
        return []
    most = sorted(reasons.items(), key=lambda item: -item[1])
    lines = [f"- {count:,}: {text(why)}" for why, count in most[:_LINES]]
    if len(most) > _LINES:
        lines.append(f"- {sum(count for _, count in most[_LINES:]):,}: for other reasons")
    count = sum(reasons.values())
    title = f"{tensors(count)} left as {'it is' if count == 1 else 'they are'}"
    return [f"<details>\n<summary>{title}</summary>\n\n" + "\n".join(lines) + "\n\n</details>"]


def _provenance(report: Report) -> list[str]:
    facts = [text(fact) for fact in report.facts[:_LINES]]
    lines = [
        f"command: {code(shlex.join(report.command), _TEXT)}" if report.command else "",
        f"input: {code(report.input_path)}, {text(report.format)}, {format_bytes(report.input_bytes)}",
        f"input sha256: {code(report.input_sha256)}" if report.input_sha256 else "",
        f"output sha256: {code(report.output_sha256)}" if report.output_sha256 else "",
        f"prunecli {text(report.version)} on {text(report.device)}, {report.seconds:.3g} seconds",
        *facts,
    ]
    listed = "\n".join(f"- {line}" for line in lines if line)
    return [f"<details>\n<summary>How</summary>\n\n{listed}\n\n</details>"]
