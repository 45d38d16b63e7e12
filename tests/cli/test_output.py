"""What the reading commands tell: how far each pass is, and that what cannot be printed is said so."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import save_file

from prunecli.baking.bake import bake
from prunecli.cli import progress
from prunecli.cli.main import main
from prunecli.formats.open import open_checkpoint
from prunecli.inspection.check import check
from prunecli.inspection.conditions import Finite, OnlyZerosAdded, Pattern
from prunecli.inspection.diff import diff
from prunecli.inspection.inspect import inspect
from prunecli.inspection.scan import scan
from prunecli.progress import NoProgress

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

FULL = Path("/dev/full")
COMMANDS = {
    "inspect": "inspect CKPT --thresholds",
    "inspect json": "inspect CKPT --json",
    "scan": "scan CKPT",
    "check": "check CKPT --finite",
    "check json": "check CKPT --finite --json",
    "diff": "diff CKPT CKPT",
    "bake": "bake CKPT -n",
    "sweep": "sweep CKPT global --at 0.5 --eval EVAL",
    "sweep json": "sweep CKPT global --at 0.5 --json --eval EVAL",
    "search": "search CKPT global -n --max-drop 0 --eval EVAL",
    "search json": "search CKPT global -n --json --max-drop 0 --eval EVAL",
}
READING = [name for name in COMMANDS if name.split()[0] not in {"sweep", "search"}]


class Recorder(NoProgress):
    """Records each phase: its name, the bytes announced, and the bytes of each step."""

    def __init__(self) -> None:
        """Start without a phase."""
        self.phases: list[tuple[str, int, list[int]]] = []

    def begin(self, phases: Mapping[str, int]) -> None:
        """Record the phases of one pass."""
        self.phases += [(name, size, []) for name, size in phases.items()]

    def advance(self, phase: str, count: int) -> None:
        """Record a step of the last phase."""
        name, _, steps = self.phases[-1]
        assert name == phase
        steps.append(count)


@pytest.fixture
def ckpt(tmp_path: Path) -> Path:
    """Write a pruned weight, a transposed one and one of another dtype."""
    weights = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    path = tmp_path / "c.pth"
    mask = (weights.abs() > 1).float()
    torch.save(
        {"a.weight_orig": weights, "a.weight_mask": mask, "b.weight": weights.clone().t()} | {"c.weight": mask.half()},
        path,
    )
    return path


def words(name: str, ckpt: Path) -> list[str]:
    """Return the command line of a command."""
    known = {"CKPT": str(ckpt), "EVAL": "echo 1 {}"}
    return [known.get(word, word) for word in COMMANDS[name].split()]


# --- how far it is


@pytest.mark.parametrize(
    ("look", "phases"),
    [
        (lambda c, w: inspect(open_checkpoint(c), thresholds=True, progress=w), ["counting", "ranking"]),
        (lambda c, w: inspect(open_checkpoint(c), hist="b.weight", progress=w), ["counting", "ranking"]),
        (lambda c, w: scan(open_checkpoint(c), progress=w), ["measuring"]),
        (lambda c, w: check(c, [Finite(), Pattern(2, 4)], progress=w), ["counting", "grouping"]),
        (lambda c, w: check(c, [OnlyZerosAdded(c)], progress=w), ["comparing"]),
        (lambda c, w: diff(c, c, progress=w), ["comparing"]),
        (lambda c, w: bake(c, progress=w), ["copying", "folding"]),
    ],
    ids=["thresholds", "hist", "scan", "check", "since", "diff", "bake"],
)
def test_what_is_announced_is_what_is_read(
    ckpt: Path, look: Callable[[Path, Recorder], object], phases: list[str]
) -> None:
    """Each pass tells its size before it begins, and its steps come to just that."""
    recorder = Recorder()

    look(ckpt, recorder)

    assert [phase for phase, _, _ in recorder.phases] == phases
    assert all(size == sum(steps) > 0 for _, size, steps in recorder.phases), recorder.phases


@pytest.mark.parametrize("dtypes", [("float32",), ("float16", "float64"), ("float8_e4m3fn", "bfloat16", "float32")])
def test_ranking_announces_all_its_passes(tmp_path: Path, dtypes: tuple[str, ...]) -> None:
    """Wide dtypes are read more than once, and several dtypes once more each, all of it announced."""
    generator, path, recorder = torch.Generator().manual_seed(1), tmp_path / "c.safetensors", Recorder()
    save_file({f"{d}.weight": torch.randn(32, 32, generator=generator).to(getattr(torch, d)) for d in dtypes}, path)

    inspect(open_checkpoint(path), thresholds=True, progress=recorder)

    _, size, steps = recorder.phases[-1]
    assert size == sum(steps)


@pytest.mark.parametrize("name", READING)
def test_progress_goes_to_standard_error_unless_it_is_not_wanted(
    ckpt: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Without a terminal a long pass prints a line; --no-progress silences it, and standard output is the same."""
    monkeypatch.setattr(progress, "FIRST_LINE", -1.0)

    main(words(name, ckpt))
    loud = capfd.readouterr()
    main([*words(name, ckpt), "--no-progress"])
    calm = capfd.readouterr()

    assert all(re.fullmatch(r"prune: \w+ \d+%; .* s left", line) for line in loud.err.splitlines())
    assert loud.err
    assert calm.err == ""
    assert calm.out == loud.out


