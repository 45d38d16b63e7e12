"""Requests over HTTP: connections that are kept, proxies, redirects. Headers with a secret stay with their server."""

from __future__ import annotations

import threading
from functools import cache
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
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

_MOVED = {301, 302, 303, 307, 308}

Origin: TypeAlias = tuple[str, str, int]
"""Scheme, host and port."""


class RequestError(Exception):
    """A request that cannot be answered; the text completes "cannot read URL: "."""


class _Kept(threading.local):
    """The open connections of a thread."""

    def __init__(self) -> None:
        self.open: dict[Origin, HTTPConnection] = {}


_kept = _Kept()


def get(url: str, headers: Mapping[str, str], secret: Mapping[str, str]) -> tuple[HTTPResponse, str]:
    """Return the answer to GET, whose body is not read yet, and the URL that it came from in the end.

    `secret` headers are sent to the server of `url` alone. Raises OSError and HTTPException where a connection breaks,
    and RequestError.
    """
    first = origin(url)
    for _ in range(REDIRECTS + 1):
        own = secret if origin(url) == first else {}
        response = _sent(url, {**headers, **own})
        if response.status not in _MOVED:
            return response, url
        target = response.headers.get("Location", "")
        drop(url)
        url = _redirected(url, target)
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


def drop(url: str) -> None:
    """Close the connection to the server of `url`: what else it sends is not wanted."""
    connection = _kept.open.pop(origin(url), None)
    if connection is not None:
        connection.close()


def _sent(url: str, headers: Mapping[str, str]) -> HTTPResponse:
    """Send a request and return the answer, over a connection that is open if there is one."""
    server, reused = origin(url), origin(url) in _kept.open
    try:
        return _answer(server, url, headers)
    except (OSError, HTTPException):
        drop(url)
        if not reused:
            raise
        return _answer(server, url, headers)  # servers close connections that were idle for a while


def _answer(server: Origin, url: str, headers: Mapping[str, str]) -> HTTPResponse:
    proxy = _proxy(server)
    connection = _kept.open.get(server)
    if connection is None:
        connection = _kept.open[server] = _connected(server, proxy)
    parts = urlsplit(url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if proxy is not None and server[0] == "http":
        target = f"http://{parts.netloc.rpartition('@')[2]}{target}"
    own = {"User-Agent": f"prunecli/{__version__}", "Accept-Encoding": "identity", **_login(parts), **headers}
    try:
        connection.request("GET", target, headers=own)
    except (UnicodeError, ValueError) as error:
        drop(url)
        raise RequestError(f"the request has characters that are not allowed ({error.__class__.__name__})") from None
    return connection.getresponse()


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
