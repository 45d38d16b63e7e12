"""Moving averages (EMA) in a checkpoint, and the weight that each of them belongs to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prunecli.errors import Argument, CheckpointError
from prunecli.layouts.copies import ema_prefixes, is_ema, undotted
from prunecli.text.escape import quoted

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from prunecli.checkpoint import Checkpoint, TensorInfo


def averages_of(checkpoint: Checkpoint) -> dict[str, TensorInfo]:
    """Return the moving average of each weight that has one, by the name of the weight.

    Raises CheckpointError if there is no moving average, or if none can be matched with a weight.
    """
    heads = ema_prefixes([tensor.name for tensor in checkpoint.inside])
    weights = {t.name: t for t in checkpoint.inside if t.name.partition(".")[0] not in heads}
    candidates = [t for t in checkpoint.tensors if t.name not in weights and is_ema(t.name)]
    if not candidates:
        raise CheckpointError(
            f"{checkpoint.path} has no moving averages (EMA)", hint=("keep the model: ", Argument("keep", "model"))
        )
    found = dict(_matched(candidates, weights))
    if not found:
        raise CheckpointError(
            f"no moving average can be matched with a weight by its name: the first is {quoted(candidates[0].name)}",
            hint=("keep them under their own names: ", Argument("keep", [f"{candidates[0].name.partition('.')[0]}.*"])),
        )
    return found


def ema_names(checkpoint: Checkpoint) -> frozenset[str]:
    """Return the names of the moving averages inside the state_dict."""
    inside = [tensor.name for tensor in checkpoint.inside]
    heads = ema_prefixes(inside)
    return frozenset(name for name in inside if name.partition(".")[0] in heads)


def _matched(candidates: Sequence[TensorInfo], weights: dict[str, TensorInfo]) -> Iterator[tuple[str, TensorInfo]]:
    by_spelling: dict[str, str] = {}
    for name in weights:
        for spelling in (name, name.removeprefix("module."), undotted(name), undotted(name.partition(".")[2])):
            by_spelling.setdefault(spelling, name)
    for tensor in candidates:
        found = next((by_spelling[end] for end in _ends(tensor.name) if end in by_spelling), None)
        if found is not None and weights[found].shape == tensor.shape:
            yield found, tensor


def _ends(name: str) -> Iterator[str]:
    """Yield the ends of a dotted name, the longest first; Stable Diffusion writes the last of them without dots."""
    parts = name.split(".")
    for start in range(1, len(parts)):
        yield ".".join(parts[start:])
