"""Scores, activation norms and masks from other files, matched with the tensors to prune.

The files are checkpoints too, opened by the same readers. Tensors are matched by name and shape; no value is read.
"""

from __future__ import annotations

import os
import shlex
import stat
from contextlib import suppress
from dataclasses import field
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING

from prunecli.checkpoint import PathLike
from prunecli.dtypes import FLOATS, MASK_DTYPES
from prunecli.engine.mask_files import FoundMasks, masks_in
from prunecli.errors import Argument, CheckpointError, PruneError, UsageError
from prunecli.formats.open import open_checkpoint
from prunecli.selection.notices import other_order
from prunecli.text.closest import closest
from prunecli.text.escape import printable
from prunecli.text.nearest import nearest_choice
from prunecli.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from prunecli.checkpoint import Checkpoint, TensorInfo
    from prunecli.errors import Hint
    from prunecli.selection.select import Target

MOST_NAMED = 3
"""The most tensors that a hint names."""

NORMS, MASK = "activation norms", "mask"
"""The labels of norms and masks in messages."""


@dataclass(frozen=True, slots=True)
class ScoreInputs:
    """The files that a run reads besides the checkpoint, as `prunecli.prune` takes them."""

    scores: PathLike | None = None
    act_norms: PathLike | None = None
    mask_in: PathLike | None = None
    of: str = "all"

    def describe(self) -> dict[str, str]:
        """Return the inputs that are set, for the report."""
        paths = {"scores": self.scores, "act_norms": self.act_norms, "mask_in": self.mask_in}
        result = {name: str(path) for name, path in paths.items() if path is not None}
        return result if self.of == "all" else {**result, "of": self.of}


@dataclass(frozen=True, slots=True)
class MatchedTensors:
    """A tensor of another checkpoint for each target, by the target's position; `label` names them in messages.

    Of masks that are stored as bits, `bits` are the bytes. `base` has the SHA-256 of the weights that masks were made
    of.
    """

    label: str
    checkpoint: Checkpoint
    tensors: Mapping[int, TensorInfo]
    bits: Mapping[int, TensorInfo] = field(default_factory=dict)
    base: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ScoreSources:
    """The files that replace magnitudes (`scores`), scale them (`norms`) or exclude weights (`mask`).

    Weights whose `mask` is 0, or with `remaining` weights that are zero, are already pruned: they stay zero, and
    amounts are fractions of the other weights. `strategy_mask` is the mask file of the strategy itself.
    """

    scores: MatchedTensors | None = None
    norms: MatchedTensors | None = None
    mask: MatchedTensors | None = None
    strategy_mask: MatchedTensors | None = None
    remaining: bool = False

    @property
    def has_pruned(self) -> bool:
        """Whether some weights may be already pruned."""
        return self.mask is not None or self.remaining


def match_scores(path: PathLike, targets: Mapping[int, Target]) -> MatchedTensors:
    """Match importance scores: a floating-point tensor of each target's name and shape.

    Raises CheckpointError where one is missing, has another shape, or is not a floating-point tensor.
    """
    scores = _match(path, targets, "scores", _same_shape)
    _refuse_integers(scores, targets)
    return scores


def match_norms(path: PathLike, targets: Mapping[int, Target]) -> MatchedTensors:
    """Match activation norms: for each target a floating-point vector with a norm for each input.

    Of stacked experts, each expert may have norms of its own. Raises CheckpointError as `match_scores` does, and where
    a target has no inputs.
    """
    for target in targets.values():
        if target.tensor.layout.inputs is None:
            raise CheckpointError(
                f"{_name(target)} has no inputs to scale by norms",
                hint=Argument("min_dim", 2) if len(target.tensor.shape) < 2 else _exclude(target),
            )
    norms = _match(path, targets, NORMS, _norm_shapes)
    _refuse_integers(norms, targets)
    return norms


def _norm_shapes(tensor: TensorInfo) -> _Shapes:
    layout, shape = tensor.layout, tensor.shape
    inputs = layout.inputs or 0
    vector = (shape[inputs],)
    shapes = (vector,) if layout.experts is None else (vector, (shape[0], *vector))
    return _Shapes(shapes, f" for its {layout.dim_words(inputs)}")


def match_masks(path: PathLike, targets: Mapping[int, Target]) -> MatchedTensors:
    """Match masks: a tensor of zeros and ones of each target's name, or name and `_mask`, and shape.

    Raises CheckpointError where one is missing, has another shape, or has a dtype that masks cannot have.
    """
    masks = _match(path, targets, MASK, _same_shape)
    for index, tensor in masks.tensors.items():
        if tensor.dtype not in MASK_DTYPES:
            raise CheckpointError(
                f"the {masks.label} for {_name(targets[index])} is {tensor.dtype}, not zeros and ones",
                hint="save it with .bool()",
            )
    return masks


def open_side_input(path: PathLike, label: str) -> Checkpoint:
    """Open a checkpoint that is read along with the input; errors start with `label`, such as "scores"."""
    name = os.fspath(path)
    if name == "-" or _is_stream(name):
        stream = "standard input" if name == "-" else printable(name)
        source = "" if name == "-" else f"{shlex.quote(printable(name))} "
        raise CheckpointError(
            f"{label}: this needs a file that can be read in any order, not {stream}",
            hint=f"cat {source}> FILE, then pass FILE",
        )
    try:
        return open_checkpoint(path)
    except PruneError as error:
        raise type(error)(f"{label}: {error}", hint=error.hint_parts) from error


