"""Helpers for tests of atomic output: writing a file, listing a directory, failing system calls, writers to kill."""

from __future__ import annotations

import os
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

from prunecli.io.publish import new_file
from support.children import start_python

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


def put(target: Path, data: bytes = b"new", *, mode: int = 0o666, force: bool = False) -> None:
    """Publish `data` at `target`."""
    with new_file(target, size=len(data), mode=mode, force=force) as fd:
        os.pwrite(fd, data, 0)


def listing(directory: Path) -> dict[str, bytes]:
    """Return the content of every file below `directory` by its relative path."""
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


def failing(number: int) -> Callable[..., NoReturn]:
    """Return a function that fails with the errno `number`."""

    def fail(*_args: object, **_kwargs: object) -> NoReturn:
        raise OSError(number, os.strerror(number))

    return fail


WRITER = """
import os, signal, sys, time
from pathlib import Path
from prunecli.io import publish

def stop(*_):
    raise SystemExit(143)

signal.signal(signal.SIGTERM, stop)
if sys.argv[2] == "named":
    publish._open_nameless = lambda parent: None
with publish.new_file(Path(sys.argv[1]), size=1 << 20, force=True) as fd:
    os.pwrite(fd, b"n" * 1000, 0)
    print("writing", flush=True)
    time.sleep(60)
"""
"""Publish a file at the first argument, and sleep before the end of the block."""


@contextmanager
def writer(target: Path, way: str) -> Iterator[subprocess.Popen[bytes]]:
    """Start a process that writes to `target` ("nameless" or "named") and does not finish; yields while it writes."""
    child = start_python("-c", WRITER, target, way, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"writing\n"
        yield child
