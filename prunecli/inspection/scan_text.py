"""The result of `scan` as text and as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, TextIO

from prunecli.inspection.scan import ENOUGH, RANKED_AT
from prunecli.inspection.thresholds import SPARSITIES
from prunecli.text.escape import printable
from prunecli.text.json import dump_json
from prunecli.text.numbers import counted, format_shape, percent, plural
from prunecli.text.tables import Block, Column, View, largest, write_blocks
from prunecli.version import __version__

if TYPE_CHECKING:
    from prunecli.inspection.scan import Scan, SensitivityCurve

SCHEMA = 1
"""The version of the document. It rises when a key is removed or changes its meaning."""

CAVEAT = "Norms are only a proxy. Evaluate the pruned model before you rely on this."
"""The sentence below the numbers."""

_SHOWN = {50: 1, 70: 5, 80: 0, 90: 0, 95: 4, 99: 6}
"""The sparsities in the table, in percent. On a narrow terminal those with the highest numbers are left out."""

_COLUMNS = (
    Column("tensor", fold=12),
    Column("shape", optional=7),
    Column("weights", right=True, optional=3),
    Column("zero", right=True, optional=2),
    *(Column(f"{sparsity}%", right=True, optional=order) for sparsity, order in _SHOWN.items()),
    Column(f"{ENOUGH:.0%} up to", right=True, optional=2),
)
_NAMED = 3  # tensors that the summary names


def write_scan(scan: Scan, stream: TextIO, view: View) -> None:
    """Write a summary and a table of the tensors, the most sensitive first."""
    summary = Block("", lines=tuple(_summary(scan)))
    write_blocks([summary, _block(scan, view, terminal=stream.isatty())], stream)


def _block(scan: Scan, view: View, *, terminal: bool) -> Block:
    # A cut table keeps the most sensitive tensors, which come first.
    curves = largest(scan.curves, lambda curve: -curve.strength, view, terminal=terminal)
    hidden = len(scan.curves) - len(curves)
    more = (f"{counted(hidden, 'less sensitive tensor')} not shown{view.hint}",) if hidden else ()
    return Block(
        "The part of each tensor's sum of squares that remains when its smallest weights become zero",
        _COLUMNS,
        tuple(map(_cells, curves)),
        more,
    )


def _cells(curve: SensitivityCurve) -> tuple[str, ...]:
    kept = dict(zip(SPARSITIES, curve.kept, strict=True)) if curve.kept is not None else {}
    return (
        printable(curve.name),
        format_shape(curve.shape),
        f"{curve.numel:,}",
        percent(curve.zeros / curve.numel),
        *(percent(kept.get(sparsity)) for sparsity in _SHOWN),
        percent(curve.bends_at),
    )


def _summary(scan: Scan) -> list[str]:
    known = [curve for curve in scan.curves if curve.kept is not None]
    lines = []
    if known:
        names = ", ".join(f"{printable(c.name)} ({percent(c.strength)})" for c in known[:_NAMED])
        lines.append(f"most sensitive   at {RANKED_AT}% sparsity: {names}")
    if len(known) > _NAMED:
        last = known[-1]
        lines.append(f"least sensitive  at {RANKED_AT}% sparsity: {printable(last.name)} ({percent(last.strength)})")
    unknown = len(scan.curves) - len(known)
    if unknown:
        verb = plural(unknown, "is", "are")
        lines.append(f"-                {counted(unknown, 'tensor')} {verb} all zero or too large to square in float64")
    odd = sum(curve.nonfinite for curve in scan.curves)
    if odd:
        lines.append(f"not finite       {counted(odd, 'weight')} (NaN or infinity), not included in the sums")
    return [*lines, CAVEAT]


def to_json(scan: Scan) -> str:
    """Return the result as JSON (ASCII, finite, stable key order), ending in a line break; unknown values are null."""
    return dump_json(
        {
            "schema": SCHEMA,
            "tool": {"name": "prunecli", "version": __version__},
            "input": {
                "path": scan.path,
                "format": scan.format,
                "key": scan.keys[0] if len(scan.keys) == 1 else "",
                "keys": scan.keys,
            },
            "sparsities_percent": SPARSITIES,
            "ranked_at_percent": RANKED_AT,
            "enough": ENOUGH,
            "tensors": [_record(curve) for curve in scan.curves],
        }
    )


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
