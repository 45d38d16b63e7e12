"""A report as text: one sentence with the result, a summary, and a table. Rich fits it to the width of a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, TextIO

from prunecli.report.model import on_disk_note
from prunecli.report.sentences import skipped_names
from prunecli.text.escape import printable
from prunecli.text.name_ranges import lines_of
from prunecli.text.natural_order import natural_order
from prunecli.text.numbers import counted, duration, format_bytes, format_shape, magnitude, number, percent, plural
from prunecli.text.tables import Block, Column, View, largest, write_blocks

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from prunecli.report.model import Report, Row

_REASONS = 12  # lines about skipped tensors
_FEW_NAMES = 3  # skipped tensors of one reason that are named

_COLUMNS = (
    Column("tensor", fold=12),
    Column("tensors", right=True),
    Column("dtype", optional=5),
    Column("shape", optional=4),
    Column("weights", right=True, optional=1),
    Column("before", right=True),
    Column("zero", right=True),
    Column("", bar=True, optional=3),
    Column("zeroed", right=True),
    Column("cut", right=True, optional=2),
    Column("ties", right=True, optional=6),
)
_SPREAD = Column("zero min/median/max", right=True)


def write_report(
    report: Report,
    stream: TextIO,
    view: View = View(),  # noqa: B008 - a frozen value
    *,
    reports: Sequence[str] = (),
    mask: str | None = None,
    verbose: bool = False,
) -> None:
    """Write `report` to `stream`: the result in one sentence, a summary, and a table of the selected tensors.

    Tensors whose names differ only in numbers share a line if there are many. A terminal shows the most pruned of many
    lines and leaves out columns that do not fit. `reports` and `mask` are the paths of the other files that were
    written; the summary names them. `verbose` adds the sizes. Raises OSError if the stream takes no more.
    """
    lines = tuple(_summary(report, verbose=verbose))
    files = [f"report      {printable(path)}" for path in reports]
    files += [] if mask is None else [f"mask        {printable(mask)}"]
    blocks = Block(sentence(report, sides=len(files))), Block(lines=(*lines, *files))
    write_blocks([*blocks, _table(report, view, reports, terminal=stream.isatty())], stream)


# --- the result in one sentence


def sentence(report: Report, *, sides: int = 0) -> str:
    """Return what was zeroed, in what time, and the output; `sides` is the number of other files that were written."""
    selected = report.selected
    where = f"in {counted(selected.tensors, 'tensor')}"
    part = f"{percent(selected.sparsity_after)} of {counted(selected.numel, 'weight')}"
    done = "would be zeroed" if _unwritten(report) else "zeroed"
    if selected.zeros_before:
        are = "would be zero" if _unwritten(report) else plural(selected.numel, "is zero", "are zero")
        done, where = are, f"{where} ({percent(selected.sparsity_before)} before)"
    return f"{part} {done} {where}, {duration(report.seconds)}{_written(report, sides)}"


def _unwritten(report: Report) -> bool:
    return report.dry_run or report.output_path is None


def _written(report: Report, sides: int) -> str:
    if _unwritten(report):
        what = "no checkpoint written" if sides else "nothing written"
        return f"; {what} ({'dry run' if report.dry_run else 'a gate failed'})"
    place = "standard output" if report.output_path == "-" else printable(report.output_path or "")
    return f" -> {place}"


# --- the table


def _table(report: Report, view: View, reports: Sequence[str], *, terminal: bool) -> Block:
    """Return the table of the selected tensors, without the columns that say nothing."""
    selected = [row for row in report.rows if row.selected]
    order = natural_order([row.name for row in selected])
    lines = lines_of(
        [selected[index] for index in order], lambda row: row.name, lambda row: (row.dtype, row.shape), view
    )
    shown = largest(lines, lambda line: sum(row.pruned or 0 for row in line[1]), view, terminal=terminal)
    hidden = len(selected) - sum(len(group) for _, group in shown)
    where = printable(reports[0]) if reports else "the JSON output"
    more = (f"{counted(hidden, 'tensor')} pruned less not shown{view.hint}; {where} lists all",) if hidden else ()
    empty = {
        "tensors": all(len(group) == 1 for _, group in shown),
        "before": not any(row.zeros_before for row in selected),
        "cut": all(row.cut is None for row in selected),
        "ties": not any(row.ties for row in selected),
    }
    columns = tuple(_SPREAD if c.title == "zero" and not empty["tensors"] else c for c in _COLUMNS)
    table = Block("", columns, tuple(_cells(name, group) for name, group in shown), more)
    return table.without(*(title for title, is_empty in empty.items() if is_empty))


def _cells(name: str, group: Sequence[Row]) -> tuple[str, ...]:
    first, numel = group[0], sum(row.numel for row in group)
    tied = sum(len(row.aliases) for row in group)
    zeros = _total(row.zeros_after for row in group)
    return (
        printable(name) + (f" (+{tied:,} tied)" if tied else ""),
        f"{len(group):,}",
        first.dtype,
        format_shape(first.shape),
        f"{numel:,}",
        _spread([row.sparsity_before for row in group]),
        _spread([row.sparsity_after for row in group]),
        f"{zeros / numel:.4f}" if zeros is not None and numel else "",
        number(_total(row.pruned for row in group)),
        _range([row.cut for row in group]),
        at_cut(first) if len(group) == 1 else number(_total(row.ties for row in group)),
    )


def _total(counts: Iterable[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


def _spread(parts: Sequence[float | None]) -> str:
    """Return the smallest, the middle and the largest of the parts as percentages, once if they are equal."""
    known = [part for part in parts if part is not None]
    if not known:
        return "-"
    texts = [percent(part) for part in (min(known), _median(known), max(known))]
    return texts[0] if len(set(texts)) == 1 else "/".join(text.rstrip("%") for text in texts) + "%"


def _median(parts: Sequence[float]) -> float:
    """Return the middle of the parts, as `statistics.median` does, whose module takes time to import."""
    ranked, half = sorted(parts), len(parts) // 2
    return ranked[half] if len(parts) % 2 else (ranked[half - 1] + ranked[half]) / 2


def _range(cuts: Sequence[float | None]) -> str:
    known = [cut for cut in cuts if cut is not None]
    if not known or min(known) == max(known):
        return magnitude(known[0] if known else None)
    return f"{min(known):.3g} to {max(known):.3g}"


def at_cut(row: Row) -> str:
    """Return how many of the weights equal to a row's cut became zero: "1 of 3"."""
    if not row.ties or row.ties_pruned is None:
        return number(row.ties)
    return f"{row.ties_pruned:,} of {row.ties:,}"


