"""Every system call of a run may fail or do a part of its work: the result is right, or one sentence says what is not.

The calls are counted in each kind of run, so a new one is tried without a change here.
"""

from __future__ import annotations

import ast
import errno
import os
import re
import shutil
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from support.covering import in_turn
from support.runs import contents
from torch import nn
from torch.nn.utils import prune as torch_prune

import prunecli
from prunecli.cli.main import main

if TYPE_CHECKING:
    from collections.abc import Callable

    Capture = pytest.CaptureFixture[bytes]

PACKAGE = Path(prunecli.__file__).parent
SYSTEM_CALLS = {"pwrite", "pwritev", "write", "writev", "sendfile", "splice", "copy_file_range"}
"""The system calls that may write a part of their data only."""

RECIPE = """
[[rule]]
strategy = "l1"
amount = 0.5
[[rule]]
strategy = "threshold"
thr = 0.1
"""
RUNS = {
    "file": "l1 m.pth --amount 0.5 -o out --threads 1",
    "file --force": "l1 m.pth --amount 0.5 -o out -f --threads 1",
    "file --in-place": "l1 out --amount 0.5 --in-place --threads 1",
    "directory": "l1 d --amount 0.5 -o out --threads 1",
    "directory --force": "l1 d --amount 0.5 -o out -f --threads 1",
    "directory --in-place": "l1 out --amount 0.5 --in-place --threads 1",
    "mask and report": "l1 m.pth --amount 0.5 -o out --mask-out m.mask --report r.csv --report r.html --threads 1",
    "mask alone": "l1 m.pth --amount 0.5 -n --mask-out out --threads 1",
    "directory and mask": "l1 d --amount 0.5 -o out --mask-out m.mask --threads 1",
    "recipe": "run recipe.toml m.pth -o out --threads 1",
    "standard output": "l1 m.pth --amount 0.5 -o - -q --threads 1",
    "bake": "bake masked.pth -o out",
    "bake a directory": "bake masked -o out",
    "pack": "pack zeros.pth -o out --threads 1",
    "unpack": "unpack packed.pth -o out --threads 1",
    "packed file": "l1 packed.pth --amount 0.5 -o out --threads 1",
    "convert": "convert m.pth out.safetensors --drop-rest --threads 1",
    "convert to shards": "convert zeros.pth out --max-shard-size 20kB --threads 1",
    "trials": "sweep m.pth l1 --at 0.5 --eval EVAL --csv out.csv",
}
"""The kinds of runs by their command lines; those that replace a file find an older one there."""

CALLS = ("pwrite", "write", "copy_file_range", "posix_fallocate", "fsync", "link", "fchmod", "ftruncate", "replace")
_NUMBER = re.compile(rb"[-0-9.e]+")
ERRORS = (errno.ENOSPC, errno.EIO)
IN_TURN = (errno.EDQUOT, errno.EINTR)
"""The errors of which each call gets one, in turn: they take the way of the others."""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a checkpoint with bytes that are copied, as a file and as a directory, and the same with masks."""
    folder = tmp_path_factory.mktemp("inputs")
    generator = torch.Generator().manual_seed(0)
    state = {f"{i}.weight": torch.randn(64, 64, generator=generator) for i in range(2)}
    torch.save({"state_dict": state, "optimizer": torch.randn(300_000, generator=generator)}, folder / "m.pth")
    torch.save({"0.weight": state["0.weight"].clamp(min=0), "1.weight": state["1.weight"]}, folder / "zeros.pth")
    prunecli.pack(folder / "zeros.pth", folder / "packed.pth")
    layer = torch_prune.l1_unstructured(nn.Linear(32, 32), "weight", 0.5)
    torch.save(layer.state_dict(), folder / "masked.pth")
    for name, weights in (("d", state), ("masked", layer.state_dict())):
        (folder / name).mkdir()
        (folder / name / "config.json").write_text("{}")
        for number, (key, tensor) in enumerate(weights.items(), 1):
            torch.save({key: tensor}, folder / name / f"m-{number:05}-of-{len(weights):05}.bin")
    (folder / "recipe.toml").write_text(RECIPE)
    return folder


class Case:
    """A kind of run in a folder of its own, which is made anew for each run."""

    def __init__(self, kind: str, inputs: Path, folder: Path) -> None:
        """Prepare runs of `kind`."""
        self.kind, self.inputs, self.folder = kind, inputs, folder
        evaluation = f"{sys.executable} -I -S -c print(1) {{}}"
        self.words = [evaluation if word == "EVAL" else word for word in RUNS[kind].split()]

    def prepare(self) -> dict[str, bytes]:
        """Make the folder anew, and return the contents of its files."""
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(self.inputs, self.folder)
        if "--" in self.kind:
            source = self.folder / ("d" if self.kind.startswith("directory") else "m.pth")
            copy = shutil.copytree if source.is_dir() else shutil.copyfile
            copy(source, self.folder / "out")
        os.chdir(self.folder)
        return contents(self.folder)

    def run(self, capture: Capture) -> tuple[int, bytes, str]:
        """Run the command line; return the exit code, standard output and standard error."""
        capture.readouterr()
        code = main(self.words)
        ran = capture.readouterr()
        return code, ran.out, ran.err.decode()


@pytest.fixture
def case(request: pytest.FixtureRequest, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    """Return the kind of run of the test's parameter."""
    monkeypatch.chdir(tmp_path)
    return Case(request.param, inputs, tmp_path / "run")


