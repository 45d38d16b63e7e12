"""The corpus runner counts matches and refusals, finds planted faults, and writes nothing into the folder."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import save_file
from support import SHARED, load_script

if TYPE_CHECKING:
    from collections.abc import Callable

corpus = load_script("corpus")
real_prune = corpus.prune

LINEAR = {"a.weight": torch.randn(8, 12, generator=torch.Generator().manual_seed(0)), "a.bias": torch.ones(8)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with two checkpoints, one of them below another folder, and a foreign file."""
    models = tmp_path / "models"
    (models / "deep").mkdir(parents=True)
    torch.save(LINEAR, models / "deep" / "a.pth")
    save_file({name: t.to(torch.bfloat16) for name, t in LINEAR.items()}, models / "b.safetensors")
    (models / "notes.txt").write_text("some notes")
    return models


def contents(folder: Path) -> dict[Path, bytes]:
    """Return every file below a folder."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_good_files_match_and_foreign_ones_are_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two checkpoints match in every byte, the foreign file is a refusal with its sentence, and nothing is written."""
    before = contents(folder)

    code = corpus.main([str(folder), "--strategy", "global", "--strategy", "topk"])

    table = capsys.readouterr().out
    assert code == 0
    assert "files            3\nruns             5\nmatches          4  4 in every byte, 0 in all bytes" in table
    assert "refusals         1\n                 1  notes.txt is not a checkpoint: it is text" in table
    assert table.endswith("mismatches       0\n")
    assert contents(folder) == before


@pytest.mark.slow
def test_every_strategy_matches(folder: Path) -> None:
    """Every strategy is tried, and no output differs."""
    results = corpus.run([folder / "deep"], list(corpus.STRATEGIES), None)

    assert results.mismatches == []
    assert results.runs == len(corpus.STRATEGIES)
    assert results.values == sum(strategy.keep is not None for strategy in corpus.STRATEGIES.values())


def test_large_files_are_skipped(folder: Path) -> None:
    """Files above the limit are counted and not run."""
    results = corpus.run([folder], ["global"], 100)

    assert (results.files, results.refusals.total()) == (1, 1)
    assert sorted(path.name for path in results.too_large) == ["a.pth", "b.safetensors"]
    assert "1  and 2 too large" in results.table()
    assert corpus.number_of_bytes("1.5k") == 1536


def test_a_folder_of_shards_is_one_checkpoint(tmp_path: Path) -> None:
    """The shards of an index are pruned and checked together, and its other files must be copied."""
    names = {"a.weight": "m-1.safetensors", "a.bias": "m-2.safetensors"}
    for name, file in names.items():
        save_file({name: LINEAR[name]}, tmp_path / file)
    (tmp_path / "m.safetensors.index.json").write_text(f'{{"weight_map": {names}}}'.replace("'", '"'))
    (tmp_path / "config.json").write_text("{}")

    results = corpus.run([tmp_path], ["l1"], None)

    assert (results.files, results.values, results.mismatches) == (1, 1, [])


def other_numbers(output: Path) -> None:
    """Set the last weights of a safetensors file to other numbers."""
    output.write_bytes(output.read_bytes()[:-4] + b"\1\2\3\4")


def one_more_zero(output: Path) -> None:
    """Set the largest weight to zero, in a safetensors file."""
    data = bytearray(output.read_bytes())
    largest = LINEAR["a.weight"].abs().max().to(torch.bfloat16).reshape(1)
    for value in (largest, -largest):
        place = data.find(bytes(value.view(torch.uint8).tolist()))
        if place >= 0:
            data[place : place + 2] = b"\0\0"
    output.write_bytes(bytes(data))


def a_bias(output: Path) -> None:
    """Change a bias, which is not selected."""
    data = output.read_bytes()
    ones = torch.ones(8, dtype=torch.bfloat16)
    output.write_bytes(data.replace(bytes(ones.view(torch.uint8).tolist()), b"\0" * 16))


def cut_off(output: Path) -> None:
    """Cut the last byte off."""
    output.write_bytes(output.read_bytes()[:-1])


PLANTED: dict[str, tuple[Callable[[Path], None], str]] = {
    "another number": (other_numbers, "became another number than zero"),
    "another zero": (one_more_zero, "weights of 'a.weight' changed, and the report says"),
    "a bias": (a_bias, "bytes changed that must not"),
    "a byte less": (cut_off, "b.safetensors: "),
}


@pytest.mark.parametrize("fault", PLANTED)
def test_a_planted_fault_is_found(
    fault: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An output with a wrong byte is a mismatch that is named, and the exit code is 1."""
    plant, message = PLANTED[fault]

    def prune(*words: str) -> subprocess.CompletedProcess[bytes]:
        run = real_prune(*words)
        if "-o" in words:
            plant(Path(words[words.index("-o") + 1]))
        return run

    monkeypatch.setattr(corpus, "prune", prune)

    code = corpus.main([str(folder / "b.safetensors"), "--strategy", "global"])

    table = capsys.readouterr().out
    assert code == 1
    assert "mismatches       1\n" in table
    assert "global  " in table
    assert message in table


def test_a_wrong_choice_of_weights_is_found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An output of another amount, with a report that agrees, differs from what NumPy computes."""
    monkeypatch.setattr(
        corpus, "prune", lambda *words: real_prune(*(w.replace("0.5", "0.25") if w == "0.5" else w for w in words))
    )

    results = corpus.run([folder / "deep"], ["global"], None)

    assert len(results.mismatches) == 1
    assert "24 weights of 'a.weight' differ, first at [" in results.mismatches[0]


@pytest.mark.parametrize(
    ("code", "said", "expected"),
    [(1, b"Traceback:\n  File\nKeyError: 1\n", ": KeyError: 1"), (2, b"error: a\nb\n", "exit code 2 is no refusal")],
)
def test_a_crash_is_no_refusal(
    code: int, said: bytes, expected: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run without an output that does not end with exit code 2 and one sentence is a mismatch."""

    def prune(*words: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.CompletedProcess(words, 0 if words[0] == "inspect" else code, b"", said)

    monkeypatch.setattr(corpus, "prune", prune)

    results = corpus.run([folder / "deep"], ["l1", "mask"], None)

    assert len(results.mismatches) == 2
    assert all(expected in line and "\n" not in line for line in results.mismatches)


@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / "checkpoints").is_dir(), reason="no real checkpoints")
def test_real_checkpoints_match() -> None:
    """On real checkpoints no output of any strategy differs."""
    results = corpus.run([SHARED / "checkpoints"], list(corpus.STRATEGIES), None)

    assert results.mismatches == []
    assert results.values > 50
