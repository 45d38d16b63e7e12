"""Turn a request into a `Work`: select the tensors, open the score files, pair weights with biases."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from prunecli.engine.score_files import open_score_sources, open_side_input
from prunecli.engine.work import Job, Work
from prunecli.errors import Argument, CheckpointError, SelectionError, UsageError
from prunecli.selection.notices import left_out_notice
from prunecli.selection.select import Selection, Selector, select
from prunecli.strategies.strategy import Strategy
from prunecli.text.escape import printable

if TYPE_CHECKING:
    from collections.abc import Collection

    from prunecli.checkpoint import Checkpoint
    from prunecli.engine.score_files import ScoreInputs
    from prunecli.selection.select import Target


def prepare_work(checkpoint: Checkpoint, selector: Selector, strategy: Strategy, inputs: ScoreInputs) -> Work:
    """Return the work of one strategy; PruneError where the request does not fit the checkpoint."""
    selection = select_for(strategy, checkpoint, selector, inputs)
    targets = dict(enumerate(selection.targets))
    job = Job(strategy, tuple(targets), open_score_sources(targets, inputs, strategy.mask_file))
    followers: dict[int, int] = {}
    if strategy.prunes_bias:
        selection, followers = _with_biases(checkpoint, selection, selector)
    notices = tuple(notice for notice in [left_out_notice(selection)] if notice and not selector.include)
    return Work(selection, (job,), {**strategy.describe(), **inputs.describe()}, followers, warnings=notices)


def select_for(strategy: Strategy, checkpoint: Checkpoint, selector: Selector, inputs: ScoreInputs) -> Selection:
    """Return the tensors that `strategy` prunes.

    Raises PruneError for a value that is not a strategy, for scores that it would ignore, and for shapes that do not
    fit it. All of this is checked before any weight is read.
    """
    if not isinstance(strategy, Strategy):  # such as the name of one
        raise UsageError(f"a strategy is needed, not {printable(repr(strategy))}", hint="prunecli.L1(amount=0.5)")
    if not strategy.ranks_weights and (inputs.scores is not None or inputs.act_norms is not None):
        name, *values = (f"{key}={value}" for key, value in strategy.describe().items() if value is not None)
        raise UsageError(
            f"{name.removeprefix('name=')} ({', '.join(values)}) does not rank weights, so scores have no effect on it",
            hint="use a strategy that ranks weights, such as l1",
        )
    selection = select(checkpoint, _selector_for(strategy, checkpoint, selector))
    strategy.check([target.tensor for target in selection.targets])
    return selection


def _selector_for(strategy: Strategy, checkpoint: Checkpoint, selector: Selector) -> Selector:
    """Return the selector; without include patterns, a strategy with a mask file prunes the tensors named in it.

    Raises SelectionError for a mask of a tensor that the checkpoint does not have.
    """
    path = strategy.mask_file
    if selector.include or path is None:
        return selector
    known, masks = {tensor.name for tensor in checkpoint.tensors}, open_side_input(path, "mask").tensors
    if not masks:
        raise CheckpointError(
            f"there is no mask in {printable(path)}",
            hint=("a run with ", Argument("mask_out", "mask.safetensors"), " writes one"),
        )
    names = [_masked_name(known, tensor.name, path) for tensor in masks]
    # `$` would match before a line break at the end of a name, and globs would read brackets in names as sets.
    exactly = "re:^(?:" + "|".join(re.escape(name) for name in names) + r")\Z"
    return replace(selector, include=(exactly,), min_dim=selector.min_dim or 0)


def _masked_name(known: Collection[str], name: str, path: str) -> str:
    for candidate in (name, name.removesuffix("_mask")):
        if candidate in known:
            return candidate
    raise SelectionError(
        f"the mask in {printable(path)} has {printable(repr(name))}, and the checkpoint has no such tensor",
        hint=("choose the tensors with ", Argument("include", ["PATTERN"])),
    )


def _with_biases(checkpoint: Checkpoint, selection: Selection, selector: Selector) -> tuple[Selection, dict[int, int]]:
    """Add the biases of the targets as targets of their own, and return {target: its bias} by position."""
    vectors = replace(selector, include=("*",), min_dim=1, min_numel=0)
    prunable = {t.tensor.name: t for t in select(checkpoint, vectors).targets if len(t.tensor.shape) == 1}
    targets, followers = list(selection.targets), {}
    for index, target in enumerate(selection.targets):
        bias = prunable.get(_bias_of(target))
        if bias is not None and bias.tensor.shape == target.tensor.shape[:1]:
            followers[index] = len(targets)
            targets.append(bias)
    if not followers:
        raise SelectionError(
            "no selected tensor has a bias with one entry per row", hint=("leave out ", Argument("with_bias", True))
        )
    names = {target.tensor.name for target in targets}
    skipped = tuple(s for s in selection.skipped if s.tensor.name not in names)
    return Selection(tuple(targets), skipped), followers


def _bias_of(target: Target) -> str:
    """Return the name of a target's bias: its own with `bias` for the `weight` in the last part."""
    head, dot, last = target.tensor.name.rpartition(".")
    return f"{head}{dot}{last.replace('weight', 'bias', 1)}"
