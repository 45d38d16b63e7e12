"""Compare two checkpoints: their tensors bit for bit, and their other contents.

    difference = diff("model.pth", "model.pruned.pth")
    print(difference.same, [tensor.name for tensor in difference.tensors if not tensor.same])

Tensors are paired by name, in any container.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prunecli.checkpoint import Keys, PathLike, key_patterns
from prunecli.dtypes import FLOATS
from prunecli.errors import Argument, UsageError
from prunecli.formats.contents import other_contents
from prunecli.formats.registry import format_of
from prunecli.inspection.pairing import TensorForm, open_with_key, pair_up, with_alike_names
from prunecli.selection.select import Selector

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from prunecli.checkpoint import Checkpoint
    from prunecli.inspection.compare import Change
    from prunecli.progress import Progress


@dataclass(frozen=True, slots=True)
class TensorDifference:
    """One tensor: its form in each checkpoint (None if it is not there), and the changes of its entries.

    `change` is None if the entries cannot be compared: the tensor is in one checkpoint only, or its dtype or shape
    differs. `tied_to` names an earlier tensor of the same elements in both checkpoints; counts leave the others out.
    """

    name: str
    a: TensorForm | None
    b: TensorForm | None
    change: Change | None = None
    tied_to: str | None = None

    @property
    def same(self) -> bool:
        """Whether the tensor is the same in both checkpoints, bit for bit."""
        return self.change is not None and not self.change.changed

    @property
    def only_zeros_added(self) -> bool:
        """Whether the tensor differs only in floats that are zero in the second checkpoint, of either sign."""
        pruned = self.change is not None and self.change.changed and not self.change.otherwise
        return bool(pruned) and self.a is not None and self.a.dtype in FLOATS


@dataclass(frozen=True, slots=True)
class ContentDifference:
    """A part of a checkpoint that is no tensor and differs: its name, and a short text for each side or None."""

    name: str
    a: str | None
    b: str | None


@dataclass(frozen=True, slots=True)
class Difference:
    """The difference of two checkpoints, `a` and `b`, and their `formats`.

    `tensors` has every tensor that was compared, in the order of `a`. `contents` has only the other parts that differ.
    `notes` name what was not compared.
    """

    a: str
    b: str
    formats: tuple[str, str]
    tensors: tuple[TensorDifference, ...]
    contents: tuple[ContentDifference, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def same(self) -> bool:
        """Whether no tensor and no other content differs."""
        return not self.contents and all(tensor.same for tensor in self.tensors)

    @property
    def distinct(self) -> tuple[TensorDifference, ...]:
        """The tensors without those that are tied to an earlier one."""
        return tuple(tensor for tensor in self.tensors if tensor.tied_to is None)

    @property
    def only_zeros_added(self) -> bool:
        """Whether the tensors are the same, except for floats that are zero in `b`, of either sign."""
        return all(tensor.same or tensor.only_zeros_added for tensor in self.tensors)


def diff(  # noqa: PLR0913 - one keyword for each option
    a: PathLike,
    b: PathLike,
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    key: Keys = None,
    threads: int = 0,
    labels: tuple[str | None, str | None] = (None, None),
    progress: Progress | None = None,
) -> Difference:
    """Compare the checkpoints at two paths.

    Two containers of one family are compared completely: all tensors, metadata, other entries, records and files. If
    one is a torch file and the other a safetensors file, only the tensors of the state_dicts are compared. The layout
    of a container, the order of its entries and bytes that no tensor uses never count.

    Args:
        a: The first checkpoint: a file, or a directory or index of shards.
        b: The second checkpoint.
        include: Patterns of the tensors to compare. If there is one, nothing but tensors is compared.
        exclude: Patterns of tensors to leave out.
        key: The dotted path of the state_dict in nested checkpoints, or several of them, or globs over them.
        threads: The number of threads, 0 for the number that suits the machine.
        labels: Names of the checkpoints for messages and the result (None: the path).
        progress: A receiver of progress.

    Returns:
        The tensors that were compared, and the other contents that differ.

    Raises:
        UsageError: If `key` is given for two safetensors files, or a list of patterns is one text.
        SelectionError: If a pattern is malformed or matches nothing.
        CheckpointError: If a checkpoint cannot be read or compared.
    """
    selector = Selector(include, exclude)
    first, second = (open_with_key(path, key, label) for path, label in zip((a, b), labels, strict=True))
    formats = [format_of(checkpoint.files[0]) for checkpoint in (first, second)]
    if (keys := key_patterns(key)) and not any(one.nested for one in formats):
        hint = ("drop ", Argument("key", keys[0] if len(keys) == 1 else list(keys)))
        kinds = " and ".join(dict.fromkeys(one.name for one in formats))
        raise UsageError(
            f"neither checkpoint has a key {keys[0]!r}: {'both are' if ' and ' not in kinds else 'they are'} {kinds}",
            hint=hint,
        )
    first, second = with_alike_names(first, second)
    alike = formats[0].family == formats[1].family
    sides = [checkpoint.tensors if alike else checkpoint.inside for checkpoint in (first, second)]
    pairs = pair_up(sides[0], sides[1], selector.include, selector.exclude)
    from prunecli.inspection.compare import compare  # noqa: PLC0415 - NumPy, which an error must not wait for

    changes = compare(first, second, pairs, threads=threads, progress=progress)
    tensors = tuple(TensorDifference(p.name, *p.forms, changes.get(p.name), p.tied_to) for p in pairs)
    contents, notes = ((), ()) if include else _contents(first, second, alike=alike)
    return Difference(
        labels[0] or os.fspath(a), labels[1] or os.fspath(b), (first.format, second.format), tensors, contents, notes
    )


def _contents(a: Checkpoint, b: Checkpoint, *, alike: bool) -> tuple[tuple[ContentDifference, ...], tuple[str, ...]]:
    """Compare everything but tensors; return the differences, and a note on what cannot be compared."""
    if not alike:
        return (), (f"A is {a.format} and B is {b.format}: only the tensors of their state_dicts were compared",)
    notes: tuple[str, ...] = ()
    sides = [other_contents(checkpoint) for checkpoint in (a, b)]
    if a.is_directory != b.is_directory:
        notes = (f"{'A' if a.is_directory else 'B'} is a directory: its other files were not compared",)
        sides = [{name: text for name, text in side.items() if not name.startswith("file ")} for side in sides]
    return tuple(_different(*sides)), notes


def _different(a: dict[str, str], b: dict[str, str]) -> Iterator[ContentDifference]:
    for name in {**a, **b}:
        if a.get(name) != b.get(name):
            yield ContentDifference(name, a.get(name), b.get(name))
