"""An error of a device is one sentence, and leaves no output; the input is as it was."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

import pytest
import torch
from safetensors.torch import save_file
from support.command_line import save_two_layers

import prunecli
from prunecli import api
from prunecli.cli.main import main
from prunecli.engine.device_errors import device_errors
from prunecli.errors import DeviceError
from prunecli.kernels.torch_ops import TorchOps

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LOST = "CUDA error: unspecified launch failure\nCUDA kernel errors might be reported later"

MPS = "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64. Use float32 instead."

ERRORS: dict[str, tuple[Callable[[], Exception], str]] = {
    "memory": (lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), "is out of memory"),
    "memory of a driver": (lambda: RuntimeError("CUDA error: out of memory\nmore"), "is out of memory"),
    "memory of mps": (lambda: RuntimeError("MPS backend out of memory (MPS allocated: 17 GB)"), "is out of memory"),
    "lost": (lambda: RuntimeError(LOST), "failed: CUDA error: unspecified launch failure"),
    "lost xpu": (lambda: RuntimeError("UR error: UR_RESULT_ERROR_DEVICE_LOST"), "failed: UR error"),
    "dtype": (lambda: TypeError(MPS), "cannot compute with a dtype of this run: Cannot convert a MPS Tensor"),
    "operation": (
        lambda: NotImplementedError("\"sort\" not implemented for 'Short'"),
        "cannot compute with a dtype of this run: \"sort\" not implemented for 'Short'",
    ),
}
if hasattr(torch, "AcceleratorError"):
    ERRORS["lost, as a class"] = (
        lambda: torch.AcceleratorError("an illegal memory access"),
        "failed: an illegal memory access",
    )


@pytest.fixture(params=ERRORS)
def sentence(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Make "cuda" a device whose kernels fail in each way in turn; return a part of the sentence."""
    make, expected = ERRORS[request.param]

    def fail(*_: object) -> NoReturn:
        raise make()

    monkeypatch.setattr(TorchOps, "cut", fail)
    monkeypatch.setattr(api, "resolve", lambda name: "cpu" if name == "cuda" else None)
    return expected


def test_a_failing_device_is_one_sentence_and_no_output(
    sentence: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The exit code is 2, a hint proposes the CPU, and the folder holds only the input."""
    folder = tmp_path / "work"
    folder.mkdir()
    path = save_two_layers(folder / "ckpt.safetensors")
    before = path.read_bytes()

    code = main(["threshold", str(path), "--thr", "0.1", "--device", "cuda"])
    error = capfd.readouterr().err

    assert code == 2
    assert f"error: the device cpu {sentence}" in error
    assert "--device cpu" in error
    assert "Traceback" not in error
    assert [path] == list(folder.iterdir())
    assert before == path.read_bytes()


def test_other_errors_stay_as_they_are() -> None:
    """An error that is not about the device, and one without a device, is raised unchanged."""
    for device, error in (
        ("cuda:0", RuntimeError("a defect")),
        ("cuda:0", KeyError("CUDA error: x")),
        (None, RuntimeError(LOST)),
    ):
        with pytest.raises(type(error)) as caught, device_errors(device):
            raise error
        assert caught.value is error


def test_mps_has_no_float64(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights of 64 bits are refused before anything is read."""
    path = tmp_path / "in.safetensors"
    save_file({"a.weight": torch.ones(4, 4), "b.weight": torch.ones(4, 4, dtype=torch.float64)}, path)
    monkeypatch.setattr(api, "resolve", lambda _: "mps")

    with pytest.raises(DeviceError, match=r"mps has no float64, which pruning 'b.weight' needs") as caught:
        prunecli.prune(path, prunecli.Threshold(2), device="mps")

    assert caught.value.hint == "device='cpu'"
    assert [path] == list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("kernel", "state"),
    [("smallest", "no tensor was changed"), ("unload", "some weights may be pruned and others not: load them again")],
)
def test_tensors_in_memory_are_in_a_known_state(kernel: str, state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sentence says whether a tensor may be changed, and without a change they are as they were."""

    def fail(*_: object) -> NoReturn:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(TorchOps, kernel, fail)
    monkeypatch.setattr(api, "resolve", lambda _: "cpu")
    weights = {"a.weight": torch.randn(40, 50), "b.weight": torch.randn(40, 50)}
    before = {name: t.clone() for name, t in weights.items()}

    with pytest.raises(DeviceError) as caught:
        prunecli.prune_state_dict(weights, prunecli.L1(amount=0.5), device="cuda")

    assert f"a device is out of memory; {state}" in str(caught.value)
    if kernel == "smallest":
        assert all(torch.equal(before[name], t) for name, t in weights.items())
