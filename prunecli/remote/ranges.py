"""Parts of files on web servers: each is read whole or not at all, from the byte on where a connection broke."""

from __future__ import annotations

import re
import socket
import time
from http.client import HTTPException
from threading import Lock
from typing import TYPE_CHECKING

from prunecli.errors import CheckpointError
from prunecli.remote.connections import Answer, RequestError, get, origin
from prunecli.remote.errors import changed, download_first, no_ranges, wrong_bytes
from prunecli.text.escape import printable
from prunecli.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from http.client import HTTPResponse

TRIES = 5
"""How often a part is asked for before the run fails."""

PAUSE = 0.5
"""Seconds before the second try; each further pause is twice as long."""

LONGEST_PAUSE = 30.0
"""The most seconds that a server can make a run wait before the next try."""

PIECE = 1 << 18
"""Bytes that are read at once."""

FRESH = 600.0
"""Seconds for which the address that a redirect leads to is used again."""

_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19})")


@dataclass(frozen=True, slots=True)
class Address:
    """Where a file is: its URL, and headers for the server of that URL alone, such as a token."""

    url: str
    secret: Mapping[str, str]


class Stopped(Exception):  # noqa: N818 - it reports no error: the bytes are not wanted any more
    """The reader was closed."""


class Remote:
    """A file that is elsewhere.

    Attributes:
        name: Its URL in messages, without secrets.
        size: Its size in bytes, or None before the first part is read.
        version: A text that is another one for another content, or "" where the server gives none.
    """

    def __init__(
        self,
        name: str,
        address: Callable[[], Address],
        refused: Callable[[str, int], CheckpointError | None],
        size: int | None = None,
        version: str = "",
        *,
        immutable: bool = False,
    ) -> None:
        """Name the file; `refused` returns the error for an HTTP status, or None for the usual one.

        An `immutable` address never gets another content.
        """
        self.name, self.size, self.version, self._immutable = name, size, version, immutable
        self._address, self._refused = address, refused
        self._lock = Lock()
        self._moved: tuple[str, float] | None = None
        self._tags: dict[str, str] = {}

    @property
    def known_size(self) -> int:
        """The size in bytes of a file of which a part was read or listed."""
        if self.size is None:
            raise AssertionError
        return self.size

    def read(self, into: memoryview, offset: int, stopped: Callable[[], bool] = lambda: False) -> None:
        """Fill `into` from the byte `offset` on; CheckpointError if that fails, Stopped if `stopped()` is true."""
        done, tries = 0, _Tries(self.name)
        while done < len(into):
            done += self._tried(into[done:], offset + done, stopped, tries)

    def probe(self, length: int) -> bytes:
        """Return the first bytes, at most `length`, of a file of unknown size; afterwards the size is known."""
        into, done, tries = memoryview(bytearray(length)), 0, _Tries(self.name)
        while self.size is None:
            done = self._tried(into, 0, lambda: False, tries)
        first = into[: min(length, self.known_size)]
        self.read(first[done:], done)
        return bytes(first)

    def check_unchanged(self) -> None:
        """Raise CheckpointError if the server has another content now."""
        if self.size and not self._immutable:
            self.read(memoryview(bytearray(1)), 0)

    def _tried(self, into: memoryview, offset: int, stopped: Callable[[], bool], tries: _Tries) -> int:
        """Read as many bytes as one answer gives, and return their number."""
        try:
            done = self._part(into, offset, stopped)
        except _Again as error:
            tries.failed(error)
            return error.done
        if done < min(len(into), self.known_size - offset):
            tries.failed(_Again(RequestError("the server sends less than what is asked for")))
        return done

    def _part(self, into: memoryview, offset: int, stopped: Callable[[], bool]) -> int:
        answer = self._asked(offset, len(into))
        try:
            length = self._check(answer, offset, len(into))
            _read_body(answer.response, into[:length], stopped)
        finally:
            answer.close()
        return length

    def _asked(self, offset: int, length: int) -> Answer:
        """Ask for a part; the answer has the status 200, 206 or 416."""
        wanted = {"Range": f"bytes={offset}-{offset + length - 1}"}
        moved = self._moved
        if moved is not None and time.monotonic() < moved[1]:
            answer = self._get(Address(moved[0], {}), wanted)
            if answer.status in {200, 206, 416}:
                return answer
            answer.close()
            self._moved = None  # such an address is valid for a while only
        address = self._address()
        answer = self._get(address, wanted)
        if answer.status in {200, 206, 416}:
            if origin(answer.url) != origin(address.url):
                self._moved = answer.url, time.monotonic() + FRESH
            return answer
        answer.close()
        raise self._refusal(answer)

    def _get(self, address: Address, headers: Mapping[str, str]) -> Answer:
        try:
            return get(address.url, headers, address.secret)
        except RequestError as error:
            raise cannot_read(self.name, error) from error
        except (OSError, HTTPException) as error:
            if is_final(error):
                raise cannot_read(self.name, error) from error
            raise _Again(error) from error

    def _refusal(self, answer: Answer) -> Exception:
        status = answer.status
        if status in {408, 425, 429, 500, 502, 503, 504}:
            wait = answer.headers.get("Retry-After", "")
            return _Again(RequestError(f"the server answers {status}"), 0, float(wait) if wait.isdecimal() else 0.0)
        return self._refused(self.name, status) or refusal(self.name, status)

    def _check(self, answer: Answer, offset: int, wanted: int) -> int:
        """Return how many bytes of the wanted part an answer has, after comparing it with what is known of the file."""
        if answer.headers.get("Content-Encoding", "identity") != "identity":
            raise wrong_bytes(self.name, "a compressed body, of which no part can be read")
        length = self._length(answer, offset, wanted)
        tag = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
        tag = tag.removeprefix("W/").strip('"')
        with self._lock:
            if tag and self._tags.setdefault(":".join(map(str, origin(answer.url))), tag) != tag:
                raise changed(self.name)
            self.version = self.version or tag
        return length

    def _length(self, answer: Answer, offset: int, wanted: int) -> int:
        header = answer.headers.get("Content-Range", "")
        if answer.status == 416:
            if header == "bytes */0" and self.size is None:
                raise CheckpointError(f"{printable(self.name)} is empty", hint="upload it again")
            raise changed(self.name)
        if answer.status == 200:
            return self._whole(answer.response.length, offset, wanted)
        match = _RANGE.fullmatch(header)
        if match is None:
            raise wrong_bytes(self.name, "a part of the file without saying which")
        first, last, size = map(int, match.groups())
        if first != offset or not first <= last < min(first + wanted, size):
            raise wrong_bytes(self.name, f"the bytes {first} to {last}, which were not asked for")
        self._compare(size)
        return last - first + 1

    def _whole(self, size: int | None, offset: int, wanted: int) -> int:
        """Return the size of a file that was sent whole, if that is what was wanted."""
        if size is None or offset or size > wanted:
            raise no_ranges(self.name)
        self._compare(size)
        return size

    def _compare(self, size: int) -> None:
        with self._lock:
            if self.size is None:
                self.size = size
        if size != self.size:
            raise changed(self.name)


