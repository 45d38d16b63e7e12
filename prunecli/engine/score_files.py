"""What weights are ranked by besides their magnitude: scores, activation norms and masks from other files.

They are checkpoints too, opened by the same readers. Here their tensors are matched with those to prune, by name and
shape; nothing here reads a value.
"""

from __future__ import annotations

import os
import shlex
import stat
from contextlib import suppress
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING

from prunecli.checkpoint import PathLike
from prunecli.dtypes import FLOATS, MASK_DTYPES
from prunecli.errors import CheckpointError, PruneError, UsageError
from prunecli.formats.open import open_checkpoint
from prunecli.text.closest import closest
from prunecli.text.escape import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from prunecli.checkpoint import Checkpoint, TensorInfo
    from prunecli.selection.select import Target


MOST_NAMED = 3
"""How many tensors a hint names, to be left out."""


@dataclass(frozen=True, slots=True)
class MatchedTensors:
    """A tensor of another checkpoint for each target, by the target's position; `what` names it in messages."""

    what: str
    checkpoint: Checkpoint
    tensors: Mapping[int, TensorInfo]


@dataclass(frozen=True, slots=True)
class ScoreSources:
    """What replaces or scales the magnitudes (`scores`, `norms`), and which weights are gone already.

    A weight is gone where `mask` is 0, or with `remaining` where it is zero itself: it stays zero, and amounts are
    of what is left. `given` is the mask that the strategy `Mask` prunes by.
    """

    scores: MatchedTensors | None = None
    norms: MatchedTensors | None = None
    mask: MatchedTensors | None = None
    given: MatchedTensors | None = None
    remaining: bool = False

    @property
    def plain(self) -> bool:
        """Whether nothing but the magnitudes counts."""
        return self.scores is None and self.norms is None and not self.has_gone

    @property
    def has_gone(self) -> bool:
        """Whether some weights may be gone already."""
        return self.mask is not None or self.remaining


def scores_for(path: PathLike, targets: Mapping[int, Target]) -> MatchedTensors:
    """Match importance scores: a floating-point tensor of each target's name and shape.

    Raises CheckpointError where one is missing, has another shape, or holds no floating-point numbers.
    """
    found = _matched(path, targets, "scores", lambda shape: shape)
    _refuse_integers(found, targets)
    return found


def norms_for(path: PathLike, targets: Mapping[int, Target]) -> MatchedTensors:
    """Match activation norms: per target, a floating-point vector with a norm for each index of dim 1.

    Raises CheckpointError as `scores_for` does, and where a target has no second dimension.
    """
    for target in targets.values():
        if len(target.tensor.shape) < 2:
            raise CheckpointError(f"{_name(target)} has no input columns to scale by norms", hint="--min-dim 2")
    found = _matched(path, targets, "activation norms", lambda shape: shape[1:2])
    _refuse_integers(found, targets)
    return found


def mask_for(path: PathLike, targets: Mapping[int, Target]) -> MatchedTensors:
    """Match masks: a tensor of zeros and ones of each target's shape, named as it is or with `_mask` behind."""
    found = _matched(path, targets, "mask", lambda shape: shape, "_mask")
    for at, tensor in found.tensors.items():
        if tensor.dtype not in MASK_DTYPES:
            raise CheckpointError(
                f"the {found.what} for {_name(targets[at])} is {tensor.dtype}, not zeros and ones",
                hint="save it with .bool()",
            )
    return found


def open_beside(path: PathLike, kind: str) -> Checkpoint:
    """Open a checkpoint that goes along with the input; what is wrong with it is told with `kind`: "scores"."""
    name = os.fspath(path)
    if name == "-" or _is_stream(name):
        what = "standard input" if name == "-" else printable(name)
        raise CheckpointError(
            f"{kind}: a file is needed to read back and forth in, not {what}",
            hint=f"cat {'' if name == '-' else shlex.quote(printable(name)) + ' '}> FILE, and that FILE instead",
        )
    try:
        return open_checkpoint(path)
    except PruneError as error:
        raise type(error)(f"{kind}: {error}", hint=error.hint_parts) from error


