"""Which device a name stands for, with torch, without it, and with devices that are not here."""

from __future__ import annotations

import importlib.util
import sys
from types import SimpleNamespace

import pytest

from prunecli.errors import DeviceError, UsageError
from prunecli.kernels import devices
from prunecli.kernels.devices import resolve


def fake_torch(**counts: int) -> SimpleNamespace:
    """Make a torch with some devices: backends that say whether and how many."""

    def backend(count: int) -> SimpleNamespace:
        return SimpleNamespace(is_available=lambda: count > 0, device_count=lambda: count)

    kinds = {kind: backend(counts.get(kind, 0)) for kind in ("cuda", "xpu")}
    return SimpleNamespace(backends=SimpleNamespace(mps=backend(counts.get("mps", 0))), **kinds)


@pytest.fixture
def with_devices(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Put a torch with the parameter's devices in the place of the real one."""
    monkeypatch.setitem(sys.modules, "torch", fake_torch(**request.param))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: object())


def here(counts: dict[str, int]) -> pytest.MarkDecorator:
    """Run a test with these devices."""
    return pytest.mark.parametrize("with_devices", [counts], indirect=True, ids=str)


def test_cpu_does_not_look_for_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU is NumPy's; torch is not even looked up."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: pytest.fail("looked for torch"))

    assert resolve("cpu") is None


@pytest.mark.parametrize("name", ["", "gpu", "CUDA", "cuda:", "cuda:x", "cuda:-1", "cuda 0", "cpu:0", "cuda:0\n"])
def test_a_name_that_means_nothing_is_a_usage_error(name: str) -> None:
    """The error shows the name, and the hint the names there are."""
    with pytest.raises(UsageError) as caught:
        resolve(name)

    assert repr(name) in str(caught.value)
    assert "--device auto" in (caught.value.hint or "")


def test_without_torch_auto_is_the_cpu_and_a_device_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing needs torch but a device that is asked for by name; the hint installs it."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)

    assert resolve("auto") is None
    with pytest.raises(DeviceError, match="needs torch") as caught:
        resolve("cuda")
    assert "pip install" in (caught.value.hint or "")


@here({})
@pytest.mark.usefixtures("with_devices")
@pytest.mark.parametrize("name", ["cuda", "cuda:0", "mps", "xpu"])
def test_a_device_that_is_not_here_is_an_error(name: str) -> None:
    """The error lists what is here, the hint is a device that works."""
    assert resolve("auto") is None
    with pytest.raises(DeviceError, match=f"no device {name} here, only: cpu") as caught:
        resolve(name)
    assert caught.value.hint == "--device cpu"


@here({"cuda": 2})
@pytest.mark.usefixtures("with_devices")
def test_cuda_devices_are_numbered() -> None:
    """Cuda is the first one; a number past the last is an error that lists them."""
    assert [resolve(name) for name in ("auto", "cuda", "cuda:1")] == ["cuda:0", "cuda:0", "cuda:1"]
    assert resolve("cuda:01") == "cuda:1"
    with pytest.raises(DeviceError, match="only: cpu, cuda:0, cuda:1"):
        resolve("cuda:2")


@here({"mps": 1})
@pytest.mark.usefixtures("with_devices")
def test_mps_has_no_number() -> None:
    """A Mac's device is taken by auto and by name."""
    assert [resolve(name) for name in ("auto", "mps")] == ["mps", "mps"]
    with pytest.raises(DeviceError):
        resolve("cuda")


@here({"xpu": 1, "mps": 1})
@pytest.mark.usefixtures("with_devices")
def test_auto_prefers_xpu_to_mps() -> None:
    """The preference of auto is the documented order."""
    assert resolve("auto") == "xpu:0"
    assert devices.KINDS == ("cuda", "xpu", "mps")


@here({"cuda": 1})
@pytest.mark.usefixtures("with_devices")
def test_an_old_torch_without_xpu_is_fine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A torch that does not know a backend has no such device."""
    monkeypatch.delattr(sys.modules["torch"], "xpu")

    assert resolve("auto") == "cuda:0"
    with pytest.raises(DeviceError):
        resolve("xpu")
