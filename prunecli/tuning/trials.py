"""Trials: a checkpoint is pruned to a hidden place, evaluated there, and what came out is remembered in a JSON file.

The file is keyed by what the answer depends on: the checkpoint's files (path, size and time of change), the selection,
and the command with its script. Nothing here knows which trials are worth making.
"""

from __future__ import annotations

import json
import os
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from prunecli.errors import CheckpointError, UsageError
from prunecli.io.publish import check_writable_target, publish_text
from prunecli.io.temporary import make_directory, remove_stale_temporaries, removed_at_end, temporary_next_to
from prunecli.text.escape import printable
from prunecli.tuning.evaluate import PLACEHOLDER, evaluate

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from prunecli.checkpoint import Checkpoint
    from prunecli.report.model import Report
    from prunecli.strategies.unstructured import Strategy
    from prunecli.tuning.evaluate import Command

SCHEMA = 1
"""The version of the state file; another one is not read."""

_LARGEST = 1 << 26  # bytes of a state file
_WHAT = "trials of prune search and prune sweep"


class Prune(Protocol):
    """`prunecli.api.prune` with all but the strategy and the place decided."""

    def __call__(self, strategy: Strategy, output: Path | None) -> Report:
        """Prune to `output`; with None only measure."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What a pruned checkpoint is like: `strategy` is None for the unpruned one.

    `zeros` of `numel` selected weights are zero, `metric` is the number the evaluation printed in `line`, which took
    `seconds`; `remembered` ones were evaluated by an earlier run.
    """

    strategy: Mapping[str, object] | None
    zeros: int
    numel: int
    metric: Decimal
    line: str
    seconds: float
    remembered: bool = False

    @property
    def sparsity(self) -> float:
        """The fraction of the selected weights that are zero (0-1)."""
        return self.zeros / self.numel if self.numel else 0.0


@dataclass(frozen=True, slots=True)
class TrialSetup:
    """What the trials of one run have in common: `path` as given, the checkpoint there, how to prune and to evaluate.

    `selection` holds what decides which tensors are pruned, as JSON has it.
    """

    path: Path
    checkpoint: Checkpoint
    prune: Prune
    command: Command
    selection: Mapping[str, object]

    def identity(self) -> list[list[object]]:
        """Return what tells the checkpoint's files from others and later ones."""
        return [_identity(file.path) for file in self.checkpoint.files]

    def key(self) -> dict[str, Any]:
        """Return what an answer depends on, as JSON gives it back."""
        words = (word for word in self.command.words if PLACEHOLDER not in word)
        # of the files it names the first is the script; it may write to others
        script = next((Path(word) for word in words if os.path.isfile(word)), None)  # noqa: PTH113 - short words
        pattern = self.command.pattern
        key = {
            "checkpoint": self.identity(),
            "selection": dict(self.selection),
            "eval": list(self.command.words),
            "metric": None if pattern is None else pattern.pattern,
            "script": script and _identity(script),
        }
        back: dict[str, Any] = json.loads(json.dumps(key))
        return back


def _identity(path: Path) -> list[object]:
    """Return what tells a file from another or a later one: its path, its size, and when it changed (ns)."""
    try:
        state = path.stat()
    except OSError as error:
        raise CheckpointError(f"cannot read {printable(str(path))}: {error.strerror}") from error
    return [os.path.realpath(path), state.st_size, state.st_mtime_ns]


