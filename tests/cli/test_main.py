"""The command line: what is said where, and the exit code, for what people type and pipe."""

from __future__ import annotations

import json
import os
import pty
import re
import shlex
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from prunecli import api
from prunecli.cli import progress
from prunecli.cli.main import main
from prunecli.cli.parsers import parse_amount, parse_pattern
from prunecli.cli.progress import Bars, Lines
from prunecli.errors import UsageError
from prunecli.kernels import devices

if TYPE_CHECKING:
    from pathlib import Path


COMMANDS = ("threshold", "percentile", "l1", "global", "topk", "structured", "block")
HALF = ("--amount", "0.5")
FULL = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full here")  # noqa: PTH110


@dataclass(frozen=True)
class Ran:
    """How a run ended: its exit code, standard output and standard error."""

    code: int
    out: str
    err: str


class Prune(Protocol):
    """`prune("global", path, ...)` runs the command line in this process."""

    def __call__(self, *args: str | Path) -> Ran:
        """Run it with `args`."""


@pytest.fixture
def prune(capfd: pytest.CaptureFixture[str]) -> Prune:
    """Return a function that runs the command line in this process."""

    def run(*args: str | Path) -> Ran:
        capfd.readouterr()
        code = main([str(arg) for arg in args])
        return Ran(code, *capfd.readouterr())

    return run


@pytest.fixture
def ckpt(tmp_path: Path) -> Path:
    """Write a safetensors file of 2 matrices and a bias into a directory of its own."""
    folder = tmp_path / "work"
    folder.mkdir()
    return checkpoint(folder / "ckpt.safetensors")


def checkpoint(path: Path, prefix: str = "") -> Path:
    """Write weights without ties or zeros to `path`."""
    values = (np.random.default_rng(0).permutation(100) + 1).astype(np.float32) / np.float32(100)
    tensors = {"fc1.weight": values[:64].reshape(8, 8), "fc2.weight": -values[64:96].reshape(4, 8)}
    save_file({prefix + k: v for k, v in tensors.items()} | {prefix + "fc2.bias": values[96:]}, path)
    return path


def process(*args: str | Path, **kwargs: object) -> subprocess.CompletedProcess[bytes]:
    """Run the command line in a process of its own."""
    command = [sys.executable, "-m", "prunecli", *map(str, args)]
    return subprocess.run(command, capture_output=True, check=False, timeout=60, **kwargs)  # type: ignore[call-overload,no-any-return]


def shell(line: str) -> subprocess.CompletedProcess[bytes]:
    """Run `line` in a shell, where `prune` is the command line."""
    line = f'prune() {{ {shlex.quote(sys.executable)} -m prunecli "$@"; }}; {line}'
    return subprocess.run(["bash", "-c", line], capture_output=True, check=False, timeout=60)


def listing(folder: Path) -> set[str]:
    """Return the names in `folder`."""
    return {path.name for path in folder.iterdir()}


# --- help and usage


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_every_command_explains_itself(prune: Prune, command: str, flag: str) -> None:
    """`prune COMMAND -h` shows the usage and the shared options on standard output, with exit code 0."""
    ran = prune(command, flag)

    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith(f"Usage: prune {command} ")
    assert "--dry-run" in ran.out


def test_help_lists_the_commands_whole(prune: Prune) -> None:
    """`prune --help` names every command, and no summary is cut short."""
    ran = prune("--help")

    assert (ran.code, ran.err) == (0, "")
    assert [c for c in COMMANDS if re.search(rf"^  {c} +[A-Z].*\.$", ran.out, re.MULTILINE)] == [*COMMANDS]
    assert "..." not in ran.out.replace("[ARGS]...", "")


def test_prune_alone_is_a_usage_error_with_the_help(prune: Prune) -> None:
    """`prune` shows the help on standard error, because nothing was done, and exits with 2."""
    ran = prune()

    assert (ran.code, ran.out) == (2, "")
    assert ran.err == prune("--help").out


def test_version(prune: Prune) -> None:
    """`prune --version` prints the name and the version."""
    ran = prune("--version")

    assert (ran.code, ran.err) == (0, "")
    assert re.fullmatch(r"prune \d+\.\d+\.\d+\n", ran.out)


