"""The pruning commands: the outputs they write and print, and the exit codes."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
from safetensors.numpy import load_file
from support.command_line import HALF, Ran, listing, process, save_two_layers

from prunecli import api
from prunecli.kernels import devices

if TYPE_CHECKING:
    from pathlib import Path

    from support.command_line import Prune


def test_the_table_goes_to_standard_output_alone(prune: Prune, ckpt: Path) -> None:
    """A run prints a line per selected tensor and the totals on standard output, and nothing on standard error."""
    ran = prune("global", ckpt, *HALF)

    assert (ran.code, ran.err) == (0, "")
    assert re.search(r"^fc1\.weight +F32 +8x8 +64 ", ran.out, re.MULTILINE)
    assert ran.out.startswith("50.0% of 96 weights zeroed in 2 tensors, ")
    assert str(ckpt.with_name("ckpt.pruned.safetensors")) in ran.out
    assert listing(ckpt.parent) == {ckpt.name, "ckpt.pruned.safetensors", "ckpt.pruned.safetensors.report.json"}


def test_topk_prints_its_pattern_in_words(prune: Prune, ckpt: Path) -> None:
    """2:4 has two meanings in the literature, so the output spells it out."""
    ran = prune("topk", ckpt, "--pattern", "2:4", "-n")

    assert "keeps 2 of every 4" in ran.out


def test_keep_and_group_equal_the_pattern(prune: Prune, ckpt: Path, tmp_path: Path) -> None:
    """--keep 2 --group 7 and --pattern 2:7 write the same bytes."""
    one, two = tmp_path / "one", tmp_path / "two"

    assert prune("topk", ckpt, "--keep", "2", "--group", "7", "-o", one).code == 0
    assert prune("topk", ckpt, "--pattern", "2:7", "-o", two).code == 0
    assert one.read_bytes() == two.read_bytes()


def test_an_existing_output_is_kept_without_force(prune: Prune, ckpt: Path) -> None:
    """A second run is refused with --force as the hint and changes nothing; --force replaces the output."""
    output = ckpt.with_name("ckpt.pruned.safetensors")
    prune("global", ckpt, *HALF)
    before = output.read_bytes()

    ran = prune("global", ckpt, "--amount", "0.9")

    assert (ran.code, ran.out) == (2, "")
    assert "exists" in ran.err
    assert "--force" in ran.err
    assert output.read_bytes() == before
    assert prune("global", ckpt, "--amount", "0.9", "-f").code == 0
    assert output.read_bytes() != before


@pytest.mark.parametrize("extra", [(), ("--json",), ("-q",)])
def test_a_dry_run_writes_nothing(prune: Prune, ckpt: Path, extra: tuple[str, ...]) -> None:
    """--dry-run measures and writes no file, with any form of output."""
    assert prune("global", ckpt, *HALF, "--dry-run", *extra).code == 0
    assert listing(ckpt.parent) == {ckpt.name}


def test_a_dry_run_writes_requested_reports(prune: Prune, ckpt: Path, tmp_path: Path) -> None:
    """--dry-run --report PATH writes the report of the run that did not happen."""
    assert prune("global", ckpt, *HALF, "-n", "--report", tmp_path / "r.json").code == 0
    report = json.loads((tmp_path / "r.json").read_text())
    assert (report["dry_run"], report["output"], report["totals"]["selected"]["pruned"]) == (True, None, 48)


def test_json_is_the_only_standard_output(prune: Prune, ckpt: Path) -> None:
    """--json prints the report instead of the table, with the command line in it."""
    ran = prune("global", ckpt, *HALF, "--json", "-n")

    report = json.loads(ran.out)
    assert (ran.code, ran.err, report["schema"]) == (0, "", 2)
    assert report["command"] == ["prune", "global", str(ckpt), *HALF, "--json", "-n"]


def test_two_reports_are_written(prune: Prune, ckpt: Path, tmp_path: Path) -> None:
    """Each --report gets the same text, the default report is not written, and the table names both."""
    a, b = tmp_path / "a.json", tmp_path / "b.json"

    ran = prune("global", ckpt, *HALF, "--report", a, "--report", b)

    assert a.read_text() == b.read_text()
    assert str(a) in ran.out
    assert str(b) in ran.out
    assert "ckpt.pruned.safetensors.report.json" not in listing(ckpt.parent)


def test_quiet_prints_nothing(prune: Prune, ckpt: Path) -> None:
    """-q prints nothing without warnings, and still writes the output and its report."""
    assert prune("global", ckpt, *HALF, "-q") == Ran(0, "", "")
    assert len(listing(ckpt.parent)) == 3


def test_quiet_still_warns(prune: Prune, ckpt: Path) -> None:
    """A tensor that becomes all zero is named on standard error, even with -q."""
    ran = prune("threshold", ckpt, "--thr", "5", "-q")

    assert (ran.code, ran.out) == (0, "")
    assert ran.err == "warning: 2 tensors become all zero: fc1.weight, fc2.weight\n"


@pytest.mark.parametrize("bad", ["\x1b[31mred\x07", "[red]x[/red]", "line\nbreak", "\u202eright"])
def test_names_are_escaped(prune: Prune, tmp_path: Path, bad: str) -> None:
    """Terminal codes and markup in a tensor's name are printed as text."""
    path = save_two_layers(tmp_path / "c.safetensors", prefix=bad)

    ran = prune("threshold", path, "--thr", "5", "-n")

    assert ran.code == 0
    assert bad.encode("unicode_escape").decode() in ran.out
    assert not set(ran.out + ran.err) & set("\x1b\x07\u202e")


