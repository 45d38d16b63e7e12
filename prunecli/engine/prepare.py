"""Turn a request into a `Work`: select the tensors, open the score files."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from prunecli.engine.biases import PairedBiases, pair_biases
from prunecli.engine.mask_files import masks_in
from prunecli.engine.score_files import MASK, open_score_sources, open_side_input
from prunecli.engine.work import Job, Work
from prunecli.errors import Argument, CheckpointError, SameCallWith, SelectionError, UsageError
from prunecli.layouts.copies import ema_prefixes
from prunecli.selection.copies import left_alone
from prunecli.selection.notices import assumed_notices, left_out_notice, unfolded_notice, unscaled_notice
from prunecli.selection.select import Selection, Selector, select
from prunecli.strategies.strategy import Strategy
from prunecli.text.escape import printable

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from prunecli.checkpoint import Checkpoint, TensorInfo
    from prunecli.engine.score_files import ScoreInputs
    from prunecli.errors import Hint
    from prunecli.selection.select import Target


def prepare_work(checkpoint: Checkpoint, selector: Selector, strategy: Strategy, inputs: ScoreInputs) -> Work:
    """Return the work of one strategy; PruneError where the request does not fit the checkpoint."""
    selection = select_for(strategy, checkpoint, selector, inputs)
    targets = dict(enumerate(selection.targets))
    paired = PairedBiases(selection)
    if strategy.prunes_bias:
        paired = pair_biases(checkpoint, selection, selector)
    for bias in set(paired.followers.values()) & targets.keys():  # it is pruned with its weight, not for itself
        del targets[bias]
    jobs = []
    for members in ranked_together(targets, selection.targets):
        sources = open_score_sources({i: targets[i] for i in members}, inputs, strategy.mask_file)
        jobs.append(Job(strategy, members, sources))
    notices = (left_out_notice(selection), unfolded_notice(checkpoint, selection), unscaled_notice(selection))
    return Work(
        paired.selection,
        tuple(jobs),
        {**strategy.describe(), **inputs.describe()},
        paired.followers,
        warnings=(
            *(notice for notice in notices if notice and not selector.include),
            *warnings_about([(strategy, [target.tensor for target in targets.values()])], inputs),
            *paired.warnings,
        ),
        facts=paired.facts,
    )


def warnings_about(work: Sequence[tuple[Strategy, Sequence[TensorInfo]]], inputs: ScoreInputs) -> tuple[str, ...]:
    """Return the warnings about tensors and their strategies that need no weight to be read."""
    laid_out = {
        tensor.name: tensor
        for strategy, tensors in work
        if strategy.follows_layout or inputs.act_norms is not None
        for tensor in tensors
    }
    own = (sentence for strategy, tensors in work for sentence in strategy.warnings(tensors))
    return (*assumed_notices(laid_out.values()), *own)


def ranked_together(members: Iterable[int], targets: Sequence[Target]) -> list[tuple[int, ...]]:
    """Divide `members`, positions of `targets`, into those that are ranked together: each copy of the weights apart."""
    by_key: dict[str, list[int]] = {}
    for member in members:
        by_key.setdefault(targets[member].tensor.key, []).append(member)
    groups: dict[tuple[str, str], list[int]] = {}
    for key, own in by_key.items():
        names = [targets[member].tensor.local_name for member in own]
        copies = ema_prefixes(names)
        if not copies:
            groups[key, ""] = own
            continue
        for member, name in zip(own, names, strict=True):
            head = name.partition(".")[0]
            groups.setdefault((key, head if head in copies else ""), []).append(member)
    return [tuple(group) for group in groups.values()]


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
    targets = selection.targets
    for members in ranked_together(range(len(targets)), targets):
        strategy.check([targets[member].tensor for member in members])
    return selection


def _selector_for(strategy: Strategy, checkpoint: Checkpoint, selector: Selector) -> Selector:
    """Return the selector; without include patterns, a strategy with a mask file prunes the tensors named in it.

    Raises SelectionError for a mask of a tensor that the checkpoint does not have.
    """
    path = strategy.mask_file
    if selector.include or path is None:
        return selector
    known, masks = {tensor.name for tensor in checkpoint.tensors}, masks_in(open_side_input(path, MASK)).tensors
    if not masks:
        raise CheckpointError(
            f"there is no mask in {printable(path)}",
            hint=("a run with ", Argument("mask_out", "mask.safetensors"), " writes one"),
        )
    names = [_masked_name(checkpoint, known, name, path) for name in masks]
    # `$` would match before a line break at the end of a name, and globs would read brackets in names as sets.
    exactly = "re:^(?:" + "|".join(re.escape(name) for name in names) + r")\Z"
    return replace(selector, include=(exactly,), min_dim=selector.min_dim or 0)


def _masked_name(checkpoint: Checkpoint, known: Collection[str], name: str, path: str) -> str:
    candidates = (name, name.removesuffix("_mask"))
    found = next((candidate for candidate in candidates if candidate in known), None)
    if found is None:
        raise SelectionError(
            f"the mask in {printable(path)} has {printable(repr(name))}, and the checkpoint has no such tensor",
            hint=_keys_hint(checkpoint, candidates) or ("choose the tensors with ", Argument("include", ["PATTERN"])),
        )
    return found


def _keys_hint(checkpoint: Checkpoint, names: Collection[str]) -> Hint | None:
    """Return the keys with which one of `names` is that of a tensor: of all state_dicts, or of one of those taken."""
    key = checkpoint.key
    if key and any(f"{key}.{tensor.name}" in names for tensor in checkpoint.tensors):
        return SameCallWith(Argument("key", [printable(key), *(printable(one.key) for one in left_alone(checkpoint))]))
    inside = dict.fromkeys(tensor.key for tensor in checkpoint.tensors if tensor.key and tensor.local_name in names)
    arguments = [part for one in inside for part in (" or ", Argument("key", [printable(one)]))]
    return ("the mask is one of a single state_dict: ", *arguments[1:]) if arguments else None
