"""Errors of torch about a device, as one sentence."""

from __future__ import annotations

import re
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from prunecli.errors import Argument, DeviceError
from prunecli.text.escape import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

_LOST = r"(?i)(?:CUDA|HIP|XPU|MPS|SYCL|UR|level_zero)\b.*\b(?:error|failed|backend)|Triton Error\b"
"""How messages about a device begin: those of Triton, and of versions of torch without a class for them."""

_NO_DTYPE = r"(?i)not implemented for|(?:does not|doesn't) (?:support|have)|unsupported data ?type|fp64"
"""What messages about a dtype say that a device does not have."""


@contextmanager
def device_errors(device: str | None) -> Iterator[None]:
    """Raise DeviceError for an error of torch about `device`, in place of a traceback; None: there is no device."""
    try:
        yield
    except Exception as error:
        problem = None if device is None else device_problem(error)
        if problem is None:
            raise
        raise DeviceError(f"the device {device} {problem}", hint=Argument("device", "cpu")) from error


def device_problem(error: BaseException | None) -> str | None:
    """Return what the error, or the one that caused it, says about a device; None for another error."""
    while error is not None:
        if (problem := _problem(error)) is not None:
            return problem
        error = error.__cause__ or error.__context__
    return None


def _problem(error: BaseException) -> str | None:
    torch = sys.modules.get("torch")
    if type(error).__module__.partition(".")[0] == "triton":
        return f"failed: a kernel cannot be compiled for it: {type(error).__name__}"
    if torch is None or not isinstance(error, (RuntimeError, TypeError)):
        return None
    text = str(error)
    if isinstance(error, torch.OutOfMemoryError) or "out of memory" in text:
        return "is out of memory"
    lines = text.strip().splitlines() or [type(error).__name__]
    first = printable(lines[0][:200]).rstrip(".")
    if isinstance(error, getattr(torch, "AcceleratorError", ())) or re.match(_LOST, text):
        return f"failed: {first}"
    if re.search(_NO_DTYPE, text):
        return f"cannot compute with a dtype of this run: {first}"
    return None
