"""Reparametrised weights: tensors that a checkpoint holds in place of a weight, recognised by name.

torch and apex store pruned, normalised and parametrised weights as several tensors. This module finds them and says
why a tensor is not a weight of its own. It knows names alone: no shape and no file.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from prunecli.text.escape import printable
from prunecli.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

PRUNE = "torch.nn.utils.prune"
SPECTRAL_NORM = "spectral_norm"
WEIGHT_NORM = "weight_norm"
PARAMETRIZATION = "parametrization"
ASP_MASK = "ASP mask"

PRUNED_HALF = "half of a weight under torch.nn.utils.prune (weight_orig * weight_mask): fold it first"
"""The reason to skip a tensor that torch stores with its mask."""

NOT_BY_NAME = "not a weight by name"
"""The reason to skip a tensor without `weight` in its name."""

REMOVE = (
    "where the model is made, call torch.nn.utils.prune.remove(module, 'weight') for each module that has weight_orig, "
    "then save again"
)
"""The hint for a weight with a mask that cannot be folded in the file."""

BARE = "tensor"
"""The name of a tensor that is saved alone, without a dict."""

NAMELESS = re.compile(rf"{BARE}|(.*\.)?shadow_params\.\d+|\d+(\.\d+)*|arr_\d+", re.DOTALL)
"""Names of tensors that have none: a bare tensor, the elements of a list, arguments of numpy.savez. They are weights.

