"""Where reports are written, which files they may replace, and that all of this is decided before any work."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.command_line import HALF, save_two_layers
from support.containers import CONTAINERS, make_checkpoint

from prunecli.api import prune as prune_file
from prunecli.errors import OutputError
from prunecli.strategies.unstructured import L1
from prunecli.text.json import dump_json

if TYPE_CHECKING:
    from support.command_line import Prune


def document(tool: str, output: object) -> str:
    """Return the text of a report without tensors."""
    head = {"schema": 1, "tool": {"name": tool}, "strategy": {}, "output": {"path": output}}
    return dump_json(head, tensors=())


FOREIGN = {
    "text": "a list",
    "empty": "",
    "other JSON": '{"schema": 1}',
    "a list": "[1]",
    "nested": "[" * 100_000,
    "another tool": document("x", "OUT"),
    "no path": document("prunecli", 7),
    "no output": document("prunecli", None),
    "another output": document("prunecli", "b.pth"),
}


def report_of(output: Path) -> Path:
    """Return the default report of `output`."""
    return output.with_name(f"{output.name}.report.json")


def names(folder: Path) -> set[str]:
    """Return the names of the files in `folder`."""
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("container", CONTAINERS)
def test_a_report_of_the_same_output_is_replaced(prune: Prune, tmp_path: Path, container: str) -> None:
    """If the output was deleted and its report is left, the same command works, and writes a new report."""
    ckpt = make_checkpoint(container, tmp_path)

    assert prune("l1", ckpt, "--amount", "0.25", "-q").code == 0
    (output,) = (path for path in tmp_path.iterdir() if ".pruned" in path.name and path.suffix != ".json")
    output.rename(tmp_path / "moved")
    assert prune("l1", ckpt, "--amount", "0.75", "-q").code == 0

    assert json.loads(report_of(output).read_text())["strategy"]["amount"] == 0.75


def test_files_that_differ_in_the_suffix_have_reports_of_their_own(prune: Prune, tmp_path: Path) -> None:
    """`m.safetensors` and `m.st` can be pruned one after the other."""
    for name in ("m.safetensors", "m.st"):
        assert prune("l1", save_two_layers(tmp_path / name), *HALF, "-q").code == 0

    for name in ("m.pruned.safetensors", "m.pruned.st"):
        report = json.loads(report_of(tmp_path / name).read_text())
        assert report["output"]["path"] == str(tmp_path / name)


@pytest.mark.parametrize("kind", FOREIGN)
def test_another_file_is_not_replaced(prune: Prune, ckpt: Path, kind: str) -> None:
    """A file that is no report of this tool for the same output needs --force; nothing is written before that."""
    report = ckpt.with_name("ckpt.pruned.safetensors.report.json")
    report.write_text(FOREIGN[kind].replace("OUT", str(ckpt.with_name("ckpt.pruned.safetensors"))))
    before = report.read_bytes()

    ran = prune("l1", ckpt, *HALF)

    assert ran.code == 2
    assert f"the output {report} exists" in ran.err
    assert "or replace it with --force" in ran.err
    assert (report.read_bytes(), names(ckpt.parent)) == (before, {ckpt.name, report.name})
    assert prune("l1", ckpt, *HALF, "--force").code == 0


@pytest.mark.parametrize("special", ["directory", "fifo", "link"])
def test_a_special_file_at_the_place_of_the_report_is_refused(prune: Prune, ckpt: Path, special: str) -> None:
    """A directory, a pipe or a link is refused before the run, even a link to a report of this tool."""
    report = ckpt.with_name("ckpt.pruned.safetensors.report.json")
    if special == "directory":
        report.mkdir()
    elif special == "fifo":
        os.mkfifo(report)
    else:
        assert prune("l1", ckpt, *HALF, "--report", ckpt.with_name("real.json")).code == 0
        ckpt.with_name("ckpt.pruned.safetensors").unlink()
        report.symlink_to("real.json")

    assert prune("l1", ckpt, *HALF).code == 2
    assert not ckpt.with_name("ckpt.pruned.safetensors").exists()


def test_a_named_report_is_replaced_only_for_the_same_output(prune: Prune, ckpt: Path) -> None:
    """A JSON report with a name of the user's is replaced if it is about the same output, a table is not."""
    out, report, table = (ckpt.with_name(name) for name in ("out", "r.json", "r.csv"))
    command = ["l1", ckpt, *HALF, "-q", "--report", report]
    assert prune(*command, "-o", out, "--report", table).code == 0
    out.unlink()

    assert prune(*command, "-o", out).code == 0
    assert prune(*command, "-o", ckpt.with_name("other")).code == 2
    out.unlink()
    assert prune("l1", ckpt, *HALF, "-o", out, "--report", table).code == 2


