"""Bad places and bad moments, 55 to 70 of the list: the tool refuses them in a sentence, or does the right thing."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import stat
import struct
import subprocess
import sys
import threading
import time
import zipfile
import zlib
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hostile.bad import (
    PRUNE,
    P,
    W,
    archive,
    assert_refusal,
    checkpoint,
    container,
    entry,
    measured,
    patched,
    ran,
    rebuilt,
    refused,
    state_dict,
    tree,
    with_tensor,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Capture = pytest.CaptureFixture[str]

pytestmark = pytest.mark.skipif(os.name != "posix", reason="links, pipes and signals are POSIX's")
unprivileged = pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write anywhere")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Write four weights."""
    path = tmp_path / "in.pth"
    path.write_bytes(checkpoint())
    return path


def prune(source: str | Path, *options: str | Path) -> list[str | Path]:
    """Return the command line of most runs here."""
    return [PRUNE[0], source, *PRUNE[1:], *options]


def process(*args: str | Path, **options: object) -> subprocess.CompletedProcess[bytes]:
    """Run the command line in a process of its own."""
    command = [sys.executable, "-m", "prunecli", *map(str, args)]
    return subprocess.run(command, check=False, timeout=60, **{"capture_output": True, **options})  # type: ignore[call-overload,no-any-return]


# --- 55 to 58: outputs and inputs in bad places


@pytest.mark.parametrize("force", [(), ("--force",)])
def test_55_a_pipe_survives_being_named_as_output(
    force: tuple[str, ...], source: Path, tmp_path: Path, capfd: Capture
) -> None:
    """A fifo is no file to replace, not even with --force; nobody needs to read from it."""
    os.mkfifo(tmp_path / "fifo")

    refused(capfd, tmp_path, "is a pipe or a device", *prune(source, "-o", tmp_path / "fifo", *force))

    assert stat.S_ISFIFO((tmp_path / "fifo").stat().st_mode)


@pytest.mark.parametrize("option", ["-o", "--report"])
def test_55_a_link_to_a_device_leads_nowhere(option: str, source: Path, tmp_path: Path, capfd: Capture) -> None:
    """A link to /dev/null is followed by --force only to find that it is no file."""
    (tmp_path / "null.json").symlink_to(os.devnull)
    given = (option, tmp_path / "null.json") if option == "-o" else ("-n", option, tmp_path / "null.json")

    refused(capfd, tmp_path, "is a pipe or a device", *prune(source, *given, "--force"))


def test_55_a_fifo_as_input_is_refused_unread(tmp_path: Path, capfd: Capture) -> None:
    """A fifo named as the checkpoint is an error that says how to read it, instead of waiting for ever."""
    os.mkfifo(tmp_path / "fifo")

    refused(capfd, tmp_path, "is not a regular file", *prune(tmp_path / "fifo"))


def test_55_a_directory_with_fifos_is_not_waited_for(tmp_path: Path) -> None:
    """Fifos in a directory, whatever they are called, are not opened."""
    for name in ("a.bin", "model.safetensors.index.json", "x.safetensors", "pytorch_model.bin"):
        folder = tmp_path / f"in {name}"
        folder.mkdir()
        os.mkfifo(folder / name)

        end, _ = measured(tmp_path, *prune(folder), seconds=20)

        assert_refusal(end, "")


def test_56_an_existing_output_is_kept(source: Path, tmp_path: Path, capfd: Capture) -> None:
    """Without --force nothing is replaced, neither output nor report."""
    old = tmp_path / "out.json"
    old.write_bytes(b"old")

    refused(capfd, tmp_path, "out.json exists", *prune(source, "-o", old))
    refused(capfd, tmp_path, "out.json exists", *prune(source, "-o", tmp_path / "new", "--report", old))


def same_name(source: Path) -> Path:
    """Name the input in another way."""
    return source.parent / "." / source.name


def symlink(source: Path) -> Path:
    """Make a link to the input."""
    (source.parent / "link").symlink_to(source.name)
    return source.parent / "link"


def hard_link(source: Path) -> Path:
    """Make another name of the input."""
    (source.parent / "link").hardlink_to(source)
    return source.parent / "link"


