"""The layout that a user asks for, and the plan of the output if that is not the layout of the input."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from prunecli.errors import Argument, UsageError
from prunecli.values import dataclass

if TYPE_CHECKING:
    from prunecli.checkpoint import Checkpoint, PathLike
    from prunecli.conversion.arrange import Converted
    from prunecli.conversion.stripping import Stripped
    from prunecli.strategies.strip import Strip


@dataclass(frozen=True, slots=True)
class Layout:
    """What a user asks for besides the path of the output.

    Attributes:
        max_shard_size: The most bytes of a shard, as a number or as "5GB"; None for one file, or as in the input.
        untie: Whether tied names get tensors of their own.
        drop_rest: Whether what the new format cannot hold is left out.
        format: "safetensors" or "torch", for an output without a suffix.
        strip: What is dropped besides, or None.
    """

    max_shard_size: str | int | None = None
    untie: bool = False
    drop_rest: bool = False
    format: str | None = None
    strip: Strip | None = None


def converted_output(
    checkpoint: Checkpoint,
    output: PathLike | int | None,
    layout: Layout,
    *,
    in_place: bool = False,
    own: bool = True,
    stripped: Stripped | None = None,
) -> Converted | None:
    """Return the plan of an output with a new layout, or None if it has that of the input.

    `own` is whether it may have that of the input; what is `stripped` never has it. Raises PruneError if the output
    cannot be written so.
    """
    if own and stripped is None and layout == Layout() and not isinstance(output, (str, Path)):
        return None
    from prunecli.conversion.target import own_target, target_of

    folder = isinstance(output, str) and output.endswith("/")
    path = output if output is None or isinstance(output, int) else Path(output)
    if in_place and layout.max_shard_size is not None:
        raise UsageError("shards cannot replace their input", hint=Argument("output", "DIRECTORY"))
    if in_place and layout.format is not None:
        hint = ("leave out ", Argument("format", layout.format))
        raise UsageError("a file that is replaced keeps its format", hint=hint)
    target = target_of(
        checkpoint,
        path,
        folder=folder,
        max_shard_size=layout.max_shard_size,
        own=own,
        format_=layout.format,
    )
    if target is None and stripped is None:
        _refuse_unused(layout)
        return None
    from prunecli.conversion.arrange import Choices, converted, stripped_to

    target = target or own_target(checkpoint)
    named = path if isinstance(path, Path) else checkpoint.path if in_place else None
    if stripped is not None:
        return stripped_to(checkpoint, stripped, target, named, Choices(untie=layout.untie, drop_rest=True))
    return converted(checkpoint, target, named, Choices(untie=layout.untie, drop_rest=layout.drop_rest))


def _refuse_unused(layout: Layout) -> None:
    """Raise UsageError for choices about a new layout where the output has that of the input."""
    for name in ("untie", "drop_rest"):
        if getattr(layout, name):
            message = f"{name} has no effect: the output has the format and the files of the input"
            raise UsageError(message, hint=("leave out ", Argument(name, True)))
