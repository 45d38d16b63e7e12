"""Bad safetensors files, 1 to 28 of the list: each ends in an error message, or is pruned correctly."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING

import pytest
from hostile.cases import Case, accepted, assert_refusal, measured, ran, refusal, tree, try_case
from support.bad_safetensors import REFUSED
from support.handmade import W, container, entry
from support.limits import cpu_limit
from support.reports import written

from prunecli.api import prune
from prunecli.formats.safetensors.reader import FORMAT_LIMIT
from prunecli.formats.strict_json import HEADER_LIMIT
from prunecli.report.text import write_report
from prunecli.strategies.thresholds import Threshold
from prunecli.text.escape import printable

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.runs import Forks

NAME = "in.safetensors"
A = {"a.weight": entry()}
LARGE = 2**62


def header(dictionary: dict[str, object]) -> Callable[[bytes], bytes]:
    """Return a function that makes a container of the four weights with a header."""
    return lambda data: container(dictionary, data)


def packed(dtype: str, size: int) -> Callable[[bytes], bytes]:
    """Return a function that makes a container of the weights and of 16 numbers, in `size` bytes, of another dtype."""
    entries = {**A, "q.weight": entry((2, 8), (16, 16 + size), dtype)}
    return lambda data: container(entries, data + bytes(range(size)))


def misaligned(*weights: float) -> bytes:
    """Return a container of two F64 weights after a single byte."""
    entries = {"0": entry((1,), (0, 1), "U8"), "a.weight": entry((1, 2), (1, 17), "F64")}
    return container(entries, b"\7" + struct.pack("<2d", *weights))


CASES = [
    refusal(1, "empty file", b"", "it is empty", NAME),
    accepted(9, "leading space", lambda data: container(" " + json.dumps(A), data), NAME),
    accepted(12, "unknown field", header({"a.weight": {**entry(), "x": [1, {"y": None}]}}), NAME),
    accepted(20, "huge but empty", header({**A, "e.weight": entry((0, LARGE, LARGE), (16, 16))}), NAME),
    accepted(21, "scalar", lambda data: container({**A, "s.weight": entry((), (16, 20))}, data + b"\0\0\0\x3d"), NAME),
    accepted(21, "empty tensor", header({**A, "e.weight": entry((0, 3), (16, 16))}), NAME),
    accepted(22, "F4", packed("F4", 8), NAME),
    accepted(22, "F6_E2M3", packed("F6_E2M3", 12), NAME),
    accepted(22, "F6_E3M2", packed("F6_E3M2", 12), NAME),
    accepted(22, "F8_E8M0", packed("F8_E8M0", 16), NAME),
    Case(24, "misaligned F64", lambda: misaligned(0.5, -2), lambda: misaligned(0, -2), NAME),
    accepted(
        27, "header out of order", lambda data: container({"b": entry((2,), (16, 24)), **A}, data + b"unpruned"), NAME
    ),
]


@pytest.mark.parametrize("what", REFUSED)
def test_each_invalid_file_ends_in_one_message(what: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A file that the reader refuses ends in one error message and changes no file."""
    data, want = REFUSED[what]

    try_case(capfd, tmp_path, Case(0, what, lambda: data, want, NAME))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_each_case_of_the_list(case: Case, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A bad file ends in one error message and changes no file; in any other file only the weights change."""
    try_case(capfd, tmp_path, case)


def test_07_the_largest_header_of_the_format_is_refused_in_little_memory(forks: Forks, tmp_path: Path) -> None:
    """A header of 100,000,000 bytes and 1.4 million tensors is refused before it is read."""
    source = tmp_path / NAME
    body = b",".join(b'"%07d":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}   ' % i for i in range(1_400_000))
    source.write_bytes(container(b"{" + body.ljust(FORMAT_LIMIT - 2)[: FORMAT_LIMIT - 2] + b"}"))

    end = measured(forks, tmp_path, "threshold", source, "--thr", "0.5", "-o", "out", seconds=2)

    assert_refusal(end, "too large")
    assert end.peak < 100
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


@pytest.mark.slow
def test_07_the_largest_header_that_is_read_takes_bounded_memory(forks: Forks, tmp_path: Path) -> None:
    """A header of the largest size that is read, with the shortest entries, takes less than a gigabyte of memory."""
    source = tmp_path / NAME
    one = b'"%06x":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},'
    body = b"".join(one % i for i in range((HEADER_LIMIT - 1) // len(one % 0)))
    source.write_bytes(container(b"{" + body[:-1] + b"}"))

    end = measured(forks, tmp_path, "threshold", source, "--thr", "0.5", "-o", "out", seconds=120)

    assert_refusal(end, "no tensor to prune: all")
    assert end.peak < 1024


NAMES = {
    "NUL": "a\0b",
    "newline": "a\nerror: not me",
    "carriage return": "a\rb",
    "terminal commands": "\x1b[2J\x1b]0;title\x07",
    "one-byte terminal commands": "\x9b2J\x85",
    "delete": "a\x7fb",
    "right to left": "\u202egnp.exe\u2066",
    "invisible": "a\u200b\u00ad\ufeffb",
    "line separators": "a\u2028b\u2029c",
    "markup": "[red]a[/red][link=file:///]b",
    "private and unassigned": "\ue000\U000e0001\U0010ffff",
    "quotes": "'\"`$(touch canary)`",
    "html": "<script>alert(1)</script>",
    "format": "%s%n{0}{x!r}",
}


@pytest.mark.parametrize("what", NAMES)
@pytest.mark.parametrize("options", [(), ("--json",), ("-q",)], ids=["table", "json", "quiet"])
def test_25_names_are_escaped_in_all_output(
    what: str, options: tuple[str, ...], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """In the table, in warnings and in JSON a name has no character that a terminal interprets."""
    name, source = f"{NAMES[what]}.weight", tmp_path / NAME
    weights = struct.pack("<4f", 0.1, 0.2, 0.25, float("nan"))
    other, skipped = f"{NAMES[what]}2.weight", f"{NAMES[what]}.bias"
    entries = {name: entry(), other: entry(offsets=(16, 32)), skipped: entry((1,), (32, 36))}
    source.write_bytes(container(entries, weights + bytes(16) + W[:4]))

    end = ran(capfd, "threshold", source, "--thr", "0.5", *options)

    assert end.code == 0, end.err
    report = (tmp_path / "in.pruned.safetensors.report.json").read_text()
    printable = (end.out + end.err + report).replace("\n", "")
    assert printable.isprintable()
    assert "warning: " in end.err
    assert name in {row["name"] for row in json.loads(report)["tensors"]}


@pytest.mark.parametrize("what", NAMES)
@pytest.mark.parametrize("width", [30, 200])
def test_25_names_are_escaped_on_a_terminal(what: str, width: int, tmp_path: Path) -> None:
    """The table for a terminal has no colour or command from a name, and prints markup literally."""
    source = tmp_path / NAME
    source.write_bytes(container({f"{NAMES[what]}.weight": entry(), NAMES[what]: entry(offsets=(16, 32))}, W + W))
    report = prune(source, Threshold(0.5), dry_run=True)

    lines = written(write_report, report, width=width)

    assert lines.replace("\n", "").replace("\u2500", "").isprintable()
    assert width < 200 or printable(f"{NAMES[what]}.weight") in lines


def test_a_long_name_takes_little_time_on_a_terminal(tmp_path: Path) -> None:
    """Folding a name of a hundred thousand characters takes little CPU time."""
    source = tmp_path / NAME
    source.write_bytes(container({"[b]x\x1b" * 20_000 + ".weight": entry()}, W))
    report = prune(source, Threshold(0.5), dry_run=True)

    with cpu_limit(10):
        lines = written(write_report, report, width=80)

    assert "\x1b" not in lines
    assert len(lines) < 1_000_000


@pytest.mark.parametrize("what", NAMES)
@pytest.mark.parametrize(
    "trouble",
    [
        ("--strict",),
        ("-i", "*.nothing"),
        ("-i", "*.bias", "--min-dim", "9"),
        ("-x", "*"),
        ("--key", "state_dict"),
    ],
    ids=["not finite", "no match", "too few dimensions", "all excluded", "no key"],
)
def test_25_names_are_escaped_in_errors(
    what: str, trouble: tuple[str, ...], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Each error that names a tensor is one printable line, and so is its hint."""
    name, source = NAMES[what], tmp_path / NAME
    entries = {f"{name}.weight": entry(), f"{name}.bias": entry((1,), (16, 20))}
    source.write_bytes(container(entries, struct.pack("<5f", 1, 2, 3, float("nan"), 4)))
    before = tree(tmp_path)

    end = ran(capfd, "threshold", source, "--thr", "0.5", *trouble)

    assert_refusal(end, "")
    assert before == tree(tmp_path)


@pytest.mark.parametrize("what", NAMES)
def test_25_names_of_damaged_tensors_are_escaped(what: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The message about a wrong entry has the escaped name of the tensor."""
    source = tmp_path / NAME
    source.write_bytes(container({NAMES[what]: entry((9, 9))}, W))

    assert_refusal(ran(capfd, "threshold", source, "--thr", "0.5"), "does not match the")


def test_a_long_name_does_not_widen_every_line(forks: Forks, tmp_path: Path) -> None:
    """One name of half a megabyte does not make the lines of thousands of other tensors as long."""
    names = [*(f"{i}.weight" for i in range(6000)), "x" * 500_000 + ".weight"]
    entries = {name: entry((1, 1), (index, index + 1), "F8_E5M2") for index, name in enumerate(names)}
    source = tmp_path / NAME
    source.write_bytes(container(entries, bytes(len(names))))

    end = measured(forks, tmp_path, "threshold", source, "--thr", "0.5")

    assert end.code == 0, end.err
    assert end.peak < 200
    assert len(end.out) < 3_000_000
