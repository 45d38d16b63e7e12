"""Bad torch files, 29 to 54 of the list: each ends in an error message, or is pruned correctly."""

from __future__ import annotations

import struct
import zipfile
import zlib
from typing import TYPE_CHECKING

import pytest
import torch
from hostile.cases import PRUNE, Case, accepted, assert_refusal, ran, refusal, refused, tree, try_case
from support.handmade import (
    P,
    W,
    archive,
    checkpoint,
    container,
    entry,
    legacy,
    patched,
    rebuilt,
    state_dict,
    text,
    with_tensor,
)
from support.torch_files import saved

from prunecli.formats.zip.writer import Entry, lay_out

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

DATA = b"m/data/0"
PICKLE = state_dict({"a.weight": rebuilt()})
SWAPPED = [b"".join(data[i : i + 4][::-1] for i in range(0, 16, 4)) for data in (W, P)]


def reordered(data: bytes) -> bytes:
    """Return the checkpoint with its records in an order that torch does not write."""
    return archive([("m/version", b"3\n"), ("m/data/0", data), ("m/byteorder", b"little"), ("m/data.pkl", PICKLE)])


def overlapping() -> bytes:
    """Return a zip in which the second record of the directory is inside the first."""
    inner = archive({"m/data/1": W})
    outer = checkpoint(data=W + inner[: inner.index(b"PK\1\2")], **{"data/1": W})
    return patched(outer, b"m/data/1", struct.pack("<L", outer.index(b"m/data/1") - 30), -4, last=True)


def squeezed(data: bytes) -> bytes:
    """Return a raw stream of deflate."""
    return zlib.compress(data)[2:-4]


def deflated(change: Callable[[bytes], bytes]) -> bytes:
    """Return a torch zip whose compressed storage is changed; the headers state the size and the checksum of W."""
    stream = change(squeezed(W))
    fields = {"method": 8, "crc": zlib.crc32(W), "packed": len(stream), "size": len(W), "data": stream}
    entries = [Entry(b"m/data/0", **fields)]
    for name, content in ((b"m/data.pkl", PICKLE), (b"m/version", b"3\n")):
        entries.append(Entry(name, 0, zlib.crc32(content), len(content), len(content), content))
    return b"".join(lay_out(entries).pieces)


SOUND = checkpoint()
PNG = b"\x89PNG\r\n\x1a\n" + bytes(40)
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"

