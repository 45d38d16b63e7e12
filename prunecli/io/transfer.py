"""Reads, writes and copies at an offset. They are complete, or they raise an error.

No other module calls the system calls that write at an offset: each of them may write only a part of its data.
"""

from __future__ import annotations

import errno
import os

COPY_RUN = 1 << 25
"""Bytes the kernel copies in one step, so that progress advances and an interrupt takes effect."""


class WriteError(OSError):
    """A write to an output failed. `output` is its descriptor, or the object that opened it."""

    def __init__(self, error: OSError, output: object) -> None:
        """Keep the number and the text of `error`."""
        super().__init__(error.errno, error.strerror)
        self.output = output


def write_all(fd: int, data: memoryview, offset: int) -> None:
    """Write all of `data` at `offset`, in as many calls as it takes; WriteError if one fails or writes nothing."""
    done = 0
    while done < len(data):
        try:
            written = os.pwrite(fd, data[done:], offset + done)
        except OSError as error:
            raise WriteError(error, fd) from error
        if written <= 0:
            raise WriteError(OSError(errno.EIO, f"no bytes were written at offset {offset + done}"), fd)
        done += written


def read_all(fd: int, into: memoryview, offset: int) -> int:
    """Fill `into` from `offset` on and return the number of bytes, which is smaller only if the file ends before."""
    done = 0
    while done < len(into):  # one call reads at most 2 GiB
        got = os.preadv(fd, [into[done:]], offset + done)
        if got <= 0:
            break
        done += got
    return done


def kernel_copy(source: int, fd: int, start: int, end: int, offset: int) -> int:
    """Return how many of the bytes [start, end) of `source` the kernel copied to `offset` of `fd`.

    It is 0 if the kernel cannot copy between these files. It is also 0 after any error, because this call does not say
    which of the files failed: a copy through memory fails too, and names the file.
    """
    if not hasattr(os, "copy_file_range"):
        return 0
    try:
        return os.copy_file_range(source, fd, min(COPY_RUN, end - start), start, offset)
    except OSError:
        return 0
