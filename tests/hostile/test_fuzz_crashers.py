"""The fuzzer: inputs that it found stay harmless, and it finds the faults that it looks for."""

from __future__ import annotations

import random
import re
import subprocess
import sys
import warnings
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import ROOT, examples, load_script
from support.handmade import checkpoint, rebuilt, state_dict

from prunecli.formats.torch.reader import read_torch_zip

if TYPE_CHECKING:
    from pathlib import Path


fuzz_inputs = load_script("fuzz_inputs")
fuzz = load_script("fuzz")


def test_a_backslash_in_a_global_stays_harmless(tmp_path: Path) -> None:
    """A backslash that pickletools takes for an escape gives a correct output or one error message."""
    fuzz.examine(checkpoint(state_dict({"a.weight": rebuilt(), "x": b"ca\\8\nb\n"})), tmp_path)


def test_every_seed_is_harmless(tmp_path: Path) -> None:
    """The undamaged inputs pass every check of the fuzzer, and most of them are pruned."""
    answers = []
    for index, made in enumerate(fuzz.seeds()):
        folder = tmp_path / str(index)
        folder.mkdir()
        answers.append(fuzz.examine(made.bytes(), folder, made.name))

    assert sum(answer.startswith("pruned") for answer in answers) > len(answers) / 2


def test_one_seed_makes_the_same_inputs() -> None:
    """A seed makes the same inputs again."""
    corpus = fuzz.seeds()

    first, second = ([fuzz.damaged(corpus[i], rng, corpus) for i in range(9)] for rng in map(random.Random, (3, 3)))

    assert first == second


@settings(max_examples=examples(60))
@given(st.integers(0, 2**32 - 1))
def test_a_damaged_checkpoint_is_harmless(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    """A checkpoint of any format with random damage passes every check of the fuzzer."""
    rng = random.Random(seed)
    made = fuzz.damaged(rng.choice(fuzz.seeds()), rng, fuzz.seeds())

    fuzz.examine(made.bytes(), tmp_path_factory.mktemp("damaged"), made.name)


def broken_reader(file: Any, label: str, **options: Any) -> object:  # noqa: ANN401 - as the real one
    """Read a torch file, and raise KeyError where the real reader raises CheckpointError."""
    try:
        return read_torch_zip(file, label, **options)
    except Exception as error:
        raise KeyError(label) from error


def test_a_harmful_input_is_found_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that raises another error than CheckpointError is found, and its input is kept."""
    monkeypatch.setattr(fuzz, "READERS", (broken_reader,))
    said: list[str] = []

    found = fuzz.search(lambda count: count < 100, tmp_path / "crashers", random.Random(0), said.append)

    assert found
    assert "KeyError" in said[0]
    assert found[0].with_name(f"{found[0].name}.txt").read_text().startswith("KeyError at ")
    with pytest.raises(KeyError):
        fuzz.examine(found[0].read_bytes(), tmp_path / "crashers" / "again", found[0].name[13:])


PLANTED = """
import sys
sys.path.insert(0, {folder!r})
import fuzz

def broken(data, *_):
    raise ZeroDivisionError

if {planted}:
    fuzz.{place} = broken
sys.exit(fuzz.main(["--minutes", "0.08", "--crashers", {crashers!r}]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("place", ["", "_check_output"])
def test_the_program_finds_a_planted_fault(place: str, tmp_path: Path) -> None:
    """The script examines many inputs in seconds. It finds a planted fault, and none without it."""
    crashers = tmp_path / "crashers"
    code = PLANTED.format(folder=str(ROOT / "scripts"), planted=bool(place), place=place or "x", crashers=str(crashers))

    end = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert end.returncode == bool(place), end.stdout + end.stderr
    count, answers = re.findall(r"([\d,]+) inputs, ([\d,]+) different answers", end.stdout)[-1]
    assert int(count.replace(",", "")) > 5
    if place:
        assert "ZeroDivisionError" in end.stdout
        assert list(crashers.glob("*.txt"))
    else:
        assert int(answers) > 3


def test_a_changed_byte_that_is_no_weight_is_found(tmp_path: Path) -> None:
    """The check of outputs finds one wrong byte, and a weight that became another number."""
    made = next(made for made in fuzz.seeds() if made.name == "in.safetensors")
    path = tmp_path / "in.safetensors"
    data = made.bytes()
    path.write_bytes(data)
    fuzz.cli.main(["threshold", str(path), "--thr", "0.5", "-q", "-o", str(tmp_path / "out")])
    result = (tmp_path / "out").read_bytes()
    report = {"input": {"key": ""}, "tensors": [{"name": "fc.weight", "selected": True}]}
    place = next(at for at, (a, b) in enumerate(zip(data, result, strict=True)) if a != b)
    for at, what in ((9, "bytes changed that must not"), (place, "another number than zero")):
        wrong = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        with pytest.raises(fuzz.Finding, match=what), warnings.catch_warnings():
            fuzz._check_output(data, wrong, path, path, report)
