"""Trials, and the JSON file that remembers them between runs.

The file holds the trials of several questions. A question is a JSON object of all values that a trial depends on: the
checkpoint's files, the selection and the evaluation.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

from prunecli.errors import Argument, UsageError
from prunecli.io.publish import publish_text
from prunecli.io.read_errors import read_errors
from prunecli.text.escape import printable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

SCHEMA = 1
"""The version of the state file. Files of other versions are rejected."""

_SIZE_LIMIT = 1 << 26  # bytes of a state file
_WHAT = "trials of prune search and prune sweep"


@dataclass(frozen=True, slots=True)
class Trial:
    """One evaluated checkpoint.

    `strategy` describes the strategy, or is None for the unpruned checkpoint. `zeros` of the `numel` selected weights
    are zero. `metric` was read from the line of output `line`, and the evaluation took `seconds`. `remembered` is True
    if an earlier run made the trial.
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


def file_identity(path: Path) -> list[object]:
    """Return the real path, the size in bytes and the time of the last change (ns) of a file.

    Raises CheckpointError if the file cannot be read.
    """
    with read_errors(path):
        state = path.stat()
    return [os.path.realpath(path), state.st_size, state.st_mtime_ns]


def read_trials(state: Path, question: Mapping[str, Any]) -> list[Trial]:
    """Return the trials of `question` in the file `state`; UsageError if the file is not a state file."""
    return next((run["trials"] for run in _read(state) if run["question"] == question), [])


def write_trials(state: Path, question: Mapping[str, Any], trials: Sequence[Trial]) -> None:
    """Replace the trials of `question` in the file `state` and keep those of other questions."""
    others = [run for run in _read(state) if run["question"] != question]
    runs = [
        {"question": run["question"], "trials": [_document(trial) for trial in run["trials"]]}
        for run in [*others, {"question": question, "trials": trials}]
    ]
    document = {"schema": SCHEMA, "what": _WHAT, "runs": runs}
    publish_text(state, json.dumps(document, indent=1) + "\n", force=True)


def as_json(value: Mapping[str, object]) -> dict[str, Any]:
    """Return a JSON object as the file gives it back, so that tuples equal lists."""
    copy: dict[str, Any] = json.loads(json.dumps(value))
    return copy


def _read(state: Path) -> list[dict[str, Any]]:
    """Return the runs in a state file, none if there is no file; UsageError if it is not a state file."""
    try:
        if state.stat().st_size > _SIZE_LIMIT:
            raise _foreign(state)
        document = json.loads(state.read_text(encoding="utf-8"))
        if document["what"] != _WHAT or document["schema"] != SCHEMA:
            raise _foreign(state)
        return [{"question": run["question"], "trials": [*map(_trial, run["trials"])]} for run in document["runs"]]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UsageError(
            f"cannot read {printable(str(state))}: {error.strerror}", hint=Argument("state", "PATH.json")
        ) from error
    except (ValueError, KeyError, TypeError, InvalidOperation, RecursionError):
        raise _foreign(state) from None


def _foreign(state: Path) -> UsageError:
    return UsageError(
        f"{printable(str(state))} exists and does not hold {_WHAT}",
        hint=(Argument("state", "PATH.json"), ", or move the file away"),
    )


def _trial(value: Mapping[str, Any]) -> Trial:
    strategy, line = value["strategy"], value["line"]
    if not (strategy is None or isinstance(strategy, dict)) or not isinstance(line, str):
        raise TypeError
    counts = int(value["zeros"]), int(value["numel"])
    return Trial(strategy, *counts, Decimal(value["metric"]), printable(line), float(value["seconds"]), remembered=True)


def _document(trial: Trial) -> dict[str, object]:
    return {
        "strategy": trial.strategy,
        "zeros": trial.zeros,
        "numel": trial.numel,
        "metric": str(trial.metric),
        "line": trial.line,
        "seconds": trial.seconds,
    }
