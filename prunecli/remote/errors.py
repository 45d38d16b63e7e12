"""The sentences about models elsewhere that cannot be read."""

from __future__ import annotations

from prunecli.errors import CheckpointError
from prunecli.remote.urls import download_line
from prunecli.text.escape import printable


def reads_twice(url: str) -> CheckpointError:
    """Return the error for work that reads the weights of a model elsewhere more than once."""
    return CheckpointError(f"this reads the model twice, and {printable(url)} is elsewhere", hint=download_first(url))


def local_only(url: str, reason: str = "is elsewhere") -> CheckpointError:
    """Return the error for work that needs the files of a model on this machine; `reason` says what is the matter."""
    return CheckpointError(f"{printable(url)} {reason}, and this reads local files only", hint=download_first(url))


def download_first(url: str) -> str:
    """Return the hint to download a model."""
    return f"download it first: {printable(download_line(url))}"


def changed(name: str) -> CheckpointError:
    """Return the error for a file that is not the one that was read before."""
    return CheckpointError(
        f"{printable(name)} changed while it was being read", hint="run again when nothing writes to it"
    )


def no_ranges(name: str) -> CheckpointError:
    """Return the error for a server that sends whole files only."""
    return CheckpointError(
        f"the server of {printable(name)} sends whole files only, and no parts of them", hint=download_first(name)
    )


def wrong_bytes(name: str, found: str) -> CheckpointError:
    """Return the error for an answer that is not the part that was asked for."""
    return CheckpointError(f"the server of {printable(name)} sends {found}", hint=download_first(name))
