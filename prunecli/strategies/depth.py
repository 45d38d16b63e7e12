"""The depth of each tensor: the position of its layer, counted from the input of the model, by names and order."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_DIGITS = r"[0-9]{1,18}"
"""Longer numbers are text: they are no index of a layer."""


def layer_depths(names: Sequence[str]) -> list[int]:
    """Return for each tensor how many layers come before its own.

    The layer of `model.layers.10.mlp.up_proj.weight` is `model.layers.10`: a name up to its first part that is a
    number. A name without such a part has the layer that its last part belongs to. Layers have the order in which the
    names come, but layers whose names differ in numbers only are ordered by these: 2 comes before 10.
    """
    layers = [_layer(name) for name in names]
    families: dict[str, int] = {}
    for layer in layers:
        families.setdefault(re.sub(_DIGITS, "#", layer), len(families))
    keys = [
        (families[re.sub(_DIGITS, "#", layer)], [int(digits) for digits in re.findall(_DIGITS, layer)])
        for layer in layers
    ]
    depths = {layer: depth for depth, (_, layer) in enumerate(_distinct(sorted(zip(keys, layers, strict=True))))}
    return [depths[layer] for layer in layers]


def _layer(name: str) -> str:
    parts = name.split(".")
    end = next((at for at, part in enumerate(parts) if re.fullmatch(_DIGITS, part)), len(parts) - 2)
    return ".".join(parts[: end + 1]) or name


def _distinct(keyed: Sequence[tuple[object, str]]) -> list[tuple[object, str]]:
    """Return one entry for each layer, in order."""
    return list({layer: (key, layer) for key, layer in keyed}.values())
