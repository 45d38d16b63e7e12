"""Which device computes: NumPy on the CPU, or torch on whatever it finds."""

from __future__ import annotations

import importlib
import importlib.util
import re
from typing import Any

from prunecli.errors import DeviceError, UsageError

KINDS = ("cuda", "xpu", "mps")
"""torch's devices that can be asked for, in the order "auto" prefers them."""

_NAME = re.compile(r"(cuda|xpu|mps)(?::(\d+))?")


def resolve(name: str) -> str | None:
    """Return the torch device `name` stands for, or None for NumPy on the CPU.

    "cpu" never imports torch; "auto" takes the first of cuda, xpu and mps that is here, else the CPU. Raises
    UsageError for a name that means nothing, DeviceError for a device that is not here.
    """
    if name == "cpu":
        return None
    match = _NAME.fullmatch(name)
    if match is None and name != "auto":
        raise UsageError(f"there is no device {name!r}", hint="--device auto, cpu, cuda, cuda:1, mps or xpu")
    if importlib.util.find_spec("torch") is None:
        if match is None:
            return None
        raise DeviceError(f"--device {name} needs torch, which is not installed", hint="pip install 'prunecli[torch]'")
    here = found(importlib.import_module("torch"))
    if match is None:
        return here[0] if here else None
    wanted = f"{match[1]}:{int(match[2] or 0)}" if match[1] != "mps" else "mps"
    if wanted not in here:
        others = ", ".join(("cpu", *here))
        raise DeviceError(f"there is no device {name} here, only: {others}", hint=f"--device {(*here, 'cpu')[0]}")
    return wanted


def found(torch: Any) -> list[str]:  # noqa: ANN401 - the module
    """Return the devices torch can compute on here, besides the CPU, the preferred one first."""
    devices = []
    for kind in KINDS:
        backend = torch.backends.mps if kind == "mps" else getattr(torch, kind, None)
        if backend is None or not backend.is_available():
            continue
        devices += ["mps"] if kind == "mps" else [f"{kind}:{at}" for at in range(backend.device_count())]
    return devices
