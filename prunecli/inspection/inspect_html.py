"""The result of `inspect` as one HTML page."""

from __future__ import annotations

import shlex
from pathlib import PurePath
from typing import TYPE_CHECKING

from prunecli.inspection.inspect import totals
from prunecli.inspection.inspect_text import interval
from prunecli.report.heat_map import heat_maps
from prunecli.report.listing import Card, Cell, Listing, Table, render_listing
from prunecli.report.state_dicts import taken_in_words
from prunecli.text.escape import printable
from prunecli.text.natural_order import natural_order
from prunecli.text.numbers import counted, format_bytes, format_shape, magnitude, percent

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from prunecli.inspection.inspect import Entry, Inspection
    from prunecli.inspection.thresholds import ThresholdTable
    from prunecli.report.heat_map import HeatMap

_NUMERIC = frozenset({"parameters", "bytes", "not finite", "weights"})


def to_html(inspection: Inspection, command: Sequence[str] = ()) -> str:
    """Return the result as a page: totals, the tensors, and the thresholds if they were asked for."""
    return render_listing(
        Listing(
            kind="Contents of a checkpoint",
            title=PurePath(inspection.path).name or inspection.path,
            lead=_lead(inspection),
            cards=tuple(_cards(inspection)),
            warnings=() if inspection.refusal is None else (f"a pruning command refuses it: {inspection.refusal}",),
            tables=(
                _tensors("Tensors", inspection.inside),
                *_thresholds(inspection),
                *_magnitudes(inspection),
                _tensors("Outside the state_dict", inspection.outside),
                _pairs("Other entries", ("entry", "kind"), inspection.unprunable_entries),
                _pairs("Other contents", ("name", "content"), inspection.contents),
            ),
            maps=_maps(inspection),
            maps_note="Zeros of the tensors that are pruned by default.",
            facts=(("command", shlex.join(command) or "-"), ("file", inspection.path), *_files(inspection)),
        )
    )


def _lead(inspection: Inspection) -> str:
    taken = taken_in_words("shows", inspection.keys, inspection.parts, inspection.left_alone)
    return "; ".join(part for part in (inspection.format, taken, *inspection.notes) if part)


def _files(inspection: Inspection) -> Iterator[tuple[str, str]]:
    size = sum(size for _, size in inspection.files)
    yield "size", f"{format_bytes(size)} ({size:,} bytes) in {counted(len(inspection.files), 'file')}"


def _cards(inspection: Inspection) -> Iterator[Card]:
    for heading, entries in (("All tensors", inspection.inside), ("Pruned by default", inspection.prunable)):
        sums = totals(entries)
        sparsity = sums.sparsity
        text = f"{sums.numel:,} parameters in {counted(sums.tensors, 'tensor')}, {format_bytes(sums.nbytes)}"
        odd = f"; {sums.nonfinite:,} are not finite" if sums.nonfinite else ""
        bar = None if sparsity is None else 100 * sparsity
        yield Card(heading, "?" if sparsity is None else percent(sparsity), "zero", f"{text}{odd}.", bar)


def _tensors(title: str, entries: Sequence[Entry]) -> Table:
    headings = (
        "tensor",
        "zero",
        "parameters",
        "dtype",
        "shape",
        "layout",
        "bytes",
        "not finite",
        "tied to",
        "scaled by",
        "left out because",
    )
    return Table(
        title,
        headings,
        [_cells(entries[index]) for index in natural_order([entry.name for entry in entries])],
        _NUMERIC,
    )


def _cells(entry: Entry) -> tuple[Cell, ...]:
    sparsity, odd = entry.sparsity, entry.nonfinite
    return (
        Cell(entry.name),
        Cell("-") if sparsity is None else Cell(percent(sparsity), bar=100 * sparsity),
        Cell(f"{entry.numel:,}"),
        Cell(entry.dtype),
        Cell(format_shape(entry.shape), entry.numel),
        Cell(entry.layout.label),
        Cell(format_bytes(entry.nbytes), entry.nbytes),
        Cell(f"{odd:,}" if odd else "-"),
        Cell(", ".join(entry.aliases) or "-", own=True),
        Cell(entry.scaled_by or "-", own=True),
        Cell(entry.reason or "-", own=True),
    )


def _maps(inspection: Inspection) -> list[HeatMap]:
    """Return the sparsity by layer and kind, if there are zeros."""
    known = [(entry.name, entry.zeros, entry.numel) for entry in inspection.prunable if entry.zeros is not None]
    return heat_maps(known) if any(zeros for _, zeros, _ in known) else []


def _magnitudes(inspection: Inspection) -> Iterator[Table]:
    """Yield the histogram as a table with a bar in each line."""
    if (histogram := inspection.histogram) is None:
        return
    most, weights = max(histogram.counts), histogram.percentiles.numel
    rows = [
        (
            Cell(interval(histogram, index), histogram.edges[index]),
            Cell(percent(count / weights), bar=100 * count / most if most else 0.0),
            Cell(f"{count:,}"),
        )
        for index, count in enumerate(histogram.counts)
    ]
    odd = f", {histogram.nonfinite:,} are not finite" if histogram.nonfinite else ""
    note = f"{counted(len(histogram.tensors), 'tensor')}: {weights:,} weights, {histogram.zeros:,} are zero{odd}."
    yield Table(f"Magnitudes of {printable(histogram.pattern)}", ("|w|", "share", "weights"), rows, _NUMERIC, note)


def _thresholds(inspection: Inspection) -> Iterator[Table]:
    if inspection.thresholds is None:
        return
    together, each = inspection.thresholds
    steps = [f"{step.percent}%" for step in together.steps]
    rows = [_steps("all together", together), *(_steps(table.name, table) for table in each)]
    note = "The smallest threshold that prunes this part of the weights, of all tensors together and of each."
    yield Table("Thresholds", ("tensor", *steps), rows, frozenset(steps), note)


def _steps(name: str, table: ThresholdTable) -> tuple[Cell, ...]:
    values = (step.threshold for step in table.steps)
    return (Cell(name), *(Cell(magnitude(value)) for value in values))


def _pairs(title: str, headings: tuple[str, str], pairs: Sequence[tuple[str, str]]) -> Table:
    return Table(title, headings, [(Cell(name), Cell(text, own=True)) for name, text in pairs])