def _is_stream(name: str) -> bool:
    """Return whether there is a pipe or a device of this name. All other errors are left to the reader."""
    with suppress(OSError, ValueError):
        # Not opened: that would wait until another program writes to the pipe.
        mode = Path(name).stat().st_mode
        return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))
    return False


def open_score_sources(
    targets: Mapping[int, Target], inputs: ScoreInputs, strategy_mask: PathLike | None = None
) -> ScoreSources:
    """Open the files and match their tensors with `targets`, which are keyed by their positions.

    Raises UsageError for inputs that exclude each other, and CheckpointError for a file that does not match.
    """
    if inputs.of not in {"all", "remaining"}:
        raise UsageError(
            f"amounts are of all or of remaining weights, not of {printable(repr(inputs.of))}",
            hint=Argument("of", nearest_choice(inputs.of, ("remaining", "all"), "remaining")),
        )
    if inputs.scores is not None and inputs.act_norms is not None:
        raise UsageError("scores and activation norms cannot be combined", hint="give one of them")
    if inputs.mask_in is not None and inputs.of == "remaining":
        raise UsageError(
            "an input mask already says which weights remain",
            hint=("leave out ", Argument("of", "remaining"), " or the mask"),
        )
    return ScoreSources(
        None if inputs.scores is None else match_scores(inputs.scores, targets),
        None if inputs.act_norms is None else match_norms(inputs.act_norms, targets),
        None if inputs.mask_in is None else match_masks(inputs.mask_in, targets),
        None if strategy_mask is None else match_masks(strategy_mask, targets),
        inputs.of == "remaining",
    )


@dataclass(frozen=True, slots=True)
class _Shapes:
    """The shapes that a tensor of another file may have, and words for what they follow from."""

    accepted: tuple[tuple[int, ...], ...]
    reason: str = ""

    def __str__(self) -> str:
        return " or ".join(str(list(shape)) for shape in self.accepted) + self.reason


def _same_shape(tensor: TensorInfo) -> _Shapes:
    return _Shapes((tensor.shape,))


def _match(
    path: PathLike,
    targets: Mapping[int, Target],
    label: str,
    shapes_of: Callable[[TensorInfo], _Shapes],
) -> MatchedTensors:
    """Return the tensor of each target; `shapes_of` returns the shapes that it may have."""
    checkpoint = open_side_input(path, label)
    found = masks_in(checkpoint) if label == MASK else FoundMasks({t.name: t for t in checkpoint.tensors})
    by_name, suffix = found.tensors, "_mask" if label == MASK else ""
    named = {index: _named(by_name, target, suffix) for index, target in targets.items()}
    tensors = {index: tensor for index, tensor in named.items() if tensor is not None}
    if missing := [target for index, target in targets.items() if index not in tensors]:
        raise _missing(missing, list(by_name), label, path)
    for index, tensor in tensors.items():
        shapes = shapes_of(targets[index].tensor)
        if tensor.shape not in shapes.accepted:
            what = "a mask" if label == MASK else label
            raise CheckpointError(
                f"{_name(targets[index])} needs {what} of shape {shapes}, not {list(tensor.shape)} as "
                f"in {printable(str(path))}",
                hint=_shape_hint(targets[index], tensor, label),
            )
    return MatchedTensors(
        f"{label} in {printable(str(path))}",
        checkpoint,
        tensors,
        {index: found.bits[tensor.name] for index, tensor in tensors.items() if tensor.name in found.bits},
        {index: found.base[tensor.name] for index, tensor in tensors.items() if tensor.name in found.base},
    )


def _shape_hint(target: Target, other: TensorInfo, label: str) -> Hint:
    """Return what to do about a tensor of another shape; norms of assumed outputs may be those of inputs."""
    tensor, layout = target.tensor, target.tensor.layout
    outputs = None if layout.outputs is None else tensor.shape[layout.outputs]
    if label == NORMS and not layout.proven and other.shape[-1:] == (outputs,):
        return ("its layout is assumed; if these are its inputs: ", other_order(tensor))
    return _exclude(target)


def _named(tensors: Mapping[str, TensorInfo], target: Target, suffix: str) -> TensorInfo | None:
    for name in (target.tensor.name, *target.aliases):
        for candidate in (name, name + suffix):
            if candidate in tensors:
                return tensors[candidate]
    return None


def _missing(missing: Sequence[Target], names: Sequence[str], label: str, path: PathLike) -> CheckpointError:
    first, more = missing[0], f" and {len(missing) - 1} more" if len(missing) > 1 else ""
    near = closest(first.tensor.name, names)
    like = f", which has {printable(repr(near[0]))}" if near else ""
    return CheckpointError(
        f"no {label} for {_name(first)}{more} in {printable(str(path))}{like}", hint=_exclude(*missing)
    )


def _refuse_integers(matched: MatchedTensors, targets: Mapping[int, Target]) -> None:
    for index, tensor in matched.tensors.items():
        if tensor.dtype not in FLOATS:
            raise CheckpointError(
                f"the {matched.label} for {_name(targets[index])} are {tensor.dtype}, not floating-point numbers",
                hint="save them with .float()",
            )


def _exclude(*targets: Target) -> Hint:
    names = [printable(escape(target.tensor.name)) for target in targets]
    if len(names) > MOST_NAMED:
        include = Argument("include", ["PATTERN"])
        return (Argument("exclude", names[:1]), " and so on leave tensors as they are; ", include, " prunes only those")
    return (
        Argument("exclude", names),
        f" leaves {'that tensor as it is' if len(names) == 1 else 'those tensors as they are'}",
    )


def _name(target: Target) -> str:
    return printable(repr(target.tensor.name))