def _is_stream(name: str) -> bool:
    """Tell whether there is a pipe or a device of this name; the reader has words for all else."""
    with suppress(OSError, ValueError):
        mode = Path(name).stat().st_mode
        return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))
    return False


def make_basis(
    targets: Mapping[int, Target],
    *,
    scores: PathLike | None = None,
    act_norms: PathLike | None = None,
    mask_in: PathLike | None = None,
    given: PathLike | None = None,
    of: str = "all",
) -> ScoreSources:
    """Open and match what the user named; UsageError for two answers to one question."""
    if of not in {"all", "remaining"}:
        raise UsageError(f"--of is all or remaining, not {printable(repr(of))}", hint="--of remaining")
    if scores is not None and act_norms is not None:
        raise UsageError("--scores and --act-norms are two answers to one question", hint="--scores FILE")
    if mask_in is not None and of == "remaining":
        raise UsageError("--mask-in and --of remaining are two answers to one question", hint="--mask-in FILE")
    return ScoreSources(
        None if scores is None else scores_for(scores, targets),
        None if act_norms is None else norms_for(act_norms, targets),
        None if mask_in is None else mask_for(mask_in, targets),
        None if given is None else mask_for(given, targets),
        of == "remaining",
    )


def _matched(
    path: PathLike,
    targets: Mapping[int, Target],
    kind: str,
    shape_of: Callable[[tuple[int, ...]], tuple[int, ...]],
    suffix: str = "",
) -> MatchedTensors:
    checkpoint, what = open_beside(path, kind), f"{kind} in {printable(str(path))}"
    tensors = {tensor.name: tensor for tensor in checkpoint.tensors}
    named = {at: _named(tensors, target, suffix) for at, target in targets.items()}
    found = {at: tensor for at, tensor in named.items() if tensor is not None}
    if lacking := [target for at, target in targets.items() if at not in found]:
        raise _lacks(lacking, list(tensors), kind, path)
    for at, tensor in found.items():
        wanted = shape_of(targets[at].tensor.shape)
        if tensor.shape != wanted:
            needed = "a mask" if kind == "mask" else kind
            raise CheckpointError(
                f"{_name(targets[at])} needs {needed} of shape {list(wanted)}, not {list(tensor.shape)} as "
                f"in {printable(str(path))}",
                hint=_without(targets[at]),
            )
    return MatchedTensors(what, checkpoint, found)


def _named(tensors: Mapping[str, TensorInfo], target: Target, suffix: str) -> TensorInfo | None:
    for name in (target.tensor.name, *target.aliases):
        for candidate in (name, name + suffix):
            if candidate in tensors:
                return tensors[candidate]
    return None


def _lacks(lacking: Sequence[Target], names: Sequence[str], kind: str, path: PathLike) -> CheckpointError:
    first, more = lacking[0], f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
    near = closest(first.tensor.name, names)
    like = f", which has {printable(repr(near[0]))}" if near else ""
    return CheckpointError(
        f"no {kind} for {_name(first)}{more} in {printable(str(path))}{like}", hint=_without(*lacking)
    )


def _refuse_integers(beside: MatchedTensors, targets: Mapping[int, Target]) -> None:
    for at, tensor in beside.tensors.items():
        if tensor.dtype not in FLOATS:
            raise CheckpointError(
                f"the {beside.what} for {_name(targets[at])} are {tensor.dtype}, not floating-point numbers",
                hint="save them with .float()",
            )


def _without(*targets: Target) -> str:
    options = [f"-x {shlex.quote(printable(escape(target.tensor.name)))}" for target in targets]
    if len(options) > MOST_NAMED:
        return f"{options[0]}, and so on, leaves tensors as they are; -i PATTERN prunes no others than it matches"
    return f"{' '.join(options)} leaves {'that tensor as it is' if len(options) == 1 else 'those tensors as they are'}"


def _name(target: Target) -> str:
    return printable(repr(target.tensor.name))
