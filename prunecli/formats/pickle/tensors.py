"""List the tensors of a pickled object: those of its state_dict, and those outside it."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING

from prunecli.checkpoint import MAX_RANK, MAX_SIZE, OUTSIDE, TensorInfo, row_major
from prunecli.errors import CheckpointError
from prunecli.formats.pickle.state_dict import find_leaves

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from prunecli.formats.listing import Listing


_HUGE = 1 << 40  # elements; a stride that has an effect stays inside its storage


def dimensions(numbers: Sequence[object]) -> tuple[int, ...]:
    """Return sizes or strides as integers; raise ValueError unless they are possible for a tensor."""
    # A bool is an int in Python, but no loader takes it for a size.
    values = tuple(n for n in numbers if type(n) is int and 0 <= n <= MAX_SIZE)
    if len(values) != len(numbers) or len(values) > MAX_RANK:
        raise ValueError("one of its sizes or strides is negative, too large or not a number")
    return values


def usual_strides(shape: tuple[int, ...], strides: tuple[int, ...]) -> tuple[int, ...]:
    """Return the strides with huge ones that have no effect replaced: array libraries cannot count them in bytes."""
    if 0 not in shape and 1 not in shape:
        return strides
    usual = row_major(shape)
    unused = (0 in shape or n == 1 for n in shape)
    return tuple(u if no and s > _HUGE else s for no, s, u in zip(unused, strides, usual, strict=True))


def check_size(shape: tuple[int, ...]) -> None:
    """Raise ValueError if a tensor has more elements than loaders can count, as an expanded view may."""
    if prod(max(n, 1) for n in shape) > MAX_SIZE:
        raise ValueError("it has too many elements")


def with_tensors(
    listing: Listing,
    root: object,
    label: str,
    keys: Sequence[str],
    describe: Callable[[str, object], TensorInfo | str],
    length: int = 0,
) -> Listing:
    """Return `listing` with the tensors below the symbolic value `root`.

    `keys` are the keys of the state_dicts or globs over them. `describe(name, value)` returns the metadata of one leaf,
    or its kind if it is not a plain tensor. `length` is that of the pickle, in bytes. Raises CheckpointError as
    `find_leaves` does.
    """
    result = find_leaves(root, label, keys, lambda leaf: _shape(describe, leaf), length)
    leaves = (*result.inside, *result.outside)
    names = _unique(leaf.name for leaf in leaves)
    tensors: list[TensorInfo] = []
    others: list[tuple[str, str]] = []
    for index, (name, leaf) in enumerate(zip(names, leaves, strict=True)):
        entry = describe(name, leaf.value)
        if isinstance(entry, str):
            others.append((name, entry))
        else:
            outside = index >= len(result.inside)
            reason = OUTSIDE if outside else entry.unprunable_reason
            tensors.append(replace(entry, unprunable_reason=reason, key=leaf.key) if outside or leaf.key else entry)
    repeated = [name for name, leaf in zip(names, leaves, strict=True) if name != leaf.name]
    notes = (*listing.notes, *_note_on_repeated(repeated))
    return replace(
        listing,
        tensors=tuple(tensors),
        keys=result.keys,
        parts=result.parts,
        notes=notes,
        unprunable_entries=tuple(others),
        is_module=result.is_module,
    )


def _shape(describe: Callable[[str, object], TensorInfo | str], leaf: object) -> tuple[int, ...] | None:
    """Return the shape of a leaf, or None for one that is not a plain tensor, or damaged: its listing says so later."""
    try:
        entry = describe("", leaf)
    except CheckpointError:
        return None
    return entry.shape if isinstance(entry, TensorInfo) else None


def _unique(names: Iterable[str]) -> list[str]:
    """Return `names` with a number at the end of each that occurred before: a key may contain dots or `#2` itself."""
    times: dict[str, int] = {}
    unique = []
    for name in names:
        numbered = name
        while numbered in times:
            times[name] += 1
            numbered = f"{name}#{times[name]}"
        times[numbered] = 1
        unique.append(numbered)
    return unique


def _note_on_repeated(names: Sequence[str]) -> tuple[str, ...]:
    """Return a sentence about the numbered names, or nothing if there are none."""
    if not names:
        return ()
    more = f" and {len(names) - 1:,} more" if names[1:] else ""
    return (f"two tensors have the same name: the second is listed as {names[0]!r}{more}",)
