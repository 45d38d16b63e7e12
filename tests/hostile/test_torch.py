"""Bad torch files, 29 to 54 of the list: refused in a sentence, or pruned right; and nothing in them runs."""

from __future__ import annotations

import io
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hostile.bad import (
    PRUNE,
    Case,
    P,
    W,
    archive,
    assert_refusal,
    checkpoint,
    container,
    entry,
    measured,
    number,
    patched,
    ran,
    rebuilt,
    refused,
    state_dict,
    text,
    tree,
    try_case,
    with_tensor,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

DATA = b"m/data/0"
PICKLE = state_dict({"a.weight": rebuilt()})
SWAPPED = [b"".join(data[i : i + 4][::-1] for i in range(0, 16, 4)) for data in (W, P)]


def refusal(number: int, what: str, data: bytes, want: str, name: str = "in.pth") -> Case:
    """Return a case that is refused with `want` in the message."""
    return Case(number, what, lambda: data, want, name)


def accepted(number: int, what: str, make: Callable[[bytes], bytes], name: str = "in.pth") -> Case:
    """Return a case in which the four weights are pruned, their checksums made right, and nothing else changes."""
    return Case(number, what, lambda: make(W), lambda: make(P), name)


def legacy(data: bytes, numel: int = 4, tail: bytes = b"") -> bytes:
    """Return the four weights in the format before torch 1.6."""
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    head = b"".join(pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, system))
    pid = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + b"K\x04NtQ"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + pid + b"K\0K\2K\2\x86K\2K\1\x86\x89}tR"
    keys = pickle.dumps(["0"], 2)
    return head + state_dict({"a.weight": tensor}) + keys + struct.pack("<q", numel) + data + tail


def reordered(data: bytes) -> bytes:
    """Return the checkpoint as other tools zip it: storage first, records in another order."""
    return archive([("m/version", b"3\n"), ("m/data/0", data), ("m/byteorder", b"little"), ("m/data.pkl", PICKLE)])


def overlapping() -> bytes:
    """Return a zip in which the second record of the directory lies inside the first."""
    inner = archive({"m/data/1": W})
    outer = checkpoint(data=W + inner[: inner.index(b"PK\1\2")], **{"data/1": W})
    return patched(outer, b"m/data/1", struct.pack("<L", outer.index(b"m/data/1") - 30), -4, last=True)