# --- the summary


def _summary(report: Report, *, verbose: bool) -> Iterator[str]:
    yield f"strategy    {request(report)}"
    if report.taken:
        yield f"state_dict  {report.taken}"
    yield from _whole(report)
    yield from _left_out(report.rows)
    yield from (f"note        {printable(fact)}" for fact in report.facts)
    if verbose or report.compressed is not None:
        yield _sizes(report)
    yield from _estimate(report)


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


def _whole(report: Report) -> list[str]:
    """Return what the run means for the whole model, if it has weights that were not selected."""
    every, selected = report.all, report.selected
    if every.numel == every.numel_read:
        return []
    least = f", at least {percent(every.sparsity_at_least)} zero" if selected.zeros_before else ""
    done = "would be zeroed" if _unwritten(report) else "zeroed"
    parameters = counted(every.numel, "parameter")
    return [f"model       {percent(every.pruned_fraction)} of {parameters} {done}{least}"]


def _left_out(rows: Iterable[Row]) -> list[str]:
    """Return a line for each reason why tensors were not selected."""
    reasons = skipped_names(rows)
    lines = []
    for reason, names in reasons[:_REASONS]:
        named = f" ({', '.join(map(printable, names))})" if len(names) <= _FEW_NAMES else ""
        lines.append(f"left out    {counted(len(names), 'tensor')}: {printable(reason)}{named}")
    others = sum(len(names) for _, names in reasons[_REASONS:])
    return [*lines, f"left out    {counted(others, 'tensor')}: for other reasons"] if others else lines


def _sizes(report: Report) -> str:
    return f"on disk     {format_bytes(report.on_disk.dense_bytes)}: {on_disk_note(report)}"


def _estimate(report: Report) -> list[str]:
    """Return the compressed size and the number of tensors that fit 2:4, if estimates were requested."""
    estimate = report.compressed
    if estimate is None:
        return []
    return [
        f"compressed  {estimate.words}",
        f"2:4         {report.on_disk.two_four or 0:,} of {examined(report)} fit",
    ]


def examined(report: Report) -> str:
    """Return how many tensors were examined for 2:4: "3 tensors", or "3 tensors with 4 inputs or more"."""
    count = report.on_disk.two_four_examined
    return counted(count, "tensor") + (" with 4 inputs or more" if count < report.selected.tensors else "")
