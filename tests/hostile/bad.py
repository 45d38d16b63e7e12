"""What the hostile tests share: files made byte by byte, and a harness that holds the tool to its promises.

Every promise is checked on each case: exit code 2 with one sentence and at most one hint and nothing else changed, or
exit code 0 with exactly the bytes that were expected.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prunecli.cli.main import main

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import pytest

W = struct.pack("<4f", 0.1, 2, 0.25, -3)
"""Four weights, F32: two rows of two."""

P = struct.pack("<4f", 0, 2, 0, -3)
"""What `PRUNE` makes of them."""

PRUNE = ("threshold", "--thr", "0.5")


@dataclass(frozen=True, slots=True)
class Case:
    """A number of the list of bad inputs, what is bad, its bytes, and what is to come of it.

    `want` is a part of the error message, or the bytes of the output.
    """

    number: int
    what: str
    make: Callable[[], bytes]
    want: str | Callable[[], bytes]
    name: str = "in.pth"
    args: tuple[str, ...] = PRUNE

    def __str__(self) -> str:
        """Name the test."""
        return f"{self.number} {self.what}"


@dataclass(frozen=True, slots=True)
class Ran:
    """How a run ended: its exit code, standard output and standard error."""

    code: int
    out: str
    err: str


def ran(capfd: pytest.CaptureFixture[str], *args: str | Path) -> Ran:
    """Run the command line in this process."""
    capfd.readouterr()
    code = main([str(arg) for arg in args])
    return Ran(code, *capfd.readouterr())


def tree(folder: Path) -> dict[str, object]:
    """Return everything below `folder`: the bytes of files, the targets of links, the types of other things."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            found[str(path)] = ("link", str(path.readlink()))
        else:
            found[str(path)] = path.read_bytes() if path.is_file() else path.stat().st_mode
    return found


def assert_refusal(end: Ran, want: str) -> None:
    """Check that a run ended in one sentence with `want` in it, at most one hint, and nothing on standard output."""
    lines = end.err.splitlines()
    assert (end.code, end.out) == (2, ""), end
    assert lines[0].startswith("error: ")
    assert want in lines[0]
    assert 1 <= len(lines) <= 2
    assert all(line.startswith("hint: ") for line in lines[1:])
    assert all(line.isprintable() for line in lines)
    assert len(lines[0]) < 2000


def refused(capfd: pytest.CaptureFixture[str], folder: Path, want: str, *args: str | Path) -> None:
    """Run the tool; check that it refuses, and that nothing below `folder` has changed, come or gone."""
    before = tree(folder)

    end = ran(capfd, *args)

    assert_refusal(end, want)
    assert before == tree(folder)


def try_case(capfd: pytest.CaptureFixture[str], folder: Path, case: Case) -> None:
    """Write the case into `folder`, run the tool on it, and hold it to what is wanted."""
    source, output, report = folder / case.name, folder / "out", folder / "report.json"
    data = case.make()
    source.write_bytes(data)
    args: tuple[str | Path, ...] = (case.args[0], source, *case.args[1:], "-o", output, "--report", report)
    if isinstance(case.want, str):
        refused(capfd, folder, case.want, *args)
        return
    end = ran(capfd, *args)
    assert end.code == 0, end.err
    assert output.read_bytes() == case.want()
    assert source.read_bytes() == data
    assert {"out", "report.json", case.name} == {path.name for path in folder.iterdir()}


CHILD = """
import re, resource, sys
from pathlib import Path
from prunecli.cli.main import main
limit = int(sys.argv[1]) << 20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
code = main(sys.argv[2:])
status = Path("/proc/self/status")
if status.exists():  # what getrusage says includes the process that started this one
    peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", status.read_text())[1]) // 1024
else:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 20
print("peak", peak, file=sys.stderr)
sys.exit(code)
"""
"""Run the command line in little address space, and say how many megabytes it took."""