class Counted:
    """A function of `os` that counts its calls, and does something else at one of them."""

    def __init__(self, name: str, at: int = -1, fault: Callable[..., Any] | None = None) -> None:
        """Call `fault` with the real function and the arguments at call number `at`."""
        self.real, self.at, self.fault, self.calls = getattr(os, name), at, fault, 0
        self.callers: set[str] = set()

    def __call__(self, *args: object, **kwargs: object) -> object:
        """Count the call."""
        self.calls += 1
        code = sys._getframe(2).f_code  # the function that called the one that calls this
        self.callers.add(f"{Path(code.co_filename).name}:{code.co_name}")
        if self.fault is not None and self.calls - 1 == self.at:
            return self.fault(self.real, *args, **kwargs)
        return self.real(*args, **kwargs)


def fails(number: int) -> Callable[..., Any]:
    """Return a call that fails with the errno `number`."""

    def call(*_: object, **__: object) -> object:
        raise OSError(number, os.strerror(number))

    return call


def short_write(real: Callable[..., int], fd: int, data: memoryview, *offset: int) -> int:
    """Write the first byte only."""
    return real(fd, data[:1], *offset)


def short_copy(real: Callable[..., int], source: int, fd: int, count: int, *offsets: int) -> int:
    """Copy the first byte only."""
    return real(source, fd, min(count, 1), *offsets)


SHORT = {"pwrite": short_write, "write": short_write, "copy_file_range": short_copy}


def results(case: Case) -> dict[str, bytes]:
    """Return the contents of the folder without the numbers of reports, which differ from run to run."""
    return without_numbers(contents(case.folder))


def without_numbers(files: dict[str, bytes]) -> dict[str, bytes]:
    """Return the contents of files, those of reports and tables without numbers."""
    tables = (".json", ".csv", ".html")
    return {name: _NUMBER.sub(b"", data) if name.endswith(tables) else data for name, data in files.items()}


def counted_run(case: Case, capture: Capture, monkeypatch: pytest.MonkeyPatch, *fault: Any) -> tuple[Counted, Any]:  # noqa: ANN401
    """Run once with a counted function, `fault` being its arguments, in a folder that is made anew."""
    case.prepare()
    counted = Counted(*fault)
    with monkeypatch.context() as patch:
        patch.setattr(os, fault[0], counted)
        return counted, case.run(capture)