@pytest.mark.parametrize(
    ("args", "sentence", "hint"),
    [
        ("bogus CKPT", "no such command 'bogus'", "prune --help"),
        ("global", "missing argument 'CKPT'", "prune global --help"),
        ("global CKPT --bogus", "no such option: --bogus", "prune global --help"),
        ("global CKPT --amoun 0.5", "--amount", "prune global --help"),
        ("global CKPT extra --amount 0.5", "extra", "prune global --help"),
        ("global CKPT --amount", "requires an argument", "--help"),
        ("global CKPT", "needs --amount or --count", "--amount 0.5"),
        ("global CKPT --amount 0.5 --count 3", "two answers", "--amount 0.5"),
        ("global CKPT --amount 1", "--amount 1 could mean", "--count 1 for the number, --amount 100% for all"),
        ("global CKPT --amount 50", "--amount 50 could mean", "--count 50 for the number, --amount 50%"),
        ("global CKPT --amount 500", "--amount 500 could mean", "--count 500"),
        ("global CKPT --amount half", "not 'half'", "--amount 0.5"),
        ("global CKPT --amount 1.5", "not 1.5", "--amount 0.5"),
        ("global CKPT --amount 150%", "not 1.5", "--amount 0.5"),
        ("global CKPT --amount nan", "not nan", "--amount 0.5"),
        ("global CKPT --amount -0.1", "not -0.1", "--amount 0.5"),
        ("global CKPT --count 2.5", "not '2.5'", "--count 1000"),
        ("global CKPT --count -3", "not -3", "--count 1000"),
        ("global CKPT --count 97", "more than the 96 selected", "--count 96"),
        ("threshold CKPT", "needs --thr or --thr-std", "--thr 0.1"),
        ("threshold CKPT --thr 1 --thr-std 2", "two answers", "--thr 0.1"),
        ("threshold CKPT --thr x", "--thr takes a number, not 'x'", "--thr 0.1"),
        ("threshold CKPT --thr -1", "not -1", "--thr 0.1"),
        ("threshold CKPT --thr nan", "not nan", "--thr 0.1"),
        ("threshold CKPT --thr-std x", "--thr-std takes a number, not 'x'", "--thr-std 0.5"),
        ("percentile CKPT", "needs --q", "--q 60"),
        ("percentile CKPT --q 101", "not 101", "--q 60"),
        ("topk CKPT", "needs --keep with --group, or --pattern", "--pattern 2:4"),
        ("topk CKPT --keep 2", "go together", "--keep 2 --group 4"),
        ("topk CKPT --pattern 2:4 --keep 2", "needs --keep with --group, or --pattern", "--pattern 2:4"),
        ("topk CKPT --pattern 5:4", "cannot keep 5 of every 4", "--keep 2 --group 4"),
        ("topk CKPT --pattern 2-4", "not '2-4'", "--pattern 2:4"),
        ("topk CKPT --keep 8 --group 7", "cannot keep 8 of every 7", "--keep 3 --group 7"),
        ("topk CKPT --pattern 2:4 --dim 7", "has no dim 7", "--dim -1"),
        ("topk CKPT --pattern 3:5 --tail error", "no multiple of 5", "--tail keep"),
        ("l1 CKPT", "l1 needs --amount or --count", "--amount 0.5"),
        ("l1 CKPT --amount 1.5", "not 1.5", "--amount 0.5"),
        ("l1 CKPT --count 1000", "more than the", "--count"),
        ("l1 CKPT --amount 0.5 --scope column", "--scope is tensor or row, not 'column'", "--scope row"),
        ("structured CKPT", "structured needs --amount or --count", "--amount 0.5"),
        ("structured CKPT --amount 0.5 --n 3", "--n is 1, 2, inf or -inf, not 3", "--n 2"),
        ("structured CKPT --amount 0.5 --dim 5", "has no dim 5", "--dim -1"),
        ("structured CKPT --count 1000", "slices along dim 0 of", "--count"),
        ("block CKPT --amount 0.5", "block needs --shape", "--shape 4x4"),
        ("block CKPT --amount 0.5 --shape 4", "not '4'", "--shape 4x4"),
        ("block CKPT --amount 0.5 --shape 0x4", "not 0x4", "--shape 4x4"),
        ("block CKPT --shape 1x1 --count 1000", "tiles of 1x1 of", "--count"),
        ("global CKPT --amount 0.5 -i nomatch", "'nomatch' matches none of 3", "nearest names"),
        ("global CKPT --amount 0.5 -i re:(", "no regular expression", "--include"),
        ("global CKPT --amount 0.5 -x *", "all 3 are skipped", "-i"),
        ("global CKPT --amount 0.5 --min-dim 3", "fewer than 3 dimensions", "-i"),
        ("global CKPT --amount 0.5 --min-dim -1", "--min-dim is 0 or more, not -1", "--min-dim 2"),
        ("global CKPT --amount 0.5 --min-numel x", "not 'x'", "--min-numel 1000"),
        ("global CKPT --amount 0.5 --threads -1", "--threads is 0 or more, not -1", "--threads 2"),
        ("global CKPT --amount 0.5 --key nowhere", "'nowhere'", "--key"),
        ("global CKPT --amount 0.5 --device banana", "no device 'banana'", "--device auto"),
        (
            "global CKPT --amount 0.5 --report r.txt",
            "written as .json, .csv, .md or .html, not '.txt'",
            "--report r.json",
        ),
        ("global CKPT --amount 0.5 --report r.json --report r.json", "would overwrite", "path of its own"),
        ("global CKPT --amount 0.5 --report CKPT.json --report no/r.json", "no directory no", "mkdir -p no"),
        ("global CKPT --amount 0.5 -o CKPT", "is the input itself", "--in-place"),
        ("global CKPT --amount 0.5 -o CKPT --force", "is the input itself", "--in-place"),
        ("global CKPT --amount 0.5 -o x --in-place", "together with in-place", "-o"),
        ("global CKPT --amount 0.5 -o no/such/x", "no directory no/such", "mkdir -p no/such"),
        ("global CKPT --amount 0.5 -o .", "is a directory", "-o"),
        ("global CKPT --amount 0.5 -o - --json", "both write to standard output", "--report"),
        ("global - --amount 0.5", "no name", "-o PATH"),
        ("global missing.pth --amount 0.5", "no file or directory missing.pth", "ls"),
    ],
)
def test_what_cannot_be_done_is_one_sentence_and_a_hint(
    prune: Prune, ckpt: Path, monkeypatch: pytest.MonkeyPatch, args: str, sentence: str, hint: str
) -> None:
    """Wrong usage exits with 2, says what is wrong and what to type on standard error, and writes nothing."""
    monkeypatch.chdir(ckpt.parent)

    ran = prune(*(arg.replace("CKPT", ckpt.name) for arg in args.split()))

    error, advice = ran.err.splitlines()
    assert (ran.code, ran.out) == (2, "")
    assert error.startswith("error: ")
    assert sentence in error
    assert advice.startswith("hint: ")
    assert hint in advice
    assert listing(ckpt.parent) == {ckpt.name}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "git-lfs pointer"),
        (b"hello\n", "it is text"),
        (b"", "it is empty"),
        (b"<!doctype html><html></html>", "HTML"),
        (b"PK\x03\x04" + b"\0" * 60, ""),
        (b"\x80\x02", ""),
    ],
)
def test_what_is_no_checkpoint_is_named(prune: Prune, tmp_path: Path, content: bytes, sentence: str) -> None:
    """A file that is something else is refused with what it is, and exit code 2."""
    path = tmp_path / "ckpt.pth"
    path.write_bytes(content)

    ran = prune("global", path, *HALF)

    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("error: ")
    assert ran.err.count("\n") <= 2
    assert sentence in ran.err
    assert listing(tmp_path) == {path.name}


