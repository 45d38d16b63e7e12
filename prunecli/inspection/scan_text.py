"""What `scan` found, as text for people and as JSON for programs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from prunecli.inspection.scan import ENOUGH, LADDER, RANKED_AT
from prunecli.text.escape import printable
from prunecli.text.numbers import percent
from prunecli.text.tables import Block, Column, View, largest, plain_blocks, plural, print_blocks
from prunecli.version import __version__

if TYPE_CHECKING:
    from rich.console import Console

    from prunecli.inspection.scan import Scan, SensitivityCurve

SCHEMA = 1
"""The version of the JSON form; it rises when a key goes away or changes its meaning."""

_SHOWN = {50: 1, 70: 5, 80: 0, 90: 0, 95: 4, 99: 6}
"""The sparsities a table has room for; on a narrow terminal the highest numbers give way."""

_COLUMNS = (
    Column("tensor"),
    Column("shape", optional=7),
    Column("weights", right=True, optional=3),
    Column("zero", right=True, optional=2),
    *(Column(f"{sparsity}%", right=True, optional=order) for sparsity, order in _SHOWN.items()),
    Column(f"{ENOUGH:.0%} up to", right=True, optional=2),
)
_NAMED = 3  # tensors that the sentence under the table names


def plain(found: Scan, view: View) -> str:
    """Return the text for a pipe, ASCII but for the names: the tensors that break first on top."""
    return plain_blocks([_block(found, view, terminal=False)])


def print_scan(found: Scan, view: View, console: Console) -> None:
    """Print the text to a terminal."""
    print_blocks(console, [_block(found, view, terminal=True)])


def _block(found: Scan, view: View, *, terminal: bool) -> Block:
    # Those that break first are on top, and stay when there is no room.
    order = {id(curve): len(found.curves) - at for at, curve in enumerate(found.curves)}
    curves = largest(found.curves, lambda curve: order[id(curve)], view, terminal=terminal)
    left = len(found.curves) - len(curves)
    more = (f"{left:,} stronger {plural(left, 'tensor')} not shown; --all lists each",) if left else ()
    return Block(
        "What is left of the sum of squares when each tensor loses its smallest weights",
        _COLUMNS,
        tuple(_cells(curve) for curve in curves),
        (*more, "", *_sentences(found)),
    )


def _cells(curve: SensitivityCurve) -> tuple[str, ...]:
    kept = dict(zip(LADDER, curve.kept, strict=True)) if curve.kept is not None else {}
    return (
        printable(curve.name),
        "x".join(map(str, curve.shape)) or "scalar",
        f"{curve.numel:,}",
        percent(curve.zeros / curve.numel),
        *(percent(kept.get(sparsity)) for sparsity in _SHOWN),
        "-" if curve.bends_at is None else percent(curve.bends_at),
    )


def _sentences(found: Scan) -> list[str]:
    known = [curve for curve in found.curves if curve.kept is not None]
    lines = []
    if known:
        named = ", ".join(f"{printable(c.name)} ({percent(c.strength)})" for c in known[:_NAMED])
        lines.append(f"breaks first  at {RANKED_AT}% sparsity: {named}")
    if len(known) > _NAMED:
        last = known[-1]
        lines.append(f"breaks last   at {RANKED_AT}% sparsity: {printable(last.name)} ({percent(last.strength)})")
    unknown = len(found.curves) - len(known)
    if unknown:
        lines.append(f"-             {unknown:,} {plural(unknown, 'tensor')} all zero, or beyond float64 when squared")
    odd = sum(curve.nonfinite for curve in found.curves)
    if odd:
        lines.append(f"not finite    {odd:,} {plural(odd, 'weight')} (NaN or infinity), part of no sum")
    lines.append("The norm says what weights weigh, not what a model needs: measure the accuracy before you trust it.")
    return lines


def to_json(found: Scan) -> str:
    """Return `found` as JSON (ASCII, finite, stable key order), ending in a line break; what is not known is null."""
    document = {
        "schema": SCHEMA,
        "tool": {"name": "prunecli", "version": __version__},
        "input": {"path": found.path, "format": found.format, "key": found.key},
        "sparsities_percent": LADDER,
        "ranked_at_percent": RANKED_AT,
        "enough": ENOUGH,
        "tensors": [_record(curve) for curve in found.curves],
    }
    return json.dumps(document, indent=1, allow_nan=False).replace("\x7f", "\\u007f") + "\n"


def _record(curve: SensitivityCurve) -> dict[str, object]:
    return {
        "name": curve.name,
        "dtype": curve.dtype,
        "shape": curve.shape,
        "numel": curve.numel,
        "aliases": curve.aliases,
        "zeros": curve.zeros,
        "nonfinite": curve.nonfinite,
        "l2_kept": curve.kept,
        "enough_up_to": curve.bends_at,
    }
