"""The default names of outputs and reports."""

from __future__ import annotations

from pathlib import Path

import pytest

from prunecli.errors import CheckpointError
from prunecli.formats.output_names import default_output, default_report


@pytest.mark.parametrize(
    ("checkpoint", "output"),
    [
        ("ckpt.pth", "ckpt.pruned.pth"),
        ("a/nested.pth.tar", "a/nested.pruned.pth.tar"),
        ("model.v1.2.safetensors", "model.v1.2.pruned.safetensors"),
        ("model", "model.pruned"),
        ("model.v1.2", "model.v1.2.pruned"),
        (".hidden", ".hidden.pruned"),
        ("m.tar", "m.pruned.tar"),
        ("ckpt.pruned.pth", "ckpt.pruned.pruned.pth"),
        ("w w/ü.pt", "w w/ü.pruned.pt"),
    ],
)
def test_results_of_a_file_are_next_to_it(checkpoint: str, output: str) -> None:
    """The output keeps the suffix, also a double one; the report has the whole name of the output."""
    assert Path(output) == default_output(checkpoint)
    assert Path(f"{output}.report.json") == default_report(output)


def test_no_two_outputs_share_a_report() -> None:
    """Files that differ only in the suffix have reports of their own."""
    names = ["m", "m.pth", "m.pt", "m.safetensors", "m.pth.tar", "m.pruned", "m.pruned.pth"]

    assert len({default_report(default_output(name)) for name in names}) == len(names)


@pytest.mark.parametrize(
    "spelling", ["d.v1.x", "d.v1.x/", "d.v1.x/.", "./d.v1.x", "d.v1.x/m.index.json", "d.v1.x/sub/.."]
)
def test_results_of_a_directory_are_next_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spelling: str) -> None:
    """Any spelling of a directory or its index gives the directory's full name with `.pruned`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d.v1.x" / "sub").mkdir(parents=True)

    output = default_output(spelling)

    assert tmp_path / "d.v1.x.pruned" == output.absolute()
    assert tmp_path / "d.v1.x.pruned.report.json" == default_report(output).absolute()


@pytest.mark.parametrize("spelling", [".", "m.index.json", "sub/..", "./"])
def test_results_of_the_current_directory_are_next_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spelling: str
) -> None:
    """`.` stands for the name of the current directory."""
    (tmp_path / "d" / "sub").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "d")

    assert tmp_path / "d.pruned" == default_output(spelling)


def test_the_root_directory_has_no_output_name() -> None:
    """An error says that `/` has no name to derive the output name from."""
    with pytest.raises(CheckpointError, match="has no name"):
        default_output("/")


def test_an_existing_directory_keeps_its_dots_in_the_report(tmp_path: Path) -> None:
    """An existing output directory `out.d` has the report `out.d.report.json`."""
    (tmp_path / "out.d").mkdir()

    assert tmp_path / "out.d.report.json" == default_report(tmp_path / "out.d")