class Trials:
    """Makes trials, or remembers them."""

    def __init__(
        self, question: TrialSetup, key: Mapping[str, Any], state: Path, folder: Path, known: Sequence[Trial]
    ) -> None:
        """Work in the empty directory `folder`; the `known` trials are kept in the file `state` under `key`."""
        self._question, self._key, self._state, self._folder = question, key, state, folder
        self._known = list(known)

    def unpruned(self, probe: Strategy) -> Trial:
        """Evaluate the checkpoint as it is; any strategy, as `probe`, tells the zeros it has already."""
        return self._find(None) or self._make(None, probe)

    def of(self, strategy: Strategy) -> Trial:
        """Prune by `strategy` and evaluate; PruneError of all kinds where one of the two cannot be done."""
        return self._find(_plain(strategy.describe())) or self._make(_plain(strategy.describe()), strategy)

    def check_unchanged(self) -> None:
        """Raise CheckpointError where the checkpoint is not what it was at the start."""
        if self._question.identity() != self._key["checkpoint"]:
            raise CheckpointError(
                f"{printable(str(self._question.path))} changed while it was being tried", hint="run the same again"
            )

    def _find(self, strategy: Mapping[str, object] | None) -> Trial | None:
        return next((trial for trial in self._known if trial.strategy == strategy), None)

    def _make(self, described: Mapping[str, object] | None, strategy: Strategy) -> Trial:
        question = self._question
        source = Path(os.path.abspath(question.path))  # noqa: PTH100 - a link to the checkpoint stays one
        if described is None:
            chosen = question.prune(strategy, None).selected
            zeros = chosen.zeros_before
            metric, seconds = evaluate(question.command, source)
        else:
            whole = question.checkpoint.is_directory
            index = whole and not source.is_dir()  # the command is handed what the user named
            place = self._folder / (source.parent if index else source).name
            with removed_at_end(place):
                chosen = question.prune(strategy, place).selected
                zeros = chosen.zeros_after
                metric, seconds = evaluate(question.command, place / source.name if index else place)
        self.check_unchanged()
        trial = Trial(described, zeros or 0, chosen.numel, metric.value, metric.line, round(seconds, 3))
        self._known.append(trial)
        _remember(self._state, self._key, self._known)
        return trial


@contextmanager
def trials(question: TrialSetup, state: Path, *, fresh: bool = False) -> Iterator[Trials]:
    """Give the trials of a question: those in the file `state`, unless `fresh`, are not made again.

    Candidates lie in a hidden directory beside `state`, which is gone in the end. Raise OutputError where `state`
    cannot be written, and UsageError where it is something else.
    """
    check_writable_target(state, force=True, others=[file.path for file in question.checkpoint.files])
    key = question.key()
    runs = _read(state)  # also with `fresh`: what is no state file is never replaced
    known = [] if fresh else _known(runs, key)
    remove_stale_temporaries(state)
    with temporary_next_to(state, make_directory) as (_, folder):
        yield Trials(question, key, state, folder, known)


# --- the state file


def _read(state: Path) -> list[dict[str, Any]]:
    """Return the runs in a state file, none where there is no file; UsageError where it is something else."""
    try:
        if state.stat().st_size > _LARGEST:
            raise _foreign(state)
        document = json.loads(state.read_text(encoding="utf-8"))
        if document["what"] != _WHAT or document["schema"] != SCHEMA:
            raise _foreign(state)
        return [{"question": run["question"], "trials": [*map(_trial, run["trials"])]} for run in document["runs"]]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UsageError(f"cannot read {printable(str(state))}: {error.strerror}", hint="--state PATH.json") from error
    except (ValueError, KeyError, TypeError, InvalidOperation, RecursionError):
        raise _foreign(state) from None


def _foreign(state: Path) -> UsageError:
    return UsageError(
        f"{printable(str(state))} is there and does not hold {_WHAT}", hint="--state PATH.json, or move the file away"
    )


def _trial(value: Mapping[str, Any]) -> Trial:
    strategy, line = value["strategy"], value["line"]
    if not (strategy is None or isinstance(strategy, dict)) or not isinstance(line, str):
        raise TypeError
    counts = int(value["zeros"]), int(value["numel"])
    return Trial(strategy, *counts, Decimal(value["metric"]), printable(line), float(value["seconds"]), remembered=True)


def _known(runs: Sequence[Mapping[str, Any]], key: Mapping[str, Any]) -> list[Trial]:
    return next((run["trials"] for run in runs if run["question"] == key), [])


def _remember(state: Path, key: Mapping[str, Any], known: Sequence[Trial]) -> None:
    """Write the trials of one question, and those of the others that are in the file now."""
    others = [run for run in _read(state) if run["question"] != key]
    runs = [
        {"question": run["question"], "trials": [_document(trial) for trial in run["trials"]]}
        for run in [*others, {"question": key, "trials": known}]
    ]
    document = {"schema": SCHEMA, "what": _WHAT, "runs": runs}
    publish_text(state, json.dumps(document, indent=1) + "\n", force=True)


def _document(trial: Trial) -> dict[str, object]:
    return {
        "strategy": trial.strategy,
        "zeros": trial.zeros,
        "numel": trial.numel,
        "metric": str(trial.metric),
        "line": trial.line,
        "seconds": trial.seconds,
    }


def _plain(described: Mapping[str, object]) -> dict[str, object]:
    """Return a strategy's description as JSON gives it back."""
    back: dict[str, object] = json.loads(json.dumps(described))
    return back
