"""A report as text: a table for a terminal, aligned plain text for a pipe.

The plain form is complete, ASCII but for the names, and imports nothing; the terminal form fits its width, which
may leave out columns and rows and then says so. Rich is imported only there.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from io import StringIO
from typing import TYPE_CHECKING, Literal

from prunecli.report.model import ON_DISK
from prunecli.text.escape import printable
from prunecli.text.numbers import format_bytes, magnitude, number, percent, shape, tensors

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from rich.console import Console

    from prunecli.report.model import Report, Row

    Cells = tuple[str, ...]

_ALL_SHOWN = 60  # rows a terminal gets before only the most pruned are shown
_MOST_PRUNED = 30
_REASONS = 12  # lines for skipped tensors
_FEW_NAMES = 3  # skipped tensors of one reason that are named
_GAP = 2  # spaces between columns
_SHORTEST = 12  # terminal columns a name keeps, however narrow the terminal
_WIDEST = 120  # characters: a longer name does not widen the lines of the others
_LEAST_NAME = 28  # terminal columns a name should have; else other columns give way


@dataclass(frozen=True, slots=True)
class _Column:
    title: str
    right: bool
    optional: int  # 0 stays; else columns give way on a narrow terminal, the highest first


_COLUMNS = (
    _Column("tensor", right=False, optional=0),
    _Column("dtype", right=False, optional=4),
    _Column("shape", right=False, optional=3),
    _Column("weights", right=True, optional=1),
    _Column("sparsity", right=True, optional=0),
    _Column("pruned", right=True, optional=0),
    _Column("cut", right=True, optional=2),
    _Column("at cut", right=True, optional=5),
)


def table(report: Report, *, width: int | None, color: bool, reports: Sequence[str] = ()) -> str:
    """Return `report` as text ending in a line break.

    `width` is the terminal's columns, or None for a pipe: then every selected tensor has its line, nothing is cut
    and `color` is ignored. `reports` are the paths of the report files, to be named at the end.
    """
    if width is None:
        return plain(report, reports=reports)
    from rich.console import Console  # noqa: PLC0415  -- costs more than a small run

    out = StringIO()
    console = Console(
        file=out, width=width, force_terminal=color, no_color=not color, color_system="standard" if color else None
    )
    print_table(report, console, reports=reports)
    return out.getvalue()


def plain(report: Report, *, reports: Sequence[str] = ()) -> str:
    """Return `report` for a pipe: one line per selected tensor, columns aligned by spaces, never cut."""
    rows = [tuple(c.title for c in _COLUMNS), *(_cells(row) for row in report.rows if row.selected)]
    widths = [min(max(map(len, column)), _WIDEST) for column in zip(*rows, strict=True)]
    lines = [_aligned(cells, widths) for cells in rows]
    return "\n".join([*lines, "", *_summary(report, reports)]) + "\n"


def print_table(report: Report, console: Console, *, reports: Sequence[str] = ()) -> None:
    """Print `report` to a terminal: long names are folded, numbers never; long lists are cut short."""
    from rich.text import Text  # noqa: PLC0415  -- costs more than a small run

    selected = [row for row in report.rows if row.selected]
    rows = _most_pruned(selected)
    console.print(_rich_table([_cells(row) for row in rows], console.width), crop=False)
    if len(rows) < len(selected):
        where = f"; all of them: {printable(reports[0])}" if reports else "; --json lists all of them"
        console.print(Text(f"{len(selected) - len(rows):,} tensors pruned less are not shown{where}", style="dim"))
    for line in ("", *_summary(report, reports)):
        console.print(Text(line), soft_wrap=True)


def _rich_table(rows: Sequence[Cells], width: int) -> object:
    from rich.box import SIMPLE_HEAD  # noqa: PLC0415  -- costs more than a small run
    from rich.cells import cell_len  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    widths = [max((cell_len(row[i]) for row in rows), default=0) for i in range(len(_COLUMNS))]
    widths = [max(w, len(c.title)) for w, c in zip(widths, _COLUMNS, strict=True)]
    kept = _fitting(widths, width)
    room = max(width - sum(widths[i] + _GAP for i in kept[1:]), _SHORTEST)
    result = Table(box=SIMPLE_HEAD, header_style="bold", padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    result.add_column(_COLUMNS[0].title, overflow="fold", min_width=min(widths[0], room), max_width=room)
    for i in kept[1:]:
        side: Literal["left", "right"] = "right" if _COLUMNS[i].right else "left"
        result.add_column(_COLUMNS[i].title, justify=side, no_wrap=True, min_width=widths[i])
    for row in rows:
        result.add_row(*(Text(row[i]) for i in kept))
    return result


def _fitting(widths: Sequence[int], width: int) -> list[int]:
    """Return the indices of the columns that fit into `width` beside a name of readable length."""
    kept = list(range(len(_COLUMNS)))
    name = min(widths[0], _LEAST_NAME)
    while name + sum(widths[i] + _GAP for i in kept[1:]) > width:
        last = max(kept, key=lambda i: _COLUMNS[i].optional)
        if not _COLUMNS[last].optional:
            break
        kept.remove(last)
    return kept


def _most_pruned(rows: Sequence[Row]) -> Sequence[Row]:
    """Return all `rows`, or where they are too many the most pruned of them, in their order."""
    if len(rows) <= _ALL_SHOWN:
        return rows
    best = sorted(range(len(rows)), key=lambda i: (-(rows[i].pruned or 0), i))[:_MOST_PRUNED]
    return [rows[i] for i in sorted(best)]


def _aligned(cells: Cells, widths: Sequence[int]) -> str:
    padded = (
        cell.rjust(width) if column.right else cell.ljust(width)
        for cell, width, column in zip(cells, widths, _COLUMNS, strict=True)
    )
    return "  ".join(padded).rstrip()


# --- what the lines say


def _cells(row: Row) -> Cells:
    tied = f" (+{len(row.aliases)} tied)" if row.aliases else ""
    return (
        printable(row.name) + tied,
        row.dtype,
        shape(row),
        f"{row.numel:,}",
        f"{percent(row.sparsity_before)} -> {percent(row.sparsity_after)}",
        number(row.pruned),
        magnitude(row.cut),
        at_cut(row),
    )


def at_cut(row: Row) -> str:
    """Return how many of the weights equal to a row's cut became zero: "1 of 3"."""
    if not row.ties or row.ties_pruned is None:
        return number(row.ties)
    return f"{row.ties_pruned:,} of {row.ties:,}"