def test_a_directory_without_checkpoints_is_refused(prune: Prune, tmp_path: Path) -> None:
    """An empty directory is no checkpoint."""
    ran = prune("global", tmp_path, *HALF)

    assert (ran.code, ran.out) == (2, "")
    assert "holds no checkpoint" in ran.err


# --- amounts and patterns


@pytest.mark.parametrize(
    ("text", "amount"),
    [("0.5", 0.5), ("50%", 0.5), ("5e-1", 0.5), ("1.0", 1.0), ("100%", 1.0), ("0", 0.0), ("1%", 0.01)],
)
def test_amounts_are_fractions_or_percentages(text: str, amount: float) -> None:
    """An amount is written as a fraction or with a percent sign."""
    assert amount == parse_amount(text)


@pytest.mark.parametrize("text", ["1", "+1", "2", "01", "half", "", "%", "50%%"])
def test_an_amount_that_could_be_a_count_or_is_no_number_is_refused(text: str) -> None:
    """A bare whole number is refused because torch reads 1 and 1.0 differently; other text is no number."""
    with pytest.raises(UsageError):
        parse_amount(text)


@pytest.mark.parametrize("text", ["2", "2:", ":4", "2:4:8", "2/4", "-2:4", "a:b", "\u00b2:4"])
def test_a_pattern_is_two_numbers(text: str) -> None:
    """Only K:G is a pattern."""
    with pytest.raises(UsageError):
        parse_pattern(text)


