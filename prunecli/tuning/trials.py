"""Trials of one checkpoint: prune it to a temporary path, evaluate the result there, and remember the metric.

Candidates are written to a hidden directory next to the state file. `search.py` and `sweep.py` choose the amounts.
"""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from prunecli.api import prune
from prunecli.checkpoint import key_patterns
from prunecli.errors import CheckpointError, UsageError
from prunecli.formats.open import open_checkpoint
from prunecli.formats.output_names import default_output, default_report
from prunecli.io.targets import check_writable_target
from prunecli.io.temporary import make_directory, remove_stale_temporaries, removed_at_end, temporary_next_to
from prunecli.selection.select import Selector, select
from prunecli.text.escape import printable, shortened
from prunecli.tuning.evaluate import evaluation_of
from prunecli.tuning.trial_file import Trial, as_json, file_identity, read_trials, write_trials
from prunecli.tuning.watch import NoWatch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from prunecli.checkpoint import Checkpoint, Keys, PathLike
    from prunecli.report.model import Report
    from prunecli.strategies.strategy import Strategy
    from prunecli.tuning.evaluate import Evaluate, Evaluation
    from prunecli.tuning.watch import Watch

MakeStrategy: TypeAlias = "Callable[[float], Strategy]"
"""A function from an amount (0-1) to a strategy, such as `lambda amount: Global(amount=amount)`."""


def check_maker(make: object) -> None:
    """Raise UsageError unless `make` is a function from an amount to a strategy, and for its wrong parameters."""
    if not callable(make):
        name = type(make).__name__ if hasattr(make, "describe") else "Global"
        raise UsageError(
            f"a function from an amount to a strategy is needed, not {printable(shortened(repr(make), 80))}",
            hint=f"lambda amount: prunecli.{name}(amount=amount)",
        )
    make(0.0)


@dataclass(frozen=True, slots=True)
class TrialSetup:
    """The common part of all trials of one run.

    `path` is the checkpoint's path as the user gave it, `checkpoint` the open checkpoint, `evaluation` gives the
    metric, `selection` holds the arguments of `prunecli.prune` that select tensors, as JSON values, and `watch`
    receives the course of the run.
    """

    path: PathLike
    checkpoint: Checkpoint
    evaluation: Evaluation
    selection: Mapping[str, Any]
    watch: Watch

    def prune(self, strategy: Strategy, output: Path | None) -> Report:
        """Write the pruned checkpoint to `output` without a report; None measures only."""
        return prune(self.path, strategy, output=output, reports=(), dry_run=output is None, **self.selection)

    def checkpoint_identity(self) -> list[list[object]]:
        """Return the identity of each file of the checkpoint."""
        return [file_identity(file.path) for file in self.checkpoint.files]

    def question(self) -> dict[str, Any]:
        """Return all values that a trial depends on, as the state file gives them back."""
        files, selection = self.checkpoint_identity(), dict(self.selection)
        return as_json({"checkpoint": files, "selection": selection, **self.evaluation.identity()})


def set_up(
    path: PathLike,
    evaluate: Evaluate,
    metric: str | None,
    selector: Selector,
    key: Keys,
    watch: Watch | None,
) -> TrialSetup:
    """Open the checkpoint and check the evaluation and the selection before any work starts."""
    evaluation = evaluation_of(evaluate, metric)
    checkpoint = open_checkpoint(path, key=key)
    select(checkpoint, selector)
    keys = key_patterns(key)
    selection = {
        "include": list(selector.include),
        "exclude": list(selector.exclude),
        "min_dim": selector.min_dim,
        "min_numel": selector.min_numel,
        "key": keys[0] if len(keys) == 1 else list(keys) or None,
    }
    return TrialSetup(path, checkpoint, evaluation, selection, watch or NoWatch())


def state_file(path: PathLike, state: PathLike | None, output: PathLike | None = None) -> Path:
    """Return `state`, or the default state file of a checkpoint: the name of the output and `.search.json`."""
    if state is not None:
        return Path(state)
    report = default_report(default_output(path) if output is None else output)
    return report.with_name(f"{report.name.removesuffix('.report.json')}.search.json")


