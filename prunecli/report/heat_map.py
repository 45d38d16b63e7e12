"""A number of each tensor of a model with layers as a table: a line per layer, a column per kind of tensor."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

LAYERS = 4
"""The fewest layers of a map."""

MAPS, KINDS, LINES = 4, 40, 500
"""The most maps, kinds of a map and layers of a map."""

_NUMBERED = re.compile(r"(?P<stem>(?:[^.]+\.)*?)(?P<layer>[0-9]{1,6})\.(?P<kind>.+)")
_NUMBER = re.compile(r"(?<![^.])[0-9]{1,6}(?![^.])")


@dataclass(frozen=True, slots=True)
class HeatMap:
    """The layers below `stem`: the part (0-1) of each kind in each layer, None where a layer has no such tensor.

    `low` and `high` are the smallest and the largest part.
    """

    stem: str
    kinds: tuple[str, ...]
    lines: tuple[tuple[int, tuple[float | None, ...]], ...]
    low: float
    high: float

    def heat(self, part: float) -> int:
        """Return the strength of the colour of `part`: 1 for the lowest, 10 for the highest."""
        return 1 + round(9 * (part - self.low) / (self.high - self.low)) if self.high > self.low else 5


def heat_maps(parts: Iterable[tuple[str, float, int]]) -> list[HeatMap]:
    """Return a map for each of the stems with the most weights that have enough layers and several kinds.

    `parts` are the name of each tensor, an amount, and the number of its weights; a map has amounts per weight.

    The name `model.layers.7.mlp.experts.3.up.weight` is layer 7 below `model.layers`, of the kind
    `mlp.experts.#.up.weight`: further numbers are summed up.
    """
    sums: dict[str, dict[str, dict[int, list[float]]]] = {}
    for name, amount, numel in parts:
        if found := _NUMBERED.fullmatch(name):
            kind = _NUMBER.sub("#", found["kind"])
            layers = sums.setdefault(found["stem"][:-1], {}).setdefault(kind, {})
            counts = layers.setdefault(int(found["layer"]), [0, 0])
            counts[0] += amount
            counts[1] += numel
    usable = [(stem, kinds) for stem, kinds in sums.items() if 1 < len(kinds) <= KINDS and _layers(kinds)]
    usable.sort(key=lambda item: -sum(numel for layers in item[1].values() for _, numel in layers.values()))
    return [_heat_map(stem, kinds) for stem, kinds in usable[:MAPS]]


def _layers(kinds: dict[str, dict[int, list[float]]]) -> Sequence[int]:
    """Return the numbers of the layers in order; none if they are too few or too many."""
    layers = sorted({layer for counts in kinds.values() for layer in counts})
    return layers if LAYERS <= len(layers) <= LINES else ()


def _heat_map(stem: str, kinds: dict[str, dict[int, list[float]]]) -> HeatMap:
    lines = [(layer, tuple(_part(counts.get(layer)) for counts in kinds.values())) for layer in _layers(kinds)]
    parts = [part for _, line in lines for part in line if part is not None] or [0.0]
    return HeatMap(stem, tuple(kinds), tuple(lines), min(parts), max(parts))


def _part(counts: Sequence[float] | None) -> float | None:
    return counts[0] / counts[1] if counts and counts[1] else None
