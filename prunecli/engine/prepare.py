"""From what a user asked for to work for the engine: the selection, what is ranked, and what goes along with what."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, get_args

from prunecli.checkpoint import PathLike
from prunecli.engine.score_files import make_basis, open_beside
from prunecli.engine.work import Job, Work
from prunecli.errors import CheckpointError, SelectionError, UsageError
from prunecli.selection.select import Selection, Selector, select
from prunecli.strategies.amounts import front_dim, resolve_counts
from prunecli.strategies.mask import Mask
from prunecli.strategies.semi_structured import TopK
from prunecli.strategies.unstructured import L1, Block, Random, RandomStructured, StdThreshold, Strategy, Structured
from prunecli.text.escape import printable

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from prunecli.checkpoint import Checkpoint
    from prunecli.engine.score_files import ScoreSources
    from prunecli.selection.select import Target

_BIAS_HINT = "leave out --with-bias"
_MASK_HINT = "prune l1 CKPT --amount 0.5 --mask-out FILE makes one"


@dataclass(frozen=True, slots=True)
class ScoreInputs:
    """What there is to rank by or to leave out besides the weights, as paths of checkpoints; see `make_basis`."""

    scores: PathLike | None = None
    act_norms: PathLike | None = None
    mask_in: PathLike | None = None
    of: str = "all"

    def told(self) -> dict[str, str]:
        """Return what was given, for the report."""
        asked = {"scores": self.scores, "act_norms": self.act_norms, "mask_in": self.mask_in}
        given = {name: str(path) for name, path in asked.items() if path is not None}
        return given if self.of == "all" else {**given, "of": self.of}


def plan_work(checkpoint: Checkpoint, rules: Selector, strategy: Strategy, ranks: ScoreInputs) -> Work:
    """Return the work of one strategy; PruneError where something asked for does not fit the checkpoint."""
    refuse_ranks(strategy, ranks)
    selection = select(checkpoint, named_by_mask(strategy, checkpoint, rules))
    refuse_misfits(strategy, selection)
    targets = dict(enumerate(selection.targets))
    job = Job(strategy, tuple(targets), basis_for(strategy, targets, ranks))
    followers: dict[int, int] = {}
    if isinstance(strategy, Structured) and strategy.with_bias:
        selection, followers = _with_biases(checkpoint, selection, rules)
    return Work(selection, (job,), {**strategy.describe(), **ranks.told()}, followers)


def basis_for(strategy: Strategy, targets: Mapping[int, Target], ranks: ScoreInputs) -> ScoreSources:
    """Return what `strategy` ranks of `targets`, by their positions."""
    given = strategy.path if isinstance(strategy, Mask) else None
    return make_basis(
        targets, scores=ranks.scores, act_norms=ranks.act_norms, mask_in=ranks.mask_in, given=given, of=ranks.of
    )


def refuse_ranks(strategy: Strategy, ranks: ScoreInputs) -> None:
    """Raise UsageError for what is no strategy, and where scores from a file would be ignored."""
    if not isinstance(strategy, get_args(Strategy)):
        raise UsageError(f"a strategy is needed, not {printable(repr(strategy))}", hint="prunecli.L1(amount=0.5)")
    scored = ranks.scores is not None or ranks.act_norms is not None
    if scored and isinstance(strategy, (Random, RandomStructured, Mask, StdThreshold)):
        asked = "threshold --thr-std" if isinstance(strategy, StdThreshold) else strategy.describe()["name"]
        raise UsageError(f"{asked} ranks nothing, so scores mean nothing to it", hint="prune l1 --help")


def refuse_misfits(strategy: Strategy, selection: Selection) -> None:
    """Raise PruneError where a target lacks the dimension that `strategy` works along, or as many weights as it counts.

    What can be told from shapes alone is told before anything is read.
    """
    tensors = [target.tensor for target in selection.targets]
    by_rows = isinstance(strategy, L1) and strategy.scope == "row"
    if isinstance(strategy, (L1, Random)) and strategy.count is not None and not by_rows:
        resolve_counts(None, strategy.count, tensors, [tensor.numel for tensor in tensors])
    for tensor in tensors:
        if isinstance(strategy, (Structured, RandomStructured)):
            strategy.wanted(tensor, tensor.shape[strategy.axis(tensor)])
        elif isinstance(strategy, Block):
            front_dim(tensor, 0)
        elif isinstance(strategy, TopK) or (isinstance(strategy, L1) and by_rows):
            strategy.plan(tensor)


def named_by_mask(strategy: Strategy, checkpoint: Checkpoint, rules: Selector) -> Selector:
    """Let a `Mask`'s file say which tensors are meant, if nothing else does; SelectionError for names there are not."""
    if rules.include or not isinstance(strategy, Mask):
        return rules
    known, masks = {tensor.name for tensor in checkpoint.tensors}, open_beside(strategy.path, "mask").tensors
    if not masks:
        raise CheckpointError(f"there is no mask in {printable(str(strategy.path))}", hint=_MASK_HINT)
    found = [_name_in(known, tensor.name, strategy.path) for tensor in masks]
    return replace(rules, include=(_exactly(found),))


def _name_in(known: Collection[str], name: str, path: PathLike) -> str:
    for candidate in (name, name.removesuffix("_mask")):
        if candidate in known:
            return candidate
    raise SelectionError(
        f"the mask in {printable(str(path))} has {printable(repr(name))}, and the checkpoint has no such tensor",
        hint="-i PATTERN says which tensors are meant",
    )


def _exactly(names: Collection[str]) -> str:
    """Return a pattern that matches these names and no others."""
    return "re:^(?:" + "|".join(re.escape(name) for name in names) + r")\Z"


def _with_biases(checkpoint: Checkpoint, selection: Selection, rules: Selector) -> tuple[Selection, dict[int, int]]:
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
