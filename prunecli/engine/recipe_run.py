"""The run of a recipe: several strategies, each for its own tensors.

If two rules match a tensor, the later one applies to the weights still unpruned, as in
torch.nn.utils.prune.PruningContainer. Rules that share no tensor are one pass over the file. Otherwise the rules are
divided into passes; all passes but the last write only a mask, which the next one continues from.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunecli.engine.prepare import ranked_together, select_for, warnings_about
from prunecli.engine.score_files import ScoreInputs, ScoreSources, match_masks, open_score_sources
from prunecli.engine.work import Job, Work
from prunecli.errors import Argument, PruneError, UsageError
from prunecli.io.temporary import scratch_file
from prunecli.selection.select import Selection, Selector
from prunecli.strategies.mask import Keep

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from prunecli.checkpoint import Checkpoint
    from prunecli.report.model import Report
    from prunecli.selection.select import Target
    from prunecli.strategies.recipe import Recipe
    from prunecli.strategies.strategy import Strategy


PASSES_LIMIT = 100
"""The most rules for one tensor: each reads the checkpoint once more."""


class RecipeRun:
    """A recipe for one checkpoint, divided into passes in which every tensor has one rule."""

    def __init__(self, checkpoint: Checkpoint, selector: Selector, recipe: Recipe, inputs: ScoreInputs) -> None:
        """Match every rule; PruneError with the rule's number where one matches nothing or does not fit."""
        if selector.include:
            raise UsageError(
                "the rules of a recipe choose their tensors, so no other patterns can include any",
                hint=(Argument("exclude", ["PATTERN"]), " leaves tensors out"),
            )
        self.recipe, self.inputs = recipe, inputs
        selections = [self._select(checkpoint, selector, number) for number in range(len(recipe.rules))]
        order = {tensor.name: index for index, tensor in enumerate(checkpoint.tensors)}
        by_name: dict[str, Target] = {t.tensor.name: t for selection in selections for t in selection.targets}
        names = sorted(by_name, key=order.__getitem__)
        position = {name: index for index, name in enumerate(names)}
        self._members = [tuple(sorted(position[t.tensor.name] for t in s.targets)) for s in selections]
        pruned = {name for target in by_name.values() for name in (target.tensor.name, *target.aliases)}
        skipped = tuple(s for s in selections[0].skipped if s.tensor.name not in pruned)
        self.selection = Selection(tuple(by_name[name] for name in names), skipped)
        self.passes = _passes(self._members)
        if len(self.passes) > PASSES_LIMIT:
            message = f"{len(self.passes):,} rules of the recipe match one tensor, more than {PASSES_LIMIT}"
            raise UsageError(message, hint="give each tensor one rule, or a few")

    @property
    def pruned_by(self) -> list[tuple[Strategy, tuple[int, ...]]]:
        """The strategies of the rules, each with the positions of its targets."""
        return [(rule.strategy, members) for rule, members in zip(self.recipe.rules, self._members, strict=True)]

    def _select(self, checkpoint: Checkpoint, selector: Selector, number: int) -> Selection:
        rule = self.recipe.rules[number]
        own = replace(
            rule.selector,
            exclude=(*rule.selector.exclude, *selector.exclude),
            min_dim=selector.min_dim if rule.selector.min_dim is None else rule.selector.min_dim,
            min_numel=max(selector.min_numel, rule.selector.min_numel),
            layout={**rule.selector.layout, **selector.layout},
        )
        try:
            return select_for(rule.strategy, checkpoint, own, self.inputs)
        except PruneError as error:
            raise type(error)(f"rule {number + 1} of the recipe: {error}", hint=error.hint_parts) from error

    def run(
        self,
        prune: Callable[[Work, int | None], Report],
        folder: Path | None,
        together: Callable[[Callable[[], Any]], Any] = lambda work: work(),
    ) -> Report:
        """Run the passes and return the report of the last one.

        `prune` gets the work and, in all passes but the last, the descriptor of the file for the mask, in `folder`.
        `together` does what may fail between the passes, where several processes run them.
        """
        mask: Path | None = None
        with ExitStack() as stack:
            for rules in self.passes[:-1]:
                fd, path = together(lambda: stack.enter_context(scratch_file(folder)))
                prune(together(partial(self._work, rules, mask)), fd)
                mask = path
            return prune(together(partial(self._work, self.passes[-1], mask)), None)

    def _work(self, rules: Sequence[int], mask: Path | None) -> Work:
        """Return the work of one pass; tensors without a rule in it are kept."""
        jobs = [
            Job(self.recipe.rules[n].strategy, members, self._sources(n, members, mask))
            for n in rules
            for members in ranked_together(self._members[n], self.selection.targets)
        ]
        busy = {member for job in jobs for member in job.members}
        idle = tuple(index for index in range(len(self.selection.targets)) if index not in busy)
        if idle:
            jobs.append(Job(Keep(), idle, self._already_pruned(idle, mask)))
        description = {**self.recipe.describe(), **self.inputs.describe()}
        return Work(self.selection, tuple(jobs), description, rules=self._rules(), warnings=self._warnings())

    def _sources(self, number: int, members: Sequence[int], mask: Path | None) -> ScoreSources:
        targets = {member: self.selection.targets[member] for member in members}
        inputs = ScoreInputs(self.inputs.scores, self.inputs.act_norms)
        sources = open_score_sources(targets, inputs, self.recipe.rules[number].strategy.mask_file)
        pruned = self._already_pruned(members, mask)
        return replace(sources, mask=pruned.mask, remaining=pruned.remaining)

    def _already_pruned(self, members: Sequence[int], mask: Path | None) -> ScoreSources:
        """Return which weights are already pruned: by the last pass, or in the first pass by the user's inputs."""
        targets = {member: self.selection.targets[member] for member in members}
        if mask is not None:
            return ScoreSources(mask=match_masks(mask, targets))
        return open_score_sources(targets, ScoreInputs(mask_in=self.inputs.mask_in, of=self.inputs.of))

    def _warnings(self) -> tuple[str, ...]:
        """Return the warnings about the tensors of all rules."""
        targets, pairs = self.selection.targets, zip(self.recipe.rules, self._members, strict=True)
        work = [(rule.strategy, [targets[member].tensor for member in members]) for rule, members in pairs]
        return warnings_about(work, self.inputs)

    def _rules(self) -> Mapping[int, str]:
        """Return the words for the report: all rules of each target, in order."""
        words: dict[int, list[str]] = {}
        for rule, members in zip(self.recipe.rules, self._members, strict=True):
            for member in members:
                words.setdefault(member, []).append(rule.strategy.rule)
        return {member: ", then ".join(rules) for member, rules in words.items()}


def _passes(members: Sequence[Sequence[int]]) -> list[list[int]]:
    """Put each rule into the first pass after all earlier rules that it shares a tensor with."""
    passes: list[list[int]] = []
    last: dict[int, int] = {}
    for rule, own in enumerate(members):
        number = max((last.get(member, -1) for member in own), default=-1) + 1
        last.update(dict.fromkeys(own, number))
        if number == len(passes):
            passes.append([])
        passes[number].append(rule)
    return passes
