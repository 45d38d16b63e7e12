"""How two checkpoints differ: tensor by tensor, entry by entry, bit for bit, and in what is no tensor.

    difference = diff("model.pth", "model.pruned.pth")
    print(difference.same, [tensor.name for tensor in difference.tensors if not tensor.same])

Tensors belong together by name, whatever container each is in. What reads weights is imported when it is needed.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prunecli.checkpoint import OUTSIDE, PathLike
from prunecli.dtypes import FLOATS
from prunecli.errors import UsageError
from prunecli.formats.contents import other_contents
from prunecli.formats.registry import format_of
from prunecli.formats.safetensors.format import SAFETENSORS
from prunecli.inspection.pairing import Kind, open_at, pair_up
from prunecli.io.scan import bytes_to_read
from prunecli.progress import start

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from prunecli.checkpoint import Checkpoint, TensorInfo
    from prunecli.inspection.compare import Change
    from prunecli.progress import Progress


@dataclass(frozen=True, slots=True)
class Compared:
    """One tensor: what it is in each checkpoint (None where it is not there), and how its entries differ.

    `change` is None where the entries do not pair up: the tensor is in one alone, or its dtype or shape differs.
    """

    name: str
    a: Kind | None
    b: Kind | None
    change: Change | None = None

    @property
    def same(self) -> bool:
        """Whether the tensor is the same in both, bit for bit."""
        return self.change is not None and not self.change.changed

    @property
    def only_zeros_added(self) -> bool:
        """Whether it differs, and only in floats that are zero in the second, of either sign."""
        pruned = self.change is not None and self.change.changed and not self.change.otherwise
        return bool(pruned) and self.a is not None and self.a.dtype in FLOATS


@dataclass(frozen=True, slots=True)
class Item:
    """Something beside the tensors that differs, and a short text for it in each; None where it is not there."""

    name: str
    a: str | None
    b: str | None


@dataclass(frozen=True, slots=True)
class Difference:
    """What there is to tell about two checkpoints, `a` and `b`, and their `formats`.

    `tensors` are all that were compared, in the order of `a`; `things` only what differs. `notes` say what was left
    out of the comparison.
    """

    a: str
    b: str
    formats: tuple[str, str]
    tensors: tuple[Compared, ...]
    things: tuple[Item, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def same(self) -> bool:
        """Whether nothing differs."""
        return not self.things and all(tensor.same for tensor in self.tensors)

    @property
    def only_zeros_added(self) -> bool:
        """Whether the tensors are the same but for floats that are zero in `b`, of either sign."""
        return all(tensor.same or tensor.only_zeros_added for tensor in self.tensors)


def diff(  # noqa: PLR0913 - one keyword per question a user may have
    a: PathLike,
    b: PathLike,
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    key: str | None = None,
    threads: int = 0,
    labels: tuple[str | None, str | None] = (None, None),
    progress: Progress | None = None,
) -> Difference:
    """Compare the checkpoints at `a` and `b`.

    `exclude` leaves tensors out and `include` compares only some tensors and nothing beside them; both are
    patterns, see `selection.Rules`. `key` is where the state_dict is in nested ones, `threads` 0 takes as many as
    help, `labels` name the checkpoints in messages, and `progress` receives the progress. Of a torch file and a
    safetensors file, only the tensors of the state_dicts are compared; of two containers of one kind all tensors,
    and what is no tensor. How a container is laid out, the order of its entries and bytes that no tensor looks at
    never count. Raises PruneError, in one of its kinds, for checkpoints that cannot be read and patterns that match
    nothing.
    """
    first, second = (open_at(path, key, label) for path, label in zip((a, b), labels, strict=True))
    if key and first.format == second.format == SAFETENSORS.name:
        raise UsageError(f"neither checkpoint has a key {key!r}: both are safetensors", hint="leave --key out")
    alike = format_of(first).family == format_of(second).family
    sides = [_tensors(side, all_of_them=alike) for side in (first, second)]
    pairs = pair_up(sides[0], sides[1], include, exclude)

    from prunecli.inspection.compare import compare  # noqa: PLC0415  -- NumPy, which an error must not wait for

    both = [(p.name, p.a, p.b) for p in pairs if p.a is not None and p.b is not None and p.kinds[0] == p.kinds[1]]
    advance = start(progress, "comparing", bytes_to_read(tensor for _, *pair in both for tensor in pair))
    changes = compare(first, second, [(x, y) for _, x, y in both], threads=threads, advance=advance)
    found = {name: change for (name, _, _), change in zip(both, changes, strict=True)}
    things, notes = ((), ()) if include else _beside(first, second, alike=alike)
    return Difference(
        labels[0] or os.fspath(a),
        labels[1] or os.fspath(b),
        (first.format, second.format),
        tuple(Compared(pair.name, *pair.kinds, found.get(pair.name)) for pair in pairs),
        things,
        notes,
    )


def _tensors(checkpoint: Checkpoint, *, all_of_them: bool) -> list[TensorInfo]:
    """Return the tensors to compare: of two kinds of container, which hold different things, the state_dicts'."""
    return [tensor for tensor in checkpoint.tensors if all_of_them or tensor.unprunable_reason != OUTSIDE]


def _beside(a: Checkpoint, b: Checkpoint, *, alike: bool) -> tuple[tuple[Item, ...], tuple[str, ...]]:
    """Compare what is no tensor; return what differs, and a note for what could not be compared."""
    if not alike:
        return (), (f"A is {a.format} and B is {b.format}: only the tensors of their state_dicts were compared",)
    notes: tuple[str, ...] = ()
    things = [other_contents(checkpoint) for checkpoint in (a, b)]
    if a.is_directory != b.is_directory:
        notes = (f"{'A' if a.is_directory else 'B'} is a directory: its other files were not compared",)
        things = [{name: text for name, text in side.items() if not name.startswith("file ")} for side in things]
    return tuple(_different(*things)), notes


def _different(a: dict[str, str], b: dict[str, str]) -> Iterator[Item]:
    for name in {**a, **b}:
        if a.get(name) != b.get(name):
            yield Item(name, a.get(name), b.get(name))
