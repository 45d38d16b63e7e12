"""The protocol of a checkpoint format.

A format is one value of `Format` in the module `format.py` of its own package. The functions in it import the reader
and the rewriter when they are called, so that detecting a format imports no reader.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, BinaryIO, TypeAlias

from prunecli.errors import Argument, CheckpointError
from prunecli.io.read_errors import read_errors
from prunecli.text.escape import quoted
from prunecli.values import dataclass

if TYPE_CHECKING:
    from pathlib import Path

    from prunecli.checkpoint import Span
    from prunecli.formats.extras import Extras
    from prunecli.formats.listing import Listing
    from prunecli.io.parts import FilePlan

HEAD = 4096
"""The number of bytes at the start of a file that `Format.detect` receives."""

Detect: TypeAlias = Callable[[bytes], bool]
Read: TypeAlias = "Callable[[BinaryIO, str, Sequence[str]], Listing]"
Contents: TypeAlias = "Callable[[BinaryIO, str, Collection[Span]], Iterable[tuple[str, str]]]"
ReadExtras: TypeAlias = "Callable[[BinaryIO, str, Collection[str]], Extras]"
Rewrite: TypeAlias = "Callable[[BinaryIO, str, Mapping[str, str | None]], FilePlan]"


@dataclass(frozen=True, slots=True)
class Format:
    """A checkpoint format. A `label` names the file in messages; each function may raise CheckpointError.

    Attributes:
        name: The name in reports, also in `Listing.format` and `Checkpoint.format`.
        family: Formats of one family may be shards of one checkpoint, and `contents` can be compared within a family.
        detect: `detect(head)` returns whether a file that begins with `head` (at most HEAD bytes) has this format.
            None for a variant that only the reader of another format can recognize.
        read: `read(file, label, keys)` returns the Listing. `keys` are the paths of the state_dicts or globs over them;
            without any, the state_dict is looked for.
        contents: `contents(file, label, tensor_spans)` yields a name and an identifying text for everything in the
            file that is not a tensor. Bytes in `tensor_spans` are tensor data.
        rewrite: `rewrite(file, label, names)` returns a plan of the file with entries renamed, or removed where the
            new name is None. `names` has full dotted paths. None if the format cannot be rewritten.
        nested: Whether a file can hold several state_dicts under keys.
        extras: `extras(file, label, names)` returns what the file holds besides the tensors with these full dotted
            names, for a conversion. None if a conversion can keep nothing of it; `contents` then lists it.
    """

    name: str
    family: str
    detect: Detect | None
    read: Read
    contents: Contents
    rewrite: Rewrite | None = None
    nested: bool = True
    extras: ReadExtras | None = None


def head_of(path: Path, start: int = 0) -> bytes:
    """Return the first bytes of a file from the byte `start` on; CheckpointError if it cannot be read."""
    with read_errors(path), path.open("rb") as file:
        file.seek(start)
        return file.read(HEAD)


def refuse_keys(file: str, keys: Sequence[str]) -> None:
    """Raise CheckpointError if there are keys; `file` is a clause such as "m.npz is a .npz archive"."""
    if keys:
        raise CheckpointError(
            f"{file}, which has no key {quoted(keys[0])}",
            hint=("leave out ", Argument("key", keys[0] if len(keys) == 1 else list(keys))),
        )
