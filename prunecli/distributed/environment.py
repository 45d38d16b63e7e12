"""Read from the environment which of several processes this one is.

torchrun and `accelerate launch` set RANK and WORLD_SIZE; MPI and SLURM have names of their own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from prunecli.errors import PruneError
from prunecli.text.escape import printable
from prunecli.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Mapping

NAMES = (
    ("RANK", "WORLD_SIZE"),
    ("PMI_RANK", "PMI_SIZE"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE"),
    ("SLURM_PROCID", "SLURM_NTASKS"),
)
"""The variables with the number of the process and the number of processes, the first pair that is set counts.

All but the first pair count only if MASTER_ADDR is set: MPI and SLURM set theirs for any program.
"""

LOCAL_RANKS = ("LOCAL_RANK", "MPI_LOCALRANKID", "OMPI_COMM_WORLD_LOCAL_RANK", "SLURM_LOCALID")
"""The variables with the number of the process on its machine."""

LOCAL_SIZES = ("LOCAL_WORLD_SIZE", "MPI_LOCALNRANKS", "OMPI_COMM_WORLD_LOCAL_SIZE")
"""The variables with the number of processes on this machine. SLURM limits the CPUs of each process instead."""

DEFAULT_PORT = 29500
"""The port of rank 0 where MASTER_PORT is not set, as in torch."""


class LaunchError(PruneError):
    """The processes cannot start together. Each of them says so, because rank 0 may not know."""


@dataclass(frozen=True, slots=True)
class Launch:
    """One of `size` processes that were started together: the number `rank`.

    Attributes:
        rank: The number of this process, from 0.
        size: The number of processes.
        variable: The name of the environment variable that says how many there are.
        address: The host name of rank 0.
        port: The port on which rank 0 waits for the others.
        local_rank: The number of this process on its machine.
        local_size: The number of processes on this machine, 1 if it is unknown.
    """

    rank: int
    size: int
    variable: str
    address: str
    port: int
    local_rank: int = 0
    local_size: int = 1


def launched(environment: Mapping[str, str]) -> Launch | None:
    """Return which of several processes this is, or None for one process alone.

    Raises LaunchError for numbers that contradict each other, and where the host of rank 0 is unknown.
    """
    names = [pair for pair in NAMES if all(environment.get(name) for name in pair)]
    if not environment.get("MASTER_ADDR"):
        names = [pair for pair in names if pair == NAMES[0]]
    if not names:
        return None
    rank, size = (_number(environment, name) for name in names[0])
    if size <= 1:
        return None
    if rank >= size:
        raise LaunchError(
            f"{names[0][0]} is {rank} and {names[0][1]} is {size}: processes are numbered from 0 to {size - 1}",
            hint=f"unset {names[0][0]} {names[0][1]}",
        )
    address = environment.get("MASTER_ADDR")
    if not address:
        raise LaunchError(
            f"{names[0][1]} says that {size} processes run this, and MASTER_ADDR does not say where rank 0 is",
            hint=f"start it with torchrun, or export MASTER_ADDR=HOST; for one process: unset {' '.join(names[0])}",
        )
    port = _number(environment, "MASTER_PORT") if environment.get("MASTER_PORT") else DEFAULT_PORT
    local_rank, local_size = _first(environment, LOCAL_RANKS), _first(environment, LOCAL_SIZES)
    return Launch(rank, size, names[0][1], address, port, local_rank, max(local_size, 1))


def _number(environment: Mapping[str, str], name: str) -> int:
    text = environment[name]
    if not (text.isascii() and text.isdigit()):
        raise LaunchError(
            f"the environment variable {name} is {printable(repr(text))}, not a number", hint=f"unset {name}"
        )
    return int(text)


def _first(environment: Mapping[str, str], names: tuple[str, ...]) -> int:
    return next((_number(environment, name) for name in names if environment.get(name)), 0)
