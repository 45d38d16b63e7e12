"""What a run is asked to do, as values: which strategy prunes which targets, by what numbers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from prunecli.engine.score_files import ScoreSources

if TYPE_CHECKING:
    from collections.abc import Mapping

    from prunecli.selection.select import Selection
    from prunecli.strategies.unstructured import Strategy


@dataclass(frozen=True, slots=True)
class Job:
    """A strategy for some targets of a selection, by their positions; `basis` says what it ranks."""

    strategy: Strategy
    members: tuple[int, ...]
    basis: ScoreSources = field(default_factory=ScoreSources)


@dataclass(frozen=True, slots=True)
class Work:
    """Jobs that together prune every target once; `followers` are pruned as their leader is: {leader: follower}.

    `told` is what the report says of it: a name and parameters; `words` replaces what strategies say of a target.
    """

    selection: Selection
    jobs: tuple[Job, ...]
    told: Mapping[str, object]
    followers: Mapping[int, int] = field(default_factory=dict)
    words: Mapping[int, str] = field(default_factory=dict)


def alone(selection: Selection, strategy: Strategy, basis: ScoreSources | None = None) -> Work:
    """Return the work of one strategy on all targets."""
    job = Job(strategy, tuple(range(len(selection.targets))), basis or ScoreSources())
    return Work(selection, (job,), strategy.describe())