# --- what is said and written


def test_the_table_goes_to_standard_output_alone(prune: Prune, ckpt: Path) -> None:
    """A run prints a line per selected tensor and the totals on standard output, and nothing beside it."""
    ran = prune("global", ckpt, *HALF)

    assert (ran.code, ran.err) == (0, "")
    assert re.search(r"^fc1\.weight +F32 +8x8 +64 ", ran.out, re.MULTILINE)
    assert "zeroed 48 of 96 weights" in ran.out
    assert str(ckpt.with_name("ckpt.pruned.safetensors")) in ran.out
    assert listing(ckpt.parent) == {ckpt.name, "ckpt.pruned.safetensors", "ckpt.pruned.report.json"}


def test_topk_says_in_words_what_it_keeps(prune: Prune, ckpt: Path) -> None:
    """The field disagrees on what 2:4 means, so the output spells it out."""
    ran = prune("topk", ckpt, "--pattern", "2:4", "-n")

    assert "keeps 2 of every 4" in ran.out


def test_keep_and_group_are_the_pattern(prune: Prune, ckpt: Path, tmp_path: Path) -> None:
    """--keep 2 --group 7 and --pattern 2:7 write the same bytes."""
    one, two = tmp_path / "one", tmp_path / "two"

    assert prune("topk", ckpt, "--keep", "2", "--group", "7", "-o", one).code == 0
    assert prune("topk", ckpt, "--pattern", "2:7", "-o", two).code == 0
    assert one.read_bytes() == two.read_bytes()


def test_an_existing_output_is_kept_without_force(prune: Prune, ckpt: Path) -> None:
    """The second run is refused with --force as the hint, and changes nothing; with --force it replaces."""
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
    """--dry-run measures and leaves no file behind, whatever it prints."""
    assert prune("global", ckpt, *HALF, "--dry-run", *extra).code == 0
    assert listing(ckpt.parent) == {ckpt.name}


def test_a_dry_run_writes_the_reports_asked_for(prune: Prune, ckpt: Path, tmp_path: Path) -> None:
    """--dry-run --report PATH says in a file what would have happened."""
    assert prune("global", ckpt, *HALF, "-n", "--report", tmp_path / "r.json").code == 0
    report = json.loads((tmp_path / "r.json").read_text())
    assert (report["dry_run"], report["output"], report["totals"]["selected"]["pruned"]) == (True, None, 48)


def test_json_is_all_there_is_on_standard_output(prune: Prune, ckpt: Path) -> None:
    """--json prints the report instead of the table, with the command line in it."""
    ran = prune("global", ckpt, *HALF, "--json", "-n")

    report = json.loads(ran.out)
    assert (ran.code, ran.err, report["schema"]) == (0, "", 1)
    assert report["command"] == ["prune", "global", str(ckpt), *HALF, "--json", "-n"]


def test_reports_can_be_asked_for_twice(prune: Prune, ckpt: Path, tmp_path: Path) -> None:
    """Each --report gets the same text, the default report is not written, and the table names both."""
    a, b = tmp_path / "a.json", tmp_path / "b.json"

    ran = prune("global", ckpt, *HALF, "--report", a, "--report", b)

    assert a.read_text() == b.read_text()
    assert str(a) in ran.out
    assert str(b) in ran.out
    assert "ckpt.pruned.report.json" not in listing(ckpt.parent)