def measured(folder: Path, *args: str | Path, seconds: float = 60, space: int = 2048) -> tuple[Ran, int]:
    """Run the tool as a process with `space` MiB of address space; return how it ended, and its peak in MiB."""
    process = subprocess.run(
        [sys.executable, "-c", CHILD, str(space), *map(str, args)],
        capture_output=True,
        check=False,
        timeout=seconds,
        cwd=folder,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
    )
    lines = process.stderr.decode().splitlines(keepends=True)
    assert lines[-1].startswith("peak "), lines[-1]
    return Ran(process.returncode, process.stdout.decode(), "".join(lines[:-1])), int(lines[-1].split()[1])


# --- safetensors


def container(header: Mapping[str, object] | str | bytes, data: bytes = b"", length: int | None = None) -> bytes:
    """Put a header, dumped as JSON if it is no text yet, and `data` into a container, checking nothing."""
    text = header if isinstance(header, str | bytes) else json.dumps(header, separators=(",", ":"))
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def entry(shape: Sequence[int] = (2, 2), offsets: Sequence[int] = (0, 16), dtype: str = "F32") -> dict[str, object]:
    """Return one tensor's header entry; unasked that of four weights."""
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


# --- torch zips and pickles


def number(value: int) -> bytes:
    """Return the opcode for a number."""
    return pickle.dumps(value, 2)[2:-1]


def text(value: str | bytes) -> bytes:
    """Return the opcode for a text of any length."""
    raw = value.encode() if isinstance(value, str) else value
    return b"X" + struct.pack("<I", len(raw)) + raw


def rebuilt(
    *,
    key: str = "0",
    numel: int = 4,
    offset: int = 0,
    size: Sequence[int] = (2, 2),
    strides: Sequence[int] = (2, 1),
    storage: str = "FloatStorage",
    location: str = "cpu",
) -> bytes:
    """Return the opcodes that rebuild a tensor; unasked that of four weights in the record data/0."""
    dims = [b"(" + b"".join(map(number, values)) + b"t" for values in (size, strides)]
    kind = b"ctorch\n" + storage.encode() + b"\n"
    pid = b"(" + text("storage") + kind + text(key) + text(location) + number(numel) + b"tQ"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + pid + number(offset) + dims[0] + dims[1] + b"\x89}tR"


def state_dict(tensors: Mapping[str, bytes]) -> bytes:
    """Return the pickle of a dict of rebuilt tensors, or of any opcodes that leave one value."""
    return b"\x80\x02}(" + b"".join(text(name) + value for name, value in tensors.items()) + b"u."


def archive(records: Mapping[str, bytes] | list[tuple[str, bytes]], method: int = zipfile.ZIP_STORED) -> bytes:
    """Return a zip of the records, in that order."""
    buffer = io.BytesIO()
    pairs = records if isinstance(records, list) else list(records.items())
    with zipfile.ZipFile(buffer, "w", method) as target:
        for name, content in pairs:
            target.writestr(zipfile.ZipInfo(name), content, method)
    return buffer.getvalue()


def checkpoint(opcodes: bytes | None = None, data: bytes = W, **records: bytes) -> bytes:
    """Return a torch zip: a pickle (unasked of one weight), its storage data/0, and more records by name."""
    opcodes = state_dict({"a.weight": rebuilt()}) if opcodes is None else opcodes
    return archive({"m/data.pkl": opcodes, "m/data/0": data, **{f"m/{name}": value for name, value in records.items()}})


def with_tensor(**fields: Any) -> bytes:  # noqa: ANN401 - those of rebuilt
    """Return a torch zip whose one tensor is described by `fields`."""
    return checkpoint(state_dict({"a.weight": rebuilt(**fields)}))


def patched(data: bytes, find: bytes, put: bytes, at: int = 0, *, last: bool = False) -> bytes:
    """Return `data` with `put` written `at` bytes behind where `find` is."""
    place = (data.rindex(find) if last else data.index(find)) + at
    return data[:place] + put + data[place + len(put) :]
