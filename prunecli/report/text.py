"""A report as text: complete in a file or a pipe, fitted to the width of a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, TextIO

from prunecli.report.model import ON_DISK, skipped_names
from prunecli.text.escape import printable
from prunecli.text.numbers import counted, format_bytes, format_shape, magnitude, number, percent
from prunecli.text.tables import Block, Column, View, largest, write_blocks

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from prunecli.report.model import Report, Row

_REASONS = 12  # lines about skipped tensors
_FEW_NAMES = 3  # skipped tensors of one reason that are named

_COLUMNS = (
    Column("tensor", fold=12),
    Column("dtype", optional=4),
    Column("shape", optional=3),
    Column("weights", right=True, optional=1),
    Column("sparsity", right=True),
    Column("pruned", right=True),
    Column("cut", right=True, optional=2),
    Column("at cut", right=True, optional=5),
)


def write_report(report: Report, stream: TextIO, *, reports: Sequence[str] = ()) -> None:
    """Write `report` to `stream`: a table of the selected tensors and a summary.

    A terminal shows the most pruned of many tensors and leaves out columns that do not fit. `reports` are the paths of
    the report files; the summary names them. Raises OSError if the stream takes no more.
    """
    write_blocks(_blocks(report, reports, terminal=stream.isatty()), stream)


def _blocks(report: Report, reports: Sequence[str], *, terminal: bool) -> Iterator[Block]:
    selected = [row for row in report.rows if row.selected]
    rows = largest(selected, lambda row: row.pruned or 0, View(), terminal=terminal)
    hidden = len(selected) - len(rows)
    where = printable(reports[0]) if reports else "the JSON output"
    more = (f"{hidden:,} tensors pruned less are not shown; {where} lists all",) if hidden else ()
    yield Block(report.taken, _COLUMNS, tuple(map(_cells, rows)), more)
    yield Block(lines=tuple(_summary(report, reports)))


def _cells(row: Row) -> tuple[str, ...]:
    tied = f" (+{len(row.aliases)} tied)" if row.aliases else ""
    return (
        printable(row.name) + tied,
        row.dtype,
        format_shape(row.shape),
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


# --- the summary


def _summary(report: Report, reports: Sequence[str]) -> Iterator[str]:
    yield f"asked     {request(report)}"
    yield _result(report)
    yield from _totals(report)
    yield from _skipped(report.rows)
    yield from (f"note      {printable(fact)}" for fact in report.facts)
    yield _sizes(report)
    yield from _estimate(report)
    yield _output(report)
    yield from (f"report    {printable(path)}" for path in reports)


def request(report: Report) -> str:
    """Return the strategy, its parameters, and its effect in words if that is the same for all selected tensors."""
    parameters = dict(report.strategy)
    rules = parameters.pop("rules", None)
    if isinstance(rules, list):
        parameters["rules"] = "; ".join(map(_spelled, rules))
    effects = {row.rule for row in report.rows if row.selected}
    effect = f" ({printable(next(iter(effects)) or '')})" if len(effects) == 1 and effects != {None} else ""
    return _spelled(parameters) + effect


def _spelled(strategy: Mapping[str, object]) -> str:
    """Return the name of a strategy and its parameters: "l1 amount=0.5"."""
    words = [printable(str(strategy.get("name", "")))]
    for key, value in strategy.items():
        if key != "name" and value is not None:
            text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
            words.append(f"{key}={printable(text)}")
    return " ".join(filter(None, words))


def _result(report: Report) -> str:
    verb = "would zero" if report.dry_run else "zeroed"
    selected = report.selected
    part = "" if selected.pruned is None or not selected.numel else f", {selected.pruned / selected.numel:.4f} of them"
    return f"got       {verb} {number(selected.pruned)} of {selected.numel:,} weights{part}"


def _totals(report: Report) -> list[str]:
    selected, every = report.selected, report.all
    before, after = percent(selected.sparsity_before), percent(selected.sparsity_after)
    pruned = f"{percent(every.pruned_fraction)} pruned"
    if every.numel != every.numel_read:
        pruned += f", at least {percent(every.sparsity_at_least)} zero (skipped tensors are not read)"
    return [
        f"selected  {counted(selected.tensors, 'tensor')}, {selected.numel:,} weights: {before} -> {after} zero",
        f"all       {counted(every.tensors, 'tensor')}, {every.numel:,} parameters: {pruned}",
    ]


def _skipped(rows: Iterable[Row]) -> list[str]:
    reasons = skipped_names(rows)
    lines = []
    for reason, names in reasons[:_REASONS]:
        named = f" ({', '.join(map(printable, names))})" if len(names) <= _FEW_NAMES else ""
        lines.append(f"skipped   {len(names):,}: {printable(reason)}{named}")
    others = sum(len(names) for _, names in reasons[_REASONS:])
    return [*lines, f"skipped   {others:,}: for other reasons"] if others else lines


def _sizes(report: Report) -> str:
    disk = report.on_disk
    packed = "" if disk.bitmask_bytes is None else f", {format_bytes(disk.bitmask_bytes)} as bitmask and non-zeros"
    return f"on disk   {format_bytes(disk.dense_bytes)} dense{packed}; {ON_DISK}"


def _estimate(report: Report) -> list[str]:
    """Return the compressed size and the number of tensors that fit 2:4, if estimates were requested."""
    estimate = report.compressed
    if estimate is None:
        return []
    after, before = format_bytes(estimate.bytes_after), format_bytes(estimate.bytes_before)
    sampled = format_bytes(estimate.sampled_bytes)
    return [
        f"estimate  about {after} compressed, {before} before ({estimate.method} on a sample of {sampled})",
        f"2:4       {report.on_disk.two_four or 0:,} of {examined(report)} fit",
    ]


def examined(report: Report) -> str:
    """Return how many tensors were examined for 2:4: "3 tensors", or "3 tensors with 4 inputs or more"."""
    count = report.on_disk.two_four_examined
    return counted(count, "tensor") + (" with 4 inputs or more" if count < report.selected.tensors else "")


def _output(report: Report) -> str:
    if report.dry_run or report.output_path is None:
        return f"output    nothing written ({'dry run' if report.dry_run else 'a gate failed'})"
    size = "" if report.output_bytes is None else f" ({format_bytes(report.output_bytes)})"
    place = "standard output" if report.output_path == "-" else printable(report.output_path)
    return f"output    {place}{size}"