SOUND = checkpoint()
PNG = b"\x89PNG\r\n\x1a\n" + bytes(40)
EVIL = b"cposix\nsystem\n" + text("touch canary") + b"\x85R"
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
    refusal(38, "deflated", archive({"m/data.pkl": PICKLE, "m/data/0": W}, zipfile.ZIP_DEFLATED), "is compressed"),
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
        "read as F32 and as I32",
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
def test_each_number_of_the_list(case: Case, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A bad file is refused in one sentence and leaves no trace; an odd one is pruned, and only its weights change."""
    try_case(capfd, tmp_path, case)


# --- 39, 42, 45, 53: little files that promise much

MEGA = 1 << 20
DEEP = 100_000


def bomb(record: str) -> bytes:
    """Return a zip in which one record is 300 MB of zeros, deflated to 0.3 MB."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as target:
        target.writestr("m/data.pkl", PICKLE if record != "m/data.pkl" else bytes(300 * MEGA))
        target.writestr("m/data/0", W if record != "m/data/0" else bytes(300 * MEGA))
    return buffer.getvalue()


def doubling(levels: int, leaf: bytes) -> bytes:
    """Return opcodes that hold `leaf` 2**levels times, in lists of twice the same list."""
    return leaf + b"q\x00" + b"(h\x00h\x00tq\x00" * levels


def script(code: bytes) -> bytes:
    """Return a TorchScript archive with twenty deflated files of `code`."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as target:
        for name, content in (("data.pkl", PICKLE), ("data/0", W), ("constants.pkl", b"\x80\x02).")):
            target.writestr(f"m/{name}", content)
        for at in range(20):
            target.writestr(f"m/code/__torch__/{at}.py", code, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


CLASS = b"class A(Module):\n  __parameters__ = [%b]\n  __buffers__ = []\n"
BOMBS: dict[str, tuple[Callable[[], bytes], str]] = {
    "39 deflated data.pkl": (lambda: bomb("m/data.pkl"), "is compressed"),
    "39 deflated storage": (lambda: bomb("m/data/0"), "is compressed"),
    "39 torchscript, 80 MB of names": (lambda: script(CLASS % (b'"ab",' * 800_000)), ""),
    "39 torchscript, a million classes": (lambda: script(CLASS % b"" * 60_000), ""),
    "39 torchscript, lists without end": (lambda: script(CLASS[:38] + b"]" * 4_000_000), ""),
    "42 numel 2^60": (lambda: with_tensor(numel=1 << 60), "bytes instead of"),
    "42 numel and size 2^60": (lambda: with_tensor(numel=1 << 60, size=(1 << 60,), strides=(1,)), "bytes instead of"),
    "45 expanded to 10^12": (lambda: with_tensor(size=(10**12, 2), strides=(0, 1)), "expanded view"),
    "45 expanded in 64 dimensions": (lambda: with_tensor(size=(2**62,) * 64, strides=(0,) * 64), "expanded view"),
    "45 view that overlaps itself": (lambda: with_tensor(size=(2,) * 60, strides=(0,) * 59 + (1,)), "expanded view"),
    "53 a dict in itself": (lambda: checkpoint(b"\x80\x02}q\x00(K\x00h\x00u."), "the checkpoint holds none"),
    "53 60 levels without a tensor": (
        lambda: checkpoint(b"\x80\x02" + doubling(60, b"]") + b"."),
        "the checkpoint holds none",
    ),
    "53 60 levels of a tensor": (
        lambda: checkpoint(b"\x80\x02" + doubling(60, rebuilt()) + b"."),
        "cannot be listed",
    ),
    "53 60 levels of a dict": (
        lambda: checkpoint(b"\x80\x02" + doubling(60, state_dict({"a.weight": rebuilt()})[2:-1]) + b"."),
        "cannot be listed",
    ),
    "53 100,000 lists deep": (
        lambda: checkpoint(b"\x80\x02" + b"]" * DEEP + rebuilt() + b"a" * DEEP + b"."),
        "are nested too deeply",
    ),
    "53 100,000 tuples deep": (lambda: checkpoint(b"\x80\x02N" + b"\x85" * DEEP + b"."), "are nested too deeply"),
    "53 100,000 calls deep": (lambda: checkpoint(b"\x80\x02cm\nf\nq\x00" + b"\x85h\x00\x85R" * DEEP + b"."), ""),
    "53 100,000 persistent ids deep": (
        lambda: checkpoint(b"\x80\x02N" + b"Q" * DEEP + b"."),
        "does not describe a storage",
    ),
    "53 a megabyte of marks": (lambda: checkpoint(b"\x80\x02" + b"(" * MEGA + b"."), "damaged"),
    "53 a megabyte of dicts": (lambda: checkpoint(b"\x80\x02" + b"}" * MEGA + b"."), "holds none"),
    "53 a megabyte of one-tuples": (lambda: checkpoint(b"\x80\x02" + b")\x85" * (MEGA // 2) + b"."), "holds none"),
    "53 a megabyte of calls": (
        lambda: checkpoint(b"\x80\x02](cm\nf\nq\x00" + b"h\x00)R" * (MEGA // 4) + b"e."),
        "",
    ),
    "53 a megabyte of persistent ids": (
        lambda: checkpoint(b"\x80\x02" + b"NQ" * (MEGA // 2) + b"."),
        "does not describe a storage",
    ),
    "53 pairs copied again and again": (
        lambda: checkpoint(
            b"\x80\x02ccollections\nOrderedDict\nq\x00("
            + b"".join(b"(" + number(i) + b"Nt" for i in range(60))
            + b"t\x85q\x010"
            + b"h\x00h\x01R" * (MEGA // 5)
            + b"."
        ),
        "",
    ),
    "53 many tensors behind a long name": (
        lambda: checkpoint(
            b"\x80\x02}"
            + text("a" * 980)
            + b"}("
            + text("w")
            + rebuilt()
            + b"q\x01"
            + b"".join(b"J" + struct.pack("<i", i) + b"h\x01" for i in range(100_000))
            + b"us."
        ),
        "",
    ),
    "53 many calls behind a long name": (
        lambda: checkpoint(
            b"\x80\x02}"
            + text("\u202e" * 326)
            + b"}("
            + text("w")
            + rebuilt()[:-1]
            + b"q\x010"
            + b"ctorch._utils\n_rebuild_tensor_v2\nq\x020"
            + b"".join(b"J" + struct.pack("<i", i) + b"h\x02h\x01R" for i in range(80_000))
            + b"us."
        ),
        "",
    ),
    "53 wrapped 1,000 times": (
        lambda: checkpoint(
            b"\x80\x02"
            + rebuilt()
            + b"\x85q\x000ctorch._utils\n_rebuild_parameter\nh\x00R" * 1000
            + b"q\x01}(K\x00h\x01u."
        ),
        "",
    ),
    "53 a key of a megabyte": (lambda: checkpoint(state_dict({"a" * MEGA: rebuilt()})), "characters"),
    "53 a number of a megabyte": (
        lambda: checkpoint(b"\x80\x02}(\x8b" + struct.pack("<i", MEGA) + b"\x01" * MEGA + rebuilt() + b"u."),
        "",
    ),
    "53 legacy, a protocol without end": (
        lambda: pickle.dumps(0x1950A86A20F9469CFC6C, 2) + b"\x80\x02" + doubling(60, b"]") + b"." + b"\x80\x02}." * 3,
        "protocol",
    ),
    "53 legacy, a protocol 100,000 deep": (
        lambda: (
            pickle.dumps(0x1950A86A20F9469CFC6C, 2)
            + b"\x80\x02"
            + b"]" * DEEP
            + b"a" * (DEEP - 1)
            + b"."
            + b"\x80\x02}." * 3
        ),
        "protocol",
    ),
    "53 legacy, a protocol of 3,000 digits": (
        lambda: (
            pickle.dumps(0x1950A86A20F9469CFC6C, 2)
            + b"\x80\x02\x8b"
            + struct.pack("<i", 3000)
            + b"\x01" * 3000
            + b"."
            + b"\x80\x02}." * 3
        ),
        "protocol",
    ),
}  # what -> (bytes, a part of the message, or "" where it may also be listed)


@pytest.mark.parametrize("what", BOMBS)
def test_little_files_cost_little(what: str, tmp_path: Path) -> None:
    """Whatever a file of about a megabyte promises, it takes seconds and less than a gigabyte, and no traceback."""
    make, want = BOMBS[what]
    source = tmp_path / "in.pth"
    data = make()
    source.write_bytes(data)
    assert len(data) < 1.5 * MEGA

    end, peak = measured(tmp_path, "threshold", source, "--thr", "0.5", "-o", "out", "--report", "r.json", seconds=40)

    assert peak < (100 if want and what.startswith(("39", "42", "45")) else 500)
    if end.code == 0 and not want:
        return
    assert_refusal(end, want)
    assert [path.name for path in tmp_path.iterdir()] == ["in.pth"]
    assert source.read_bytes() == data


def test_53_a_wrong_key_takes_little_time(tmp_path: Path) -> None:
    """The search for the key that may have been meant looks once at what a thousand keys share."""
    shared = b"](" + b"]Na" * 300_000 + b"eq\x01"
    others = b"".join(text(f"k{at}") + b"h\x01" for at in range(1000))
    weights = text("state_dict") + state_dict({"a.weight": rebuilt()})[2:-1]
    (tmp_path / "in.pth").write_bytes(checkpoint(b"\x80\x02}(" + text("z") + shared + others + weights + b"u."))

    end, _ = measured(tmp_path, "threshold", "in.pth", "--thr", "0.5", "--key", "nope", seconds=30)

    assert_refusal(end, "has no tensors at the key 'nope'")


# --- 52: payloads


class _System:
    """What pickle turns into a call of os.system."""

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("touch canary",)


COMMAND = text("touch canary")
PAYLOADS = {
    "GLOBAL and REDUCE": EVIL,
    "STACK_GLOBAL": text("posix") + text("system") + b"\x93" + COMMAND + b"\x85R",
    "INST": b"(" + COMMAND + b"iposix\nsystem\n",
    "OBJ": b"(cposix\nsystem\n" + COMMAND + b"o",
    "NEWOBJ": b"csubprocess\nPopen\n" + text("touch") + text("canary") + b"\x86\x85\x81",
    "NEWOBJ_EX": b"csubprocess\nPopen\n)}" + text("args") + text("touch") + text("canary") + b"\x86s\x92",
    "BUILD": b"cargparse\nNamespace\n)\x81}" + text("__setstate__") + b"cposix\nsystem\nsb" + COMMAND + b"b",
    "SETITEM on a call": b"cbuiltins\n__dict__\n" + text("x") + EVIL + b"s",
    "APPEND on a call": b"cposix\nsystem\n" + COMMAND + b"a",
    "persistent id": EVIL + b"0" + b"(" + text("storage") + EVIL + b"tQ0N",
    "EXT1": b"\x82\x01",
    "dict key": b"}" + EVIL + b"Ns",
    "pickled with pickle": pickle.dumps(_System(), 2)[2:-1],
    "storage type": rebuilt().replace(b"ctorch\nFloatStorage\n", EVIL),
    "rebuild function": rebuilt().replace(b"ctorch._utils\n_rebuild_tensor_v2\n", b"cposix\nsystem\n"),
    "hooks": rebuilt().replace(b"\x89}tR", b"\x89" + EVIL + b"tR"),
    "subclass": b"ctorch._tensor\n_rebuild_from_type_v2\n(cposix\nsystem\ncposix\nsystem\n(" + COMMAND + b"t}tR",
}


def _zip_payload(payload: bytes, data: bytes) -> bytes:
    return checkpoint(state_dict({"a.weight": rebuilt(), "x": payload}), data)


def _legacy_payload(payload: bytes, data: bytes) -> bytes:
    # in the third pickle, before the weights are even mentioned
    before, _, after = legacy(data).partition(b"\x80\x02}q\x00")
    return before + b"\x80\x02" + payload + b"." + after[after.index(b".\x80\x02") + 1 :]


def _protocol_4_payload(payload: bytes, data: bytes) -> bytes:
    return checkpoint(b"\x80\x04" + state_dict({"a.weight": rebuilt(), "x": payload})[2:], data)


def _script_payload(payload: bytes, data: bytes) -> bytes:
    opcodes = state_dict({"a.weight": rebuilt(), "x": payload})
    code = {"constants.pkl": b"\x80\x02" + payload + b".", "code/__torch__.py": b"import os; os.system('touch canary')"}
    return checkpoint(opcodes, data, **code)


def _array_payload(payload: bytes, data: bytes) -> bytes:
    array = pickle.dumps(np.frombuffer(data, "<f4").reshape(2, 2), 4)[11:-1]
    return b"\x80\x04}(" + text("a.weight") + array + text("x") + payload + b"u."


@pytest.mark.parametrize("what", PAYLOADS)
@pytest.mark.parametrize("place", [_zip_payload, _protocol_4_payload, _legacy_payload, _script_payload, _array_payload])
def test_52_no_payload_runs(
    what: str,
    place: Callable[[bytes, bytes], bytes],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A command in a pickle is refused or passed through, and it never runs."""
    monkeypatch.chdir(tmp_path)
    data = place(PAYLOADS[what], W)
    (tmp_path / "in.pth").write_bytes(data)

    end = ran(capfd, PRUNE[0], "in.pth", *PRUNE[1:])

    assert not (tmp_path / "canary").exists()
    if end.code:
        assert_refusal(end, "")
        assert {"in.pth"} == {path.name for path in tmp_path.iterdir()}
    else:
        assert place(PAYLOADS[what], P) == (tmp_path / "in.pruned.pth").read_bytes()


def test_52_the_payloads_are_live(tmp_path: Path) -> None:
    """The commands above do run where they are unpickled, or the test above would prove nothing."""
    for what in ("GLOBAL and REDUCE", "STACK_GLOBAL", "INST", "OBJ", "BUILD", "pickled with pickle"):
        live = b"\x80\x04" + PAYLOADS[what] + b"."
        code = f"import pickle; pickle.loads({live!r})"
        subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False, capture_output=True, timeout=30)
        assert (tmp_path / "canary").exists(), what
        (tmp_path / "canary").unlink()


