"""The choice of a device: NumPy on the CPU, or torch on cuda, xpu or mps."""

from __future__ import annotations

import importlib
import importlib.util
import re
from typing import Any

from prunecli.errors import Argument, DeviceError, UsageError

KINDS = ("cuda", "xpu", "mps")
"""The supported torch devices, in the order in which "auto" prefers them."""

_NAME = re.compile(r"(cuda|xpu|mps)(?::(\d+))?")


def resolve(name: str) -> str | None:
    """Return the torch device for `name`, or None for NumPy on the CPU.

    "cpu" never imports torch. "auto" is the first available device of `KINDS`, else the CPU. Raises UsageError for an
    unknown name, and DeviceError for a device that is not available.
    """
    if name == "cpu":
        return None
    match = _NAME.fullmatch(name)
    if match is None and name != "auto":
        raise UsageError(f"there is no device {name[:100]!r}", hint=Argument("device", _nearest(name)))
    # Looked up before it is imported: without torch, "auto" is the CPU and no error.
    if importlib.util.find_spec("torch") is None:
        if match is None:
            return None
        raise DeviceError(
            f"the device {name} needs torch, which is not installed", hint="pip install 'prunecli[torch]'"
        )
    available = available_devices(importlib.import_module("torch"))
    if match is None:
        return available[0] if available else None
    wanted = f"{match[1]}:{int(match[2] or 0)}" if match[1] != "mps" else "mps"
    if wanted not in available:
        others = ", ".join(("cpu", *available))
        proposal = Argument("device", (*available, "cpu")[0])
        raise DeviceError(f"there is no device {name} here, only: {others}", hint=proposal)
    return wanted


def _nearest(name: str) -> str:
    """Return the device that `name` means: "cuda" for "GPU", "cuda:1" for "cuda1" or "1"."""
    import difflib  # noqa: PLC0415 - only errors need it

    kind, index = "".join(re.findall(r"[a-z]", name[:40].lower())), "".join(re.findall(r"[0-9]", name[:40]))
    known = {"gpu": "cuda", "nvidia": "cuda", "metal": "mps", "intel": "xpu", "": "cuda" if index else "auto"}
    near = known.get(kind) or (*difflib.get_close_matches(kind, ("cpu", "auto", *KINDS), 1, 0.5), "auto")[0]
    return f"{near}:{index}" if index and near in {"cuda", "xpu"} else near


def available_devices(torch: Any) -> list[str]:  # noqa: ANN401 - the module
    """Return the devices besides the CPU that torch can use here, the preferred one first."""
    devices = []
    for kind in KINDS:
        backend = torch.backends.mps if kind == "mps" else getattr(torch, kind, None)
        if backend is None or not backend.is_available():
            continue
        devices += ["mps"] if kind == "mps" else [f"{kind}:{index}" for index in range(backend.device_count())]
    return devices