@pytest.mark.parametrize(("case", "name"), in_turn(RUNS, SHORT), indirect=["case"])
def test_a_short_write_is_continued(
    case: Case, name: str, capfdbinary: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If any one call writes a part of its data, the run ends with the same files as without."""
    counted, clean = counted_run(case, capfdbinary, monkeypatch, name)
    expected = results(case)
    assert clean[0] == 0, clean

    for at in range(counted.calls):
        _, (code, out, _) = counted_run(case, capfdbinary, monkeypatch, name, at, SHORT[name])
        assert (code, results(case)) == (0, expected), (name, at)
        assert case.kind != "standard output" or out == clean[1]


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="interval timers are POSIX's")
@pytest.mark.parametrize("case", ["file", "directory", "mask and report", "bake", "convert"], indirect=True)
def test_interrupted_calls_are_repeated(case: Case, capfdbinary: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal every half millisecond, which interrupts system calls, changes no byte of the output."""
    _, clean = counted_run(case, capfdbinary, monkeypatch, "pwrite")
    expected = results(case)
    case.prepare()
    count = 0

    def on_signal(*_: object) -> None:
        nonlocal count
        count += 1

    before = signal.signal(signal.SIGALRM, on_signal)
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    try:
        code, _, _ = case.run(capfdbinary)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)

    assert count > 0
    assert (clean[0], code, results(case)) == (0, 0, expected)


@pytest.mark.parametrize(("case", "name"), in_turn(RUNS, CALLS), indirect=["case"])
def test_a_failing_call_leaves_the_old_or_the_new_files(
    case: Case, name: str, capfdbinary: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If any one call fails, the run ends with one sentence, and each output is the old or the new one.

    If the sentence does not say that the checkpoint is written, it is the old one, and the other way round.
    """
    counted, _ = counted_run(case, capfdbinary, monkeypatch, name)
    new, old = results(case), without_numbers(case.prepare())

    for at in range(counted.calls):
        for number in (*ERRORS, IN_TURN[at % 2]):
            _, (code, _, err) = counted_run(case, capfdbinary, monkeypatch, name, at, fails(number))
            check_end(case, old, new, code, err)


def check_end(case: Case, old: dict[str, bytes], new: dict[str, bytes], code: int, err: str) -> None:
    """Check the exit code, the messages and the files after a failed call."""
    now = results(case)
    assert code in {0, 2}, err
    assert (code == 2) == err.startswith("error: ")
    assert "Traceback" not in err
    assert not any(".prune-" in name for name in now)
    if code == 0:
        assert now == new
        return
    for name in {*now, *new} - {"m.pruned.pth.search.json"}:  # it is written after each trial
        assert now.get(name) in {old.get(name), new.get(name)}, name
    ours = {name for name in new if name.partition("/")[0] == "out"}
    changed = all(now.get(name) == new[name] for name in ours)
    assert ours == set() or changed == (" is written" in err), err


# --- no write is forgotten


def calls_in(path: Path, names: set[str]) -> list[tuple[str, str]]:
    """Return (the function, the name) of each call of one of `names` in a module."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    nodes = [(function.name, node) for function in functions for node in ast.walk(function)]
    calls = [(function, called(node.func)) for function, node in nodes if isinstance(node, ast.Call)]
    return [(function, name) for function, name in calls if name in names]


def called(node: ast.expr) -> str:
    """Return the dotted name of a called function."""
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        return f"{node.value.id}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def test_system_calls_that_write_are_called_in_two_places() -> None:
    """A module that wrote by itself could overlook that a call wrote a part of its data."""
    calls = {
        path.relative_to(PACKAGE).as_posix(): sorted(calls_in(path, {f"os.{name}" for name in SYSTEM_CALLS}))
        for path in PACKAGE.rglob("*.py")
    }

    assert {path: found for path, found in calls.items() if found} == {
        "io/transfer.py": [("kernel_copy", "os.copy_file_range"), ("write_all", "os.pwrite")],
        "cli/pipes.py": [("_write", "os.write")],
    }


def test_every_function_that_writes_is_tried(
    inputs: Path, tmp_path: Path, capfdbinary: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The runs of this module reach every function of the package that calls `write_all`."""
    monkeypatch.chdir(tmp_path)
    writers = {
        f"{path.name}:{function}" for path in PACKAGE.rglob("*.py") for function, _ in calls_in(path, {"write_all"})
    }

    reached: set[str] = set()
    for kind in RUNS:
        counted, _ = counted_run(Case(kind, inputs, tmp_path / "run"), capfdbinary, monkeypatch, "pwrite")
        reached |= counted.callers

    # These write where the kernel or the filesystem does not: tests/io/test_files.py tries them.
    assert writers - reached <= {"files.py:_copy_in_memory", "files.py:_write_direct"}
