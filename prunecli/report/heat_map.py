"""The sparsity of a model with numbered layers as tables: a line for each layer, a column for each kind of tensor."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from prunecli.report.model import Row

LAYERS = 4
"""The fewest layers of a map."""

MAPS, KINDS, LINES = 4, 40, 500
"""The most maps, kinds of a map and layers of a map."""

_NUMBERED = re.compile(r"(?P<stem>(?:[^.]+\.)*?)(?P<layer>[0-9]{1,6})\.(?P<kind>.+)")
_NUMBER = re.compile(r"(?<![^.])[0-9]{1,6}(?![^.])")


@dataclass(frozen=True, slots=True)
class HeatMap:
    """The layers below `stem`: the sparsity (0-1) of each kind in each layer, None where a layer has no such tensor."""

    stem: str
    kinds: tuple[str, ...]
    lines: tuple[tuple[int, tuple[float | None, ...]], ...]


def heat_maps(rows: Iterable[Row]) -> list[HeatMap]:
    """Return a map for each of the stems with the most weights that have enough layers and several kinds.

    The name `model.layers.7.mlp.experts.3.up.weight` is layer 7 below `model.layers`, of the kind
    `mlp.experts.#.up.weight`: further numbers are summed up.
    """
    sums: dict[str, dict[str, dict[int, list[int]]]] = {}
    for row in rows:
        if (found := _NUMBERED.fullmatch(row.name)) and row.zeros_after is not None:
            kind = _NUMBER.sub("#", found["kind"])
            layers = sums.setdefault(found["stem"][:-1], {}).setdefault(kind, {})
            counts = layers.setdefault(int(found["layer"]), [0, 0])
            counts[0] += row.zeros_after
            counts[1] += row.numel
    usable = [(stem, kinds) for stem, kinds in sums.items() if 1 < len(kinds) <= KINDS and _layers(kinds)]
    usable.sort(key=lambda item: -sum(numel for layers in item[1].values() for _, numel in layers.values()))
    return [_heat_map(stem, kinds) for stem, kinds in usable[:MAPS]]


def _layers(kinds: dict[str, dict[int, list[int]]]) -> Sequence[int]:
    """Return the numbers of the layers in order; none if they are too few or too many."""
    layers = sorted({layer for counts in kinds.values() for layer in counts})
    return layers if LAYERS <= len(layers) <= LINES else ()


def _heat_map(stem: str, kinds: dict[str, dict[int, list[int]]]) -> HeatMap:
    lines = [(layer, tuple(_part(counts.get(layer)) for counts in kinds.values())) for layer in _layers(kinds)]
    return HeatMap(stem, tuple(kinds), tuple(lines))


def _part(counts: Sequence[int] | None) -> float | None:
    return counts[0] / counts[1] if counts and counts[1] else None
