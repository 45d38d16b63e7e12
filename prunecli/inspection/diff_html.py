"""A difference of two checkpoints as one HTML page."""

from __future__ import annotations

import shlex
from pathlib import PurePath
from typing import TYPE_CHECKING

from prunecli.inspection.diff_text import verdict
from prunecli.report.listing import Card, Cell, Listing, Table, render_listing
from prunecli.text.natural_order import natural_order
from prunecli.text.numbers import counted, format_shape, magnitude, percent

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from prunecli.inspection.diff import Difference, TensorDifference

_CHANGES = ("entries", "changed", "to zero", "otherwise", "largest change")


def to_html(difference: Difference, command: Sequence[str] = ()) -> str:
    """Return the difference as a page: the verdict, the changed tensors, and what is in one checkpoint only."""
    apart = [t for t in difference.distinct if t.change is None]
    return render_listing(
        Listing(
            kind="Difference of two checkpoints",
            title=f"{PurePath(difference.a).name} \u2192 {PurePath(difference.b).name}",
            lead=verdict(difference),
            cards=tuple(_cards(difference)),
            tables=(
                Table(
                    "Changed tensors",
                    ("tensor", "part", "dtype", "shape", *_CHANGES),
                    [*_changed(difference)],
                    frozenset(_CHANGES),
                ),
                Table("Tensors that cannot be compared", ("tensor", "in A", "in B"), [_forms(t) for t in apart]),
                Table(
                    "Other contents",
                    ("name", "in A", "in B"),
                    [
                        (Cell(one.name), Cell(one.a or "-", own=True), Cell(one.b or "-", own=True))
                        for one in difference.contents
                    ],
                ),
            ),
            facts=(
                ("command", shlex.join(command) or "-"),
                *(("A", f"{difference.a}, {difference.formats[0]}"), ("B", f"{difference.b}, {difference.formats[1]}")),
                *(("note", note) for note in difference.notes),
            ),
        )
    )


def _cards(difference: Difference) -> Iterator[Card]:
    changes = [tensor.change for tensor in difference.distinct if tensor.change is not None]
    entries, changed = sum(change.entries for change in changes), sum(change.changed for change in changes)
    part = changed / entries if entries else 0.0
    tensors = sum(1 for change in changes if change.changed)
    text = f"{changed:,} of {entries:,} entries in {tensors:,} of {counted(len(changes), 'tensor')}."
    yield Card("Changed", percent(part), "of the entries", text, 100 * part)
    zeros = sum(change.to_zero for change in changes)
    yield Card(
        "Became zero",
        f"{zeros:,}",
        "entries",
        f"{sum(change.otherwise for change in changes):,} entries changed otherwise.",
    )


def _changed(difference: Difference) -> Iterator[tuple[Cell, ...]]:
    tensors = difference.distinct
    for tensor in (tensors[index] for index in natural_order([tensor.name for tensor in tensors])):
        if tensor.change is None or tensor.a is None or tensor.same:
            continue
        change = tensor.change
        part = change.changed / change.entries if change.entries else 0.0
        counts = (change.entries, change.changed, change.to_zero, change.otherwise)
        yield (
            Cell(tensor.name),
            Cell(percent(part), bar=100 * part),
            Cell(tensor.a.dtype),
            Cell(format_shape(tensor.a.shape), change.entries),
            *(Cell(f"{count:,}") for count in counts),
            Cell(magnitude(change.largest)),
        )


def _forms(tensor: TensorDifference) -> tuple[Cell, ...]:
    return (Cell(tensor.name), *(Cell("-" if form is None else str(form)) for form in (tensor.a, tensor.b)))
