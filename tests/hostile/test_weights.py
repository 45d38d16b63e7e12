"""Unusual weights, names and numbers of tensors, 64 to 70 of the list."""

from __future__ import annotations

import json
import os
import struct
import zipfile
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hostile.cases import assert_refusal, measured, prune, ran, refused
from support.handmade import P, W, archive, checkpoint, container, entry, rebuilt, state_dict

if TYPE_CHECKING:
    from pathlib import Path

    from support.runs import Forks

    Capture = pytest.CaptureFixture[str]

pytestmark = pytest.mark.skipif(os.name != "posix", reason="links, pipes and signals are POSIX's")


def test_64_special_numbers_are_ranked_and_counted(tmp_path: Path, capfd: Capture) -> None:
    """A threshold prunes denormals, and neither NaN nor infinities, which are counted."""
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
def test_64_numbers_whose_squares_overflow_are_ranked(
    weights: tuple[float, ...], command: tuple[str, ...], tmp_path: Path, capfd: Capture
) -> None:
    """Weights near the largest float64 are ranked without an error or a warning, with a finite deviation."""
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
    """Half of equal weights is exactly half, the first ones."""
    (tmp_path / "in.pth").write_bytes(checkpoint(data=data))

    end = ran(capfd, "global", tmp_path / "in.pth", "--amount", "0.5", "-o", tmp_path / "out")

    assert end.code == 0, end.err
    assert (tmp_path / "out").read_bytes() == checkpoint(data=want)


@pytest.mark.filterwarnings("ignore")
def test_66_other_tensors_are_skipped_with_a_reason(tmp_path: Path, capfd: Capture) -> None:
    """Bool, integer, complex, quantized, sparse and meta tensors stay unchanged, and the report says why."""
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


def test_67_tied_tensors_stay_tied_and_are_pruned_once(tmp_path: Path, capfd: Capture) -> None:
    """Tied, transposed and wrapped names of one storage are pruned once, and still share it in the output."""
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
    """Two slices with a common part are refused; the message names both."""
    base = torch.arange(12.0).view(3, 4)
    torch.save({"a.weight": base[:2], "b.weight": base[1:]}, tmp_path / "in.pth")

    refused(capfd, tmp_path, "`a.weight` and `b.weight` are different views", *prune(tmp_path / "in.pth"))


def test_68_a_checkpoint_without_weights_is_an_error(tmp_path: Path, capfd: Capture) -> None:
    """The error counts the skipped tensors, and does not propose to prune a bias."""
    (tmp_path / "in.pth").write_bytes(checkpoint(state_dict({"a.bias": rebuilt()})))

    refused(capfd, tmp_path, "it is skipped (1 x not a weight by name)", *prune(tmp_path / "in.pth"))
    assert "hint: prune inspect " in ran(capfd, *prune(tmp_path / "in.pth")).err


@pytest.mark.parametrize(
    "name", ["ein Modell", "模型", "mo'del\"$(x)", "-model", "a\nb", "\x1b[2J", b"caf\xe9", "[red]"], ids=ascii
)
def test_69_any_path_works(name: str | bytes, tmp_path: Path, capfd: Capture) -> None:
    """Paths may have spaces, quotes, other scripts, control characters, and bytes that are no text."""
    folder = tmp_path / os.fsdecode(name)
    folder.mkdir()
    (folder / "in.pth").write_bytes(checkpoint())

    end = ran(capfd, *prune(folder / "in.pth"))

    assert end.code == 0, end.err
    assert (folder / "in.pruned.pth").read_bytes() == checkpoint(data=P)
    report = (folder / "in.pruned.pth.report.json").read_text()
    assert (end.out + end.err + report).replace("\n", "").isprintable()
    assert json.loads(report)["input"]["path"] == str(folder / "in.pth")


def test_70_more_than_65535_records_are_read(tmp_path: Path, capfd: Capture) -> None:
    """A zip that needs zip64 to count its records is pruned correctly."""
    others = {f"data/{i}": b"" for i in range(1, 65_600)}
    (tmp_path / "in.pth").write_bytes(checkpoint(**others))

    end = ran(capfd, *prune(tmp_path / "in.pth", "-o", tmp_path / "out"))

    assert end.code == 0, end.err
    assert (tmp_path / "out").read_bytes() == checkpoint(data=P, **others)


