"""What `inspect` found, as text for people and as JSON for programs.

Many tensors are folded into few lines; a terminal gets no more lines than a person reads and is told what is left
out. Nothing here reads a weight.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from prunecli.dtypes import FLOATS
from prunecli.inspection.inspect import totals
from prunecli.inspection.threshold_text import drawing_block, threshold_blocks
from prunecli.selection.reparametrized import PRUNE
from prunecli.text.escape import printable
from prunecli.text.name_ranges import grouped
from prunecli.text.numbers import format_bytes, percent
from prunecli.text.tables import Block, Column, View, largest, plain_blocks, plural, print_blocks

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.console import Console

    from prunecli.inspection.inspect import Entry, Inspection, Totals
    from prunecli.selection.reparametrized import Leftover

FOLDED_FROM = 40
"""More tensors than this are folded into lines."""

_NAMED = 4  # names that a summary line lists before it counts the rest
_COLUMNS = (
    Column("tensor"),
    Column("tensors", right=True),
    Column("dtype", optional=2),
    Column("shape", optional=1),
    Column("parameters", right=True),
    Column("bytes", right=True, optional=3),
    Column("zero", right=True),
    Column("note", optional=4),
)


def plain(found: Inspection, view: View) -> str:
    """Return the text for a pipe, ASCII but for the names and never cut."""
    return plain_blocks(_blocks(found, view, terminal=False))


def print_inspection(found: Inspection, view: View, console: Console) -> None:
    """Print the text to a terminal."""
    print_blocks(console, _blocks(found, view, terminal=True))


def _blocks(found: Inspection, view: View, *, terminal: bool) -> Iterator[Block]:
    yield from _listing(found, view, terminal=terminal)
    yield Block(lines=tuple(_summary(found)))
    if found.thresholds is not None:
        yield from threshold_blocks(*found.thresholds, view, terminal=terminal)
    if found.drawing is not None:
        yield drawing_block(found.drawing, terminal=terminal)


# --- the tensors


def _listing(found: Inspection, view: View, *, terminal: bool) -> Iterator[Block]:
    entries = found.inside
    if not entries:
        return
    lines = [(entry.name, [entry]) for entry in entries]
    if view.top is None and not view.every and len(entries) > FOLDED_FROM:
        lines = grouped(entries, lambda e: e.name, lambda e: (e.dtype, e.shape))
    cut = largest(lines, lambda line: sum(e.nbytes for e in line[1]), view, terminal=terminal)
    parts = {part: leftover for leftover in found.leftovers for part in leftover.parts}
    rows = [_cells(name, group, parts) for name, group in cut]
    single = all(len(group) == 1 for _, group in cut)
    noted = any(row[-1] for row in rows)
    kept = [i for i, c in enumerate(_COLUMNS) if not (c.title == "tensors" and single) and (c.title != "note" or noted)]
    left = len(entries) - sum(len(group) for _, group in cut)
    lines_left = (f"{left:,} smaller {plural(left, 'tensor')} not shown; --all lists each",) if left else ()
    yield Block("", tuple(_COLUMNS[i] for i in kept), tuple(tuple(row[i] for i in kept) for row in rows), lines_left)


def _cells(name: str, group: Sequence[Entry], parts: dict[str, Leftover]) -> tuple[str, ...]:
    first = group[0]
    zeros = None if any(e.zeros is None for e in group) else sum(e.zeros or 0 for e in group)
    numel = sum(e.numel for e in group)
    return (
        printable(name),
        f"{len(group):,}",
        first.dtype,
        "x".join(map(str, first.shape)) or "scalar",
        f"{numel:,}",
        format_bytes(sum(e.nbytes for e in group)),
        percent(zeros / numel if zeros is not None and numel else None),
        _note(group, parts),
    )


def _note(group: Sequence[Entry], parts: dict[str, Leftover]) -> str:
    odd = sum(e.nonfinite or 0 for e in group)
    kinds = dict.fromkeys(parts[e.name].kind for e in group if e.name in parts)
    aliases = [alias for e in group for alias in e.aliases]
    tied = f"= {printable(aliases[0])}" if len(aliases) == 1 else f"{len(aliases)} more names" if aliases else ""
    notes = [
        f"{odd:,} not finite" if odd else "",
        tied,
        *(kind if kind != PRUNE else "half of a pruned weight" for kind in kinds),
    ]
    return ", ".join(note for note in notes if note)


# --- the summary


def _summary(found: Inspection) -> Iterator[str]:
    size = sum(size for _, size in found.files)
    shards = f" in {len(found.files)} files" if len(found.files) > 1 else ""
    key = f", state_dict under {printable(repr(found.key))}" if found.key else ""
    yield f"file         {printable(found.path)}: {found.format}, {format_bytes(size)}{shards}{key}"
    floats = totals(e for e in found.inside if e.dtype in FLOATS)
    every = totals(found.inside)
    what = "selected" if found.chosen else "floating"
    yield f"{what:<11}  {_count(floats)}, {floats.numel:,} parameters{_zero(floats)}"
    if not found.chosen:
        yield f"all          {_count(every)}, {every.numel:,} parameters, {format_bytes(every.nbytes)}"
        yield _prunable(found)
    yield from _remarks(found)
    yield from (f"note         {printable(fact)}" for fact in found.facts)


def _zero(part: Totals) -> str:
    if not part.numel_read:
        return ""
    odd = f", {part.nonfinite:,} not finite" if part.nonfinite else ""
    if part.sparsity is None:
        return f", {part.zeros:,} of {part.numel_read:,} that were read are zero{odd}"
    return f", {percent(part.sparsity)} zero ({part.zeros:,}){odd}"


def _prunable(found: Inspection) -> str:
    if found.nothing is not None:
        return f"prunable     none without -i: {printable(found.nothing)}"
    taken = totals(found.prunable)
    return (
        f"prunable     {_count(taken)}, {taken.numel:,} weights{_zero(taken)}: what a pruning command takes without -i"
    )


def _remarks(found: Inspection) -> Iterator[str]:
    for entry in [e for e in found.inside if e.aliases][:_NAMED]:
        yield f"tied         {' = '.join(map(printable, (entry.name, *entry.aliases)))}: one tensor, pruned once"
    more = sum(1 for e in found.inside if e.aliases) - _NAMED
    if more > 0:
        yield f"tied         {more:,} more (--json lists all)"
    odd = [f"{printable(e.name)} ({e.nonfinite:,})" for e in found.inside if e.nonfinite]
    if odd:
        yield f"not finite   NaN or infinity in {_listed(odd)}"
    yield from _left_over(found)
    if outside := found.outside:
        size = format_bytes(sum(e.nbytes for e in outside))
        names = _listed([printable(name) for name, _ in grouped(outside, lambda e: e.name, lambda _: None)])
        where = "outside the state_dict, not read"
        yield f"outside      {_count(totals(outside))}, {size} {where}: {names}; --key chooses others"
    if found.things:
        near = sorted(found.things, key=lambda thing: thing[0].count("."))
        names = _listed([f"{printable(name)} = {printable(text)}" for name, text in near])
        what = plural(len(near), "thing that is", "things that are")
        yield f"beside       {len(near):,} {what} no tensor: {names}"
    for what, count in Counter(what for _, what in found.others).items():
        names = _listed([printable(name) for name, kind in found.others if kind == what])
        yield f"other        {count:,} {plural(count, 'entry', 'entries')}, {printable(what)}: {names}"


def _left_over(found: Inspection) -> Iterator[str]:
    for kind, count in Counter(leftover.kind for leftover in found.leftovers).items():
        names = _listed([printable(leftover.name) for leftover in found.leftovers if leftover.kind == kind])
        hint = "; fold them: prune bake CKPT" if kind == PRUNE else ""
        yield f"leftover     {count:,} {plural(count, 'weight')} under {kind}: {names}{hint}"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _count(part: Totals) -> str:
    return f"{part.tensors:,} {plural(part.tensors, 'tensor')}"
