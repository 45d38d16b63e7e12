"""`prune doctor`: what a run here would use."""

from __future__ import annotations

import json
import tempfile
from importlib.metadata import version
from typing import TYPE_CHECKING

from prunecli.cli.main import main
from prunecli.inspection.doctor import doctor
from prunecli.kernels.backend import kernels_name

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_the_diagnosis_has_what_a_run_would_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Versions, kernels, devices and the current folder are those of a run here; missing libraries are named."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PRUNE_THREADS", "3")
    monkeypatch.setattr("prunecli.inspection.doctor.LIBRARIES", ("numpy", "no-such-library"))

    found = doctor()

    assert found.libraries == {"numpy": version("numpy"), "no-such-library": None}
    assert (found.prunecli, found.kernels) == (version("prunecli"), kernels_name())
    assert found.devices[0] == "cpu"
    assert found.variables["PRUNE_THREADS"] == "3"
    assert (found.disks[0].path, found.disks[0].writable) == (str(tmp_path), True)
    assert 0 < found.disks[0].free_bytes <= found.disks[0].total_bytes
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_deleted_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other facts are the same without a current folder."""
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()

    assert [disk.path for disk in doctor().disks] == [tempfile.gettempdir()]


def test_the_command_prints_it_as_lines_or_json(capsys: pytest.CaptureFixture[str]) -> None:
    """Each fact has a line, and --json has all of them."""
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out
    assert main(["doctor", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)

    assert [line.split()[0] for line in lines.splitlines()][:6] == [
        "prunecli",
        "Python",
        "system",
        "kernels",
        "devices",
        "libraries",
    ]
    assert f"numpy {version('numpy')}" in lines
    assert (document["schema"], document["libraries"]["numpy"]) == (1, version("numpy"))
