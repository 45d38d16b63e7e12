"""Wrong usage and unusable input: one sentence, one hint, exit code 2."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from support.command_line import HALF, Ran, listing

from prunecli.cli.parsers import parse_pattern
from prunecli.errors import UsageError
from prunecli.kernels import devices

if TYPE_CHECKING:
    from pathlib import Path

    from support.command_line import Prune


@pytest.mark.parametrize(
    ("args", "sentence", "hint"),
    [
        ("bogus CKPT", "no such command 'bogus'", "prune --help"),
        ("global", "missing argument 'CKPT'", "prune global CKPT --amount 0.5"),
        ("global CKPT --bogus", "no such option", "prune global --help"),
        ("global CKPT --amoun 0.5", "no such option", "prune global ckpt.safetensors --amount 0.5"),
        ("global CKPT extra --amount 0.5", "extra", "prune global --help"),
        ("global CKPT --amount", "requires an argument", "prune global ckpt.safetensors --amount 0.5"),
        ("global CKPT", "needs an amount or a count", "--amount 0.5"),
        ("global CKPT --amount 0.5 --count 3", "exclude each other", "--amount 0.5"),
        ("global CKPT --amount 1", "the amount 1 could mean", "--amount 100% for all of them, --count 1 for one"),
        ("global CKPT --amount 50", "could mean 50% or a count of 50 weights", "--amount 50%"),
        ("global CKPT --amount 500", "the amount 500 could mean", "--count 500"),
        ("global CKPT --amount half", "not 'half'", "--amount 0.5"),
        ("global CKPT --amount 1.5", "not 1.5", "--amount 1.5%"),
        ("global CKPT --amount 150%", "not 150%", "--amount 0.5"),
        ("global CKPT --amount nan", "not nan", "--amount 0.5"),
        ("global CKPT --amount -0.1", "not -0.1", "--amount 0.1"),
        ("global CKPT --count 2.5", "not '2.5'", "--count 2"),
        ("global CKPT --count -3", "not -3", "--count 3"),
        ("global CKPT --count 97", "more than the 96 selected", "--count 96"),
        ("threshold CKPT", "needs thr or thr_std", "--thr 0.1"),
        ("threshold CKPT --thr 1 --thr-std 2", "exclude each other", "ckpt.safetensors --thr 1.0"),
        ("threshold CKPT --thr x", "thr takes a number, not 'x'", "--thr 0.1"),
        ("threshold CKPT --thr -1", "not -1", "--thr 1.0"),
        ("threshold CKPT --thr nan", "not nan", "--thr 0.1"),
        ("threshold CKPT --thr-std x", "thr_std takes a number, not 'x'", "--thr-std 0.5"),
        ("percentile CKPT", "needs q", "--q 60"),
        ("percentile CKPT --q 101", "not 101", "--q 60"),
        ("topk CKPT", "needs either keep and group, or a pattern", "--pattern 2:4"),
        ("topk CKPT --keep 2", "go together", "--keep 2 --group 4"),
        ("topk CKPT --pattern 2:4 --keep 2", "needs either keep and group, or a pattern", "--pattern 2:4"),
        ("topk CKPT --pattern 5:4", "cannot keep 5 of every 4", "--pattern 4:5"),
        ("topk CKPT --pattern 2-4", "not '2-4'", "--pattern 2:4"),
        ("topk CKPT --keep 8 --group 7", "cannot keep 8 of every 7", "--keep 7 --group 8"),
        ("topk CKPT --pattern 2:4 --dim 7", "has no dim 7", "--dim 1"),
        ("topk CKPT --pattern 3:5 --tail error", "not a multiple of 5", "--tail keep"),
        ("l1 CKPT", "l1 needs an amount or a count", "--amount 0.5"),
        ("l1 CKPT --amount 1.5", "not 1.5", "--amount 1.5%"),
        ("l1 CKPT --count 1000", "more than the", "--count"),
        ("l1 CKPT --amount 0.5 --scope column", "the scope is tensor or row, not 'column'", "--scope row"),
        ("structured CKPT", "structured needs an amount or a count", "--amount 0.5"),
        ("structured CKPT --amount 0.5 --n 3", "the norm n is 1, 2, inf or -inf, not 3", "--n 2"),
        ("structured CKPT --amount 0.5 --dim 5", "has no dim 5", "--dim 1"),
        ("structured CKPT --count 1000", "outputs (dim 0) of", "--count"),
        ("block CKPT --amount 0.5", "block needs a shape", "--shape 4x4"),
        ("block CKPT --amount 0.5 --shape 4", "not '4'", "--shape 4x4"),
        ("block CKPT --amount 0.5 --shape 0x4", "not '0x4'", "--shape 1x4"),
        ("block CKPT --shape 1x1 --count 1000", "blocks of 1x1 of", "--count"),
        ("global CKPT --amount 0.5 -i nomatch", "'nomatch' matches none of 3", "nearest names"),
        ("global CKPT --amount 0.5 -i re:(", "not a regular expression", "a glob such as"),
        ("global CKPT --amount 0.5 -x *", "all 3 are skipped", "leave out -x '*'"),
        ("global CKPT --amount 0.5 --min-dim 3", "fewer than 3 dimensions", "--min-dim 2"),
        ("global CKPT --amount 0.5 --min-dim -1", "min_dim takes 0 or more, not -1", "--min-dim 0"),
        ("global CKPT --amount 0.5 --min-numel x", "not 'x'", "--min-numel 1000"),
        ("global CKPT --amount 0.5 --threads -1", "threads takes 0 to 1024, not -1", "--threads 0"),
        ("global CKPT --amount 0.5 --key nowhere", "'nowhere'", "--key"),
        ("global CKPT --amount 0.5 --device banana", "no device 'banana'", "--device auto"),
        (
            "global CKPT --amount 0.5 --report r.txt",
            "written as .json, .csv, .md, .html, .svg, .png or .pdf, not '.txt'",
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
def test_wrong_usage_prints_one_sentence_and_a_hint(
    prune: Prune, ckpt: Path, monkeypatch: pytest.MonkeyPatch, args: str, sentence: str, hint: str
) -> None:
    """Wrong usage exits with 2, prints the error and a hint on standard error, and writes nothing."""
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
def test_a_file_that_is_not_a_checkpoint_is_identified(
    prune: Prune, tmp_path: Path, content: bytes, sentence: str
) -> None:
    """A file of another kind is refused with the name of its kind, and exit code 2."""
    path = tmp_path / "ckpt.pth"
    path.write_bytes(content)

    ran = prune("global", path, *HALF)

    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("error: ")
    assert ran.err.count("\n") <= 2
    assert sentence in ran.err
    assert listing(tmp_path) == {path.name}


def test_a_directory_without_checkpoints_is_refused(prune: Prune, tmp_path: Path) -> None:
    """An empty directory is not a checkpoint."""
    ran = prune("global", tmp_path, *HALF)

    assert (ran.code, ran.out) == (2, "")
    assert "holds no checkpoint" in ran.err


@pytest.mark.parametrize("text", ["2", "2:", ":4", "2:4:8", "2/4", "-2:4", "a:b", "\u00b2:4"])
def test_a_pattern_has_two_numbers(text: str) -> None:
    """Only K:G is a pattern; other text raises UsageError."""
    with pytest.raises(UsageError):
        parse_pattern(text)


def test_a_missing_device_is_refused(prune: Prune, ckpt: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--device cuda without such a device lists the available ones."""
    pytest.importorskip("torch", reason="torch, which finds the devices, is not installed")
    monkeypatch.setattr(devices, "available_devices", lambda _: [])

    ran = prune("global", ckpt, *HALF, "--device", "cuda")

    line = f"prune global {ckpt} --amount 0.5 --device cpu"
    assert ran == Ran(2, "", f"error: there is no device cuda here, only: cpu\nhint: {line}\n")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_directory_is_refused_before_the_run(prune: Prune, ckpt: Path) -> None:
    """An output in a directory without write permission is refused before the run starts."""
    ckpt.parent.chmod(0o555)
    try:
        ran = prune("global", ckpt, *HALF)
    finally:
        ckpt.parent.chmod(0o755)

    assert ran.code == 2
    assert "no permission to write" in ran.err


def test_a_hard_link_to_the_input_is_the_input(prune: Prune, ckpt: Path) -> None:
    """An output that is the input under another name is refused, even with --force."""
    hard = ckpt.with_name("hard")
    hard.hardlink_to(ckpt)
    before = ckpt.read_bytes()

    assert prune("global", ckpt, *HALF, "-o", hard, "-f").code == 2
    assert ckpt.read_bytes() == before


def test_control_characters_of_a_path_are_escaped(prune: Prune) -> None:
    """A message never sends the control characters of a path to the terminal."""
    ran = prune("global", "mis\x1b[31msing.pth", *HALF)

    assert ran.code == 2
    assert "mis\\x1b[31msing.pth" in ran.err
    assert "\x1b" not in ran.err
