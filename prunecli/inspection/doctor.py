"""What `prune` runs on, for reports of bugs: versions, kernels, devices, memory and disks."""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
import shutil
import sys
import tempfile
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from prunecli.io.threads import available_cpus, default_threads
from prunecli.kernels.backend import kernels_name
from prunecli.kernels.devices import available_devices
from prunecli.text.json import dump_json
from prunecli.version import __version__

SCHEMA = 1
"""The version of the JSON form."""

LIBRARIES = ("numpy", "torch", "triton", "typer", "rich", "jinja2", "zstandard", "safetensors", "matplotlib", "pandas")
"""The libraries whose versions matter; some of them are optional."""

VARIABLES = ("PRUNE_DEVICE", "PRUNE_THREADS", "PRUNECLI_KERNELS", "NO_COLOR", "FORCE_COLOR", "TMPDIR")
"""The environment variables that change what a command does."""


@dataclass(frozen=True, slots=True)
class Disk:
    """A folder where files are written.

    Attributes:
        path: The folder.
        free_bytes: The space that is left.
        total_bytes: The size of the filesystem.
        writable: Whether a file can be made there.
        nameless: Whether a file can be written before it has a name, so that a killed run leaves none.
    """

    path: str
    free_bytes: int
    total_bytes: int
    writable: bool
    nameless: bool


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What the package runs on.

    Attributes:
        prunecli: The version of the package.
        python: The version of Python.
        executable: The path of Python.
        system: The operating system and the kind of machine.
        cpus: The CPUs that this process may use.
        threads: The threads of a run by default.
        memory_bytes: The memory of the machine, None if it is unknown.
        kernels: The kernels that compute on the CPU, as a report names them.
        devices: The devices for `device`, the CPU first.
        libraries: The version of each library, None for one that is not installed.
        variables: The environment variables that are set.
        disks: The current folder, and the folder of temporary files.
    """

    prunecli: str
    python: str
    executable: str
    system: str
    cpus: int
    threads: int
    memory_bytes: int | None
    kernels: str
    devices: tuple[str, ...]
    libraries: dict[str, str | None]
    variables: dict[str, str]
    disks: tuple[Disk, ...]

    def to_json(self) -> str:
        """Return the values as JSON."""
        return dump_json({"schema": SCHEMA, **asdict(self)})


def doctor() -> Diagnosis:
    """Return the versions, kernels, devices, memory and disks that a run here would use.

    It imports torch where that is installed, to ask for its devices. No file is left behind.
    """
    folders = dict.fromkeys((*_current(), Path(tempfile.gettempdir())))
    return Diagnosis(
        prunecli=__version__,
        python=platform.python_version(),
        executable=sys.executable,
        system=f"{platform.system()} {platform.release()}, {platform.machine()}",
        cpus=available_cpus(),
        threads=default_threads(),
        memory_bytes=_memory(),
        kernels=kernels_name(),
        devices=("cpu", *_devices()),
        libraries={name: _version(name) for name in LIBRARIES},
        variables={name: os.environ[name] for name in VARIABLES if name in os.environ},
        disks=tuple(map(_disk, folders)),
    )


def _current() -> list[Path]:
    """Return the current folder; none if it was deleted."""
    try:
        return [Path.cwd()]
    except FileNotFoundError:
        return []


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _devices() -> list[str]:
    """Return the devices of torch; none without torch, or if it cannot be imported."""
    if importlib.util.find_spec("torch") is None:
        return []
    try:
        return available_devices(importlib.import_module("torch"))
    except (ImportError, OSError):  # a library of torch is missing
        return []


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _disk(folder: Path) -> Disk:
    usage = shutil.disk_usage(folder)
    return Disk(str(folder), usage.free, usage.total, _can_write(folder), _has_nameless(folder))


def _can_write(folder: Path) -> bool:
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _has_nameless(folder: Path) -> bool:
    flag = getattr(os, "O_TMPFILE", 0)
    if not flag:
        return False
    try:
        os.close(os.open(folder, flag | os.O_RDWR))
    except OSError:
        return False
    return True