def _summary(report: Report, reports: Sequence[str]) -> list[str]:
    return [
        *_asked(report),
        *_totals(report),
        *_skipped(report.rows),
        *(f"note      {printable(fact)}" for fact in report.facts),
        _worth(report),
        *_estimated(report),
        *_written(report, reports),
    ]


def request(report: Report) -> str:
    """Return what was asked for: the strategy, its parameters, and in words the rule where all tensors have one."""
    told = dict(report.strategy)
    rules_told = told.pop("rules", None)
    if isinstance(rules_told, list):
        told["rules"] = "; ".join(_spelled(rule) for rule in rules_told)
    name = printable(str(told.pop("name", "")))
    parameters = _parameters(told)
    rules = {row.rule for row in report.rows if row.selected}
    rule = f" ({printable(next(iter(rules)) or '')})" if len(rules) == 1 and rules != {None} else ""
    return " ".join(part for part in (name, parameters) if part) + rule


def _spelled(rule: Mapping[str, object]) -> str:
    """Return a rule of a recipe in a line."""
    return " ".join(part for part in (str(rule.get("name", "")), _parameters({**rule, "name": None})) if part)


def _parameters(told: Mapping[str, object]) -> str:
    texts = {k: ",".join(map(str, v)) if isinstance(v, list) else str(v) for k, v in told.items() if v is not None}
    return " ".join(f"{key}={printable(text)}" for key, text in texts.items())


def _asked(report: Report) -> list[str]:
    verb = "would zero" if report.dry_run else "zeroed"
    chosen = report.selected
    part = "" if chosen.pruned is None or not chosen.numel else f", {chosen.pruned / chosen.numel:.4f} of them"
    got = f"got       {verb} {number(chosen.pruned)} of {chosen.numel:,} weights{part}"
    return [f"asked     {request(report)}", got]


def _totals(report: Report) -> list[str]:
    chosen, every = report.selected, report.all
    before, after = percent(chosen.sparsity_before), percent(chosen.sparsity_after)
    pruned = f"{percent(every.pruned_fraction)} pruned"
    if every.numel != every.numel_read:
        pruned += f", at least {percent(every.sparsity_at_least)} zero (skipped tensors are not read)"
    return [
        f"selected  {tensors(chosen.tensors)}, {chosen.numel:,} weights: {before} -> {after} zero",
        f"all       {tensors(every.tensors)}, {every.numel:,} parameters: {pruned}",
    ]


def _skipped(rows: Iterable[Row]) -> list[str]:
    names: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        if not row.selected:
            names[row.reason or "not selected"].append(printable(row.name))
    counts = Counter({why: len(found) for why, found in names.items()})
    lines = [
        f"skipped   {count:,}: {printable(why)}" + (f" ({', '.join(names[why])})" if count <= _FEW_NAMES else "")
        for why, count in counts.most_common(_REASONS)
    ]
    rest = sum(counts.values()) - sum(count for _, count in counts.most_common(_REASONS))
    return [*lines, f"skipped   {rest:,}: for other reasons"] if rest else lines


def _worth(report: Report) -> str:
    disk = report.on_disk
    packed = "" if disk.bitmask_bytes is None else f", {format_bytes(disk.bitmask_bytes)} as bitmask and non-zeros"
    return f"on disk   {format_bytes(disk.dense_bytes)} dense{packed}; {ON_DISK}"


def _estimated(report: Report) -> list[str]:
    """Say what compressing would give and how many tensors fit 2:4, where somebody asked for estimates."""
    found = report.compressed
    if found is None:
        return []
    size, was, sampled = map(format_bytes, (found.bytes_after, found.bytes_before, found.sampled_bytes))
    return [
        f"estimate  about {size} compressed, {was} before ({found.method} on a sample of {sampled})",
        f"2:4       {report.on_disk.two_four or 0:,} of {tensors(report.selected.tensors)} fit",
    ]


def _written(report: Report, reports: Sequence[str]) -> list[str]:
    if report.dry_run or report.output_path is None:
        why = "dry run" if report.dry_run else "a gate failed"
        return [f"output    nothing written ({why})", *(f"report    {printable(path)}" for path in reports)]
    size = "" if report.output_bytes is None else f" ({format_bytes(report.output_bytes)})"
    place = "standard output" if report.output_path == "-" else printable(report.output_path)
    return [f"output    {place}{size}", *(f"report    {printable(path)}" for path in reports)]
