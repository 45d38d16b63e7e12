"""List the tensors of a pickled object: those of its state_dict, and those outside it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from prunecli.checkpoint import MAX_RANK, MAX_SIZE, OUTSIDE
from prunecli.formats.pickle.leaves import unwrapped
from prunecli.formats.pickle.state_dict import UniqueNames, find_leaves

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from prunecli.checkpoint import TensorInfo
    from prunecli.formats.listing import Listing


def dimensions(numbers: Sequence[object]) -> tuple[int, ...]:
    """Return sizes or strides as integers; raise ValueError unless they are possible for a tensor."""
    values = tuple(n for n in numbers if isinstance(n, int) and 0 <= n <= MAX_SIZE)
    if len(values) != len(numbers) or len(values) > MAX_RANK:
        raise ValueError("one of its sizes or strides is negative, too large or not a number")
    return values


def with_tensors(
    listing: Listing,
    root: object,
    label: str,
    key: str | None,
    describe: Callable[[str, object, str | None], TensorInfo | str],
) -> Listing:
    """Return `listing` with the tensors below the symbolic value `root`.

    `describe(name, value, reason)` returns the metadata of one tensor, or the kind of an entry that is not a plain
    tensor. `reason` says why a tensor is not pruned, or is None. Raises CheckpointError as `find_leaves` does.
    """
    leaves = find_leaves(root, label, key)
    names = UniqueNames()
    tensors: list[TensorInfo] = []
    others: list[tuple[str, str]] = []
    for part, reason in ((leaves.inside, None), (leaves.outside, OUTSIDE)):
        for leaf in part:
            name = names.unique(leaf)
            entry = describe(name, unwrapped(leaf.value), reason)
            if isinstance(entry, str):
                others.append((name, entry))
            else:
                tensors.append(entry)
    return replace(
        listing,
        tensors=tuple(tensors),
        key=leaves.key,
        notes=(*listing.notes, *names.notes()),
        unprunable_entries=tuple(others),
    )
