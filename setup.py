"""Build the compiled kernels: a shared library without Python's headers, which ctypes loads.

One wheel per platform serves every Python version. Where there is no compiler, or PRUNECLI_BUILD_NATIVE=0, the package
is installed without the library and computes with NumPy.
"""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.errors import CCompilerError, ExecError, PlatformError

NATIVE = Path("prunecli/kernels/native")
"""The folder of the sources; the library is built into it."""

X86 = platform.machine().lower() in {"x86_64", "amd64"}

FLAGS = {"msvc": ["/O2", "/fp:precise"], "unix": ["-std=c11", "-O3", "-ffp-contract=off", "-fvisibility=hidden"]}
"""Compiler flags. A fused multiply and add would round differently from NumPy and torch, so none is made."""

LEVELS: dict[str, dict[str, list[str]]] = {
    "base": {"msvc": [], "unix": []},
    "v3": {"msvc": ["/arch:AVX2"], "unix": ["-march=x86-64-v3"]},
    "v4": {"msvc": ["/arch:AVX512"], "unix": ["-march=x86-64-v4", "-mprefer-vector-width=512"]},
}
"""The flags of each instruction set; `prune_level` of levels.c chooses at run time."""


class BuildLibrary(build_ext):
    """Compile each kernel once per instruction set, and link all objects into one library."""

    def build_extension(self, ext: Extension) -> None:
        """Build the library, or say why there is none."""
        try:
            self._build(ext)
        except (CCompilerError, ExecError, PlatformError, OSError) as error:
            if os.environ.get("PRUNECLI_BUILD_NATIVE") == "1":
                raise
            print(f"no compiled kernels ({error}): prunecli will compute with NumPy", file=sys.stderr)  # noqa: T201

    def get_ext_filename(self, fullname: str) -> str:
        """Return a name without a Python version."""
        suffix = {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so")
        return str(Path(*fullname.split("."))) + suffix

    def get_export_symbols(self, ext: Extension) -> list[str]:  # noqa: ARG002 - overrides
        """Return none: the sources mark what they export."""
        return []

    def _build(self, ext: Extension) -> None:
        kind = "msvc" if self.compiler.compiler_type == "msvc" else "unix"
        objects: list[str] = []
        for level in ("base", "v3", "v4") if X86 else ("base",):
            sources = [source for source in ext.sources if level == "base" or not source.endswith("levels.c")]
            objects += self.compiler.compile(
                sources,
                output_dir=str(Path(self.build_temp) / level),
                macros=[("LEVEL", level)],
                extra_postargs=[*FLAGS[kind], *LEVELS[level][kind]],
                depends=ext.depends,
            )
        target = self.get_ext_fullpath(ext.name)
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        self.compiler.link_shared_object(objects, target)


class PlatformWheel(bdist_wheel):
    """Name the wheel for the platform alone, or for any where there is no library."""

    def get_tag(self) -> tuple[str, str, str]:
        """Return ("py3", "none", platform)."""
        return "py3", "none", super().get_tag()[2]


sources = sorted(str(path) for path in NATIVE.glob("*.c"))
depends = sorted(str(path) for pattern in ("*.h", "*.inc") for path in NATIVE.glob(pattern))
wanted = os.environ.get("PRUNECLI_BUILD_NATIVE") != "0"
setup(
    ext_modules=[Extension("prunecli.kernels.native.kernels", sources, depends=depends)] if wanted else [],
    cmdclass={"build_ext": BuildLibrary, "bdist_wheel": PlatformWheel},
)