def test_quiet_says_nothing(prune: Prune, ckpt: Path) -> None:
    """-q prints nothing when all is well, and still writes the output and its report."""
    assert prune("global", ckpt, *HALF, "-q") == Ran(0, "", "")
    assert len(listing(ckpt.parent)) == 3


def test_quiet_still_warns(prune: Prune, ckpt: Path) -> None:
    """A tensor that becomes all zero is named on standard error, even with -q."""
    ran = prune("threshold", ckpt, "--thr", "5", "-q")

    assert (ran.code, ran.out) == (0, "")
    assert ran.err == "warning: 2 tensors become all zero: fc1.weight, fc2.weight\n"


@pytest.mark.parametrize("bad", ["\x1b[31mred\x07", "[red]x[/red]", "line\nbreak", "\u202eright"])
def test_names_are_data(prune: Prune, tmp_path: Path, bad: str) -> None:
    """Terminal commands and markup in a tensor's name are shown, never obeyed."""
    path = checkpoint(tmp_path / "c.safetensors", prefix=bad)

    ran = prune("threshold", path, "--thr", "5", "-n")

    assert ran.code == 0
    assert bad.encode("unicode_escape").decode() in ran.out
    assert not set(ran.out + ran.err) & set("\x1b\x07\u202e")


def test_paths_are_data_too(prune: Prune) -> None:
    """A message never sends the control characters of a path to the terminal."""
    ran = prune("global", "mis\x1b[31msing.pth", *HALF)

    assert ran.code == 2
    assert "mis\\x1b[31msing.pth" in ran.err
    assert "\x1b" not in ran.err


def test_the_input_can_be_replaced(prune: Prune, ckpt: Path, tmp_path: Path) -> None:
    """--in-place leaves in the input's place what -o would have written, and a report beside it."""
    expected = tmp_path / "expected"
    prune("global", ckpt, *HALF, "-o", expected)

    ran = prune("global", ckpt, *HALF, "--in-place")

    assert (ran.code, ran.err) == (0, "")
    assert expected.read_bytes() == ckpt.read_bytes()
    assert listing(ckpt.parent) == {ckpt.name, "ckpt.report.json"}


def test_in_place_through_links(prune: Prune, ckpt: Path) -> None:
    """A symbolic link goes on pointing to the file, which is replaced; another hard link keeps the old bytes."""
    before = ckpt.read_bytes()
    soft, hard = ckpt.with_name("soft"), ckpt.with_name("hard")
    soft.symlink_to(ckpt.name)
    hard.hardlink_to(ckpt)

    assert prune("global", soft, *HALF, "--in-place", "-q").code == 0
    assert soft.is_symlink()
    assert ckpt.read_bytes() != before
    assert hard.read_bytes() == before


def test_a_hard_link_to_the_input_is_the_input(prune: Prune, ckpt: Path) -> None:
    """An output that is the input under another name is refused, even with --force."""
    hard = ckpt.with_name("hard")
    hard.hardlink_to(ckpt)
    before = ckpt.read_bytes()

    assert prune("global", ckpt, *HALF, "-o", hard, "-f").code == 2
    assert ckpt.read_bytes() == before


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_directory_is_refused_at_once(prune: Prune, ckpt: Path) -> None:
    """Where nothing can be written the run is refused before it begins."""
    ckpt.parent.chmod(0o555)
    try:
        ran = prune("global", ckpt, *HALF)
    finally:
        ckpt.parent.chmod(0o755)

    assert ran.code == 2
    assert "no permission to write" in ran.err


def test_a_bias_can_be_asked_for(prune: Prune, ckpt: Path, tmp_path: Path) -> None:
    """-i overrides the name rule and the rule of two dimensions."""
    assert prune("global", ckpt, *HALF, "-i", "fc2.bias", "-o", tmp_path / "o").code == 0
    assert np.count_nonzero(load_file(tmp_path / "o")["fc2.bias"] == 0) == 2


# --- devices