LONG = (1 << 32) + (1 << 24)
LONG_CRC = 0xD202EF8D
"""The CRC-32 of LONG zero bytes."""


def sparse_zip(path: Path, size: int = LONG) -> None:
    """Write a checkpoint whose weights come after a record of LONG zero bytes, a hole in the file."""
    opcodes = state_dict(
        {"a.weight": rebuilt(), "n": rebuilt(key="1", numel=size, size=(size,), strides=(1,), storage="ByteStorage")}
    )
    with path.open("wb") as file, zipfile.ZipFile(file, "w") as target:
        target.writestr("m/data.pkl", opcodes)
        info = zipfile.ZipInfo("m/data/1")
        with target.open(info, "w", force_zip64=True):
            pass
        start = target.start_dir
        info.CRC, info.file_size, info.compress_size = LONG_CRC, size, size
        file.seek(0)
        file.seek(start - 20)
        extra = file.tell()
        file.seek(info.header_offset)
        file.write(info.FileHeader(zip64=True))
        assert file.tell() == extra + 20
        target.start_dir = file.seek(file.tell() + size)
        target.writestr("m/data/0", W)


def test_70_a_record_of_more_than_4_gigabytes_is_skipped(tmp_path: Path, capfd: Capture) -> None:
    """Weights after a record of more than 4 GiB are found through the offsets of zip64."""
    path = tmp_path / "in.pth"
    sparse_zip(path)

    end = ran(capfd, *prune(path, "-n", "--json"))

    rows = {row["name"]: row for row in json.loads(end.out)["tensors"]}
    assert path.stat().st_blocks * 512 < 1 << 24
    assert (rows["a.weight"]["pruned"], rows["a.weight"]["zeros_after"]) == (2, 2)
    assert rows["n"]["numel"] == LONG


def test_names_that_look_like_paths_or_options_are_names(tmp_path: Path, capfd: Capture) -> None:
    """A tensor named like a path or an option is pruned like any other, and no other file is written."""
    names = ["../../etc/passwd.weight", "-o.weight", "/dev/null.weight", "C:\\x.weight", ".weight", "a..weight"]
    header = {name: entry((2, 2), (16 * index, 16 * index + 16)) for index, name in enumerate(names)}
    (tmp_path / "in.safetensors").write_bytes(container(header, W * len(names)))

    end = ran(capfd, *prune(tmp_path / "in.safetensors"))

    assert end.code == 0, end.err
    assert (tmp_path / "in.pruned.safetensors").read_bytes() == container(header, P * len(names))
    written = {"in.safetensors", "in.pruned.safetensors", "in.pruned.safetensors.report.json"}
    assert written == {path.name for path in tmp_path.iterdir()}


def test_many_small_tensors_take_little_time(forks: Forks, tmp_path: Path) -> None:
    """A header of a megabyte, full of weights, is pruned in seconds of CPU time."""
    count = 15_000
    header = {f"{index}.weight": entry((1, 1), (index, index + 1), "F8_E5M2") for index in range(count)}
    (tmp_path / "in.safetensors").write_bytes(
        container(header, bytes(range(128)) * (count // 128) + bytes(count % 128))
    )

    end = measured(forks, tmp_path, "global", "in.safetensors", "--amount", "0.5", seconds=30)

    assert end.code == 0, end.err
    assert end.peak < 400


def test_a_zip_of_many_empty_records_takes_little_time(forks: Forks, tmp_path: Path) -> None:
    """A zip of a megabyte, full of records, is refused in seconds of CPU time."""
    records = [("m/data.pkl", b"\x80\x02}."), *((f"m/data/{index}", b"") for index in range(10_000))]
    (tmp_path / "in.pth").write_bytes(archive(records))

    end = measured(forks, tmp_path, *prune("in.pth"))

    assert_refusal(end, "holds none")
    assert end.peak < 120
