"""Layouts that tensors have because their siblings have them: the same module in other blocks, or in the same block."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from prunecli.layout import SIBLINGS
from prunecli.layouts.names import NUMBER, split_name, starred

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from prunecli.checkpoint import TensorInfo
    from prunecli.layouts.evidence import Orientation

MOST_LIKELY_SEQUENTIAL = 2
"""Proven siblings of one kernel shape that a kernel in a Sequential needs, where modules of all types are mixed."""


def by_siblings(
    open_tensors: Sequence[TensorInfo], proven: Sequence[tuple[TensorInfo, Orientation]]
) -> dict[str, Orientation]:
    """Return the orientation of each of `open_tensors` whose proven siblings all have one and the same.

    Siblings are, in this order: tensors of the same name with other numbers; for matrices those of the same block, then
    those of modules with the same own name; for kernels in a Sequential those with the same kernel shape.
    """
    found: dict[str, Orientation] = {}
    keys = ((_same_name, 1), (_same_block, 1), (_same_module, 1), (_same_sequential, MOST_LIKELY_SEQUENTIAL))
    for key, fewest in keys:
        shared = _shared(proven, key, fewest)
        if not shared:
            continue
        for tensor in open_tensors:
            orientation = shared.get(key(tensor))
            if orientation and tensor.name not in found and tensor.shape[0] % orientation.groups == 0:
                found[tensor.name] = orientation
    return found


def _shared(
    proven: Sequence[tuple[TensorInfo, Orientation]], key: Callable[[TensorInfo], object], fewest: int
) -> Mapping[object, Orientation]:
    """Return the orientation of each group of at least `fewest` tensors of one key, where all of them have the same."""
    groups: dict[object, list[tuple[TensorInfo, Orientation]]] = defaultdict(list)
    for tensor, orientation in proven:
        groups[key(tensor)].append((tensor, orientation))
    groups.pop(None, None)
    return {
        value: _as_sibling(*group[0])
        for value, group in groups.items()
        if len(group) >= fewest and len({(o.outputs, o.inputs, o.groups) for _, o in group}) == 1
    }


def _as_sibling(tensor: TensorInfo, orientation: Orientation) -> Orientation:
    module = tensor.name.rpartition(".")[0]
    name = NUMBER.sub("*", tensor.name if module.isdigit() or not module else module)
    return orientation._replace(evidence=f"{SIBLINGS} {name}")


def _same_name(tensor: TensorInfo) -> object:
    return len(tensor.shape), starred(tensor.name)


def _same_block(tensor: TensorInfo) -> object:
    """Return the block of a matrix: its path up to the last number, or its parent module."""
    path, _ = split_name(tensor.name)
    if len(tensor.shape) != 2 or (path and path[-1].isdigit()):
        return None
    numbered = [index for index, part in enumerate(path) if part.isdigit()]
    block = path[: numbered[-1] + 1] if numbered else path[:-1]
    return NUMBER.sub("*", ".".join(block))


def _same_module(tensor: TensorInfo) -> object:
    """Return the own name of a matrix's module, such as `c_proj`, with that of the matrix."""
    path, last = split_name(tensor.name)
    return (path[-1], last) if len(tensor.shape) == 2 and path and not path[-1].isdigit() else None


def _same_sequential(tensor: TensorInfo) -> object:
    path, _ = split_name(tensor.name)
    if len(tensor.shape) < 3 or not path or not path[-1].isdigit():
        return None
    return ".".join(path[:-1]), tensor.shape[2:]
