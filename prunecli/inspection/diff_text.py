"""A difference of two checkpoints as text and as JSON."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, TextIO

from prunecli.text.escape import printable
from prunecli.text.json import dump_json
from prunecli.text.natural_order import natural_order
from prunecli.text.numbers import counted, format_shape, magnitude, plural
from prunecli.text.tables import Block, Column, first_rows, write_blocks

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from prunecli.inspection.diff import ContentDifference, Difference, TensorDifference
    from prunecli.inspection.pairing import TensorForm

SCHEMA = 1
"""The version of the document. It rises when a key is removed or changes its meaning."""

MOST_LINES = 20
"""Lines of one kind before the rest are counted."""

_COLUMNS = (
    Column("tensor", fold=6),
    Column("dtype"),
    Column("shape", right=True),
    Column("entries", right=True),
    Column("changed", right=True),
    Column("to zero", right=True),
    Column("otherwise", right=True),
    Column("largest change", right=True),
)


def write_difference(difference: Difference, stream: TextIO) -> None:
    """Write a verdict, a table of changed tensors, and the other differences. OSError if the stream takes no more."""
    tied = Counter(tensor.tied_to for tensor in difference.tensors)
    changed = [tensor for tensor in difference.distinct if tensor.change is not None and not tensor.same]
    changed = [changed[index] for index in natural_order([tensor.name for tensor in changed])]
    rows = [_cells(tensor, tied[tensor.name]) for tensor in changed]
    shown, more = first_rows(rows, terminal=stream.isatty())
    table = Block("", _COLUMNS, tuple(shown), more)
    write_blocks([Block(verdict(difference)), table, Block(lines=tuple(_lines(difference)))], stream)


def _cells(tensor: TensorDifference, tied: int) -> tuple[str, ...]:
    if tensor.change is None or tensor.a is None:
        raise ValueError(tensor.name)
    change, kind = tensor.change, tensor.a
    unit = " bytes" if kind.dtype in {"F4", "F6_E2M3", "F6_E3M2"} else ""
    odd = f" ({change.nonfinite:,} not finite)" if change.nonfinite else ""
    return (
        printable(tensor.name) + (f" (+{tied} tied)" if tied else ""),
        kind.dtype,
        format_shape(kind.shape),
        f"{change.entries:,}{unit}",
        f"{change.changed:,}",
        f"{change.to_zero:,}",
        f"{change.otherwise:,}",
        magnitude(change.largest) + odd,
    )


def _lines(difference: Difference) -> Iterator[str]:
    tensors = difference.tensors
    yield from _first(f"only in A   {printable(t.name)}, {t.a}" for t in tensors if t.b is None)
    yield from _first(f"only in B   {printable(t.name)}, {t.b}" for t in tensors if t.a is None)
    yield from _first(
        f"other kind  {printable(t.name)} is {t.a} in A, {t.b} in B"
        for t in tensors
        if t.change is None and t.a is not None and t.b is not None
    )
    yield from _first(map(_item, difference.contents))
    yield from (f"note        {printable(note)}" for note in difference.notes)


def _first(lines: Iterable[str]) -> Iterator[str]:
    """Yield the first lines and the number of the others."""
    every = list(lines)
    yield from every[:MOST_LINES]
    if len(every) > MOST_LINES:
        yield f"{'':12}... and {len(every) - MOST_LINES:,} more; the JSON output has all"


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
