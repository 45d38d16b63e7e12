"""The environment variables of launchers say which of several processes this is."""

from __future__ import annotations

import pytest

from prunecli.distributed.environment import Launch, LaunchError, launched

MASTER = {"MASTER_ADDR": "node1", "MASTER_PORT": "29600"}


@pytest.mark.parametrize(
    "variables",
    [
        {"RANK": "2", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"},
        {"PMI_RANK": "2", "PMI_SIZE": "8", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "4"},
        {
            "OMPI_COMM_WORLD_RANK": "2",
            "OMPI_COMM_WORLD_SIZE": "8",
            "OMPI_COMM_WORLD_LOCAL_RANK": "1",
            "OMPI_COMM_WORLD_LOCAL_SIZE": "4",
        },
    ],
)
def test_launchers_number_processes(variables: dict[str, str]) -> None:
    """Launchers of torch and MPI say the rank, the number of processes, and both on one machine."""
    size = next(name for name in variables if name.endswith("SIZE"))

    assert launched({**variables, **MASTER}) == Launch(2, 8, size, "node1", 29600, 1, 4)


def test_slurm() -> None:
    """SLURM's variables count where MASTER_ADDR is exported, and the port is that of torch by default."""
    slurm = {"SLURM_PROCID": "3", "SLURM_NTASKS": "4", "SLURM_LOCALID": "1"}

    assert launched({**slurm, "MASTER_ADDR": "a"}) == Launch(3, 4, "SLURM_NTASKS", "a", 29500, 1)
    assert launched(slurm) is None


def test_the_first_pair_counts() -> None:
    """RANK and WORLD_SIZE count before those of MPI and SLURM."""
    both = {"RANK": "1", "WORLD_SIZE": "2", "SLURM_PROCID": "5", "SLURM_NTASKS": "8", **MASTER}

    assert launched(both) == Launch(1, 2, "WORLD_SIZE", "node1", 29600)


@pytest.mark.parametrize("variables", [{}, {"RANK": "0", "WORLD_SIZE": "1"}, {"WORLD_SIZE": "4"}, {"RANK": "1"}])
def test_one_process(variables: dict[str, str]) -> None:
    """One process, or half a pair of variables, is one process alone."""
    assert launched({**variables, **MASTER}) is None


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"RANK": "x", "WORLD_SIZE": "2"}, "the environment variable RANK is 'x', not a number"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK is 2 and WORLD_SIZE is 2: processes are numbered from 0 to 1"),
        ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_PORT": "-1"}, "MASTER_PORT is '-1', not a number"),
        ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": ""}, "2 processes run this, and MASTER_ADDR does not say"),
    ],
)
def test_wrong_variables(variables: dict[str, str], message: str) -> None:
    """Variables that cannot be right are an error that names them."""
    with pytest.raises(LaunchError, match=message):
        launched({**MASTER, **variables})