`shadow_params` is the list of the averaged weights in torch_ema and in diffusers.
"""

_FOLDS = {
    SPECTRAL_NORM: "torch.nn.utils.remove_spectral_norm(module{})",
    WEIGHT_NORM: "torch.nn.utils.remove_weight_norm(module{})",
    PARAMETRIZATION: "torch.nn.utils.parametrize.remove_parametrizations(module, {!r})",
}
"""The calls that fold a reparametrised weight, by kind."""

_SUFFIXES = (
    ("_g", "a magnitude of weight_norm, not a weight"),
    ("_u", "a vector of spectral_norm, not a weight"),
    ("_v", "a direction of weight_norm or a vector of spectral_norm, not a weight"),
    ("_zero_point", "a zero point, not a weight"),
)
"""Endings of names that have `weight` in them, and the reason to skip such a tensor."""

_MOST_CALLS = 3  # calls that a hint names

_PARAMETRIZED = r"(?s)(?P<module>(?:.*\.)?)parametrizations\.(?P<weight>[^.]+)\.(?P<part>.+)"
_ORIGINAL = r"original\d*"
_ASP = r"(?s)(?P<module>(?:.*\.)?)(?:__)?(?P<weight>[^.]+)_mma_mask"


@dataclass(frozen=True, slots=True)
class Leftover:
    """The tensors that hold one reparametrised weight.

    Attributes:
        name: The name under which a plain model looks for the weight.
        kind: PRUNE (`x_orig`, `x_mask`), SPECTRAL_NORM (`x_orig`, `x_u` and mostly `x_v`), WEIGHT_NORM (`x_g`,
            `x_v`), PARAMETRIZATION (all of `parametrizations.x`) or ASP_MASK (`__x_mma_mask` of NVIDIA's apex, which
            stores the weight itself too).
        parts: The names of the tensors in the checkpoint.
    """

    name: str
    kind: str
    parts: tuple[str, ...]


def leftovers(names: Sequence[str]) -> tuple[Leftover, ...]:
    """Return the reparametrised weights among tensors of these unique names, in the order of their first parts."""
    present = frozenset(names)
    weights = [*_by_suffix(names, present), *_parametrizations(names), *_asp_masks(names, present)]
    order = {name: index for index, name in enumerate(names)}
    return tuple(sorted(weights, key=lambda leftover: order[leftover.parts[0]]))


def why_not_a_weight(name: str, names: Collection[str]) -> str | None:
    """Return the reason why a tensor of this name is not a weight; None if it is. `names` are all tensors' names.

    A weight has `weight` or `weights` as a word, between underscores, in the last part of its dotted name.
    """
    *path, last = name.split(".")
    if last == "weight" or NAMELESS.fullmatch(name):  # no rule below is about the name that nearly all have
        return None
    if "parametrizations" in path and last.startswith("original"):
        return "part of a parametrization, not the weight itself: fold it first"
    if last.endswith(("_orig", "_mask")):
        return _why_leftover(name, names)
    if not {"weight", "weights"} & set(last.split("_")):
        return NOT_BY_NAME
    if "_scale" in last:
        return "a scale, not a weight"
    return next((why for suffix, why in _SUFFIXES if last.endswith(suffix)), None)


def how_to_fold(weights: Iterable[Leftover]) -> str | None:
    """Return the calls in Python that fold `weights`, as a hint; None if there is no weight to fold."""
    calls = list(dict.fromkeys(filter(None, map(fold_call, weights))))[:_MOST_CALLS]
    return (
        f"where the model is made, call {' and '.join(calls)} for each such module, then save again" if calls else None
    )


def fold_call(weight: Leftover) -> str | None:
    """Return the call in Python that folds one weight, or None if there is none."""
    if weight.kind not in _FOLDS:
        return None
    attribute = printable(weight.name.rpartition(".")[2])
    if weight.kind != PARAMETRIZATION:
        attribute = "" if attribute == "weight" else f", {attribute!r}"
    return _FOLDS[weight.kind].format(attribute)


def _why_leftover(name: str, names: Collection[str]) -> str:
    stem = name[:-5]
    if f"{stem}_orig" in names and f"{stem}_mask" in names:
        return PRUNED_HALF
    if f"{stem}_orig" in names and f"{stem}_u" in names:
        return "a weight under spectral_norm (weight_orig, weight_u, weight_v): fold it first"
    return "a mask, not a weight" if name.endswith("_mask") else "a reparametrised weight: fold it first"


def _by_suffix(names: Iterable[str], present: Collection[str]) -> Iterator[Leftover]:
    for name in names:
        if weight := _stem(name, "_orig"):
            if f"{weight}_mask" in present:
                yield Leftover(weight, PRUNE, (name, f"{weight}_mask"))
            elif f"{weight}_u" in present:
                yield Leftover(weight, SPECTRAL_NORM, _present(present, name, f"{weight}_u", f"{weight}_v"))
        # weight_norm removes the weight itself, so a model that has all three uses these names for something else.
        elif (weight := _stem(name, "_g")) and f"{weight}_v" in present and weight not in present:
            yield Leftover(weight, WEIGHT_NORM, (name, f"{weight}_v"))


def _stem(name: str, suffix: str) -> str:
    """Return `name` without `suffix`, or "" if it ends otherwise or its last part is the suffix alone."""
    stem = name.removesuffix(suffix)
    return "" if stem == name or not stem or stem.endswith(".") else stem


def _present(present: Collection[str], *names: str) -> tuple[str, ...]:
    return tuple(name for name in names if name in present)


def _parametrizations(names: Iterable[str]) -> Iterator[Leftover]:
    groups: dict[str, list[str]] = {}
    complete: set[str] = set()
    for name in names:
        if match := re.fullmatch(_PARAMETRIZED, name):
            weight = match["module"] + match["weight"]
            groups.setdefault(weight, []).append(name)
            if re.fullmatch(_ORIGINAL, match["part"]):
                complete.add(weight)
    yield from (Leftover(weight, PARAMETRIZATION, tuple(groups[weight])) for weight in groups if weight in complete)


def _asp_masks(names: Iterable[str], present: Collection[str]) -> Iterator[Leftover]:
    for name in names:
        if match := re.fullmatch(_ASP, name):
            saved = name.removesuffix("_mask") + "_pruned_p"  # apex's copy of the pruned weights, to restore them
            yield Leftover(match["module"] + match["weight"], ASP_MASK, _present(present, name, saved))
