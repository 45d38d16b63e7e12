"""Several strategies in one run: rules in order, each for its own tensors, composed where they meet.

Where rules meet on a tensor, later ones count what the earlier ones left, as torch.nn.utils.prune.PruningContainer
does. Rules that do not meet share one pass over the file; each further layer takes one more, that only makes a mask.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from prunecli.engine.prepare import ScoreInputs, basis_for, named_by_mask, refuse_misfits, refuse_ranks
from prunecli.engine.score_files import ScoreSources, make_basis, mask_for
from prunecli.engine.work import Job, Work
from prunecli.errors import PruneError, UsageError
from prunecli.io.temporary import scratch_file
from prunecli.selection.select import Selection, Selector, select
from prunecli.strategies.mask import Keep
from prunecli.strategies.recipe import Recipe

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from prunecli.checkpoint import Checkpoint
    from prunecli.report.model import Report
    from prunecli.selection.select import Target


class RecipeRun:
    """A recipe on one checkpoint, cut into layers in each of which every tensor has one rule."""

    def __init__(self, checkpoint: Checkpoint, rules: Selector, recipe: Recipe, ranks: ScoreInputs) -> None:
        """Match every rule; SelectionError where one matches nothing, by its number."""
        if rules.include:
            raise UsageError("the rules of a recipe say what they include", hint="-x PATTERN leaves tensors out")
        self.recipe, self.ranks = recipe, ranks
        chosen = [self._select(checkpoint, rules, number) for number in range(len(recipe.rules))]
        place = {tensor.name: at for at, tensor in enumerate(checkpoint.tensors)}
        found: dict[str, Target] = {t.tensor.name: t for selection in chosen for t in selection.targets}
        names = sorted(found, key=place.__getitem__)
        self._position = {name: at for at, name in enumerate(names)}
        self._members = [tuple(sorted(self._position[t.tensor.name] for t in s.targets)) for s in chosen]
        pruned = {alias for target in found.values() for alias in (target.tensor.name, *target.aliases)}
        skipped = tuple(s for s in chosen[0].skipped if s.tensor.name not in pruned)
        self.selection = Selection(tuple(found[name] for name in names), skipped)
        self.layers = _layers(self._members)

    def _select(self, checkpoint: Checkpoint, rules: Selector, number: int) -> Selection:
        rule = self.recipe.rules[number]
        own = replace(
            rule.rules,
            exclude=(*rule.rules.exclude, *rules.exclude),
            min_dim=rules.min_dim if rule.rules.min_dim is None else rule.rules.min_dim,
            min_numel=max(rules.min_numel, rule.rules.min_numel),
        )
        try:
            refuse_ranks(rule.strategy, self.ranks)
            selection = select(checkpoint, named_by_mask(rule.strategy, checkpoint, own))
            refuse_misfits(rule.strategy, selection)
        except PruneError as error:
            raise type(error)(f"rule {number + 1} of the recipe: {error}", hint=error.hint_parts) from error
        return selection

    def run(self, prune: Callable[[Work, int | None], Report], folder: Path | None) -> Report:
        """Run the layers; `prune` is given the work and, before the last layer, a descriptor for its mask."""
        mask: Path | None = None
        with ExitStack() as stack:
            for layer in self.layers[:-1]:
                fd, path = stack.enter_context(scratch_file(folder))
                prune(self._work(layer, mask), fd)
                mask = path
            return prune(self._work(self.layers[-1], mask), None)

    def _work(self, layer: Sequence[int], mask: Path | None) -> Work:
        jobs = [Job(self.recipe.rules[at].strategy, self._members[at], self._basis(at, mask)) for at in layer]
        busy = {member for job in jobs for member in job.members}
        idle = tuple(at for at in range(len(self.selection.targets)) if at not in busy)
        if idle:
            jobs.append(Job(Keep(), idle, self._gone(idle, mask)))
        told = {**self.recipe.describe(), **self.ranks.told()}
        return Work(self.selection, tuple(jobs), told, words=self._words())

    def _basis(self, at: int, mask: Path | None) -> ScoreSources:
        members = self._members[at]
        targets = {member: self.selection.targets[member] for member in members}
        ranks = replace(self.ranks, mask_in=None, of="all")
        gone = self._gone(members, mask)
        found = basis_for(self.recipe.rules[at].strategy, targets, ranks)
        return replace(found, mask=gone.mask, remaining=gone.remaining)

    def _gone(self, members: Sequence[int], mask: Path | None) -> ScoreSources:
        """Say what is gone already: by the layer before, or before the first by what the user said."""
        targets = {member: self.selection.targets[member] for member in members}
        if mask is not None:
            return ScoreSources(mask=mask_for(mask, targets))
        return make_basis(targets, mask_in=self.ranks.mask_in, of=self.ranks.of)

    def _words(self) -> Mapping[int, str]:
        words: dict[int, list[str]] = {}
        for rule, members in zip(self.recipe.rules, self._members, strict=True):
            for member in members:
                words.setdefault(member, []).append(rule.strategy.rule(self.selection.targets[member].tensor))
        return {member: ", then ".join(said) for member, said in words.items()}


def _layers(members: Sequence[Sequence[int]]) -> list[list[int]]:
    """Put each rule into the first layer after all earlier rules that it shares a tensor with."""
    layers: list[list[int]] = []
    depth: dict[int, int] = {}
    for rule, own in enumerate(members):
        layer = max((depth.get(member, -1) for member in own), default=-1) + 1
        depth.update(dict.fromkeys(own, layer))
        if layer == len(layers):
            layers.append([])
        layers[layer].append(rule)
    return layers
