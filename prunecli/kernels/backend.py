"""Which kernels compute here: the compiled ones, or NumPy."""

from __future__ import annotations

from prunecli.kernels.native import library

_SETS = {"base": "", "v3": " (AVX2)", "v4": " (AVX-512)"}


def kernels_name() -> str:
    """Return the kernels and the instruction set that they use: "native (AVX-512)", "native", or "numpy".

    Raises UsageError where the environment requires kernels that are not there, as `library` does.
    """
    return f"native{_SETS[library.level()]}" if has_native() else "numpy"


def has_native() -> bool:
    """Return whether the compiled kernels are there and chosen."""
    return library.library() is not None
