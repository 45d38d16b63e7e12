"""`resolve` returns the device for a name: with torch, without it, and for devices that are not available."""

from __future__ import annotations

import importlib.util
import sys
from types import SimpleNamespace

import pytest

from prunecli.errors import DeviceError, UsageError
from prunecli.kernels import devices
from prunecli.kernels.devices import resolve


def fake_torch(**counts: int) -> SimpleNamespace:
    """Return a stand-in for the torch module with this number of devices of each kind."""

    def backend(count: int) -> SimpleNamespace:
        return SimpleNamespace(is_available=lambda: count > 0, device_count=lambda: count)

    kinds = {kind: backend(counts.get(kind, 0)) for kind in ("cuda", "xpu")}
    return SimpleNamespace(backends=SimpleNamespace(mps=backend(counts.get("mps", 0))), **kinds)


@pytest.fixture
def with_devices(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Replace torch by a stand-in with the devices of the parameter."""
    monkeypatch.setitem(sys.modules, "torch", fake_torch(**request.param))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: object())


def here(counts: dict[str, int]) -> pytest.MarkDecorator:
    """Run a test with these numbers of devices."""
    return pytest.mark.parametrize("with_devices", [counts], indirect=True, ids=str)


def test_cpu_does_not_import_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The device cpu is NumPy's, and torch is not looked up."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: pytest.fail("looked for torch"))

    assert resolve("cpu") is None


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("", "auto"),
        ("banana", "auto"),
        ("gpu", "cuda"),
        ("CUDA", "cuda"),
        ("cuda:", "cuda"),
        ("cuda:x", "cuda"),
        ("cuda:-1", "cuda:1"),
        ("cuda 0", "cuda:0"),
        ("1", "cuda:1"),
        ("cpu:0", "cpu"),
        ("metal", "mps"),
        ("cuda:0\n", "cuda:0"),
    ],
)
def test_an_unknown_name_is_a_usage_error(name: str, near: str) -> None:
    """The error shows the name, and the hint proposes the nearest one that exists."""
    with pytest.raises(UsageError) as caught:
        resolve(name)

    assert repr(name) in str(caught.value)
    assert caught.value.hint == f"device={near!r}"


def test_without_torch_only_the_cpu_is_available(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without torch, auto is the CPU and any other device an error whose hint installs torch."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)

    assert resolve("auto") is None
    with pytest.raises(DeviceError, match="needs torch") as caught:
        resolve("cuda")
    assert "pip install" in (caught.value.hint or "")


@here({})
@pytest.mark.usefixtures("with_devices")
@pytest.mark.parametrize("name", ["cuda", "cuda:0", "mps", "xpu"])
def test_a_device_that_is_not_available_is_an_error(name: str) -> None:
    """The error lists the available devices, and the hint proposes one of them."""
    assert resolve("auto") is None
    with pytest.raises(DeviceError, match=f"no device {name} here, only: cpu") as caught:
        resolve(name)
    assert caught.value.hint == "device='cpu'"


@here({"cuda": 2})
@pytest.mark.usefixtures("with_devices")
def test_cuda_devices_are_numbered() -> None:
    """Cuda is the first device; a number past the last one is an error that lists them."""
    assert [resolve(name) for name in ("auto", "cuda", "cuda:1")] == ["cuda:0", "cuda:0", "cuda:1"]
    assert resolve("cuda:01") == "cuda:1"
    with pytest.raises(DeviceError, match="only: cpu, cuda:0, cuda:1"):
        resolve("cuda:2")


@here({"mps": 1})
@pytest.mark.usefixtures("with_devices")
def test_mps_has_no_number() -> None:
    """Auto and mps resolve to mps on a Mac."""
    assert [resolve(name) for name in ("auto", "mps")] == ["mps", "mps"]
    with pytest.raises(DeviceError):
        resolve("cuda")


@here({"xpu": 1, "mps": 1})
@pytest.mark.usefixtures("with_devices")
def test_auto_prefers_xpu_to_mps() -> None:
    """Auto prefers the devices in the documented order."""
    assert resolve("auto") == "xpu:0"
    assert devices.KINDS == ("cuda", "xpu", "mps")


@here({"cuda": 1})
@pytest.mark.usefixtures("with_devices")
def test_a_torch_without_xpu_has_no_xpu_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend that torch does not have is not available."""
    monkeypatch.delattr(sys.modules["torch"], "xpu")

    assert resolve("auto") == "cuda:0"
    with pytest.raises(DeviceError):
        resolve("xpu")
