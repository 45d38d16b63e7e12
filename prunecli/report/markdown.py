"""A report as GitHub Markdown, for a comment on a pull request or a job summary.

The text stays below the length limit of a comment. Text from a checkpoint or a command line is escaped: it cannot
break a table, be markup, mention users or become a link.
"""

from __future__ import annotations

import re
import shlex
from itertools import accumulate
from typing import TYPE_CHECKING

from prunecli.report.model import on_disk_note
from prunecli.report.sentences import skipped_names
from prunecli.report.text import examined, request
from prunecli.text.escape import printable, shortened
from prunecli.text.numbers import counted, format_bytes, format_shape, magnitude, number, percent, plural

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from prunecli.report.model import Report, Row

LIMIT = 60_000
"""Characters of a whole report; a comment on GitHub holds 65,536."""

TOP = 12
"""Tensors in the table that is always visible: the most pruned."""

_NAME = 100  # characters of a name
_TEXT = 300  # characters of a sentence
_LINES = 8  # warnings, facts, reasons
_PLAIN = re.compile(r"[A-Za-z0-9_.:/-]+")
_HEAD = """\
| tensor | dtype | shape | layout | weights | zero before | zero after | zeroed | cut |
|:--|:--|:--|:--|--:|--:|--:|--:|--:|"""


def to_markdown(report: Report) -> str:
    """Return `report` as a heading, warnings, totals, the most pruned tensors, and folded sections with the rest."""
    parts = [_heading(report), *_warnings(report), _totals(report), _sizes(report)]
    end = [*_skipped(report.rows), _provenance(report)]
    space = LIMIT - sum(len(part) + 2 for part in (*parts, *end))
    return "\n\n".join([*parts, *_tables(report, space), *end]) + "\n"


# --- escaping


def code(name: str, limit: int = _NAME) -> str:
    """Return `name` as code, shortened to about `limit` characters."""
    name = shortened(printable(name), limit)
    return f"`{name}`" if _PLAIN.fullmatch(name) else f"<code>{_entities(name) or '&nbsp;'}</code>"


def text(words: str) -> str:
    """Return `words` so that they render as they are: no markup, no mention, no link."""
    # GitHub links @name and #1 even if the mark is a reference. A zero-width space prevents it.
    return re.sub(r"(&#(?:64|35);)", "\\1\u200b", _entities(shortened(printable(words), _TEXT).strip()))


def _entities(words: str) -> str:
    """Replace characters with a meaning by references: most ASCII marks, links, and the beginnings of lists."""
    marks = r"[!-$&'*+;<>?@\[\\\]^`{|}~]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|:(?=//)|(?<=www)\.|^[-=](?=[-=\s]|$)"
    lists = r"^(\d+)([.)])(?=\s|$)"
    escaped = re.sub(marks, lambda match: f"&#{ord(match[0])};", words, flags=re.IGNORECASE)
    return re.sub(lists, lambda match: f"{match[1]}&#{ord(match[2])};", escaped)


# --- parts


def _heading(report: Report) -> str:
    selected = report.selected
    verb = "would be" if report.dry_run else "are"
    title = f"### {percent(selected.sparsity_after)} of {selected.numel:,} selected weights {verb} zero"
    files = (
        f"{code(report.input_path)} &rarr; {code(report.output_path)}"
        if report.output_path
        else f"Dry run of {code(report.input_path)}: nothing was written"
    )
    taken = f". {text(report.taken[:1].upper() + report.taken[1:])}." if report.taken else ""
    return f"{title}\n\n{files}, by {code(request(report), _TEXT)}{taken}"


def _warnings(report: Report) -> list[str]:
    lines = [f"> {text(warning)}" for warning in report.warnings[:_LINES]]
    return ["> [!WARNING]\n" + "\n>\n".join(lines)] if lines else []