class Trials:
    """Makes trials, or takes them from those that are remembered."""

    def __init__(self, setup: TrialSetup, folder: Path, state: Path | None, known: Sequence[Trial]) -> None:
        """Write candidates to the empty directory `folder`, and remember trials in the file `state` (None: do not)."""
        self._setup, self._folder, self._state = setup, folder, state
        self._question = setup.question()
        self._known = list(known)

    def unpruned(self, probe: Strategy) -> Trial:
        """Return the trial of the unpruned checkpoint; `probe` is any strategy, used to count the present zeros."""
        return self._find(None) or self._watched(None, probe)

    def of(self, strategy: Strategy) -> Trial:
        """Return the trial of a strategy; PruneError if pruning or the evaluation fails."""
        description = as_json(strategy.describe())
        return self._find(description) or self._watched(description, strategy)

    def check_unchanged(self) -> None:
        """Raise CheckpointError if the checkpoint's files changed since the start."""
        if self._setup.checkpoint_identity() != self._question["checkpoint"]:
            raise CheckpointError(
                f"{printable(os.fspath(self._setup.path))} changed while it was being tried", hint="run the same again"
            )

    def _find(self, description: Mapping[str, object] | None) -> Trial | None:
        return next((trial for trial in self._known if trial.strategy == description), None)

    def _watched(self, description: Mapping[str, object] | None, strategy: Strategy) -> Trial:
        with self._setup.watch.evaluating():
            return self._make(description, strategy)

    def _make(self, description: Mapping[str, object] | None, strategy: Strategy) -> Trial:
        setup = self._setup
        source = Path(os.path.abspath(setup.path))  # noqa: PTH100 - a symbolic link to the checkpoint stays a link
        if description is None:
            counts = setup.prune(strategy, None).selected
            trial = self._evaluated(description, counts.zeros_before, counts.numel, source)
        else:
            # If the user named the index of a directory of shards, the evaluation gets the index of the candidate.
            is_index = setup.checkpoint.is_directory and not source.is_dir()
            candidate = self._folder / (source.parent if is_index else source).name
            with removed_at_end(candidate):
                counts = setup.prune(strategy, candidate).selected
                argument = candidate / source.name if is_index else candidate
                trial = self._evaluated(description, counts.zeros_after, counts.numel, argument)
        self.check_unchanged()
        self._known.append(trial)
        if self._state is not None:
            write_trials(self._state, self._question, self._known)
        return trial

    def _evaluated(
        self, description: Mapping[str, object] | None, zeros: int | None, numel: int, candidate: Path
    ) -> Trial:
        began = time.monotonic()
        watch = self._setup.watch
        metric = self._setup.evaluation.measure(candidate, watch.line if watch.wants_lines else None)
        return Trial(
            description, zeros or 0, numel, metric.value, metric.line, seconds=round(time.monotonic() - began, 3)
        )


@contextmanager
def trials(
    setup: TrialSetup, state: PathLike | None, output: PathLike | None = None, *, fresh: bool = False
) -> Iterator[Trials]:
    """Provide the trials of a setup. Those in the file `state` are not made again, unless `fresh`.

    `state` None means the default state file of `output`, which is used only if the evaluation remembers by default.
    Candidates are written to a hidden directory next to the state file, which is removed at the end. Raises
    OutputError if the state file cannot be written and UsageError if it is another kind of file.
    """
    remember = state is not None or setup.evaluation.remembers
    path = state_file(setup.path, state, output)
    check_writable_target(path, force=True, others=[file.path for file in setup.checkpoint.files])
    # With `fresh` too: a file that is not a state file must not be replaced.
    known = read_trials(path, setup.question()) if remember else []
    remove_stale_temporaries(path)
    with temporary_next_to(path, make_directory) as (_, folder):
        yield Trials(setup, folder, path if remember else None, [] if fresh else known)
