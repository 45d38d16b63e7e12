"""Requests over HTTP: connections that are kept, proxies, redirects. Headers with a secret stay with their server."""

from __future__ import annotations

import atexit
from contextlib import suppress
from functools import cache
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from threading import Lock
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

from prunecli.version import __version__

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping

TIMEOUT = 20.0
"""Seconds without a byte after which a connection counts as broken."""

REDIRECTS = 5
"""The most redirects of one request."""

MOST_IDLE = 8
"""The most connections to one server that wait for the next request."""

_MOVED = {301, 302, 303, 307, 308}

Origin: TypeAlias = tuple[str, str, int]
"""Scheme, host and port."""


class RequestError(Exception):
    """A request that cannot be answered; the text completes "cannot read URL: "."""


class Answer:
    """The answer to a request, whose body is not read yet, and the URL that it came from in the end."""

    def __init__(self, url: str, response: HTTPResponse, connection: HTTPConnection) -> None:
        """Take what a connection received."""
        self.url, self.response, self._connection = url, response, connection
        self.status, self.headers = response.status, response.headers

    def close(self) -> None:
        """Keep the connection for the next request if the body was read to its end, else close it."""
        if self.response.isclosed() and self._connection.sock is not None:
            _idle.give(origin(self.url), self._connection)
        else:
            self.response.close()
            self._connection.close()


class _Idle:
    """Connections that wait for the next request."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._connections: dict[Origin, list[HTTPConnection]] = {}

    def take(self, server: Origin) -> HTTPConnection | None:
        """Return an open connection to a server, or None."""
        with self._lock:
            own = self._connections.get(server)
            return own.pop() if own else None

    def give(self, server: Origin, connection: HTTPConnection) -> None:
        """Keep an open connection, or close it if there are enough."""
        with self._lock:
            own = self._connections.setdefault(server, [])
            if len(own) < MOST_IDLE:
                own.append(connection)
                return
        connection.close()

    def close(self) -> None:
        """Close all connections that are not in use."""
        with self._lock:
            connections, self._connections = self._connections, {}
        for own in connections.values():
            for connection in own:
                connection.close()


_idle = _Idle()
close_idle = _idle.close
atexit.register(close_idle)


def get(url: str, headers: Mapping[str, str], secret: Mapping[str, str]) -> Answer:
    """Return the answer to GET; the caller closes it.

    `secret` headers are sent to the server of `url` alone. Raises OSError and HTTPException where a connection breaks,
    and RequestError.
    """
    first = origin(url)
    for _ in range(REDIRECTS + 1):
        answer = _sent(url, {**headers, **(secret if origin(url) == first else {})})
        if answer.status not in _MOVED:
            return answer
        answer.close()
        url = _redirected(url, answer.headers.get("Location", ""))
    raise RequestError(f"the server redirects more than {REDIRECTS} times")


def _redirected(url: str, target: str) -> str:
    new = urljoin(url, target)
    if not target or urlsplit(new).scheme not in {"http", "https"}:
        raise RequestError("the server redirects to what is no web address")
    if url.startswith("https:") and not new.startswith("https:"):
        raise RequestError("the server redirects from https to http")
    return new


def origin(url: str) -> Origin:
    """Return the server of a URL; RequestError if it names none."""
    try:
        parts = urlsplit(url)
        scheme, host = parts.scheme.lower(), parts.hostname or ""
        port = parts.port or (443 if scheme == "https" else 80)
    except ValueError:
        raise RequestError("it is no valid address") from None
    if not host:
        raise RequestError("the address names no server")
    return scheme, host, port


def _sent(url: str, headers: Mapping[str, str]) -> Answer:
    """Send a request and return the answer, over a connection that is open if there is one."""
    server = origin(url)
    connection = _idle.take(server)
    if connection is not None:
        with suppress(OSError, HTTPException):  # servers close connections that were idle for a while
            return _answer(connection, server, url, headers)
    return _answer(_connected(server, _proxy(server)), server, url, headers)


def _answer(connection: HTTPConnection, server: Origin, url: str, headers: Mapping[str, str]) -> Answer:
    parts = urlsplit(url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if server[0] == "http" and _proxy(server) is not None:
        target = f"http://{parts.netloc.rpartition('@')[2]}{target}"
    own = {"User-Agent": f"prunecli/{__version__}", "Accept-Encoding": "identity", **_login(parts), **headers}
    try:
        connection.request("GET", target, headers=own)
        return Answer(url, connection.getresponse(), connection)
    except (UnicodeError, ValueError) as error:
        connection.close()
        raise RequestError(f"the request has characters that are not allowed ({error.__class__.__name__})") from None
    except BaseException:
        connection.close()
        raise


def _login(parts: SplitResult) -> dict[str, str]:
    """Return the header for the user and the password in a URL."""
    if parts.username is None:
        return {}
    from base64 import b64encode  # noqa: PLC0415 - few URLs have a password

    pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return {"Authorization": f"Basic {b64encode(pair.encode()).decode()}"}


def _connected(server: Origin, proxy: Origin | None) -> HTTPConnection:
    scheme, host, port = server
    if proxy is not None and scheme == "http":
        host, port = proxy[1:]
    if scheme == "http":
        return HTTPConnection(host, port, timeout=TIMEOUT)
    if proxy is None:
        return HTTPSConnection(host, port, timeout=TIMEOUT, context=_certificates())
    connection = HTTPSConnection(*proxy[1:], timeout=TIMEOUT, context=_certificates())
    connection.set_tunnel(host, port)
    return connection


@cache
def _certificates() -> ssl.SSLContext:
    import ssl  # noqa: PLC0415 - servers without encryption need none

    return ssl.create_default_context()


@cache
def _proxy(server: Origin) -> Origin | None:
    """Return the proxy for a server that the environment names, or None."""
    from urllib.request import getproxies, proxy_bypass  # noqa: PLC0415 - its import takes long

    scheme, host, port = server
    proxy = getproxies().get(scheme)
    if not proxy or proxy_bypass(f"{host}:{port}"):
        return None
    return origin(proxy if "://" in proxy else f"http://{proxy}")