def _totals(report: Report) -> str:
    selected, every = report.selected, report.all
    least = "" if every.numel == every.numel_read else "at least "
    before, after = percent(selected.sparsity_before), percent(selected.sparsity_after)
    part = f"{number(every.pruned)} ({percent(every.pruned_fraction)})"
    return f"""\
| | tensors | weights | zeroed by this run | zero before | zero after |
|:--|--:|--:|--:|--:|--:|
| selected | {selected.tensors:,} | {selected.numel:,} | {number(selected.pruned)} | {before} | **{after}** |
| all parameters | {every.tensors:,} | {every.numel:,} | {part} | | {least}{percent(every.sparsity_at_least)} |"""


def _sizes(report: Report) -> str:
    disk = report.on_disk
    parts, note = [f"{format_bytes(disk.dense_bytes)} dense"], on_disk_note(report)
    if disk.compressed is not None:
        parts.append(disk.compressed.words)
    fits = "" if disk.two_four is None else f" 2:4 fits {disk.two_four:,} of {examined(report)}."
    return f"**On disk:** {', '.join(parts)}.{fits} {note[:1].upper()}{note[1:]}."


def _tables(report: Report, space: int) -> list[str]:
    """Return a table of the most pruned tensors and a folded table of the others, as far as `space` allows."""
    rows = [row for row in report.rows if row.selected]
    order = sorted(range(len(rows)), key=lambda index: (-(rows[index].pruned or 0), index))
    top, rest = ([rows[index] for index in sorted(part)] for part in (order[:TOP], order[TOP:]))
    tables = ["\n".join([_HEAD, *map(_line, top)])]
    if rest:
        fold = f"<details>\n<summary>{counted(len(rest), 'more tensor')}, pruned less</summary>\n\n{_HEAD}\n"
        # 200 characters are kept for the count of the other tensors and the end of the fold.
        lines = _fitting([_line(row) for row in rest], space - len(tables[0]) - len(fold) - 200)
        tables.append(fold + lines + "\n\n</details>")
    return tables


def _fitting(lines: Sequence[str], space: int) -> str:
    """Return the lines that fit into `space` characters, and the number of the others."""
    fit = sum(used <= space for used in accumulate(len(line) + 1 for line in lines))
    if fit == len(lines):
        return "\n".join(lines)
    return "\n".join([*lines[:fit], "", f"and {len(lines) - fit:,} more: the JSON and CSV reports have all."])


def _line(row: Row) -> str:
    tied = f" (+{len(row.aliases)} tied)" if row.aliases else ""
    cells = (
        code(row.name) + tied,
        text(row.dtype),
        shortened(format_shape(row.shape), _NAME).replace("x", "&times;"),
        row.meaning.label,
        f"{row.numel:,}",
        percent(row.sparsity_before),
        percent(row.sparsity_after),
        number(row.pruned),
        magnitude(row.cut),
    )
    return f"| {' | '.join(cells)} |"


def _skipped(rows: Iterable[Row]) -> list[str]:
    reasons = skipped_names(rows)
    if not reasons:
        return []
    lines = [f"- {len(names):,}: {text(reason)}" for reason, names in reasons[:_LINES]]
    if others := sum(len(names) for _, names in reasons[_LINES:]):
        lines.append(f"- {others:,}: for other reasons")
    count = sum(len(names) for _, names in reasons)
    title = f"{counted(count, 'tensor')} left as {plural(count, 'it is', 'they are')}"
    return [f"<details>\n<summary>{title}</summary>\n\n" + "\n".join(lines) + "\n\n</details>"]


def _provenance(report: Report) -> str:
    lines = [
        f"command: {code(shlex.join(report.command), _TEXT)}" if report.command else "",
        f"input: {code(report.input_path)}, {text(report.format)}, {format_bytes(report.input_bytes)}",
        f"input sha256: {code(report.input_sha256)}" if report.input_sha256 else "",
        f"output sha256: {code(report.output_sha256)}" if report.output_sha256 else "",
        f"prunecli {text(report.version)} on {text(report.device)}, {report.seconds:.3g} seconds",
        f"kernels: {text(report.kernels)}",
        *(text(fact) for fact in report.facts[:_LINES]),
    ]
    items = "\n".join(f"- {line}" for line in lines if line)
    return f"<details>\n<summary>How it was made</summary>\n\n{items}\n\n</details>"