def _read_body(response: HTTPResponse, into: memoryview, stopped: Callable[[], bool]) -> None:
    """Fill `into` from a body; _Again if it ends or breaks before, Stopped if `stopped()` is true."""
    done = 0
    while done < len(into):
        if stopped():
            raise Stopped
        try:
            got = response.readinto(into[done : done + PIECE])
        except (OSError, HTTPException) as error:
            raise _Again(error, done) from error
        if not got:
            raise _Again(RequestError("the connection broke"), done)
        done += got


class _Tries:
    """The tries that are left for one part."""

    def __init__(self, name: str) -> None:
        self._name, self._failed = name, 0

    def failed(self, again: _Again) -> None:
        """Wait before the next try; CheckpointError if there is none."""
        self._failed += 1
        if self._failed >= TRIES:
            raise cannot_read(self._name, again.reason) from again
        time.sleep(max(PAUSE * 2 ** (self._failed - 1), min(again.pause, LONGEST_PAUSE)))


class _Again(Exception):  # noqa: N818 - a try that failed, after which another one follows
    def __init__(self, reason: Exception, done: int = 0, pause: float = 0.0) -> None:
        super().__init__(reason)
        self.reason, self.done, self.pause = reason, done, pause


def is_final(error: Exception) -> bool:
    """Return whether another try would fail as this one: there is no such server, it refuses, or is another one."""
    from ssl import SSLCertVerificationError  # noqa: PLC0415 - after an error only

    if isinstance(error, socket.gaierror):
        return error.errno != socket.EAI_AGAIN
    return isinstance(error, (ConnectionRefusedError, SSLCertVerificationError))


def refusal(name: str, status: int) -> CheckpointError:
    """Return the error for an HTTP status."""
    if status in {404, 410}:
        return CheckpointError(f"there is no {printable(name)}: the server answers {status}")
    if status in {401, 403}:
        return CheckpointError(
            f"the server does not give {printable(name)} without permission: it answers {status}",
            hint=download_first(name),
        )
    return CheckpointError(f"cannot read {printable(name)}: the server answers {status}", hint=download_first(name))


def cannot_read(name: str, error: Exception) -> CheckpointError:
    """Return the error for a file whose server cannot be reached, or breaks off again and again."""
    from ssl import SSLCertVerificationError  # noqa: PLC0415 - after an error only

    hint = None
    if isinstance(error, SSLCertVerificationError):
        reason: object = f"its certificate is not valid ({error.verify_message})"
        hint = "SSL_CERT_FILE names a file with certificates of your own"
    elif isinstance(error, TimeoutError):
        reason = "the server does not answer in time"
    elif isinstance(error, RequestError):
        reason = error
    else:
        reason = getattr(error, "strerror", None) or str(error) or error.__class__.__name__
    return CheckpointError(f"cannot read {printable(name)}: {printable(str(reason))}", hint=hint)