def test_a_device_that_is_absent_is_refused(prune: Prune, ckpt: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--device cuda where there is none names what there is."""
    pytest.importorskip("torch", reason="torch, which finds the devices, is not installed")
    monkeypatch.setattr(devices, "available_devices", lambda _: [])

    ran = prune("global", ckpt, *HALF, "--device", "cuda")

    assert ran == Ran(2, "", "error: there is no device cuda here, only: cpu\nhint: --device cpu\n")


def test_auto_is_the_cpu_where_there_is_nothing_else(
    prune: Prune, ckpt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """--device auto falls back to the CPU and writes the same bytes."""
    monkeypatch.setattr(devices, "available_devices", lambda _: [])

    assert prune("global", ckpt, *HALF, "-o", tmp_path / "a").code == 0
    assert prune("global", ckpt, *HALF, "-o", tmp_path / "b", "--device", "auto").code == 0
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


# --- pipes


def test_a_checkpoint_goes_through_a_pipe(ckpt: Path) -> None:
    """`cat CKPT | prune ... - -o - | cat` gives the bytes of `prune ... CKPT`; the table goes to standard error."""
    process("global", ckpt, *HALF, "-q")

    ran = shell(f"cat {ckpt} | prune global - --amount 0.5 -o - | cat; exit ${{PIPESTATUS[1]}}")

    assert ran.returncode == 0
    assert ran.stdout == ckpt.with_name("ckpt.pruned.safetensors").read_bytes()
    assert b"zeroed 48 of 96 weights" in ran.stderr
    assert b"standard output" in ran.stderr


def test_standard_output_can_be_a_file(ckpt: Path, tmp_path: Path) -> None:
    """`prune ... -o - > FILE` writes the same bytes as -o FILE."""
    a, b = tmp_path / "a", tmp_path / "b"
    process("topk", ckpt, "--pattern", "2:4", "-o", a, "-q")

    ran = shell(f"prune topk {ckpt} --pattern 2:4 -q -o - > {b}")

    assert (ran.returncode, ran.stderr) == (0, b"")
    assert a.read_bytes() == b.read_bytes()


def test_a_piped_checkpoint_has_no_temporary_name_in_the_report(ckpt: Path) -> None:
    """The report calls a piped input what the user would."""
    ran = process("global", "-", *HALF, "-n", "--json", input=ckpt.read_bytes())

    assert json.loads(ran.stdout)["input"]["path"] == "standard input"


@pytest.mark.parametrize(("content", "what"), [(b"", b"empty"), (b"hello", b"text")])
def test_what_is_piped_is_checked_like_a_file(content: bytes, what: bytes) -> None:
    """What comes from a pipe and is no checkpoint is named as standard input."""
    ran = process("global", "-", *HALF, "-n", input=content)

    assert (ran.returncode, ran.stdout) == (2, b"")
    assert ran.stderr.startswith(b"error: standard input is not a checkpoint")
    assert what in ran.stderr


@pytest.mark.parametrize(("output", "said"), [("no/such", b"no directory no"), ("taken", b"taken exists")])
def test_an_output_that_cannot_be_is_refused_before_the_pipe_is_read(tmp_path: Path, output: str, said: bytes) -> None:
    """A long download through a pipe is not read in vain; this one never ends."""
    (tmp_path / "taken").touch()
    ours, theirs = os.pipe()

    ran = process("global", "-", *HALF, "-o", output, cwd=tmp_path, stdin=ours)

    os.close(ours)
    os.close(theirs)
    assert ran.returncode == 2
    assert said in ran.stderr


@pytest.mark.parametrize("options", ["-n", "-n --json", "-o - -q"])
def test_a_reader_that_goes_away_is_no_error_to_talk_about(ckpt: Path, options: str) -> None:
    """A broken pipe ends the run with 141, as it does for other tools, and without a word."""
    ran = shell(f"prune global {ckpt} --amount 0.5 {options} | true; exit ${{PIPESTATUS[0]}}")

    assert (ran.returncode, ran.stdout, ran.stderr) == (141, b"", b"")


@FULL
@pytest.mark.parametrize("options", ["-n", "-n --json", "-o - -q"])
def test_a_full_standard_output_is_one_sentence(ckpt: Path, options: str) -> None:
    """Where standard output takes no more, the run says so and exits with 2."""
    ran = shell(f"prune global {ckpt} --amount 0.5 {options} > /dev/full")

    assert ran.returncode == 2
    assert ran.stderr.startswith(b"error: standard output")
    assert b"No space left on device\nhint: " in ran.stderr
    assert ran.stderr.count(b"\n") == 2


@FULL
def test_a_result_that_could_not_be_told_is_still_there(ckpt: Path) -> None:
    """When only the table is lost, the message says that the checkpoint is written."""
    ran = shell(f"prune global {ckpt} --amount 0.5 > /dev/full; prune --help > /dev/full")

    assert f"{ckpt.with_name('ckpt.pruned.safetensors')} is written, but".encode() in ran.stderr
    assert b"Traceback" not in ran.stderr


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("prune global CKPT --amount 0.5 -q >&- 2>&-", 0, b""),
        ("prune global CKPT --amount 0.5 >&-", 0, b""),
        ("prune global CKPT --amount 0.5 -o - >&-", 2, b"standard output, which is closed"),
        ("prune global - --amount 0.5 -n <&-", 2, b"there is none"),
        ("prune global missing --amount 0.5 2>&-", 2, b""),
    ],
)
def test_closed_streams_do_no_harm(ckpt: Path, line: str, code: int, said: bytes) -> None:
    """A closed standard stream is nobody listening: no traceback, and no file takes its descriptor."""
    ran = shell(line.replace("CKPT", str(ckpt)))

    assert (ran.returncode, ran.stdout) == (code, b"")
    assert said in ran.stderr
    assert b"Traceback" not in ran.stderr


def test_a_name_the_terminal_cannot_encode_is_escaped(tmp_path: Path) -> None:
    """Where standard output is ASCII, other names are printed as escapes."""
    path = checkpoint(tmp_path / "c.safetensors", prefix="\u5c42.")

    ran = process("global", path, *HALF, "-n", env={**os.environ, "PYTHONIOENCODING": "ascii"})

    assert ran.returncode == 0
    assert b"\\u5c42.fc1.weight" in ran.stdout


# --- terminals


def on_terminal(*args: str | Path, width: int = 80, **env: str) -> str:
    """Run the command line with a pseudo-terminal as standard output and error, and return what it drew."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(width), "TERM": "xterm-256color", **env}
    command = [sys.executable, "-m", "prunecli", *map(str, args)]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment) as child:
        os.close(theirs)
        seen = b""
        while True:
            try:
                part = os.read(ours, 1 << 16)
            except OSError:  # how Linux says that the other end is closed
                break
            if not part:
                break
            seen += part
    os.close(ours)
    assert child.returncode == 0
    return seen.decode()