@pytest.mark.parametrize("other", [same_name, symlink, hard_link])
@pytest.mark.parametrize("option", ["-o", "--report"])
def test_57_the_input_is_never_the_output(
    other: Callable[[Path], Path], option: str, source: Path, tmp_path: Path, capfd: Capture
) -> None:
    """The input under any name is refused as output and as report, also with --force."""
    target = other(source)
    if option == "--report":
        target = target.rename(target.with_suffix(".json")) if target.is_symlink() else target
        option_values: tuple[str | Path, ...] = ("-o", tmp_path / "out", "--report", target)
    else:
        option_values = ("-o", target)

    before = tree(tmp_path)
    end = ran(capfd, *prune(source, *option_values, "--force"))

    assert_refusal(end, "")
    assert before == tree(tmp_path)


def test_58_bad_paths_are_one_sentence(source: Path, tmp_path: Path, capfd: Capture) -> None:
    """A directory as a file, a missing parent, a name that is too long, a NUL: one sentence each."""
    (tmp_path / "empty").mkdir()
    for args, want in (
        ((tmp_path / "empty",), "holds no checkpoint"),
        ((tmp_path / "missing.pth",), "there is no file or directory"),
        ((tmp_path / "in.pth" / "x",), "Not a directory"),
        ((tmp_path / ("x" * 300),), "name too long"),
        (("a\0b",), "is not a valid path"),
        (("",), "empty"),
        ((source, "-o", tmp_path / "no" / "out"), "there is no directory"),
        ((source, "-o", tmp_path / "empty"), "is a directory"),
        ((source, "-o", tmp_path / ("x" * 300)), "name too long"),
        ((source, "-o", source / "out"), "there is no directory"),
        ((source, "-o", "a\0b"), ""),
        ((source, "-o", ""), ""),
    ):
        refused(capfd, tmp_path, want, *prune(*args))


def test_58_links_in_a_circle_are_one_sentence(source: Path, tmp_path: Path, capfd: Capture) -> None:
    """A link to itself is no checkpoint and no output."""
    (tmp_path / "loop").symlink_to("loop")

    refused(capfd, tmp_path, "", *prune(tmp_path / "loop"))
    refused(capfd, tmp_path, "", *prune(source, "-o", tmp_path / "loop"))
    refused(capfd, tmp_path, "", *prune(source, "-o", tmp_path / "loop", "--force"))


@unprivileged
def test_58_no_permission_is_one_sentence(source: Path, tmp_path: Path, capfd: Capture) -> None:
    """What may not be read or written is said before any work."""
    closed = tmp_path / "closed"
    closed.mkdir(0o500)
    refused(capfd, tmp_path, "no permission", *prune(source, "-o", closed / "out"))
    source.chmod(0)
    end = ran(capfd, *prune(source))
    source.chmod(0o600)
    assert_refusal(end, "Permission denied")


# --- 59: no room


@pytest.fixture
def little_room(tmp_path: Path) -> Iterator[Path]:
    """Mount 8 MB of memory, where that is allowed."""
    folder = tmp_path / "little"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_59_a_full_filesystem_is_noticed_first(little_room: Path, tmp_path: Path, capfd: Capture) -> None:
    """An output that does not fit is refused, and the old one is kept."""
    rows = 3 << 10
    data = bytes(rows * 1024 * 4)
    (tmp_path / "in.safetensors").write_bytes(container({"a.weight": entry((rows, 1024), (0, len(data)))}, data))
    (little_room / "out").write_bytes(b"old")
    for output in (little_room / "out", little_room / "new"):
        before = tree(little_room)

        end = ran(capfd, *prune(tmp_path / "in.safetensors", "-o", output, "--force"))

        assert_refusal(end, "No space left on device")
        assert before == tree(little_room)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full here")  # noqa: PTH110
@pytest.mark.parametrize("options", [("-o", "-"), ("--json", "-n")])
def test_59_a_full_standard_output_is_one_sentence(options: tuple[str, ...], source: Path) -> None:
    """/dev/full as standard output is exit code 2 and a sentence."""
    with open("/dev/full", "wb") as full:  # noqa: PTH123
        ended = process(*prune(source, *options), stdout=full, stderr=subprocess.PIPE, capture_output=False)

    assert ended.returncode == 2
    assert ended.stderr.startswith(b"error: standard output ")
    assert b"Traceback" not in ended.stderr


