"""Commands in pickles, 52 of the list: none of them runs."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hostile.cases import PRUNE, Case, assert_refusal, ran, try_case
from support.handmade import P, W, checkpoint, legacy, rebuilt, state_dict, text

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

EVIL = b"cposix\nsystem\n" + text("touch canary") + b"\x85R"


class _System:
    """An object that pickle stores as a call of os.system."""

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
    # in the third pickle, which comes before the weights
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
    """A command in a pickle is refused or copied, and it never runs."""
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
    """The commands do run when pickle loads them, so that the test above can fail."""
    for what in ("GLOBAL and REDUCE", "STACK_GLOBAL", "INST", "OBJ", "BUILD", "pickled with pickle"):
        live = b"\x80\x04" + PAYLOADS[what] + b"."
        code = f"import pickle; pickle.loads({live!r})"
        subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False, capture_output=True)
        assert (tmp_path / "canary").exists(), what
        (tmp_path / "canary").unlink()


def test_52_a_payload_next_to_the_weights_is_copied(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A payload that the weights do not need is copied unchanged, and the weights are pruned."""
    opcodes = state_dict({"a.weight": rebuilt(), "x": EVIL})

    try_case(
        capfd, tmp_path, Case(52, "next to the weights", lambda: checkpoint(opcodes, W), lambda: checkpoint(opcodes, P))
    )