@pytest.mark.parametrize("name", ["check", "diff", "bake"])
def test_quiet_is_without_progress(
    ckpt: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """-q prints nothing at all."""
    monkeypatch.setattr(progress, "FIRST_LINE", -1.0)

    assert main([*words(name, ckpt), "-q"]) == 0
    assert capfd.readouterr() == ("", "")


# --- what cannot be printed


@pytest.mark.skipif(not FULL.exists(), reason="only Linux has a device that is always full")
@pytest.mark.parametrize("name", COMMANDS)
def test_a_full_disk_under_standard_output_is_named(ckpt: Path, name: str) -> None:
    """The one line says that it is the printing that failed, and the exit code is 2."""
    with FULL.open("wb") as full:
        ran = subprocess.run(
            [sys.executable, "-m", "prunecli", *words(name, ckpt)],
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
            text=True,
            cwd=ckpt.parent,
        )

    assert ran.returncode == 2
    assert ran.stderr.splitlines()[-1] == f"error: the result cannot be printed: {os.strerror(errno.ENOSPC)}"
    assert "Traceback" not in ran.stderr


@pytest.mark.skipif(not FULL.exists(), reason="only Linux has a device that is always full")
def test_what_was_written_before_is_told(ckpt: Path) -> None:
    """Where the table cannot be printed, the message says that the file is there all the same."""
    with FULL.open("wb") as full:
        ran = subprocess.run(
            [sys.executable, "-m", "prunecli", "bake", ckpt.name],
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
            text=True,
            cwd=ckpt.parent,
        )

    assert ran.returncode == 2
    assert ran.stderr.startswith("error: c.baked.pth is written, but the result cannot be printed")
    assert ckpt.with_name("c.baked.pth").exists()


# --- a dash is standard output everywhere else


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("scan CKPT --html -", "--html scan.html"),
        ("sweep CKPT global --at 0.5 --eval EVAL --csv -", "--csv sweep.csv"),
        ("sweep CKPT global --at 0.5 --eval EVAL --svg -", "--svg sweep.svg"),
        ("check CKPT --same-structure-as -", "prune check - --same-structure-as OTHER < CKPT"),
        ("check CKPT --only-zeros-added-since -", "prune check - --only-zeros-added-since OTHER < CKPT"),
    ],
)
def test_a_dash_is_no_file_name(
    ckpt: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, line: str, hint: str
) -> None:
    """Where `-` can mean nothing, it is refused with what to type; no file called `-` comes about."""
    monkeypatch.chdir(ckpt.parent)
    known = {"CKPT": str(ckpt), "EVAL": "echo 1 {}"}

    assert main([known.get(word, word) for word in line.split()]) == 2

    assert capsys.readouterr().err.splitlines()[-1] == f"hint: {hint}"
    assert [path.name for path in ckpt.parent.iterdir()] == [ckpt.name]


@pytest.mark.parametrize(
    ("line", "option"),
    [
        ("scan CKPT --html OLD", "--html"),
        ("sweep CKPT global --at 0.5 --eval EVAL --csv OLD", "--csv"),
        ("sweep CKPT global --at 0.5 --eval EVAL --svg OLD", "--svg"),
    ],
)
def test_the_hint_names_an_option_that_there_is(
    ckpt: Path, capsys: pytest.CaptureFixture[str], line: str, option: str
) -> None:
    """A page, table or plot that exists is kept, and the hint names the option that places it, not -o."""
    old = ckpt.with_name("old")
    old.write_text("mine")
    known = {"CKPT": str(ckpt), "EVAL": "echo 1 {}", "OLD": str(old)}

    assert main([known.get(word, word) for word in line.split()]) == 2

    hint = capsys.readouterr().err.splitlines()[-1]
    assert hint == f"hint: write elsewhere with {option} PATH, or replace it with --force"
    assert old.read_text() == "mine"
