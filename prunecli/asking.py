"""From what a user asked for to work for the engine: the selection, what is ranked, and what goes along with what."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from prunecli.basis import make_basis
from prunecli.checkpoint import open_checkpoint
from prunecli.errors import SelectionError, UsageError
from prunecli.escape import shown
from prunecli.selection import Rules, Selection, select
from prunecli.strategies import Mask, Random, RandomStructured, Spread, Structured
from prunecli.work import Job, Work

if TYPE_CHECKING:
    from collections.abc import Collection

    from prunecli.basis import PathLike
    from prunecli.selection import Target
    from prunecli.strategies import Strategy
    from prunecli.tensors import Checkpoint

_BIAS_HINT = "leave out --with-bias"


def plan_work(
    checkpoint: Checkpoint,
    rules: Rules,
    strategy: Strategy,
    *,
    scores: PathLike | None = None,
    act_norms: PathLike | None = None,
    mask_in: PathLike | None = None,
    of: str = "all",
) -> Work:
    """Return the work of one strategy; PruneError where something asked for does not fit the checkpoint."""
    given = strategy.path if isinstance(strategy, Mask) else None
    if given is not None:
        rules = _named_by(given, checkpoint, rules)
    _refuse_ranks(strategy, scores or act_norms)
    selection = select(checkpoint, rules)
    members = tuple(range(len(selection.targets)))
    basis = make_basis(
        dict(enumerate(selection.targets)), scores=scores, act_norms=act_norms, mask_in=mask_in, given=given, of=of
    )
    followers: dict[int, int] = {}
    if isinstance(strategy, Structured) and strategy.with_bias:
        selection, followers = _with_biases(checkpoint, selection, rules)
    asked = {"scores": scores, "act_norms": act_norms, "mask_in": mask_in, "of": None if of == "all" else of}
    told = {**strategy.describe(), **{name: str(value) for name, value in asked.items() if value is not None}}
    return Work(selection, (Job(strategy, members, basis),), told, followers)


def _refuse_ranks(strategy: Strategy, path: PathLike | None) -> None:
    """Raise UsageError where scores from a file would be ignored."""
    if path is not None and isinstance(strategy, (Random, RandomStructured, Mask, Spread)):
        name = strategy.describe()["name"]
        asked = "--thr-std" if isinstance(strategy, Spread) else f"`{name}`"
        raise UsageError(f"{asked} ranks nothing, so scores mean nothing to it", hint="prune l1 --help")


def _named_by(path: PathLike, checkpoint: Checkpoint, rules: Rules) -> Rules:
    """Let a mask file say which tensors are meant, if nothing else does."""
    if rules.include:
        return rules
    known = {tensor.name for tensor in checkpoint.tensors}
    found = [_name_in(known, tensor.name, path) for tensor in open_checkpoint(path).tensors]
    return replace(rules, include=(_exactly(found),))


def _name_in(known: Collection[str], name: str, path: PathLike) -> str:
    for candidate in (name, name.removesuffix("_mask")):
        if candidate in known:
            return candidate
    raise SelectionError(
        f"the mask in {shown(str(path))} has {shown(repr(name))}, and the checkpoint has no such tensor",
        hint="-i PATTERN says which tensors are meant",
    )


def _exactly(names: Collection[str]) -> str:
    """Return a pattern that matches these names and no others."""
    return "re:^(?:" + "|".join(re.escape(name) for name in names) + r")\Z"


def _with_biases(checkpoint: Checkpoint, selection: Selection, rules: Rules) -> tuple[Selection, dict[int, int]]:
    """Add the biases that belong to the targets as targets of their own, and tell who leads them."""
    excluded = replace(rules, include=("*",), min_dim=1, min_numel=0)
    prunable = {t.tensor.name: t for t in select(checkpoint, excluded).targets if len(t.tensor.shape) == 1}
    targets, followers = list(selection.targets), {}
    for at, target in enumerate(selection.targets):
        bias = prunable.get(_bias_of(target))
        if bias is not None and bias.tensor.shape == target.tensor.shape[:1]:
            followers[at] = len(targets)
            targets.append(bias)
    if not followers:
        raise SelectionError("no selected tensor has a bias of one entry per row", hint=_BIAS_HINT)
    names = {target.tensor.name for target in targets}
    skipped = tuple(s for s in selection.skipped if s.tensor.name not in names)
    return Selection(tuple(targets), skipped), followers


def _bias_of(target: Target) -> str:
    """Return the name a target's bias would have: `weight` in its last part is `bias` there."""
    head, dot, last = target.tensor.name.rpartition(".")
    return f"{head}{dot}{last.replace('weight', 'bias', 1)}"