def test_52_a_payload_beside_the_weights_is_opaque(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A payload that the weights do not need is kept as it is, and the weights are pruned."""
    opcodes = state_dict({"a.weight": rebuilt(), "x": EVIL})

    try_case(capfd, tmp_path, accepted(52, "beside", lambda data: checkpoint(opcodes, data)))


# --- names, beyond the list

NAMES = ["a\0b", "a\nerror: b", "\x1b[2J", "\x9b2J\x85", "a\x7fb", "\u202egnp", "\u2028", "[red]a[/]", "<b>", "\ud800"]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
@pytest.mark.parametrize("options", [(), ("--json",), ("--key", "nothing"), ("-i", "zzz"), ("--strict",)], ids=str)
def test_names_are_escaped_wherever_they_are_shown(
    name: str, options: tuple[str, ...], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Names of tensors, of the state_dict and of what is beside it never reach a terminal as they are."""
    raw = name.encode("utf-8", "surrogatepass")
    inner = state_dict({"a.weight": rebuilt()})[2:-1].replace(text("a.weight"), text(raw + b".weight"))
    other = b"ctorch._utils\n_rebuild_qtensor\n)R"
    opcodes = b"\x80\x02}(" + text(b"x" + raw) + inner + text(raw + b"bias") + rebuilt() + text(raw) + other + b"u."
    weights = struct.pack("<4f", 0.1, 0.2, 0.3, float("inf"))
    (tmp_path / "in.pth").write_bytes(checkpoint(opcodes, weights))
    before = tree(tmp_path)

    end = ran(capfd, "threshold", tmp_path / "in.pth", "--thr", "0.5", *options)

    report = tmp_path / "in.pruned.report.json"
    printable = end.out + end.err + (report.read_text() if end.code == 0 else "")
    assert printable.replace("\n", "").isprintable()
    if end.code:
        assert_refusal(end, "")
        assert before == tree(tmp_path)


@pytest.mark.parametrize("name", ["m\x1b[2J", "m\n", "\u202em", "m\x85", "."], ids=ascii)
def test_record_names_are_escaped_in_errors(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """What a zip calls its records is data as well."""
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
def test_every_flipped_byte_is_an_error_or_a_right_result(
    legacy_format: bool,  # noqa: FBT001
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Whichever byte of a file torch wrote is changed, the tool ends with 0 or 2 and changes only weights."""
    buffer = io.BytesIO()
    torch.save({"w.weight": torch.ones(2, 2)}, buffer, _use_new_zipfile_serialization=not legacy_format)
    sound = buffer.getvalue()
    for place in range(0, len(sound), 17):
        (tmp_path / "in.pth").write_bytes(sound[:place] + bytes([sound[place] ^ 0x41]) + sound[place + 1 :])
        before = tree(tmp_path)

        end = ran(capfd, PRUNE[0], tmp_path / "in.pth", *PRUNE[1:], "-n")

        if end.code:
            assert_refusal(end, "")
        assert before == tree(tmp_path)
