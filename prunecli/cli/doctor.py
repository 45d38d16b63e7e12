"""The command `prune doctor`: what a run here would use, for a bug report."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prunecli.cli import options
from prunecli.cli.output import printing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prunecli.inspection.doctor import Diagnosis, Disk


def doctor(*, json: options.Json = False) -> int:
    """Show versions, kernels, devices and disks.

    Copy the output into a bug report. It names the folders that it looks at, and no other data of yours. It imports
    torch, if it is installed, to list its devices.
    """
    from prunecli.inspection.doctor import doctor as diagnose

    diagnosis = diagnose()
    with printing() as stream:
        if json:
            stream.write(diagnosis.to_json())
        else:
            from prunecli.text.tables import Block, write_blocks

            write_blocks([Block(lines=tuple(_lines(diagnosis)))], stream)
    return 0


def _lines(found: Diagnosis) -> Iterator[str]:
    from prunecli.text.escape import printable
    from prunecli.text.numbers import counted, format_bytes

    memory = "" if found.memory_bytes is None else f", {format_bytes(found.memory_bytes)} of memory"
    present = [f"{name} {version}" for name, version in found.libraries.items() if version is not None]
    missing = [name for name, version in found.libraries.items() if version is None]
    yield f"prunecli    {found.prunecli}"
    yield f"Python      {found.python}, {printable(found.executable)}"
    yield f"system      {printable(found.system)}, {counted(found.cpus, 'CPU')}{memory}"
    yield f"kernels     {found.kernels}, {counted(found.threads, 'thread')} by default"
    yield f"devices     {', '.join(found.devices)}"
    yield f"libraries   {', '.join(present)}" + (f"; not installed: {', '.join(missing)}" if missing else "")
    yield from (f"disk        {_disk(disk)}" for disk in found.disks)
    for name, value in found.variables.items():
        yield f"variable    {name}={printable(value)}"


def _disk(disk: Disk) -> str:
    from prunecli.text.escape import printable
    from prunecli.text.numbers import format_bytes

    free = f"{format_bytes(disk.free_bytes)} of {format_bytes(disk.total_bytes)} free"
    write = "" if disk.writable else ", no permission to write"
    nameless = "" if disk.nameless or not disk.writable else ", no files without a name"
    return f"{printable(disk.path)}: {free}{write}{nameless}"
