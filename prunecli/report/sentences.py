"""The sentences of a report: warnings about results, and what is skipped or left as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prunecli.text.escape import listed, printable
from prunecli.text.numbers import plural

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from prunecli.report.model import Row

_NAMED = 5  # names that a warning lists before it counts the rest


def warnings_for(rows: Sequence[Row]) -> tuple[str, ...]:
    """Return a sentence about the tensors that became all zero and one about non-finite weights, if there are any.

    Names are escaped for a terminal. After the first few names the rest are counted.
    """
    wiped = [printable(row.name) for row in rows if row.numel and row.pruned and row.zeros_after == row.numel]
    odd = [row for row in rows if row.nonfinite]
    warnings = []
    if wiped:
        verb = plural(len(wiped), "tensor becomes", "tensors become")
        warnings.append(f"{len(wiped)} {verb} all zero: {listed(wiped, _NAMED)}")
    if odd:
        count = sum(row.nonfinite or 0 for row in odd)
        names = [f"{printable(row.name)} ({row.nonfinite:,})" for row in odd]
        verb = plural(count, "weight is", "weights are")
        warnings.append(f"{count:,} {verb} not finite (NaN or infinity): {listed(names, _NAMED)}")
    return tuple(warnings)


def skipped_names(rows: Iterable[Row]) -> list[tuple[str, list[str]]]:
    """Return the reasons why tensors were not selected, the commonest first, each with their names."""
    names: dict[str, list[str]] = {}
    for row in rows:
        if not row.selected:
            names.setdefault(row.reason or "not selected", []).append(row.name)
    return sorted(names.items(), key=lambda item: -len(item[1]))


def facts_about(others: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    """Return one sentence per kind of entry that is copied unchanged; `others` are (name, kind)."""
    names: dict[str, list[str]] = {}
    for name, kind in others:
        names.setdefault(kind, []).append(printable(name))
    return tuple(f"{len(some):,} left as they are, {kind}: {listed(some, _NAMED)}" for kind, some in names.items())
