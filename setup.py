"""Build the compiled kernels: a shared library without Python's headers, which ctypes loads.

One wheel per platform serves every Python version. Where there is no compiler, the package is installed without the
library and computes with NumPy. PRUNECLI_BUILD_NATIVE=0 leaves the library out. With 1, a library or an instruction set
that cannot be compiled is an error.
"""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError
from setuptools.modified import newer_group

NATIVE = Path("prunecli/kernels/native")
"""The folder of the sources."""

FLAGS = {
    "msvc": ["/O2", "/std:c11", "/fp:precise"],
    "unix": ["-std=c11", "-O3", "-g0", "-fwrapv", "-fno-fast-math", "-ffp-contract=off", "-fvisibility=hidden"],
}
"""Compiler flags. A fused multiply and add would round differently from NumPy and torch, so none is made. Python's own
flags have -fwrapv, but CFLAGS replaces them; without it, gcc counts in brackets six times as slowly."""

LEVELS: dict[str, dict[str, list[str]]] = {
    "base": {"msvc": [], "unix": []},
    "v3": {"msvc": ["/arch:AVX2"], "unix": ["-march=x86-64-v3"]},
    "v4": {"msvc": ["/arch:AVX512"], "unix": ["-march=x86-64-v4", "-mprefer-vector-width=512"]},
}
"""The flags of each instruction set. All but "base" are of x86-64; levels.c says which of them a CPU has."""


class BuildLibrary(build_ext):
    """Compile each source once per instruction set, and link all objects into one library."""

    def build_extension(self, ext: Extension) -> None:
        """Build the library from the object files of all sources and instruction sets."""
        target = Path(self.get_ext_fullpath(ext.name))
        target.unlink(missing_ok=True)  # one that is out of date is worse than none
        jobs = [(source, level) for level in self._levels(ext) for source in ext.sources]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = list(pool.map(lambda job: self._compiled(ext, *job), jobs))
        target.parent.mkdir(parents=True, exist_ok=True)
        self.compiler.link_shared_object(objects, str(target))

    def get_ext_filename(self, fullname: str) -> str:
        """Return a name without a Python version, and with a dot, so that Python takes it for no module."""
        return str(Path(*fullname.split("."))) + (".native.dll" if sys.platform == "win32" else ".native.so")

    def _levels(self, ext: Extension) -> list[str]:
        """Return the instruction sets that the compiler knows: those for which it compiles the first source."""
        known = []
        for level in LEVELS if self.plat_name.endswith(("x86_64", "amd64")) else ("base",):
            try:
                self._compiled(ext, ext.sources[0], level)
            except CompileError as error:
                if level == "base" or not ext.optional:
                    raise
                self.warn(f"the kernels for {level} are left out: {error}")
                break
            known.append(level)
        return known

    def _compiled(self, ext: Extension, source: str, level: str) -> str:
        """Return the object file of a source for an instruction set; compile it if it is out of date."""
        kind = "msvc" if self.compiler.compiler_type == "msvc" else "unix"
        place = Path(self.build_temp) / level
        (found,) = self.compiler.object_filenames([source], output_dir=str(place))
        if self.force or newer_group([source, *ext.depends], found):
            Path(found).parent.mkdir(parents=True, exist_ok=True)  # the compiler is not made for threads
            flags = [*FLAGS[kind], *LEVELS[level][kind]]
            self.compiler.compile([source], output_dir=str(place), macros=[("LEVEL", level)], extra_postargs=flags)
        return found


class PlatformWheel(bdist_wheel):
    """Name the wheel for its platform and any Python 3, or for any platform where there is no library."""

    def run(self) -> None:
        """Build first: whether there is a library decides where files go."""
        self.run_command("build")
        if not any(Path(path).is_file() for path in self.get_finalized_command("build_ext").get_outputs()):
            self.distribution.ext_modules = []
            self.root_is_pure = True
        self.skip_build = True
        super().run()

    def get_tag(self) -> tuple[str, str, str]:
        """Return ("py3", "none", platform)."""
        return "py3", "none", super().get_tag()[2]


wanted = os.environ.get("PRUNECLI_BUILD_NATIVE") or "if possible"
if wanted not in {"0", "1", "if possible"}:
    sys.exit(f"PRUNECLI_BUILD_NATIVE is {wanted!r}, and the values are 0 and 1")
library = Extension(
    "prunecli.kernels.native.kernels",
    sorted((path.as_posix() for path in NATIVE.glob("*.c")), key=lambda path: (not path.endswith("/levels.c"), path)),
    depends=["setup.py", *sorted(path.as_posix() for path in NATIVE.glob("*.[hi]*"))],
    optional=wanted != "1",
)
setup(
    ext_modules=[] if wanted == "0" else [library],
    cmdclass={"build_ext": BuildLibrary, "bdist_wheel": PlatformWheel},
)
