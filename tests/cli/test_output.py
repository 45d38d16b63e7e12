"""Standard output and standard error of the commands: progress, results that cannot be printed, and dashes."""

from __future__ import annotations

import errno
import os
import re
import shlex
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
from prunecli.inspection.conditions import Finite, GroupPattern, OnlyZerosAdded
from prunecli.inspection.diff import diff
from prunecli.inspection.inspect import inspect
from prunecli.inspection.scan import scan
from prunecli.progress import NoProgress

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Prune = Callable[..., tuple[int, str, str]]

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
    """Write a weight pruned with torch, a transposed one and one of another dtype."""
    weights = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    path = tmp_path / "c.pth"
    mask = (weights.abs() > 1).float()
    torch.save(
        {"a.weight_orig": weights, "a.weight_mask": mask, "b.weight": weights.clone().t()} | {"c.weight": mask.half()},
        path,
    )
    return path


def words(line: str, ckpt: Path, **values: str) -> list[str]:
    """Return the words of a command line with the path of the checkpoint and an evaluation."""
    known = {"CKPT": str(ckpt), "EVAL": "echo 1 {}", **values}
    return [known.get(word, word) for word in line.split()]


def error_on_a_full_disk(arguments: list[str], folder: Path) -> list[str]:
    """Run a command whose standard output is full; return the lines of its error."""
    command = [sys.executable, "-m", "prunecli", *arguments]
    with FULL.open("wb") as full:
        result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False, text=True, cwd=folder)
    assert result.returncode == 2
    return result.stderr.splitlines()


# --- progress


@pytest.mark.parametrize(
    ("look", "phases"),
    [
        (lambda c, w: inspect(open_checkpoint(c), thresholds=True, progress=w), ["ranking", "counting"]),
        (lambda c, w: inspect(open_checkpoint(c), hist="b.weight", progress=w), ["drawing", "counting"]),
        (lambda c, w: scan(open_checkpoint(c), progress=w), ["measuring"]),
        (lambda c, w: check(c, [Finite(), GroupPattern(2, 4)], progress=w), ["counting", "grouping"]),
        (lambda c, w: check(c, [OnlyZerosAdded(c)], progress=w), ["comparing"]),
        (lambda c, w: diff(c, c, progress=w), ["comparing"]),
        (lambda c, w: bake(c, progress=w), ["copying", "folding"]),
    ],
    ids=["thresholds", "hist", "scan", "check", "since", "diff", "bake"],
)
def test_each_pass_reads_the_bytes_that_it_announces(
    ckpt: Path, look: Callable[[Path, Recorder], object], phases: list[str]
) -> None:
    """Each pass reports its size before it begins, and its steps sum to that size."""
    recorder = Recorder()

    look(ckpt, recorder)

    assert [phase for phase, _, _ in recorder.phases] == phases
    assert all(size == sum(steps) > 0 for _, size, steps in recorder.phases), recorder.phases


@pytest.mark.parametrize("dtypes", [("float32",), ("float16", "float64"), ("float8_e4m3fn", "bfloat16", "float32")])
def test_ranking_announces_all_its_passes(tmp_path: Path, dtypes: tuple[str, ...]) -> None:
    """Wide dtypes are read more than once, and several dtypes once more each; the announced size includes that."""
    generator, path, recorder = torch.Generator().manual_seed(1), tmp_path / "c.safetensors", Recorder()
    save_file({f"{d}.weight": torch.randn(32, 32, generator=generator).to(getattr(torch, d)) for d in dtypes}, path)

    inspect(open_checkpoint(path), thresholds=True, progress=recorder)

    _, size, steps = recorder.phases[-1]
    assert size == sum(steps)