@pytest.mark.parametrize("width", [60, 200])
def test_a_terminal_gets_the_table_in_its_width(tmp_path: Path, width: int) -> None:
    """The table fits the terminal, short runs show no progress bar, and markup in names is shown as it is."""
    path = checkpoint(tmp_path / "c.safetensors", prefix="[red]x")

    seen = on_terminal("global", path, *HALF, "-n", width=width, NO_COLOR="1")

    rows = [line for line in re.sub(r"\x1b\[[0-9;]*m", "", seen).splitlines() if ".weight " in line]
    assert [line.split()[0] for line in rows] == ["[red]xfc1.weight", "[red]xfc2.weight"]
    assert max(map(len, rows)) <= width
    assert not re.search(r"\x1b\[[0-9;]*[34][0-7]m", seen)
    assert "\x1b[?25l" not in seen


def test_a_checkpoint_does_not_go_to_a_terminal(ckpt: Path) -> None:
    """-o - on a terminal is refused."""
    with pytest.raises(AssertionError):
        on_terminal("global", ckpt, *HALF, "-o", "-")
    assert listing(ckpt.parent) == {ckpt.name}


def test_the_bar_waits_before_it_shows(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Work that is over in a second shows no bar; longer work shows how far it is."""
    with Bars() as bar:
        bar.begin({"writing": 100})
        bar.advance("writing", 60)
    assert capfd.readouterr().err == ""

    monkeypatch.setattr(progress, "SHOW_AFTER", -1.0)
    monkeypatch.setenv("FORCE_COLOR", "1")  # Rich draws on terminals only
    monkeypatch.setenv("TERM", "xterm")
    with Bars(verbose=True) as bar:
        bar.begin({"ranking": 0, "writing a": 100, "writing b": 50})
        bar.advance("writing a", 60)
        bar.note("a [red]detail")
    printable = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capfd.readouterr().err)
    assert "60/100 bytes" in printable
    assert "0/50 bytes" in printable
    assert "ranking" not in printable
    assert "a [red]detail" in printable


def test_a_second_pass_has_bars_of_its_own(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A recipe of several layers shows how far the layer at hand is, not the one before."""
    monkeypatch.setattr(progress, "SHOW_AFTER", -1.0)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with Bars() as bar:
        bar.begin({"measuring": 100})
        bar.advance("measuring", 100)
        bar.begin({"writing": 70})
        bar.advance("writing", 30)
    printable = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capfd.readouterr().err)
    last = printable[printable.rindex("writing") :]
    assert "30/70 bytes" in last
    assert "100/100" not in last