def test_in_place_replaces_the_input_only(prune: Prune, ckpt: Path) -> None:
    """--in-place replaces the input and a report of an earlier run, but no other report and no mask."""
    mask, report = ckpt.with_name("mask.safetensors"), report_of(ckpt)
    for other in (mask, report):
        other.write_bytes(b"mine")
        assert prune("l1", ckpt, *HALF, "--in-place", "--mask-out", mask).code == 2
        other.unlink()

    assert prune("l1", ckpt, *HALF, "--in-place").code == 0
    assert prune("l1", ckpt, *HALF, "--in-place").code == 0
    assert names(ckpt.parent) == {ckpt.name, report.name}


def test_no_report_writes_none(prune: Prune, ckpt: Path) -> None:
    """--no-report writes the checkpoint alone, and so does `reports=()`."""
    assert prune("l1", ckpt, *HALF, "--no-report").code == 0
    assert names(ckpt.parent) == {ckpt.name, "ckpt.pruned.safetensors"}

    prune_file(ckpt, L1(0.5), output=ckpt.with_name("b"), reports=())
    assert names(ckpt.parent) == {ckpt.name, "ckpt.pruned.safetensors", "b"}


def test_a_dash_prints_the_report(prune: Prune, ckpt: Path) -> None:
    """`--report -` prints the JSON report and writes no other one, unless --report names it."""
    ran = prune("l1", ckpt, *HALF, "--report", "-")
    printed = json.loads(ran.out)
    assert printed["output"]["path"] == str(ckpt.with_name("ckpt.pruned.safetensors"))
    assert names(ckpt.parent) == {ckpt.name, "ckpt.pruned.safetensors"}

    ran = prune("l1", ckpt, *HALF, "-q", "-n", "--report", "-", "--report", ckpt.with_name("r.json"))
    assert ran.out == ckpt.with_name("r.json").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--json", "--report", "-"], "--json and --report - both print the report"),
        (["--report", "-", "--report", "-"], "--report - and --report - both print the report"),
        (["-o", "-", "--report", "-"], "--report - and -o - both write to standard output"),
        (["--no-report", "--report", "r.json"], "--report and --no-report contradict each other"),
        (["--no-report", "--report", "-"], "--report and --no-report contradict each other"),
    ],
    ids=str,
)
def test_contradictions_are_refused(prune: Prune, ckpt: Path, options: list[str], message: str) -> None:
    """Two results cannot share standard output, and a report cannot be wanted and not wanted."""
    ran = prune("l1", ckpt, *HALF, *options)

    assert (ran.code, ran.out) == (2, "")
    assert message in ran.err
    assert names(ckpt.parent) == {ckpt.name}


def test_the_report_is_checked_before_standard_input_is_read(
    prune: Prune, ckpt: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A report or a mask that cannot be written is refused while the pipe is still full."""
    read, write = os.pipe()
    os.write(write, b"not read")
    out = ckpt.with_name("out")
    report_of(out).write_text("mine")
    ckpt.with_name("m").write_text("mine")
    monkeypatch.setattr("sys.stdin", os.fdopen(read, "rb", closefd=False))

    assert "out.report.json exists" in prune("l1", "-", *HALF, "-o", out).err
    assert "m exists" in prune("l1", "-", *HALF, "-o", out, "--no-report", "--mask-out", ckpt.with_name("m")).err
    os.close(write)
    assert os.read(read, 100) == b"not read"
    os.close(read)


def test_python_replaces_its_own_report_only(ckpt: Path) -> None:
    """The function replaces its own report and no other file."""
    prune_file(ckpt, L1(0.5))
    ckpt.with_name("ckpt.pruned.safetensors").unlink()
    prune_file(ckpt, L1(0.5))
    ckpt.with_name("ckpt.pruned.safetensors").unlink()
    report_of(ckpt.with_name("ckpt.pruned.safetensors")).write_text("{}")

    with pytest.raises(OutputError, match=r"report\.json exists"):
        prune_file(ckpt, L1(0.5))
