"""The work of a run, as values: which strategy prunes which targets, and what it ranks."""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING

from prunecli.engine.score_files import ScoreSources
from prunecli.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Mapping

    from prunecli.selection.select import Selection
    from prunecli.strategies.strategy import Strategy


@dataclass(frozen=True, slots=True)
class Job:
    """A strategy for some targets of a selection, by their positions, and the files that it ranks by."""

    strategy: Strategy
    members: tuple[int, ...]
    sources: ScoreSources = field(default_factory=ScoreSources)


@dataclass(frozen=True, slots=True)
class Work:
    """Jobs that together prune every target once.

    `description` is the name and the parameters for the report. `followers` maps a target to its bias, another target
    that is pruned with it. `rules` has the report's words for targets where they are not those of the strategy.
    `warnings` are what the report warns about before anything is measured; a `Notice` has a hint. `facts` are other
    sentences for the report.
    """

    selection: Selection
    jobs: tuple[Job, ...]
    description: Mapping[str, object]
    followers: Mapping[int, int] = field(default_factory=dict)
    rules: Mapping[int, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    facts: tuple[str, ...] = ()

    @property
    def pruned_by(self) -> list[tuple[Strategy, tuple[int, ...]]]:
        """The strategies, each with the positions of its targets."""
        return [(job.strategy, job.members) for job in self.jobs]