def test_the_input_can_be_replaced(prune: Prune, ckpt: Path, tmp_path: Path) -> None:
    """--in-place replaces the input by the bytes that -o writes, and puts a report next to it."""
    expected = tmp_path / "expected"
    prune("global", ckpt, *HALF, "-o", expected)

    ran = prune("global", ckpt, *HALF, "--in-place")

    assert (ran.code, ran.err) == (0, "")
    assert expected.read_bytes() == ckpt.read_bytes()
    assert listing(ckpt.parent) == {ckpt.name, "ckpt.safetensors.report.json"}


def test_in_place_through_links(prune: Prune, ckpt: Path) -> None:
    """A symbolic link still points to the file, which is replaced; another hard link keeps the old bytes."""
    before = ckpt.read_bytes()
    soft, hard = ckpt.with_name("soft"), ckpt.with_name("hard")
    soft.symlink_to(ckpt.name)
    hard.hardlink_to(ckpt)

    assert prune("global", soft, *HALF, "--in-place", "-q").code == 0
    assert soft.is_symlink()
    assert ckpt.read_bytes() != before
    assert hard.read_bytes() == before


def test_a_bias_can_be_included(prune: Prune, ckpt: Path, tmp_path: Path) -> None:
    """-i overrides the name rule and the rule of two dimensions."""
    assert prune("global", ckpt, *HALF, "-i", "fc2.bias", "-o", tmp_path / "o").code == 0
    assert np.count_nonzero(load_file(tmp_path / "o")["fc2.bias"] == 0) == 2


def test_auto_is_the_cpu_without_another_device(
    prune: Prune, ckpt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """--device auto falls back to the CPU and writes the same bytes."""
    monkeypatch.setattr(devices, "available_devices", lambda _: [])

    assert prune("global", ckpt, *HALF, "-o", tmp_path / "a").code == 0
    assert prune("global", ckpt, *HALF, "-o", tmp_path / "b", "--device", "auto").code == 0
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def raising(error: BaseException) -> object:
    """Return a function that raises `error`."""

    def prune(*_: object, **__: object) -> None:
        raise error

    return prune


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (KeyboardInterrupt(), 130, "interrupted: nothing was written\n"),
        (OSError(5, "Input/output error", "x.pth"), 2, "error: Input/output error: x.pth\n"),
        (FileNotFoundError(2, "No"), 2, "error: the current directory no longer exists\nhint: cd DIRECTORY\n"),
    ],
)
def test_exit_codes_of_interrupts_and_system_errors(
    prune: Prune, ckpt: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, message: str
) -> None:
    """Ctrl-C gives 130 and a failed system call 2, each with one sentence."""
    monkeypatch.setattr(api, "prune_request", raising(error))

    assert prune("global", ckpt, *HALF) == Ran(code, "", message)


def test_an_unexpected_error_keeps_its_traceback(prune: Prune, ckpt: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception that is not an error of usage or input is not caught."""
    monkeypatch.setattr(api, "prune_request", raising(ZeroDivisionError()))

    with pytest.raises(ZeroDivisionError):
        prune("global", ckpt, *HALF)


def test_signal_handlers_are_restored(prune: Prune) -> None:
    """Running the command line in a process leaves its signal handlers as they were."""
    before = signal.getsignal(signal.SIGTERM)

    prune("--version")

    assert signal.getsignal(signal.SIGTERM) is before


def test_the_installed_command_equals_the_module(ckpt: Path) -> None:
    """`prune` and `python -m prunecli` print the same."""
    command = shutil.which("prune", path=os.path.dirname(sys.executable))  # noqa: PTH120
    if command is None:
        pytest.skip("the command is not installed next to this Python")

    ran = subprocess.run([command, "global", ckpt, *HALF, "-n"], capture_output=True, check=False)

    lines = [line for line in ran.stdout.splitlines() if b" s; nothing written" not in line]
    assert len(lines) > 3
    assert set(lines) < set(process("global", ckpt, *HALF, "-n").stdout.splitlines())
