"""Trials and the file that remembers them."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest
from support.evaluation import counting_command, density_command, density_of, evaluations, globally, names

from prunecli.errors import CheckpointError, OutputError, UsageError
from prunecli.strategies.unstructured import L1
from prunecli.tuning.evaluate import EvaluationError
from prunecli.tuning.search import search
from prunecli.tuning.sweep import sweep

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from prunecli.strategies.strategy import Strategy


def l1(amount: float) -> Strategy:
    """Return the local strategy of an amount."""
    return L1(amount=amount)


def remembered(path: Path, command: str, make: Callable[[float], Strategy] = globally, *, fresh: bool = False) -> bool:
    """Sweep over one amount and return whether its trial was remembered."""
    return sweep(path, make, command, amounts=[0.5], fresh=fresh)[-1].trial.remembered


def test_a_second_run_evaluates_nothing_again(ckpt: Path) -> None:
    """Trials are remembered for every later search and sweep of the same checkpoint, selection and command."""
    command = counting_command(ckpt)

    first = search(ckpt, globally, command, max_drop=0.25, tolerance=0.1, dry_run=True)
    made = evaluations(ckpt)
    again = search(ckpt, globally, command, max_drop=0.25, tolerance=0.1, dry_run=True)

    assert made == len(first.attempts) + 1
    assert evaluations(ckpt) == 0
    assert [a.trial.metric for a in first.attempts] == [a.trial.metric for a in again.attempts]
    assert all(attempt.trial.remembered for attempt in again.attempts)
    search(ckpt, globally, command, max_drop=0.5, tolerance=0.1, dry_run=True)
    assert 0 < evaluations(ckpt) < made
    sweep(ckpt, globally, command, amounts=[0.05, 0.5])
    assert evaluations(ckpt) == 1


def test_other_strategies_commands_and_checkpoints_are_evaluated(ckpt: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial is made again for another strategy, selection, command, script or checkpoint, and on demand."""
    folder, name = os.path.split(sys.executable)
    monkeypatch.setenv("PATH", folder, prepend=os.pathsep)
    command = counting_command(ckpt).replace(sys.executable, name)

    assert not remembered(ckpt, command)
    assert remembered(ckpt, command)
    assert not remembered(ckpt, command, l1)
    assert not remembered(ckpt, command, fresh=True)
    assert not remembered(ckpt, f"{command} more")
    assert remembered(ckpt, command)
    counting_command(ckpt, "pass")  # another script under the same name
    assert not remembered(ckpt, command)
    os.utime(ckpt, ns=(1, 1))
    assert not remembered(ckpt, command)
    assert remembered(ckpt, command)


def test_trials_of_a_function_are_remembered_only_on_request(ckpt: Path) -> None:
    """A function may change unseen, so its trials are remembered only in a state file that the caller names."""
    state = ckpt.parent / "state.json"

    for expected in (False, False):
        point = sweep(ckpt, globally, density_of, amounts=[0.5])[-1]
        assert point.trial.remembered == expected
    assert names(ckpt.parent) == {"c.safetensors"}
    for expected in (False, True):
        point = sweep(ckpt, globally, density_of, amounts=[0.5], state=state)[-1]
        assert point.trial.remembered == expected
    assert names(ckpt.parent) == {"c.safetensors", "state.json"}


def test_a_failed_search_continues(ckpt: Path) -> None:
    """After a failure the next run makes only the missing trials."""
    broken = ckpt.parent.parent / "broken"
    broken.touch()
    command = counting_command(ckpt, f"import os\nif os.path.exists({str(broken)!r}) and density == .25: sys.exit(3)")

    with pytest.raises(EvaluationError, match="exit code 3"):
        search(ckpt, globally, command, max_drop=0.9)
    assert evaluations(ckpt) == 3
    assert names(ckpt.parent) == {"c.safetensors", "c.pruned.safetensors.search.json"}
    broken.unlink()
    search(ckpt, globally, command, max_drop=0.9)
    made = evaluations(ckpt)
    search(ckpt, globally, command, max_drop=0.9, fresh=True, force=True)
    assert evaluations(ckpt) == made + 2  # the unpruned one and amount 0.5


OTHER_VERSION = '{"schema": 2, "what": "trials of prune search and prune sweep", "runs": []}'
OTHER_TEXTS = ["", "{}", "[" * 9999, '{"schema": 1, "what": 3}', OTHER_VERSION, "\udcff", '{"runs": 3}', "null"]


@pytest.mark.parametrize("text", OTHER_TEXTS)
@pytest.mark.parametrize("fresh", [False, True])
def test_other_files_are_never_replaced(ckpt: Path, text: str, fresh: bool) -> None:  # noqa: FBT001
    """A state file of another version or with other content is rejected before any evaluation, with `fresh` too."""
    state = ckpt.with_name("state.json")
    state.write_text(text, errors="surrogateescape")
    before = state.read_bytes()

    with pytest.raises(UsageError, match="does not hold trials"):
        sweep(ckpt, globally, counting_command(ckpt), state=state, fresh=fresh)

    assert state.read_bytes() == before
    assert evaluations(ckpt) == 0


def test_the_checkpoint_is_no_state_file(ckpt: Path) -> None:
    """The state file cannot be the checkpoint itself."""
    before = ckpt.read_bytes()

    with pytest.raises(OutputError):
        search(ckpt, globally, density_of, max_drop=0.5, state=ckpt)

    assert ckpt.read_bytes() == before


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("force", [True, False])
def test_the_outputs_of_a_search_are_no_state_file(ckpt: Path, force: bool, named: bool) -> None:  # noqa: FBT001
    """A report that would replace the remembered trials, or be refused because they exist, is found at the start."""
    state = ckpt.with_name("trials.json" if named else "c.pruned.safetensors.search.json")

    with pytest.raises(OutputError, match="would overwrite what this run needs"):
        search(
            ckpt,
            globally,
            density_command(),
            max_drop=0.3,
            reports=[state],
            state=state if named else None,
            force=force,
        )

    assert names(ckpt.parent) == {"c.safetensors"}


def test_a_checkpoint_that_changes_during_a_run_is_an_error(ckpt: Path) -> None:
    """Metrics of two checkpoints never appear in one result."""

    def evaluate(path: Path) -> float:
        os.utime(ckpt, ns=(1, 1))
        return density_of(path)

    with pytest.raises(CheckpointError, match="changed while"):
        search(ckpt, globally, evaluate, max_drop=0.25)