def test_without_a_terminal_a_line_tells_now_and_then(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run of seconds says nothing; a longer one says how far each phase is, how fast, and how long it will take."""
    lines = Lines(verbose=False)
    lines.begin({"ranking": 100, "writing": 100, "empty": 0})
    lines.advance("ranking", 100)
    lines.note("a detail")
    assert capfd.readouterr().err == ""

    monkeypatch.setattr(progress, "FIRST_LINE", -1.0)
    lines = Lines(verbose=False)
    lines.begin({"ranking": 100, "writing": 100, "empty": 0})
    lines.advance("ranking", 100)
    lines.advance("writing", 30)
    (line,) = capfd.readouterr().err.splitlines()
    assert re.fullmatch(r"prune: ranking 100%, writing 0%; [\d,]+ MB/s, about [\d,]+ s left", line)


def test_details_are_told_when_asked_for(ckpt: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """-v tells on standard error what was opened, selected and skipped; with -q it is a contradiction."""
    asked = ["global", str(ckpt), *HALF, "-n"]
    assert main([*asked, "-v"]) == 0
    told = capsys.readouterr().err
    assert f"{ckpt}: safetensors" in told
    assert "selected fc1.weight (F32 8x8)" in told
    assert "skipped fc2.bias: its name does not end in a weight" in told
    assert "done in" in told
    assert main(asked) == 0
    assert capsys.readouterr().err == ""
    assert main([*asked, "-q", "-v"]) == 2
    assert "--quiet and --verbose contradict each other" in capsys.readouterr().err


# --- how a run ends


def raising(error: BaseException) -> object:
    """Return a stand-in for `prunecli.api.prune` that raises `error`."""

    def prune(*_: object, **__: object) -> None:
        raise error

    return prune


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (OSError(5, "Input/output error", "x.pth"), 2, "error: Input/output error: x.pth\n"),
    ],
)
def test_every_end_has_its_exit_code(
    prune: Prune, ckpt: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, said: str
) -> None:
    """Ctrl-C is 130, a condition that does not hold 1, a system call that failed 2, each in a sentence."""
    monkeypatch.setattr(api, "prune_request", raising(error))

    assert prune("global", ckpt, *HALF) == Ran(code, "", said)


def test_what_nobody_foresaw_keeps_its_traceback(prune: Prune, ckpt: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistake of ours is not dressed up as one of the user's."""
    monkeypatch.setattr(api, "prune_request", raising(ZeroDivisionError()))

    with pytest.raises(ZeroDivisionError):
        prune("global", ckpt, *HALF)


def test_signal_handlers_are_put_back(prune: Prune) -> None:
    """Running the command line in a process leaves its signal handlers as they were."""
    before = signal.getsignal(signal.SIGTERM)

    prune("--version")

    assert signal.getsignal(signal.SIGTERM) is before


def test_the_installed_command_is_the_module(ckpt: Path) -> None:
    """`prune` and `python -m prunecli` are one program."""
    command = shutil.which("prune", path=os.path.dirname(sys.executable))  # noqa: PTH120
    if command is None:
        pytest.skip("the command is not installed beside this Python")

    ran = subprocess.run([command, "global", ckpt, *HALF, "-n"], capture_output=True, check=False)

    assert ran.stdout == process("global", ckpt, *HALF, "-n").stdout
