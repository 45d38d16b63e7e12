"""A difference of two checkpoints as text and as JSON."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, TextIO

from prunecli.text.escape import printable
from prunecli.text.json import dump_json
from prunecli.text.name_ranges import lines_of
from prunecli.text.natural_order import natural_order
from prunecli.text.numbers import counted, format_shape, magnitude, plural
from prunecli.text.tables import Block, Column, View, largest, write_blocks

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from prunecli.inspection.compare import Change
    from prunecli.inspection.diff import ContentDifference, Difference, TensorDifference
    from prunecli.inspection.pairing import TensorForm

SCHEMA = 1
"""The version of the document. It rises when a key is removed or changes its meaning."""

MOST_LINES = 20
"""Lines of one kind before the rest are counted."""

_COLUMNS = (
    Column("tensor", fold=12),
    Column("tensors", right=True),
    Column("dtype", optional=5),
    Column("shape", right=True, optional=4),
    Column("entries", right=True, optional=2),
    Column("changed", right=True),
    Column("to zero", right=True, optional=1),
    Column("otherwise", right=True),
    Column("largest change", right=True, optional=3),
)


def write_difference(difference: Difference, stream: TextIO, view: View = View()) -> None:  # noqa: B008 - a frozen value
    """Write a verdict, a table of changed tensors, and the other differences. OSError if the stream takes no more.

    Tensors whose names differ only in numbers share a line if there are many.
    """
    table = _table(difference, view, terminal=stream.isatty())
    write_blocks([Block(verdict(difference)), table, Block(lines=tuple(_lines(difference, view)))], stream)


def _table(difference: Difference, view: View, *, terminal: bool) -> Block:
    tied = Counter(tensor.tied_to for tensor in difference.tensors)
    changed = [tensor for tensor in difference.distinct if tensor.change is not None and not tensor.same]
    changed = [changed[index] for index in natural_order([tensor.name for tensor in changed])]
    lines = lines_of(changed, lambda t: t.name, lambda t: str(t.a), view)
    shown = largest(lines, lambda line: sum(_change(t).changed for t in line[1]), view, terminal=terminal)
    hidden = len(changed) - sum(len(group) for _, group in shown)
    more = (f"{counted(hidden, 'tensor')} changed less not shown{view.hint}",) if hidden else ()
    single = all(len(group) == 1 for _, group in shown)
    rows = tuple(_cells(name, group, sum(tied[tensor.name] for tensor in group)) for name, group in shown)
    table = Block("", _COLUMNS, rows, more)
    return table.without("tensors") if single else table


def _change(tensor: TensorDifference) -> Change:
    if tensor.change is None:
        raise ValueError(tensor.name)
    return tensor.change


def _cells(name: str, group: Sequence[TensorDifference], tied: int) -> tuple[str, ...]:
    changes, kind = [_change(tensor) for tensor in group], group[0].a
    if kind is None:
        raise ValueError(name)
    unit = " bytes" if kind.dtype in {"F4", "F6_E2M3", "F6_E3M2"} else ""
    nonfinite = sum(change.nonfinite for change in changes)
    odd = f" ({nonfinite:,} not finite)" if nonfinite else ""
    return (
        printable(name) + (f" (+{tied} tied)" if tied else ""),
        f"{len(group):,}",
        kind.dtype,
        format_shape(kind.shape),
        f"{sum(change.entries for change in changes):,}{unit}",
        f"{sum(change.changed for change in changes):,}",
        f"{sum(change.to_zero for change in changes):,}",
        f"{sum(change.otherwise for change in changes):,}",
        magnitude(max((change.largest for change in changes if change.largest is not None), default=None)) + odd,
    )


def _lines(difference: Difference, view: View) -> Iterator[str]:
    tensors = difference.tensors
    yield from _apart([t for t in tensors if t.b is None], "only in A   {name}{count}, {a}", view)
    yield from _apart([t for t in tensors if t.a is None], "only in B   {name}{count}, {b}", view)
    other = [t for t in tensors if t.change is None and t.a is not None and t.b is not None]
    yield from _apart(other, "other kind  {name}{count} is {a} in A, {b} in B", view)
    yield from _first([*map(_item, difference.contents)], view)
    yield from (f"note        {printable(note)}" for note in difference.notes)


def _apart(tensors: Sequence[TensorDifference], sentence: str, view: View) -> Iterator[str]:
    """Yield a line for each group of tensors that cannot be compared."""
    lines = lines_of(tensors, lambda t: t.name, lambda t: (str(t.a), str(t.b)), view)
    texts = [
        sentence.format(
            name=printable(name),
            count=f" ({len(group):,} tensors)" if len(group) > 1 else "",
            a=group[0].a,
            b=group[0].b,
        )
        for name, group in lines
    ]
    yield from _first(texts, view)


def _first(lines: Sequence[str], view: View) -> Iterator[str]:
    """Yield the lines to show, and the number of the others."""
    most = len(lines) if view.every else min(MOST_LINES, view.top or MOST_LINES)
    yield from lines[:most]
    if len(lines) > most:
        yield f"{'':12}... and {len(lines) - most:,} more{view.hint or '; the JSON output has all'}"


def _item(item: ContentDifference) -> str:
    name = printable(item.name)
    if item.a is None or item.b is None:
        side, text = ("A", item.a) if item.b is None else ("B", item.b)
        return f"only in {side}   {name}: {printable(text or '')}"
    return f"differs     {name}: {printable(item.a)} in A, {printable(item.b)} in B"


def verdict(difference: Difference) -> str:
    """Return a sentence: how many tensors and entries differ, and how."""
    tensors = difference.distinct
    different = [tensor for tensor in tensors if not tensor.same]
    changes = [tensor.change for tensor in tensors if tensor.change is not None]
    entries, changed = sum(change.entries for change in changes), sum(change.changed for change in changes)
    all_entries = counted(entries, "entry", "entries")
    if not different:
        items = counted(len(difference.contents), "other item differs", "other items differ")
        others = f"; {items}" if difference.contents else ""
        return f"no tensor differs: {counted(len(tensors), 'tensor')}, {all_entries}{others}"
    to_zero = sum(change.to_zero for change in changes)
    signs = sum(change.zero_signs for change in changes)
    how = "all of them to zero" if changed == to_zero else f"{to_zero:,} of them to zero"
    how += f", {signs:,} zeros of another sign" if signs else ""
    detail = f": {changed:,} of {all_entries} changed, {how}" if changed else ""
    verb = plural(len(different), "differs", "differ")
    return f"{len(different):,} of {counted(len(tensors), 'tensor')} {verb}{detail}"


def difference_json(difference: Difference) -> str:
    """Return the difference as JSON (ASCII, finite, stable key order), names verbatim; unknown numbers are null.

    Tensors that are the same are only counted, tied ones once.
    """
    return dump_json(
        {
            "schema": SCHEMA,
            "a": {"path": difference.a, "format": difference.formats[0]},
            "b": {"path": difference.b, "format": difference.formats[1]},
            "same": difference.same,
            "only_zeros_added": difference.only_zeros_added,
            "tensors_compared": len(difference.distinct),
            "tensors": [_record(tensor) for tensor in difference.tensors if not tensor.same],
            "beside": [{"name": item.name, "a": item.a, "b": item.b} for item in difference.contents],
            "notes": difference.notes,
        }
    )


def _record(tensor: TensorDifference) -> dict[str, object]:
    change = tensor.change
    return {
        "name": tensor.name,
        "tied_to": tensor.tied_to,
        "a": _kind(tensor.a),
        "b": _kind(tensor.b),
        "entries": None if change is None else change.entries,
        "changed": None if change is None else change.changed,
        "to_zero": None if change is None else change.to_zero,
        "zero_signs": None if change is None else change.zero_signs,
        "otherwise": None if change is None else change.otherwise,
        "largest_change": None if change is None else change.largest,
        "changes_not_finite": None if change is None else change.nonfinite,
    }


def _kind(kind: TensorForm | None) -> dict[str, object] | None:
    return None if kind is None else {"dtype": kind.dtype, "shape": kind.shape}
