"""Small torch files that describe huge or endless objects, 39 to 53 of the list."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from typing import TYPE_CHECKING

import pytest
from hostile.cases import PRUNE, assert_refusal, measured, tree
from support.handmade import W, checkpoint, number, rebuilt, state_dict, text, with_tensor

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.runs import Forks

PICKLE = state_dict({"a.weight": rebuilt()})
MEGA = 1 << 20
DEEP = 100_000


def bomb(record: str) -> bytes:
    """Return a zip in which one record is 200 MB of zeros, deflated to 0.2 MB."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as target:
        target.writestr("m/data.pkl", PICKLE if record != "m/data.pkl" else bytes(200 * MEGA))
        target.writestr("m/data/0", W if record != "m/data/0" else bytes(200 * MEGA))
    return buffer.getvalue()


def doubling(levels: int, leaf: bytes) -> bytes:
    """Return opcodes for `leaf` 2**levels times: nested pairs of the same object."""
    return leaf + b"q\x00" + b"(h\x00h\x00tq\x00" * levels


def script(code: bytes) -> bytes:
    """Return a TorchScript archive with twenty deflated files of `code`."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as target:
        for name, content in (("data.pkl", PICKLE), ("data/0", W), ("constants.pkl", b"\x80\x02).")):
            target.writestr(f"m/{name}", content)
        for index in range(20):
            target.writestr(f"m/code/__torch__/{index}.py", code, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def pickled(opcodes: bytes) -> bytes:
    """Return a torch zip whose pickle has these opcodes."""
    return checkpoint(b"\x80\x02" + opcodes + b".")


def legacy(protocol: bytes) -> bytes:
    """Return the first pickles of a legacy file; `protocol` are the opcodes of its protocol version."""
    return pickle.dumps(0x1950A86A20F9469CFC6C, 2) + b"\x80\x02" + protocol + b"." + b"\x80\x02}." * 3


def shared_names(count: int, times: int, length: int) -> bytes:
    """Return a dict with `times` keys of `length` characters, whose values are one list of `count` small calls."""
    function, args = b"ctorch._utils\n_rebuild_tensor_v2\n", rebuilt()[len(b"ctorch._utils\n_rebuild_tensor_v2\n") : -1]
    calls = b"](" + function + b"q\x01" + args + b"q\x02R" + b"h\x01h\x02R" * (count - 1) + b"eq\x03"
    again = (text(chr(97 + i) * length) + b"h\x03" for i in range(1, times))
    return b"}(" + text("a" * length) + calls + b"".join(again) + b"u"


TENSOR = state_dict({"a.weight": rebuilt()})[2:-1]
CLASS = b"class A(Module):\n  __parameters__ = [%b]\n  __buffers__ = []\n"
BOMBS: dict[str, tuple[Callable[[], bytes], str]] = {
    "39 deflated data.pkl": (lambda: bomb("m/data.pkl"), "would inflate from"),
    "39 deflated storage": (lambda: bomb("m/data/0"), "209,715,200 bytes instead of 16"),
    "39 torchscript, 80 MB of names": (lambda: script(CLASS % (b'"ab",' * 800_000)), ""),
    "39 torchscript, a million classes": (lambda: script(CLASS % b"" * 60_000), ""),
    "39 torchscript, unclosed lists": (lambda: script(CLASS[:38] + b"]" * 4_000_000), ""),
    "42 numel 2^60": (lambda: with_tensor(numel=1 << 60), "bytes instead of"),
    "42 numel and size 2^60": (lambda: with_tensor(numel=1 << 60, size=(1 << 60,), strides=(1,)), "bytes instead of"),
    "45 expanded to 10^12": (lambda: with_tensor(size=(10**12, 2), strides=(0, 1)), "expanded view"),
    "45 expanded in 64 dimensions": (lambda: with_tensor(size=(2**62,) * 64, strides=(0,) * 64), "too many elements"),
    "45 view that overlaps itself": (lambda: with_tensor(size=(2,) * 60, strides=(0,) * 59 + (1,)), "expanded view"),
    "53 a dict in itself": (lambda: pickled(b"}q\x00(K\x00h\x00u"), "the checkpoint holds none"),
    "53 60 levels without a tensor": (lambda: pickled(doubling(60, b"]")), "the checkpoint holds none"),
    "53 60 levels of a tensor": (lambda: pickled(doubling(60, rebuilt())), "cannot be listed"),
    "53 60 levels of a dict": (lambda: pickled(doubling(60, TENSOR)), "cannot be listed"),
    "53 100,000 lists deep": (lambda: pickled(b"]" * DEEP + rebuilt() + b"a" * DEEP), "are nested too deeply"),
    "53 100,000 tuples deep": (lambda: pickled(b"N" + b"\x85" * DEEP), "are nested too deeply"),
    "53 100,000 calls deep": (lambda: pickled(b"cm\nf\nq\x00" + b"\x85h\x00\x85R" * DEEP), ""),
    "53 100,000 persistent ids deep": (lambda: pickled(b"N" + b"Q" * DEEP), "does not describe a storage"),
    "53 a megabyte of memo entries": (lambda: pickled(b"N" + b"\x94" * MEGA), "holds none"),
    "53 a megabyte of negative keys": (
        lambda: pickled(b"}(" + b"".join(b"J" + struct.pack("<i", -i) + b"N" for i in range(1, MEGA // 6)) + b"u"),
        "",
    ),
    "53 new tensors behind shared long names": (lambda: pickled(shared_names(15_000, 5, 400)), "are too long"),
    "53 a megabyte of marks": (lambda: pickled(b"(" * MEGA), "damaged"),
    "53 a megabyte of dicts": (lambda: pickled(b"}" * MEGA), "too many values"),
    "53 a megabyte of one-tuples": (lambda: pickled(b")\x85" * (MEGA // 2)), "holds none"),
    "53 a megabyte of calls": (lambda: pickled(b"](cm\nf\nq\x00" + b"h\x00)R" * (MEGA // 4) + b"e"), ""),
    "53 a megabyte of persistent ids": (lambda: pickled(b"NQ" * (MEGA // 2)), "does not describe a storage"),
    "53 pairs copied many times": (
        lambda: pickled(
            b"ccollections\nOrderedDict\nq\x00("
            + b"".join(b"(" + number(i) + b"Nt" for i in range(60))
            + b"t\x85q\x010"
            + b"h\x00h\x01R" * (MEGA // 5)
        ),
        "",
    ),
    "53 many tensors behind a long name": (
        lambda: pickled(
            b"}"
            + text("a" * 980)
            + b"}("
            + text("w")
            + rebuilt()
            + b"q\x01"
            + b"".join(b"J" + struct.pack("<i", i) + b"h\x01" for i in range(100_000))
            + b"us"
        ),
        "",
    ),
    "53 many calls behind a long name": (
        lambda: pickled(
            b"}"
            + text("\u202e" * 326)
            + b"}("
            + text("w")
            + rebuilt()[:-1]
            + b"q\x010"
            + b"ctorch._utils\n_rebuild_tensor_v2\nq\x020"
            + b"".join(b"J" + struct.pack("<i", i) + b"h\x02h\x01R" for i in range(80_000))
            + b"us"
        ),
        "",
    ),
    "53 wrapped 1,000 times": (
        lambda: pickled(
            rebuilt() + b"\x85q\x000ctorch._utils\n_rebuild_parameter\nh\x00R" * 1000 + b"q\x01}(K\x00h\x01u"
        ),
        "",
    ),
    "53 a key of a megabyte": (lambda: checkpoint(state_dict({"a" * MEGA: rebuilt()})), "characters"),
    "53 a number of a megabyte": (
        lambda: pickled(b"}(\x8b" + struct.pack("<i", MEGA) + b"\x01" * MEGA + rebuilt() + b"u"),
        "",
    ),
    "53 legacy, an endless protocol": (lambda: legacy(doubling(60, b"]")), "protocol"),
    "53 legacy, a protocol 100,000 deep": (lambda: legacy(b"]" * DEEP + b"a" * (DEEP - 1)), "protocol"),
    "53 legacy, a protocol of 3,000 digits": (
        lambda: legacy(b"\x8b" + struct.pack("<i", 3000) + b"\x01" * 3000),
        "protocol",
    ),
}
"""By description: the bytes, and a part of the message, or "" if the file may also be pruned."""


@pytest.mark.parametrize("what", BOMBS)
def test_small_files_take_little_time_and_memory(what: str, forks: Forks, tmp_path: Path) -> None:
    """A file of about a megabyte takes seconds of CPU time and less than a gigabyte, whatever sizes are in it."""
    make, want = BOMBS[what]
    data = make()
    (tmp_path / "in.pth").write_bytes(data)
    assert len(data) < 1.5 * MEGA

    end = measured(forks, tmp_path, *PRUNE[:1], "in.pth", *PRUNE[1:], "-o", "out", "--report", "r.json")

    small, large = (120, 500) if what.startswith(("39", "42", "45")) else (250, 250)
    assert end.peak < (small if want else large)
    if end.code == 0 and not want:
        return
    assert_refusal(end, want)
    assert tree(tmp_path) == {str(tmp_path / "in.pth"): data}


def test_53_a_wrong_key_takes_little_time(forks: Forks, tmp_path: Path) -> None:
    """The search for similar keys reads an object that a thousand keys share only once."""
    shared = b"](" + b"]Na" * 300_000 + b"eq\x01"
    others = b"".join(text(f"k{index}") + b"h\x01" for index in range(1000))
    weights = text("state_dict") + TENSOR
    (tmp_path / "in.pth").write_bytes(pickled(b"}(" + text("z") + shared + others + weights + b"u"))

    end = measured(forks, tmp_path, "threshold", "in.pth", "--thr", "0.5", "--key", "nope")

    assert_refusal(end, "has no tensors at the key 'nope'")


def test_plain_tuples_take_little_memory(forks: Forks, tmp_path: Path) -> None:
    """Two megabytes of tuples of numbers are read in less than 20 times their size, and the weights are pruned."""
    tuples = b"](" + b"K\x01K\x02\x86" * (2 * MEGA // 5) + b"e"
    (tmp_path / "in.pth").write_bytes(pickled(b"}(" + text("a.weight") + rebuilt() + text("x") + tuples + b"u"))

    end = measured(forks, tmp_path, *PRUNE[:1], "in.pth", *PRUNE[1:], "-o", "out")

    assert (end.code, end.peak < 100) == (0, True), end


FILLERS = {
    "None": b"](" + b"N" * MEGA + b"e",
    "lists": b"](" + b"]" * MEGA + b"e",
    "tuples": b"](" + b"K\x01K\x02\x86q\x05h\x05\x86" * (MEGA // 10) + b"e",
    "keys": b"}(" + b"".join(text(f"{i}") + b"N" for i in range(MEGA // 11)) + b"u",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FILLERS)
def test_bake_takes_little_memory(name: str, forks: Forks, tmp_path: Path) -> None:
    """To fold a mask in a pickle of a megabyte takes less than 250 MB, whatever values are in the pickle."""
    pair = text("l.weight_orig") + rebuilt() + text("l.weight_mask") + rebuilt(key="1")
    pickled_pair = b"\x80\x02}(" + pair + text("x") + FILLERS[name] + b"u."
    (tmp_path / "in.pth").write_bytes(checkpoint(pickled_pair, **{"data/1": struct.pack("<4f", 1, 0, 1, 0)}))

    end = measured(forks, tmp_path, "bake", "in.pth", "-o", "out.pth")

    assert end.peak < 250
    assert end.code in {0, 2}
