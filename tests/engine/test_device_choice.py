"""The choice of "auto": a device where it saves more than its start, judged by strategy, size, kernels and cores."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

import prunecli
from prunecli.engine import device_choice
from prunecli.engine.device_choice import choose_device
from prunecli.engine.options import RunOptions
from prunecli.progress import NoProgress

if TYPE_CHECKING:
    from pathlib import Path

    from prunecli.strategies.strategy import Strategy

SMALL, LARGE = 10**9, 10**11

GROUPS, SHORT_GROUPS = prunecli.TopK(8, 32), prunecli.TopK(2, 4)

ROWS = prunecli.L1(amount=0.5, scope="row")


class Notes(NoProgress):
    """Keeps the notes of a run."""

    def __init__(self) -> None:
        """Start without a note."""
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        """Keep a note."""
        self.notes.append(text)


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute with NumPy on four CPUs, with a device."""
    monkeypatch.setattr(device_choice, "available_cpus", lambda: 4)
    monkeypatch.setattr(device_choice, "default_threads", lambda: 4)
    monkeypatch.setattr(device_choice, "has_native", lambda: False)
    monkeypatch.setattr(device_choice, "resolve", lambda name: "cuda:0" if name == "auto" else None)


def chosen(*work: tuple[Strategy, int], threads: int = 0) -> tuple[str | None, list[str]]:
    """Return the device for strategies and the bytes of their targets, and the notes."""
    targets = [SimpleNamespace(tensor=SimpleNamespace(nbytes=size)) for _, size in work]
    progress, selection = Notes(), SimpleNamespace(targets=targets)
    pruned_by = [(strategy, (member,)) for member, (strategy, _) in enumerate(work)]
    options: Any = RunOptions(threads=threads, progress=progress)
    return choose_device(pruned_by, selection, options), progress.notes  # type: ignore[arg-type] # a part of one


@pytest.mark.parametrize("strategy", [GROUPS, ROWS])
def test_a_device_pays_for_long_groups_of_large_files(strategy: Strategy) -> None:
    """The note has what it saves and what it costs."""
    assert chosen((strategy, LARGE)) == (
        "cuda:0",
        ["auto chooses cuda:0: a device saves about 95.0 s of arithmetic, and takes about 4 s to start"],
    )


def test_a_device_does_not_pay_for_small_files() -> None:
    """The start takes longer than the arithmetic."""
    assert chosen((GROUPS, SMALL)) == (
        None,
        ["auto chooses the CPU: a device saves about 0.9 s of arithmetic, and takes about 4 s to start"],
    )


def test_less_arithmetic_needs_larger_files() -> None:
    """Of the same size, long groups are worth a device, and short ones are not."""
    size = 8 * 10**9
    assert [chosen((strategy, size))[0] for strategy in (GROUPS, SHORT_GROUPS)] == ["cuda:0", None]


def test_compiled_kernels_rarely_need_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """On four cores, their arithmetic takes less time than reading and writing; on one core it does not."""
    monkeypatch.setattr(device_choice, "has_native", lambda: True)

    assert chosen((GROUPS, LARGE))[0] is None
    assert chosen((GROUPS, LARGE), threads=1)[0] == "cuda:0"
    assert chosen((SHORT_GROUPS, LARGE), threads=1)[0] is None


def test_the_parts_of_a_recipe_add_up() -> None:
    """Two parts that are not worth a device alone may be worth it together."""
    part = (GROUPS, 3 * 10**9)

    assert chosen(part)[0] is None
    assert chosen(part, part)[0] == "cuda:0"


def test_without_a_device_the_note_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device would pay, and there is none."""
    monkeypatch.setattr(device_choice, "resolve", lambda _: None)

    assert chosen((GROUPS, LARGE)) == (None, ["auto chooses the CPU: there is no other device"])


@pytest.mark.parametrize("recipe", [False, True])
def test_auto_judges_the_run(recipe: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: FBT001
    """A small file is pruned on the CPU, whatever the strategy, and without a look at the devices."""
    from support.command_line import save_two_layers

    monkeypatch.setattr(device_choice, "resolve", lambda _: pytest.fail("looked for a device"))
    path, progress = save_two_layers(tmp_path / "ckpt.safetensors"), Notes()
    strategy = prunecli.Recipe((prunecli.Rule(GROUPS),)) if recipe else GROUPS

    report = prunecli.prune(path, strategy, device="auto", reports=(), progress=progress)

    assert report.device == "cpu"
    assert any(note.startswith("auto chooses the CPU: a device saves about 0.0 s") for note in progress.notes)