CASES = [
    refusal(29, "empty", b"", "it is empty"),
    refusal(30, "text", b"hello, this is text\n" * 9, "it is text"),
    refusal(30, "HTML", b"<!DOCTYPE html><html></html>", "an HTML page"),
    refusal(30, "git-lfs pointer", LFS, "a git-lfs pointer"),
    refusal(30, "gzip", b"\x1f\x8b\x08" + bytes(40), "gzip-compressed"),
    refusal(30, "PNG", PNG, "a PNG image"),
    accepted(31, "safetensors called .pth", lambda data: container({"a.weight": entry()}, data)),
    accepted(31, "torch called .safetensors", lambda data: checkpoint(data=data), "in.safetensors"),
    refusal(32, "cut at the tail", SOUND[:-5], "truncated"),
    refusal(32, "cut in the data", SOUND[: SOUND.index(W) + 7], "truncated"),
    refusal(32, "legacy, cut in the data", legacy(W)[:-5], "truncated"),
    refusal(33, "junk before", b"junk" + SOUND, "not a checkpoint"),
    refusal(33, "a zip before", archive({"x": b"x"}) + SOUND, "for its central directory, which has"),
    refusal(34, "junk behind", SOUND + b"junk", "bytes after its end"),
    accepted(34, "legacy, junk behind", lambda data: legacy(data, tail=b"junk")),
    refusal(35, "a flipped bit of a weight", patched(SOUND, W, b"\xcc"), "is damaged: the 16 bytes at offset"),
    refusal(36, "data.pkl's checksum", patched(SOUND, b"_rebuild_tensor_v2", b"_rebuild_tensor_v3"), "checksum"),
    accepted(37, "reordered", reordered),
    refusal(38, "bzip2", archive({"m/data.pkl": PICKLE, "m/data/0": W}, zipfile.ZIP_BZIP2), "compression method 12"),
    refusal(38, "deflated, cut", deflated(lambda data: data[:-1]), "is not one stream"),
    refusal(38, "deflated, another content", deflated(lambda _: squeezed(P)), "has the CRC-32"),
    refusal(38, "deflated, too long", deflated(lambda _: squeezed(W + W)), "more than 16 bytes"),
    refusal(38, "deflated, too short", deflated(lambda _: squeezed(W[:12])), "12 bytes instead of 16"),
    refusal(38, "deflated, bytes behind", deflated(lambda data: data + b"x"), "is not one stream"),
    refusal(38, "deflated, no stream", deflated(lambda data: b"\xff" * len(data)), "cannot be inflated"),
    refusal(40, "a record twice", checkpoint(**{"data/1": P}).replace(b"m/data/1", DATA), "two records named"),
    refusal(41, "record too short", checkpoint(data=W[:12]), "12 bytes instead of 16"),
    refusal(41, "record too long", checkpoint(data=W + W[:4]), "20 bytes instead of 16"),
    refusal(42, "numel 2^60", with_tensor(numel=1 << 60), "instead of 4,611,686,018,427,387,904"),
    refusal(42, "numel 2^70", with_tensor(numel=1 << 70), "an impossible type or size"),
    refusal(43, "missing record", archive({"m/data.pkl": PICKLE}), "no record for the storage '0'"),
    refusal(44, "offset outside", with_tensor(offset=1), "reaches to element 5"),
    refusal(44, "negative offset", with_tensor(offset=-1), "offset -1"),
    refusal(44, "stride outside", with_tensor(strides=(3, 1)), "reaches to element 5"),
    refusal(44, "negative stride", with_tensor(strides=(-2, 1)), "negative"),
    refusal(44, "negative size", with_tensor(size=(-2, 2)), "negative"),
    refusal(46, "key that climbs", with_tensor(key="../../etc/passwd"), "no record for the storage '../../etc/passwd'"),
    refusal(46, "record that climbs", archive({"m/data.pkl": PICKLE, "../x/data/0": W}), "not all in one folder"),
    refusal(
        47,
        "one key, two dtypes",
        checkpoint(state_dict({"a.weight": rebuilt(), "b.weight": rebuilt(storage="IntStorage")})),
        "storage '0' has two dtypes: F32 and I32",
    ),
    refusal(48, "overlapping records", overlapping(), "overlap"),
    refusal(48, "directory points at 0", patched(SOUND, DATA, bytes(4), -4, last=True), "does not start at the offset"),
    refusal(49, "encrypted", patched(SOUND, b"PK\1\2", b"\1", 8), "encrypted"),
    refusal(49, "encrypted in the local header", patched(SOUND, b"PK\3\4", b"\1", 6), "encrypted"),
    refusal(49, "count lie", patched(SOUND, b"PK\5\6", b"\x63\0", 10, last=True), "its end record says 99 records"),
    refusal(49, "no root folder", archive({"data.pkl": PICKLE, "data/0": W}), "not all in one folder"),
    refusal(49, "two roots", archive({"m/data.pkl": PICKLE, "m/data/0": W, "n/x": b""}), "not all in one folder"),
    Case(
        50,
        "big-endian",
        lambda: checkpoint(data=SWAPPED[0], byteorder=b"big"),
        lambda: checkpoint(data=SWAPPED[1], byteorder=b"big"),
    ),
    refusal(50, "byte order x", checkpoint(byteorder=b"x"), "unknown byte order b'x'"),
    accepted(51, "version 99 is not looked at", lambda data: checkpoint(data=data, version=b"99\n")),
    *(
        refusal(52, what, checkpoint(opcodes), want)
        for what, opcodes, want in (
            ("no STOP", PICKLE[:-1], "damaged or truncated"),
            ("bytes after STOP", PICKLE + b"N.", "2 bytes after its pickle"),
            ("stack underflow", b"\x80\x02}u.", "damaged"),
            ("missing memo", b"\x80\x02h\x07.", "memo 7 was never stored"),
            ("LONG4 length lie", b"\x80\x02\x8b\xff\xff\xff\x7f.", "damaged"),
            ("negative LONG4 length", b"\x80\x02\x8b\xff\xff\xff\xff.", "damaged"),
            ("BINUNICODE length lie", b"\x80\x02X\xff\xff\xff\xffa.", "damaged"),
            ("BINUNICODE8 length lie", b"\x80\x04\x8d" + b"\xff" * 7 + b"\x7fa.", "damaged"),
            ("FRAME length lie", b"\x80\x04\x95" + b"\xff" * 8 + b"}u.", "damaged"),
            ("EXT", b"\x80\x02\x82\x01.", "EXT1 is not allowed"),
            ("INST", b"\x80\x02(iposix\nsystem\n.", "INST is not allowed"),
            ("OBJ", b"\x80\x02(cposix\nsystem\no.", "OBJ is not allowed"),
            ("PERSID", b"\x80\x02Pid\n.", "PERSID is not allowed"),
            ("NEXT_BUFFER", b"\x80\x05\x97.", "NEXT_BUFFER is not allowed"),
            ("protocol 6", b"\x80\x06}.", "protocol is 6"),
            ("no pickle", b"\xff" * 40, "damaged"),
        )
    ),
    accepted(
        54,
        "the last of two equal keys wins",
        lambda data: checkpoint(b"\x80\x02}(" + text("a.weight") + b"N" + text("a.weight") + rebuilt() + b"u.", data),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_each_case_of_the_list(case: Case, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A bad file ends in one error message and changes no file; in any other file only the weights change."""
    try_case(capfd, tmp_path, case)


NAMES = ["a\0b", "a\nerror: b", "\x1b[2J", "\x9b2J\x85", "a\x7fb", "\u202egnp", "\u2028", "[red]a[/]", "<b>", "\ud800"]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
@pytest.mark.parametrize("options", [(), ("--json",), ("--key", "nothing"), ("-i", "zzz"), ("--strict",)], ids=str)
def test_names_are_escaped_in_all_output(
    name: str, options: tuple[str, ...], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Names of tensors, of the state_dict and of other entries are escaped in all output."""
    raw = name.encode("utf-8", "surrogatepass")
    inner = state_dict({"a.weight": rebuilt()})[2:-1].replace(text("a.weight"), text(raw + b".weight"))
    other = b"ctorch._utils\n_rebuild_qtensor\n)R"
    opcodes = b"\x80\x02}(" + text(b"x" + raw) + inner + text(raw + b"bias") + rebuilt() + text(raw) + other + b"u."
    weights = struct.pack("<4f", 0.1, 0.2, 0.3, float("inf"))
    (tmp_path / "in.pth").write_bytes(checkpoint(opcodes, weights))
    before = tree(tmp_path)

    end = ran(capfd, "threshold", tmp_path / "in.pth", "--thr", "0.5", *options)

    report = tmp_path / "in.pruned.pth.report.json"
    printable = end.out + end.err + (report.read_text() if end.code == 0 else "")
    assert printable.replace("\n", "").isprintable()
    if end.code:
        assert_refusal(end, "")
        assert before == tree(tmp_path)


@pytest.mark.parametrize("name", ["m\x1b[2J", "m\n", "\u202em", "m\x85", "."], ids=ascii)
def test_record_names_are_escaped_in_errors(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The names of records in a zip are escaped too."""
    for number_, records in enumerate(
        (
            {f"{name}/data.pkl": PICKLE, f"{name}/data/0": W[:4]},
            {f"{name}/x": PICKLE},
            {f"{name}/data.pkl": PICKLE[:-1], f"{name}/data/0": W},
        )
    ):
        folder = tmp_path / str(number_)
        folder.mkdir()
        (folder / "in.pth").write_bytes(archive(records))

        refused(capfd, folder, "", *(PRUNE[0], folder / "in.pth", *PRUNE[1:]))


@pytest.mark.parametrize("legacy_format", [False, True])
def test_a_flipped_byte_ends_in_an_error_or_a_result(
    legacy_format: bool,  # noqa: FBT001
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """With any byte of a file changed, the exit code is 0 or 2, and no file changes in a dry run."""
    sound = saved({"w.weight": torch.ones(2, 2)}, legacy=legacy_format)
    for place in range(0, len(sound), 17):
        (tmp_path / "in.pth").write_bytes(sound[:place] + bytes([sound[place] ^ 0x41]) + sound[place + 1 :])
        before = tree(tmp_path)

        end = ran(capfd, PRUNE[0], tmp_path / "in.pth", *PRUNE[1:], "-n")

        if end.code:
            assert_refusal(end, "")
        assert before == tree(tmp_path)
