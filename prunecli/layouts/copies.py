"""Copies of the weights: moving averages (EMA) and the fp32 masters of trainers, recognised by name."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_EMA = re.compile(
    r"(?<![a-z])shadow_params(?![a-z])|(?<![a-z])ema(?![a-z])|(?<![A-Z])EMA(?![A-Za-z])|(?<![A-Z])Ema(?![a-z])"
)

_MASTERS = (
    r"(^|[._])(fp32_(flat_)?groups(_flat)?|single_partition_of_fp32_groups|fp32_from_\w+|fp32_(flat_)?params?"
    r"|fp32_(flat_)?partitions?|main_params?|(\w+_)?masters?(_(params?|weights?|copy|copies|groups?))?)(\.|$)"
)
"""Names of DeepSpeed, Megatron, apex, Transformer Engine and fused Adam for the copies that an optimizer updates."""


def is_ema(name: str) -> bool:
    """Return whether one of the words in the name or key of a state_dict is `ema`."""
    return _EMA.search(name) is not None


def is_master(name: str) -> bool:
    """Return whether a tensor of this full name is a copy of weights that an optimizer updates in their place."""
    return re.search(_MASTERS, name) is not None


def ema_prefixes(names: Sequence[str]) -> frozenset[str]:
    """Return the first parts of names, such as `model_ema`, that hold an EMA copy of other tensors among `names`.

    Stable Diffusion stores one as `model_ema.*`, without further dots, in the same state_dict as `model.*`.
    """
    heads = {head for head in {name.partition(".")[0] for name in names} if is_ema(head)}
    if not heads:
        return frozenset()
    copies: dict[str, list[str]] = {}
    others: set[str] = set()
    for name in names:
        head, _, rest = name.partition(".")
        if rest and head in heads:
            copies.setdefault(head, []).append(undotted(rest))
        else:
            others.update((undotted(name), undotted(rest)))
    return frozenset(head for head, own in copies.items() if 2 * len(others.intersection(own)) >= len(own))


def undotted(name: str) -> str:
    """Return a name without its dots, as Stable Diffusion spells the names of its averages."""
    return name.replace(".", "")
