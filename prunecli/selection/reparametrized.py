"""What a reparametrisation leaves in a checkpoint: the tensors that stand where a weight should.

Told by names alone, so nothing is read. Knows nothing about files, shapes and printing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

PRUNE = "torch.nn.utils.prune"
SPECTRAL_NORM = "spectral_norm"
WEIGHT_NORM = "weight_norm"
PARAMETRIZATION = "parametrization"
ASP_MASK = "ASP mask"

_PARAMETRIZED = re.compile(r"(?P<module>(?:.*\.)?)parametrizations\.(?P<weight>[^.]+)\.(?P<part>.+)", re.DOTALL)
_ORIGINAL = re.compile(r"original\d*")
_ASP = re.compile(r"(?P<module>(?:.*\.)?)(?:__)?(?P<weight>[^.]+)_mma_mask", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Leftover:
    """A weight that is stored in other terms: what it is called, what did it, and the tensors that hold it.

    `name` is the weight's name, under which a plain model looks for it. `kind` is PRUNE (`x_orig`, `x_mask`),
    SPECTRAL_NORM (`x_orig`, `x_u` and mostly `x_v`), WEIGHT_NORM (`x_g`, `x_v`), PARAMETRIZATION (all of
    `parametrizations.x`) or ASP_MASK (`__x_mma_mask` of NVIDIA's apex; the weight beside it is whole). `parts`
    are the names of the tensors, as they are in the checkpoint.
    """

    name: str
    kind: str
    parts: tuple[str, ...]


def leftovers(names: Sequence[str]) -> tuple[Leftover, ...]:
    """Return what the tensors `names` (unique, in the checkpoint's order) leave over, in the order of first parts."""
    present = frozenset(names)
    found = [*_by_suffix(names, present), *_parametrizations(names), *_asp_masks(names, present)]
    places = {name: place for place, name in enumerate(names)}
    return tuple(sorted(found, key=lambda leftover: places[leftover.parts[0]]))


def _by_suffix(names: Iterable[str], present: Collection[str]) -> Iterator[Leftover]:
    for name in names:
        if weight := _stem(name, "_orig"):
            if f"{weight}_mask" in present:
                yield Leftover(weight, PRUNE, (name, f"{weight}_mask"))
            elif f"{weight}_u" in present:
                yield Leftover(weight, SPECTRAL_NORM, _there(present, name, f"{weight}_u", f"{weight}_v"))
        # torch's weight_norm takes the weight away; a model with all three has names of its own
        elif (weight := _stem(name, "_g")) and f"{weight}_v" in present and weight not in present:
            yield Leftover(weight, WEIGHT_NORM, (name, f"{weight}_v"))


def _stem(name: str, suffix: str) -> str:
    """Return `name` without `suffix`, or "" where it does not end so or nothing of its last part is left."""
    stem = name.removesuffix(suffix)
    return "" if stem == name or not stem or stem.endswith(".") else stem


def _there(present: Collection[str], *names: str) -> tuple[str, ...]:
    return tuple(name for name in names if name in present)


def _parametrizations(names: Iterable[str]) -> Iterator[Leftover]:
    groups: dict[str, list[str]] = {}
    whole: set[str] = set()
    for name in names:
        if match := _PARAMETRIZED.fullmatch(name):
            weight = match["module"] + match["weight"]
            groups.setdefault(weight, []).append(name)
            if _ORIGINAL.fullmatch(match["part"]):
                whole.add(weight)
    yield from (Leftover(weight, PARAMETRIZATION, tuple(groups[weight])) for weight in groups if weight in whole)


def _asp_masks(names: Iterable[str], present: Collection[str]) -> Iterator[Leftover]:
    for name in names:
        if match := _ASP.fullmatch(name):
            saved = name.removesuffix("_mask") + "_pruned_p"  # what apex keeps to restore the pruned weights
            yield Leftover(match["module"] + match["weight"], ASP_MASK, _there(present, name, saved))
