"""The compiled library of kernels, loaded with ctypes, which releases the interpreter lock for each call."""

from __future__ import annotations

import ctypes
import os
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from prunecli.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from prunecli.dtypes import Float

VARIABLE = "PRUNECLI_KERNELS"
"""The environment variable that chooses the kernels: "native" or "numpy"; unset: native ones if there is a library."""

Function = Any
"""A function of the library, with its argument types set."""


class Format(ctypes.Structure):
    """A float format as the kernels see it: `format_t` of common.h."""

    _fields_ = (
        ("finite_max", ctypes.c_uint64),
        ("top", ctypes.c_uint64),
        ("mantissa", ctypes.c_int32),
        ("bias", ctypes.c_int32),
        ("itemsize", ctypes.c_int32),
        ("fnuz", ctypes.c_int32),
    )


class _View(ctypes.Structure):
    """CPython's `Py_buffer`."""

    _fields_ = (
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.c_void_p),
        ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t),
        ("readonly", ctypes.c_int),
        ("ndim", ctypes.c_int),
        ("format", ctypes.c_void_p),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("suboffsets", ctypes.c_void_p),
        ("internal", ctypes.c_void_p),
    )


def address(buffer: Any) -> int:  # noqa: ANN401 - anything with the buffer protocol, also read-only
    """Return the address of the bytes of a contiguous buffer, which the caller keeps while it uses them."""
    try:
        return ctypes.addressof(_BYTE(buffer))
    except (TypeError, ValueError):  # it is read-only or empty, which takes longer
        return _address_of(buffer)


def _address_of(buffer: Any) -> int:  # noqa: ANN401 - as above
    view = _View()
    ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(buffer), ctypes.byref(view), 0)
    found: int = view.buf or 0
    ctypes.pythonapi.PyBuffer_Release(ctypes.byref(view))
    return found


_BYTE = ctypes.c_char.from_buffer


@lru_cache(maxsize=16)
def format_of(dtype: Float) -> Format:
    """Return the description of a format for the kernels."""
    return Format(
        dtype.finite_max, dtype.top, dtype.mantissa, dtype.bias, dtype.itemsize, int(dtype.negative_zero_is_nan)
    )


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL | None:
    """Return the library, or None if it was not built or cannot be loaded here.

    Raises UsageError where `PRUNECLI_KERNELS` requires what is not there, or has another value.
    """
    wanted = os.environ.get(VARIABLE, "")
    if wanted not in {"", "native", "numpy"}:
        raise UsageError(f"{VARIABLE} is {wanted[:40]!r}, and the kernels are native or numpy")
    if wanted == "numpy":
        return None
    for suffix in (".so", ".dll"):
        path = Path(__file__).with_name(f"kernels.native{suffix}")
        if path.is_file():
            try:
                return ctypes.CDLL(str(path))
            except OSError:  # built for another platform
                break
    if wanted == "native":
        raise UsageError(f"{VARIABLE} is native, and this installation has no compiled kernels", hint="reinstall it")
    return None


@lru_cache(maxsize=1)
def level() -> str:
    """Return the instruction set that the kernels use here: "base", "v3" (AVX2) or "v4" (AVX-512).

    The compiler that built the library may have lacked the highest that the CPU has.
    """
    found = library()
    if found is not None:
        number = int(found.prune_level_base())
        for least, name in ((4, "v4"), (3, "v3")):
            if number >= least and hasattr(found, f"prune_level_{name}"):
                return name
    return "base"


def function(name: str, arguments: Sequence[Any], result: Any = None) -> Callable[..., Any]:  # noqa: ANN401 - ctypes
    """Return a kernel for the instruction set of this CPU; without a library, a function that fails.

    `name` has the width, if there is one kernel per width: "count_equal_16". `arguments` and `result` are types of
    ctypes.
    """
    found = library()
    if found is None:
        return _missing
    kernel: Function = getattr(found, f"{name}_{level()}")
    kernel.argtypes, kernel.restype = list(arguments), result
    typed: Callable[..., Any] = kernel
    return typed


def _missing(*_: Any) -> NoReturn:  # noqa: ANN401 - the arguments of any kernel
    """Fail: callers ask `library()` first."""
    raise RuntimeError
