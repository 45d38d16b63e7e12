"""The result of `inspect` as text.

Tensors whose names differ only in numbers share a line if there are many. A terminal shows the largest. This module
reads no weights.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, TextIO, TypeAlias

from prunecli.dtypes import FLOATS
from prunecli.inspection.inspect import totals
from prunecli.layout import SIBLINGS
from prunecli.layouts.packed import packed_sentence
from prunecli.layouts.reparametrized import PRUNE, fold_call
from prunecli.report.state_dicts import ema_left, ema_warning, taken_in_words
from prunecli.text.escape import listed, printable
from prunecli.text.name_ranges import grouped, lines_of
from prunecli.text.natural_order import natural_order
from prunecli.text.numbers import counted, format_bytes, format_shape, percent
from prunecli.text.tables import Block, Column, View, largest, write_blocks

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from prunecli.inspection.inspect import Entry, Inspection, Totals
    from prunecli.inspection.magnitude_histogram import MagnitudeHistogram
    from prunecli.inspection.thresholds import ThresholdStep, ThresholdTable
    from prunecli.layouts.reparametrized import Leftover

_NAMED = 4  # names that a summary line lists before it counts the rest
_COLUMNS = (
    Column("tensor", fold=12),
    Column("tensors", right=True),
    Column("dtype", optional=4),
    Column("shape", optional=1),
    Column("layout", optional=2),
    Column("parameters", right=True, optional=3),
    Column("bytes", right=True, optional=5),
    Column("zero", right=True),
    Column("note", optional=6),
)


def write_inspection(inspection: Inspection, stream: TextIO, view: View, *, evidence: bool = False) -> None:
    """Write a summary, the tensors, and the thresholds and histogram if there are any.

    `evidence` adds a table with the evidence for the layout of each tensor.
    """
    write_blocks(_blocks(inspection, view, evidence=evidence, terminal=stream.isatty()), stream)


def _blocks(inspection: Inspection, view: View, *, evidence: bool, terminal: bool) -> Iterator[Block]:
    yield Block(lines=tuple(_summary(inspection)))
    if inspection.inside:
        lines = _lines(inspection, view, terminal=terminal)
        yield _listing(inspection, lines, view)
        if evidence:
            yield _evidence(lines)
    if inspection.thresholds is not None:
        together, each = inspection.thresholds
        yield _common_thresholds(together, len(each))
        yield _tensor_thresholds(each, view, terminal=terminal)
    if inspection.histogram is not None:
        yield _histogram(inspection.histogram, terminal=terminal)


# --- the tensors


_Line: TypeAlias = "tuple[str, list[Entry]]"
"""The entries that share a line, and their merged name."""


def _lines(inspection: Inspection, view: View, *, terminal: bool) -> list[_Line]:
    """Return the lines to show; the entries of a line have the same dtype, shape and layout."""
    inside = inspection.inside
    entries = [inside[index] for index in natural_order([entry.name for entry in inside])]
    lines = lines_of(entries, lambda e: e.name, lambda e: (e.dtype, e.shape, e.layout.label), view)
    return largest(lines, lambda line: sum(e.nbytes for e in line[1]), view, terminal=terminal)


def _listing(inspection: Inspection, shown: Sequence[_Line], view: View) -> Block:
    parts = {part: leftover for leftover in inspection.leftovers for part in leftover.parts}
    rows = tuple(_cells(name, group, parts) for name, group in shown)
    single = all(len(group) == 1 for _, group in shown)
    hidden = _hidden(len(inspection.inside) - sum(len(group) for _, group in shown), view)
    table = Block("", _COLUMNS, rows, hidden)
    table = table.without("tensors") if single else table
    return table if any(row[-1] for row in rows) else table.without("note")


def _hidden(count: int, view: View) -> tuple[str, ...]:
    return (f"{counted(count, 'smaller tensor')} not shown{view.hint}",) if count else ()


def _cells(name: str, group: Sequence[Entry], parts: dict[str, Leftover]) -> tuple[str, ...]:
    first = group[0]
    zeros = None if any(e.zeros is None for e in group) else sum(e.zeros or 0 for e in group)
    numel = sum(e.numel for e in group)
    return (
        printable(name),
        f"{len(group):,}",
        first.dtype,
        format_shape(first.shape),
        first.layout.label,
        f"{numel:,}",
        format_bytes(sum(e.nbytes for e in group)),
        percent(zeros / numel if zeros is not None and numel else None),
        _note(group, parts),
    )


def _note(group: Sequence[Entry], parts: dict[str, Leftover]) -> str:
    odd = sum(e.nonfinite or 0 for e in group)
    kinds = dict.fromkeys(parts[e.name].kind for e in group if e.name in parts)
    aliases = [alias for e in group for alias in e.aliases]
    scales = dict.fromkeys(e.scaled_by.rpartition(".")[2] for e in group if e.scaled_by)
    tied = f"= {printable(aliases[0])}" if len(aliases) == 1 else f"{len(aliases)} more names" if aliases else ""
    notes = [
        f"{odd:,} not finite" if odd else "",
        tied,
        *(kind if kind != PRUNE else "half of a pruned weight" for kind in kinds),
        *(f"times {printable(scale)}" for scale in scales),
        *dict.fromkeys(e.packed.format for e in group if e.packed),
    ]
    return ", ".join(note for note in notes if note)


def _evidence(lines: Sequence[_Line]) -> Block:
    """Return the evidence for the outputs and inputs of each line that has them."""
    rows = [
        (printable(name), group[0].layout.words, listed([printable(one) for one in _distinct(group)], _NAMED))
        for name, group in lines
        if group[0].layout.words != "-"
    ]
    columns = Column("tensor", fold=12), Column("layout"), Column("evidence", fold=20)
    return Block("Evidence for the layouts", columns, tuple(rows))


def _distinct(group: Sequence[Entry]) -> list[str]:
    return list(dict.fromkeys(entry.layout.evidence for entry in group))


# --- the summary


def _summary(inspection: Inspection) -> Iterator[str]:
    size = sum(size for _, size in inspection.files)
    shards = f" in {len(inspection.files)} files" if len(inspection.files) > 1 else ""
    yield f"file         {printable(inspection.path)}: {inspection.format}, {format_bytes(size)}{shards}"
    if taken := taken_in_words("takes", inspection.keys, inspection.parts, inspection.left_alone):
        yield f"state_dict   {taken}"
    if copies := ema_left(inspection.left_alone):
        yield f"copies       {ema_warning(copies)} unless its key is given"
    yield from _counts(inspection)
    if not inspection.selected_only:
        packed = packed_sentence(entry.packed for entry in inspection.inside)
        if packed is not None:
            yield f"packed       {packed}"
        yield _prunable(inspection)
    yield from _layouts(inspection)
    yield from _remarks(inspection)
    yield from (f"note         {printable(fact)}" for fact in inspection.notes)


def _counts(inspection: Inspection) -> Iterator[str]:
    """Yield the totals of the tensors, and those of the floating-point ones if there are others."""
    every, floats = totals(inspection.inside), totals(e for e in inspection.inside if e.dtype in FLOATS)
    if inspection.selected_only:
        yield f"selected     {_tensors(floats)}, {floats.numel:,} parameters{_zeros(floats)}"
        return
    zeros = _zeros(every) if every.tensors == floats.tensors else ""
    yield f"contents     {_tensors(every)}, {every.numel:,} parameters, {format_bytes(every.nbytes)}{zeros}"
    if every.tensors != floats.tensors:
        yield f"of them      {floats.tensors:,} floating-point, {floats.numel:,} parameters{_zeros(floats)}"


def _tensors(part: Totals) -> str:
    return counted(part.tensors, "tensor")


def _zeros(part: Totals) -> str:
    if not part.numel_read:
        return ""
    odd = f", {part.nonfinite:,} not finite" if part.nonfinite else ""
    if part.sparsity is None:
        return f", {part.zeros:,} of {part.numel_read:,} that were read are zero{odd}"
    return f", {percent(part.sparsity)} zero ({part.zeros:,}){odd}"


def _prunable(inspection: Inspection) -> str:
    if inspection.refusal is not None:
        return f"by default   none would be pruned: {printable(inspection.refusal)}"
    part = totals(inspection.prunable)
    return f"by default   {_tensors(part)} would be pruned, {part.numel:,} weights{_zeros(part)}"


def _layouts(inspection: Inspection) -> Iterator[str]:
    """Yield a line that counts the evidence for the layouts of the prunable tensors."""
    layouts = [entry.layout for entry in inspection.prunable if entry.layout.words != "-"]
    if len(layouts) == 1:
        yield f"layout       {layouts[0].label}: {printable(layouts[0].evidence)}"
    elif layouts:
        evidence = (layout.evidence for layout in layouts)
        kinds = Counter(SIBLINGS if one.startswith(SIBLINGS) else one for one in evidence).most_common()
        yield f"layouts      {listed([f'{printable(kind)} ({count:,})' for kind, count in kinds], _NAMED)}"


def _remarks(inspection: Inspection) -> Iterator[str]:
    tied = [e for e in inspection.inside if e.aliases]
    for entry in tied[:_NAMED]:
        what = "one tensor, pruned once" if entry.reason is None else "one tensor"
        yield f"tied         {' = '.join(map(printable, (entry.name, *entry.aliases)))}: {what}"
    if len(tied) > _NAMED:
        yield f"tied         {len(tied) - _NAMED:,} more; the JSON output lists all"
    odd = [f"{printable(e.name)} ({e.nonfinite:,})" for e in inspection.inside if e.nonfinite]
    if odd:
        yield f"not finite   NaN or infinity in {listed(odd, _NAMED)}"
    yield from _leftovers(inspection)
    if outside := inspection.outside:
        size = format_bytes(sum(e.nbytes for e in outside))
        names = [printable(name) for name, _ in grouped(outside, lambda e: e.name, lambda _: None)]
        where = f"{size} outside the state_dict, not read"
        yield f"outside      {_tensors(totals(outside))}, {where}: {listed(names, _NAMED)}; another key selects them"
    if inspection.contents:
        near = sorted(inspection.contents, key=lambda item: item[0].count("."))
        names = [f"{printable(name)} = {printable(text)}" for name, text in near]
        yield f"not tensors  {counted(len(near), 'item')}: {listed(names, _NAMED)}"
    for what, count in Counter(what for _, what in inspection.unprunable_entries).items():
        names = [printable(name) for name, kind in inspection.unprunable_entries if kind == what]
        yield f"other        {counted(count, 'entry', 'entries')}, {printable(what)}: {listed(names, _NAMED)}"


def _leftovers(inspection: Inspection) -> Iterator[str]:
    for kind, count in Counter(leftover.kind for leftover in inspection.leftovers).items():
        weights = [leftover for leftover in inspection.leftovers if leftover.kind == kind]
        names = [printable(leftover.name) for leftover in weights]
        call = "bake" if kind == PRUNE else fold_call(weights[0])
        hint = f"; {call} folds them" if call else ""
        yield f"leftover     {counted(count, 'weight')} under {kind}: {listed(names, _NAMED)}{hint}"


# --- thresholds

_OPTIONAL = {10: 9, 30: 8, 40: 7, 20: 6, 70: 5, 60: 4, 95: 3, 99: 2, 90: 1}  # percent: order of leaving out
_NO_THRESHOLD = "-: this many weights include NaN or infinity, which no threshold zeroes"


def _common_thresholds(together: ThresholdTable, tensors: int) -> Block:
    """Return the threshold for each sparsity over all tensors."""
    weights = f"{counted(tensors, 'tensor')}, {together.numel:,} weights"
    titles = Column("sparsity", right=True), Column("threshold"), Column("zeroes", right=True)
    return Block(
        f"One threshold for all prunable tensors ({weights})",
        (*titles, Column("weights", right=True)),
        tuple(_threshold_row(step, together.numel) for step in together.steps),
        _dashes([together]),
    )


def _tensor_thresholds(each: Sequence[ThresholdTable], view: View, *, terminal: bool) -> Block:
    """Return the threshold for each sparsity in each tensor."""
    tables = largest(each, lambda table: table.numel, view, terminal=terminal)
    percents = [step.percent for step in each[0].steps] if each else []
    return Block(
        "One threshold per tensor",
        (Column("tensor", fold=12), *(Column(f"{p}%", optional=_OPTIONAL.get(p, 0)) for p in percents)),
        tuple((printable(table.name), *map(_threshold, table.steps)) for table in tables),
        (*_dashes(tables), *_hidden(len(each) - len(tables), view)),
    )


def _threshold_row(step: ThresholdStep, numel: int) -> tuple[str, ...]:
    if step.zeroed is None:
        return f"{step.percent}%", "-", "-", "-"
    return f"{step.percent}%", _threshold(step), percent(step.zeroed / numel), f"{step.zeroed:,}"


def _threshold(step: ThresholdStep) -> str:
    return "-" if step.threshold is None else number(step.threshold)


def _dashes(tables: Sequence[ThresholdTable]) -> tuple[str, ...]:
    return (_NO_THRESHOLD,) if any(step.threshold is None for table in tables for step in table.steps) else ()


def number(value: float) -> str:
    """Return `value` in the fewest characters that read back as the same number."""
    return repr(value).removesuffix(".0")


# --- a histogram

_GIVEN = (50, 80, 90)  # the sparsities whose threshold a histogram lists
_BAR = 40  # characters of the longest bar
_EIGHTHS = " ▏▎▍▌▋▊▉█"


def _histogram(histogram: MagnitudeHistogram, *, terminal: bool) -> Block:
    """Return the bars of magnitudes, percentiles and thresholds."""
    names, weights = histogram.tensors, histogram.percentiles.numel
    of = printable(names[0]) if len(names) == 1 else f"{len(names):,} tensors that match {printable(histogram.pattern)}"
    odd = f", {histogram.nonfinite:,} not finite" if histogram.nonfinite else ""
    most = max(histogram.counts)
    rows = tuple(
        (interval(histogram, index), _bar(count, most, terminal=terminal), f"{count:,}", percent(count / weights))
        for index, count in enumerate(histogram.counts)
    )
    return Block(
        f"Magnitudes of {of}: {counted(weights, 'weight')}, {histogram.zeros:,} zero{odd}",
        (Column("|w|"), Column(""), Column("weights", right=True), Column("share", right=True)),
        rows,
        (
            "",
            *_percentiles(histogram.percentiles),
            "",
            *_thresholds(histogram.percentiles),
            *_dashes([histogram.percentiles]),
        ),
    )


def interval(histogram: MagnitudeHistogram, index: int) -> str:
    """Return the magnitudes of a bar: "0.1 to 0.2", or "1 and more" for the last one."""
    edges = histogram.edges
    if index + 1 < len(edges):
        return f"{edges[index]:g} to {edges[index + 1]:g}"
    return f"{edges[index]:g} and more"


def _bar(count: int, most: int, *, terminal: bool) -> str:
    """Return a bar in proportion to `count`; a count above 0 has a visible bar."""
    if not count:
        return ""
    if not terminal:
        return "#" * max(round(_BAR * count / most), 1)
    full, rest = divmod(max(round(8 * _BAR * count / most), 1), 8)
    return _EIGHTHS[8] * full + (_EIGHTHS[rest] if rest else "")


def _percentiles(table: ThresholdTable) -> tuple[str, str]:
    cells = [(f"{step.percent}%", "-" if step.threshold is None else f"{step.threshold:.3g}") for step in table.steps]
    widths = [max(map(len, pair)) for pair in cells]
    titles, values = (
        "  ".join(pair[line].rjust(width) for pair, width in zip(cells, widths, strict=True)) for line in (0, 1)
    )
    return f"percentile  {titles}", f"|w|         {values}"


def _thresholds(table: ThresholdTable) -> Iterator[str]:
    """Yield the threshold for some sparsities, once if several have the same."""
    steps = {step.threshold: step for step in table.steps if step.percent in _GIVEN}
    for step in steps.values():
        if step.threshold is not None and step.zeroed is not None:
            share = percent(step.zeroed / table.numel)
            yield f"threshold {_threshold(step)} zeroes {share} of them, {counted(step.zeroed, 'weight')}"
