"""A difference as text: a table of the tensors that differ and what else does, or JSON. Compares nothing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, TextIO

from prunecli.inspection.pairing import shape_text
from prunecli.text.columns import Column, write
from prunecli.text.escape import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prunecli.inspection.diff import Compared, Difference, Item
    from prunecli.inspection.pairing import Kind
    from prunecli.text.columns import Cells

MOST_LINES = 20
"""Lines of one sort before they are counted."""

_COLUMNS = (
    Column("tensor"),
    Column("dtype"),
    Column("shape", right=True),
    Column("entries", right=True),
    Column("changed", right=True),
    Column("to zero", right=True),
    Column("otherwise", right=True),
    Column("largest change", right=True),
)


def write_difference(difference: Difference, stream: TextIO) -> None:
    """Write what differs, as a table on a terminal; OSError where the stream takes no more."""
    rows = [_cells(tensor) for tensor in difference.tensors if tensor.change is not None and not tensor.same]
    write(stream, _COLUMNS, rows, list(_lines(difference)))


def _cells(tensor: Compared) -> Cells:
    if tensor.change is None or tensor.a is None:
        raise ValueError(tensor.name)
    change, kind = tensor.change, tensor.a
    unit = " bytes" if kind.dtype in {"F4", "F6_E2M3", "F6_E3M2"} else ""
    size = "-" if change.largest is None else f"{change.largest:.6g}"
    odd = f" ({change.nonfinite:,} not finite)" if change.nonfinite else ""
    return (
        printable(tensor.name),
        kind.dtype,
        shape_text(kind.shape),
        f"{change.entries:,}{unit}",
        f"{change.changed:,}",
        f"{change.to_zero:,}",
        f"{change.otherwise:,}",
        size + odd,
    )


def _lines(difference: Difference) -> Iterator[str]:
    tensors = difference.tensors
    yield from _few(f"only in A   {printable(t.name)}, {t.a}" for t in tensors if t.b is None)
    yield from _few(f"only in B   {printable(t.name)}, {t.b}" for t in tensors if t.a is None)
    yield from _few(
        f"other kind  {printable(t.name)} is {t.a} in A, {t.b} in B"
        for t in tensors
        if t.change is None and t.a is not None and t.b is not None
    )
    yield from _few(_thing(thing) for thing in difference.things)
    yield from (f"note        {printable(note)}" for note in difference.notes)
    yield _verdict(difference)


def _few(lines: Iterator[str]) -> Iterator[str]:
    """Yield the first lines, and count the others."""
    found = list(lines)
    yield from found[:MOST_LINES]
    if len(found) > MOST_LINES:
        yield f"{'':12}... and {len(found) - MOST_LINES:,} more; --json has all of them"


def _thing(thing: Item) -> str:
    name = printable(thing.name)
    if thing.a is None or thing.b is None:
        side, text = ("A", thing.a) if thing.b is None else ("B", thing.b)
        return f"only in {side}   {name}: {printable(text or '')}"
    return f"differs     {name}: {printable(thing.a)} in A, {printable(thing.b)} in B"


def _verdict(difference: Difference) -> str:
    tensors = difference.tensors
    different = [tensor for tensor in tensors if not tensor.same]
    changes = [tensor.change for tensor in tensors if tensor.change is not None]
    entries, changed = sum(change.entries for change in changes), sum(change.changed for change in changes)
    if not different:
        beside = f", but not {_counted(len(difference.things), 'thing')} beside them" if difference.things else ""
        return f"same        {_counted(len(tensors), 'tensor')}, {_counted(entries, 'entry')}{beside}"
    to_zero = sum(change.to_zero for change in changes)
    how = "all of them to zero" if changed == to_zero else f"{to_zero:,} of them to zero"
    detail = f", {changed:,} of {_counted(entries, 'entry')}, {how}" if changed else ""
    return f"different   {len(different):,} of {_counted(len(tensors), 'tensor')}{detail}"


def _counted(count: int, what: str) -> str:
    plural = f"{what[:-1]}ies" if what.endswith("y") else f"{what}s"
    return f"{count:,} {what if count == 1 else plural}"


def difference_json(difference: Difference) -> str:
    """Return the difference as JSON (ASCII, finite, stable key order), names verbatim; tensors that are the same count.

    A number that is not there is null.
    """
    different = [tensor for tensor in difference.tensors if not tensor.same]
    document = {
        "schema": 1,
        "a": {"path": difference.a, "format": difference.formats[0]},
        "b": {"path": difference.b, "format": difference.formats[1]},
        "same": difference.same,
        "only_zeros_added": difference.only_zeros_added,
        "tensors_compared": len(difference.tensors),
        "tensors": [_tensor(tensor) for tensor in different],
        "beside": [{"name": thing.name, "a": thing.a, "b": thing.b} for thing in difference.things],
        "notes": difference.notes,
    }
    return json.dumps(document, indent=1, allow_nan=False).replace("\x7f", "\\u007f") + "\n"


def _tensor(tensor: Compared) -> dict[str, object]:
    change = tensor.change
    return {
        "name": tensor.name,
        "a": _kind(tensor.a),
        "b": _kind(tensor.b),
        "entries": None if change is None else change.entries,
        "changed": None if change is None else change.changed,
        "to_zero": None if change is None else change.to_zero,
        "otherwise": None if change is None else change.otherwise,
        "largest_change": None if change is None else change.largest,
        "changes_not_finite": None if change is None else change.nonfinite,
    }


def _kind(kind: Kind | None) -> dict[str, object] | None:
    return None if kind is None else {"dtype": kind.dtype, "shape": kind.shape}