# --- 60 and 61: bad moments


@pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda n: signal.Signals(n).name
)
def test_60_a_signal_at_any_moment_leaves_old_or_new(number: int, tmp_path: Path) -> None:
    """Interrupted at random moments, the output is the old or the new one, and nothing else is there."""
    data = struct.pack("<4f", 0.1, 2, 0.25, -3) * (1 << 19)
    new = struct.pack("<4f", 0, 2, 0, -3) * (1 << 19)
    header = {"a.weight": entry((1 << 19, 4), (0, len(data)))}
    source, out = tmp_path / "in.safetensors", tmp_path / "out"
    source.write_bytes(container(header, data))
    moments = random.Random(number)
    for _ in range(6):
        out.write_bytes(b"old")
        run = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "prunecli",
                *map(str, prune(source, "-o", out, "-f", "--report", tmp_path / "r.json")),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(moments.uniform(0.05, 0.6))
        run.send_signal(number)
        run.wait(30)

        assert out.read_bytes() in {b"old", container(header, new)}
        left = {path.name for path in tmp_path.iterdir()} - {"in.safetensors", "out", "r.json"}
        assert not left or (number == signal.SIGKILL and all(name.startswith(".prune-") for name in left))


def test_61_an_input_that_is_cut_while_it_is_read_is_refused(tmp_path: Path, capfd: Capture) -> None:
    """A file that is shorter once the weights are read than when they were listed gives no output."""
    source = tmp_path / "in.safetensors"
    size = 1 << 22
    source.write_bytes(container({"a.weight": entry((size // 16, 4), (0, size))}, W * (size // 16)))
    stop = threading.Event()

    def cut() -> None:
        while not stop.is_set():
            os.truncate(source, size // 2)
            os.truncate(source, size)

    whole = source.stat().st_size
    thread = threading.Thread(target=cut)
    thread.start()
    try:
        end = ran(capfd, *prune(source, "-o", tmp_path / "out"))
    finally:
        stop.set()
        thread.join()

    assert whole > size
    assert_refusal(end, "")
    assert {"in.safetensors"} == {path.name for path in tmp_path.iterdir()}


# --- 62: the index of shards

SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


def sharded(folder: Path, weight_map: object = None, index: str = "model.safetensors.index.json") -> Path:
    """Write two shards of a weight each and an index; return the folder."""
    folder.mkdir()
    for name, shard in zip(("a.weight", "b.weight"), SHARDS, strict=True):
        (folder / shard).write_bytes(container({name: entry()}, W))
    right = {"a.weight": SHARDS[0], "b.weight": SHARDS[1]}
    (folder / index).write_text(json.dumps({"metadata": {}, "weight_map": right if weight_map is None else weight_map}))
    return folder


BAD_MAPS: dict[str, tuple[object, str]] = {
    "climbs": ({"a.weight": "../x.safetensors"}, "not a plain path"),
    "absolute": ({"a.weight": "/x.safetensors"}, "not a plain path"),
    "a drive": ({"a.weight": "C:x.safetensors"}, "not a plain path"),
    "backslashes": ({"a.weight": "..\\x.safetensors"}, "not a plain path"),
    "a device": ({"a.weight": "/dev/zero"}, "not a plain path"),
    "control characters": ({"a.weight": "\x1b[2J.safetensors"}, "not a plain path"),
    "spelled in two ways": ({"a.weight": SHARDS[0], "b.weight": f"./{SHARDS[1]}"}, "not a plain path"),
    "missing shard": ({"a.weight": SHARDS[0], "b.weight": "c.safetensors"}, "lacks the shard"),
    "tensor not in its shard": ({"a.weight": SHARDS[1], "b.weight": SHARDS[1]}, "puts the tensor 'a.weight' in"),
    "tensor in no shard": ({"a.weight": SHARDS[0], "c.weight": SHARDS[1]}, "but it is not there"),
    ".bin in a safetensors index": ({"a.weight": "x.bin"}, "not a .safetensors file"),
    "empty": ({}, "has no weight_map"),
    "a list": ([], "has no weight_map"),
    "a number as the shard": ({"a.weight": 7}, "no file name"),
    "null": ({"a.weight": None}, "no file name"),
}


@pytest.mark.parametrize("what", BAD_MAPS)
def test_62_a_bad_index_is_refused(what: str, tmp_path: Path, capfd: Capture) -> None:
    """An index that leads out of its directory, to nothing, or to the wrong place gives no output."""
    weight_map, want = BAD_MAPS[what]
    folder = sharded(tmp_path / "in", weight_map)

    refused(capfd, tmp_path, want, *prune(folder, "-o", tmp_path / "out"))


BAD_TEXTS = {
    "a shard listed twice for one name": (
        f'{{"weight_map": {{"a.weight": "{SHARDS[0]}", "a.weight": "{SHARDS[1]}"}}}}',
        "twice",
    ),
    "no JSON": ("hello", "not valid JSON"),
    "a list": ("[]", "not a JSON object"),
    "nested without end": ('{"weight_map":' * 50_000, "nested too deeply"),
    "binary": ("\x00\x01\x02", "not valid JSON"),
    "empty": ("", "not valid JSON"),
}


@pytest.mark.parametrize("what", BAD_TEXTS)
def test_62_an_index_that_is_none_is_refused(what: str, tmp_path: Path, capfd: Capture) -> None:
    """An index with repeated names, or that is no JSON, gives no output."""
    content, want = BAD_TEXTS[what]
    folder = sharded(tmp_path / "in")
    (folder / "model.safetensors.index.json").write_text(content)

    refused(capfd, tmp_path, want, *prune(folder, "-o", tmp_path / "out"))


def test_62_a_name_in_two_shards_is_refused(tmp_path: Path, capfd: Capture) -> None:
    """Readers differ on which one counts."""
    folder = sharded(tmp_path / "in")
    (folder / SHARDS[1]).write_bytes(container({"a.weight": entry(), "b.weight": entry(offsets=(16, 32))}, W + W))

    refused(capfd, tmp_path, "'a.weight' is in", *prune(folder, "-o", tmp_path / "out"))


@pytest.mark.parametrize("name", [SHARDS[0], "config.json"])
def test_62_a_link_out_of_the_directory_is_refused(name: str, tmp_path: Path, capfd: Capture) -> None:
    """Neither a shard nor a file beside it may be a link to somewhere else."""
    folder = sharded(tmp_path / "in")
    outside = tmp_path / "outside"
    outside.write_bytes(container({"a.weight": entry()}, W))
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(outside)

    refused(capfd, tmp_path, "is a link that leaves its directory", *prune(folder, "-o", tmp_path / "out"))


def test_62_names_of_shards_are_escaped(tmp_path: Path, capfd: Capture) -> None:
    """File names with control characters are harmless where they are shown."""
    folder = tmp_path / "in"
    folder.mkdir()
    for at in range(2):
        (folder / f"a\x1b[2J\n{at}.safetensors").write_bytes(container({"a.weight": entry((9, 9))}, W))

    refused(capfd, tmp_path, "does not match the", *prune(folder, "-o", tmp_path / "out"))


# --- 63: a reader that goes away


@pytest.mark.parametrize("options", [("-o", "-"), ("--json", "-n"), ("-n",)], ids=str)
def test_63_a_closed_pipe_is_quiet(options: tuple[str, ...], source: Path) -> None:
    """When nobody reads standard output any more, nothing is said."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        ended = process(*prune(source, *options, "-q"), stdout=writer, stderr=subprocess.PIPE, capture_output=False)
    finally:
        os.close(writer)

    assert ended.stderr == b""
    assert ended.returncode in {0, 141}


# --- 64 to 70: odd weights and odd sizes


def test_64_odd_numbers_are_ranked_and_counted(tmp_path: Path, capfd: Capture) -> None:
    """NaN and infinity are never pruned by a threshold and are counted; -0.0 stays, denormals go."""
    odd = struct.pack("<8f", float("nan"), float("inf"), float("-inf"), -0.0, 1e-45, -1e-40, 0.5, -0.6)
    want = struct.pack("<8f", float("nan"), float("inf"), float("-inf"), 0, 0, 0, 0, -0.6)
    header = {"a.weight": entry((2, 4), (0, 32))}
    (tmp_path / "in.safetensors").write_bytes(container(header, odd))

    end = ran(capfd, *prune(tmp_path / "in.safetensors", "--json", "-o", tmp_path / "out"))

    row = json.loads(end.out)["tensors"][0]
    assert (row["nonfinite"], row["zeros_before"], row["zeros_after"]) == (3, 1, 4)
    assert "3 weights are not finite" in end.err
    result = (tmp_path / "out").read_bytes()
    assert result.replace(b"\0\0\0\x80", bytes(4)) == container(header, want)


@pytest.mark.parametrize(
    "weights", [(1e200, 1.0, -3e199, 2.0), (1.7e308, -1.7e308, 0.0, 1.0), (1.7e308, 1.7e308, 1.7e308, 1e-300)]
)
@pytest.mark.parametrize(
    "command",
    [
        ("threshold", "--thr-std", "0.5"),
        ("percentile", "--q", "50"),
        ("global", "--amount", "0.5"),
        ("structured", "--amount", "0.5", "--n", "2"),
        ("block", "--amount", "0.5", "--shape", "1x2"),
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_64_numbers_whose_squares_overflow_are_numbers(
    weights: tuple[float, ...], command: tuple[str, ...], tmp_path: Path, capfd: Capture
) -> None:
    """Weights near the largest float64 are ranked like others: no error, no warning of NumPy's, a finite deviation."""
    path = tmp_path / "in.safetensors"
    path.write_bytes(container({"a.weight": entry((2, 2), (0, 32), "F64")}, struct.pack("<4d", *weights)))

    end = ran(capfd, command[0], path, *command[1:], "-n", "--json")

    (row,) = json.loads(end.out)["tensors"]
    assert end.code == 0
    assert "Warning" not in end.err
    if "--thr-std" in command:
        assert row["cut"] == pytest.approx(0.5e200 * np.std(np.array(weights) / 1e200, ddof=1))


@pytest.mark.parametrize(
    ("data", "want"),
    [(bytes(16), bytes(16)), (struct.pack("<f", -2) * 4, bytes(8) + struct.pack("<f", -2) * 2)],
    ids=["all zero", "all equal"],
)
def test_65_ties_are_cut_exactly(data: bytes, want: bytes, tmp_path: Path, capfd: Capture) -> None:
    """Half of equal weights is exactly half, the first of them."""
    (tmp_path / "in.pth").write_bytes(checkpoint(data=data))

    end = ran(capfd, "global", tmp_path / "in.pth", "--amount", "0.5", "-o", tmp_path / "out")

    assert end.code == 0, end.err
    assert (tmp_path / "out").read_bytes() == checkpoint(data=want)


@pytest.mark.filterwarnings("ignore")
def test_66_what_is_no_float_is_skipped_with_a_reason(tmp_path: Path, capfd: Capture) -> None:
    """Bool, integer, complex, quantized, sparse and meta tensors stay as they are, and the report says why."""
    w = torch.tensor([[0.1, 2], [0.25, -3]])
    odd = {
        "bool.weight": w > 1,
        "int.weight": w.int(),
        "complex.weight": w.to(torch.complex64),
        "quantized.weight": torch.quantize_per_tensor(w, 0.1, 0, torch.qint8),
        "sparse.weight": w.to_sparse(),
        "meta.weight": torch.empty(2, 2, device="meta"),
    }
    torch.save({"a.weight": w, **odd}, tmp_path / "in.pth")

    end = ran(capfd, *prune(tmp_path / "in.pth", "--json", "-o", tmp_path / "out"))

    rows = {row["name"]: row for row in json.loads(end.out)["tensors"]}
    assert end.code == 0, end.err
    assert rows["a.weight"]["selected"]
    assert all(not row["selected"] and row["reason"] for name, row in rows.items() if name != "a.weight")
    assert {"bool.weight", "int.weight", "complex.weight"} <= rows.keys()
    result = torch.load(tmp_path / "out", weights_only=True)
    assert result["a.weight"].tolist() == [[0, 2], [0, -3]]
    assert torch.equal(odd["int.weight"], result["int.weight"])
    assert torch.equal(odd["sparse.weight"].to_dense(), result["sparse.weight"].to_dense())
    assert torch.equal(odd["quantized.weight"].int_repr(), result["quantized.weight"].int_repr())


def test_67_ties_are_kept_and_pruned_once(tmp_path: Path, capfd: Capture) -> None:
    """Tied, transposed and wrapped names of one storage are one tensor, pruned once, and still one after that."""
    w = torch.tensor([[0.1, 2], [0.25, -3]])
    torch.save(
        {"a.weight": w, "b.weight": w, "t.weight": w.t(), "p.weight": torch.nn.Parameter(w)}, tmp_path / "in.pth"
    )

    end = ran(capfd, *prune(tmp_path / "in.pth", "--json", "-o", tmp_path / "out"))

    (row,) = json.loads(end.out)["tensors"]
    assert (row["pruned"], row["aliases"]) == (2, ["b.weight", "t.weight", "p.weight"])
    result = torch.load(tmp_path / "out", weights_only=True)
    assert len({t.data_ptr() for t in result.values()}) == 1


def test_67_views_that_overlap_in_part_are_refused(tmp_path: Path, capfd: Capture) -> None:
    """Two slices with a common part cannot both be pruned; the message names them, the hint what to leave out."""
    base = torch.arange(12.0).view(3, 4)
    torch.save({"a.weight": base[:2], "b.weight": base[1:]}, tmp_path / "in.pth")

    refused(capfd, tmp_path, "`a.weight` and `b.weight` are different views", *prune(tmp_path / "in.pth"))


def test_68_nothing_to_prune_is_an_error(tmp_path: Path, capfd: Capture) -> None:
    """A checkpoint without weights says what it has instead."""
    (tmp_path / "in.pth").write_bytes(checkpoint(state_dict({"a.bias": rebuilt()})))

    refused(capfd, tmp_path, "no tensor to prune: all 1 are skipped", *prune(tmp_path / "in.pth"))
    assert "a.bias" in ran(capfd, *prune(tmp_path / "in.pth")).err


@pytest.mark.parametrize(
    "name", ["ein Modell", "模型", "mo'del\"$(x)", "-model", "a\nb", "\x1b[2J", b"caf\xe9", "[red]"], ids=ascii
)
def test_69_any_path_works(name: str | bytes, tmp_path: Path, capfd: Capture) -> None:
    """Paths with spaces, quotes, other scripts, control characters, and bytes that are no text."""
    folder = tmp_path / os.fsdecode(name)
    folder.mkdir()
    (folder / "in.pth").write_bytes(checkpoint())

    end = ran(capfd, *prune(folder / "in.pth"))

    assert end.code == 0, end.err
    assert (folder / "in.pruned.pth").read_bytes() == checkpoint(data=P)
    report = (folder / "in.pruned.report.json").read_text()
    assert (end.out + end.err + report).replace("\n", "").isprintable()
    assert json.loads(report)["input"]["path"] == str(folder / "in.pth")


def test_70_more_than_65535_records_are_read(tmp_path: Path, capfd: Capture) -> None:
    """A zip that needs zip64 to count its records is pruned right."""
    others = {f"data/{i}": b"" for i in range(1, 65_600)}
    (tmp_path / "in.pth").write_bytes(checkpoint(**others))

    end = ran(capfd, *prune(tmp_path / "in.pth", "-o", tmp_path / "out"))

    assert end.code == 0, end.err
    assert (tmp_path / "out").read_bytes() == checkpoint(data=P, **others)


def sparse_zip(path: Path, size: int) -> None:
    """Write a checkpoint whose weight comes after a record of `size` zero bytes, which take no room on the disk."""
    opcodes = state_dict(
        {"a.weight": rebuilt(), "n": rebuilt(key="1", numel=size, size=(size,), strides=(1,), storage="ByteStorage")}
    )
    with path.open("wb") as file, zipfile.ZipFile(file, "w") as target:
        target.writestr("m/data.pkl", opcodes)
        info = zipfile.ZipInfo("m/data/1")
        with target.open(info, "w", force_zip64=True):
            pass
        start = target.start_dir
        crc = 0
        for _ in range(size >> 24):
            crc = zlib.crc32(bytes(1 << 24), crc)
        info.CRC, info.file_size, info.compress_size = crc, size, size
        file.seek(0)
        file.seek(start - 20)
        extra = file.tell()
        file.seek(info.header_offset)
        file.write(info.FileHeader(zip64=True))
        assert file.tell() == extra + 20
        target.start_dir = file.seek(file.tell() + size)
        target.writestr("m/data/0", W)


def test_70_a_record_of_more_than_4_gigabytes_is_passed(tmp_path: Path, capfd: Capture) -> None:
    """Weights behind a record of more than 4 GiB are found through zip64's offsets, and only they are read."""
    path = tmp_path / "in.pth"
    sparse_zip(path, (1 << 32) + (1 << 24))

    end = ran(capfd, *prune(path, "-n", "--json"))

    rows = {row["name"]: row for row in json.loads(end.out)["tensors"]}
    assert path.stat().st_blocks * 512 < 1 << 24
    assert (rows["a.weight"]["pruned"], rows["a.weight"]["zeros_after"]) == (2, 2)
    assert rows["n"]["numel"] == (1 << 32) + (1 << 24)


# --- beyond the list


def test_a_standard_input_that_is_no_checkpoint_is_named(tmp_path: Path) -> None:
    """What comes through a pipe is refused like a file, and leaves nothing."""
    for data, want in (
        (b"", b"empty"),
        (b"\x1f\x8b\x08" + bytes(40), b"gzip"),
        (checkpoint()[:-7], b"truncated"),
        (with_tensor(numel=1 << 60), b"damaged"),
        (patched(checkpoint(), W, b"\xcc"), b"damaged"),
    ):
        ended = process(*prune("-", "-o", tmp_path / "out"), input=data)

        assert (ended.returncode, ended.stdout) == (2, b"")
        assert ended.stderr.startswith(b"error: ")
        assert want in ended.stderr
        assert not list(tmp_path.iterdir())


def test_a_checkpoint_that_grows_names_for_its_report_keeps_them_there(tmp_path: Path, capfd: Capture) -> None:
    """A tensor named like a path or an option is only a name."""
    names = ["../../etc/passwd.weight", "-o.weight", "/dev/null.weight", "C:\\x.weight", ".weight", "a..weight"]
    header = {name: entry((2, 2), (16 * at, 16 * at + 16)) for at, name in enumerate(names)}
    (tmp_path / "in.safetensors").write_bytes(container(header, W * len(names)))

    end = ran(capfd, *prune(tmp_path / "in.safetensors"))

    assert end.code == 0, end.err
    assert (tmp_path / "in.pruned.safetensors").read_bytes() == container(header, P * len(names))
    assert {"in.safetensors", "in.pruned.safetensors", "in.pruned.report.json"} == {p.name for p in tmp_path.iterdir()}


def test_many_little_tensors_take_little_time(tmp_path: Path) -> None:
    """A megabyte of header with as many weights as fit is pruned in seconds."""
    count = 15_000
    header = {f"{at}.weight": entry((1, 1), (at, at + 1), "F8_E5M2") for at in range(count)}
    (tmp_path / "in.safetensors").write_bytes(
        container(header, bytes(range(128)) * (count // 128) + bytes(count % 128))
    )

    end, peak = measured(tmp_path, "global", "in.safetensors", "--amount", "0.5", seconds=60)

    assert end.code == 0, end.err
    assert peak < 400


def test_a_zip_of_many_empty_records_takes_little_time(tmp_path: Path) -> None:
    """As many records as fit into a megabyte are read and refused in seconds."""
    records = [("m/data.pkl", b"\x80\x02}."), *((f"m/data/{at}", b"") for at in range(10_000))]
    (tmp_path / "in.pth").write_bytes(archive(records))

    end, peak = measured(tmp_path, *prune("in.pth"), seconds=30)

    assert_refusal(end, "holds none")
    assert peak < 100