@pytest.mark.parametrize("name", READING)
def test_progress_goes_to_standard_error(
    ckpt: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Without a terminal a long pass prints a line; --no-progress silences it, and standard output is the same."""
    monkeypatch.setattr(progress, "FIRST_LINE", -1.0)

    main(words(COMMANDS[name], ckpt))
    verbose = capfd.readouterr()
    main([*words(COMMANDS[name], ckpt), "--no-progress"])
    silent = capfd.readouterr()

    assert all(re.fullmatch(r"prune: \d+% done, \w+; .* left", line) for line in verbose.err.splitlines())
    assert verbose.err
    assert silent.err == ""
    assert silent.out == verbose.out


@pytest.mark.parametrize("name", ["check", "diff", "bake"])
def test_quiet_prints_no_progress(
    ckpt: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """With -q a command prints nothing."""
    monkeypatch.setattr(progress, "FIRST_LINE", -1.0)

    assert main([*words(COMMANDS[name], ckpt), "-q"]) == 0
    assert capfd.readouterr() == ("", "")


# --- results that cannot be printed


needs_full = pytest.mark.skipif(not FULL.exists(), reason="only Linux has a device that is always full")


@needs_full
@pytest.mark.parametrize("name", COMMANDS)
def test_a_full_disk_is_an_error_of_one_line(ckpt: Path, name: str) -> None:
    """If standard output is full, the last line of the error says that the result cannot be printed."""
    lines = error_on_a_full_disk(words(COMMANDS[name], ckpt), ckpt.parent)

    assert lines[-1] == f"error: the result cannot be printed: {os.strerror(errno.ENOSPC)}"
    assert not any("Traceback" in line for line in lines)


@needs_full
def test_a_full_disk_does_not_hide_the_written_file(ckpt: Path) -> None:
    """If the table cannot be printed, the error says that the checkpoint is written."""
    (line,) = error_on_a_full_disk(["bake", ckpt.name], ckpt.parent)

    assert line.startswith("error: c.baked.pth is written, but the result cannot be printed")
    assert ckpt.with_name("c.baked.pth").exists()


# --- paths that a command cannot write


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("scan CKPT --html -", "prune scan CKPT --html page.html"),
        (
            "sweep CKPT l1 --at .5 --eval EVAL --csv -",
            "prune sweep CKPT l1 --at .5 --eval EVAL --csv sweep.csv",
        ),
        (
            "sweep CKPT l1 --at .5 --eval EVAL --figure -",
            "prune sweep CKPT l1 --at .5 --eval EVAL --figure figure.pdf",
        ),
        ("check CKPT --same-structure-as -", "prune check - --same-structure-as OTHER < CKPT"),
        ("check CKPT --only-zeros-added-since -", "prune check - --only-zeros-added-since OTHER < CKPT"),
    ],
)
def test_a_dash_is_not_a_file_name(
    ckpt: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, line: str, hint: str
) -> None:
    """An option that cannot use `-` rejects it with a hint to type, and no file has that name."""
    monkeypatch.chdir(ckpt.parent)

    assert main(words(line, ckpt)) == 2

    expected = hint.replace(" CKPT ", f" {ckpt} ").replace("EVAL", "'echo 1 {}'")
    assert capsys.readouterr().err.splitlines()[-1] == f"hint: {expected}"
    assert [path.name for path in ckpt.parent.iterdir()] == [ckpt.name]


@pytest.mark.parametrize(
    ("line", "option"),
    [
        ("scan CKPT --html OLD", "--html"),
        ("sweep CKPT global --at 0.5 --eval EVAL --csv OLD", "--csv"),
        ("sweep CKPT global --at 0.5 --eval EVAL --html OLD", "--html"),
    ],
)
def test_the_hint_names_the_option_of_the_file(
    ckpt: Path, capsys: pytest.CaptureFixture[str], line: str, option: str
) -> None:
    """An existing page, table or plot is kept, and the hint names the option that sets its path, not -o."""
    old = ckpt.with_name("old")
    old.write_text("mine")

    assert main(words(line, ckpt, OLD=str(old))) == 2

    hint = capsys.readouterr().err.splitlines()[-1]
    assert hint == f"hint: write elsewhere with {option} PATH, or replace it with --force"
    assert old.read_text() == "mine"


@pytest.mark.parametrize("command", ["l1 CKPT --amount 0.5", "search CKPT global --max-drop 1 --eval 'true {}'"])
@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("out.onnx", "would be ONNX, which is not written"),
        ("out.gguf", "would be GGUF, which is not written"),
        ("out.foo", "no checkpoint format has the suffix .foo"),
        ("model.safetensors.index.json", "is the name of an index"),
    ],
)
def test_an_output_with_the_suffix_of_no_format_that_is_written_is_refused(
    command: str, output: str, message: str, prune: Prune, tmp_path: Path
) -> None:
    """Nothing is written, and the hint has names that are."""
    path = tmp_path / "model.pth"
    torch.save({"a.weight": torch.rand(4, 4)}, path)
    words = [path if word == "CKPT" else word for word in shlex.split(command)]

    code, _, errors = prune(*words, "-o", tmp_path / output)

    assert code == 2
    assert message in errors
    assert " -o " in errors.splitlines()[-1]
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("output", ["out.pt", "out", "out.pth.tar", "out.v1.5"])
def test_other_suffixes_of_the_same_format_are_accepted(output: str, prune: Prune, tmp_path: Path) -> None:
    """Suffixes of the same format, none, and the one that the input has are the user's choice."""
    for suffix in (".pth", ".safetensors"):  # a torch file that is named otherwise keeps its name
        path = tmp_path / f"model{suffix}"
        torch.save({"a.weight": torch.rand(4, 4)}, path)

        assert prune("l1", path, "--amount", "0.5", "-f", "-o", tmp_path / output)[0] == 0
        assert prune("l1", path, "--amount", "0.5", "-f", "-o", tmp_path / f"other{suffix}")[0] == 0


@pytest.mark.parametrize("suffix", [".pth", ".npz", ".PT", ".onnx", ".gguf"])
def test_a_mask_does_not_get_the_suffix_of_another_format(prune: Prune, suffix: str) -> None:
    """A mask is a safetensors file: `--mask-out mask.pth` is refused, and the hint is the name that it can have."""
    ran = prune("l1", "m.pth", "--amount", "0.5", "--mask-out", f"mask{suffix}")

    assert (ran.code, ran.out) == (2, "")
    assert f"mask{suffix} would not be what its suffix says: a mask is a safetensors file" in ran.err
    assert "--mask-out mask.safetensors" in ran.err
