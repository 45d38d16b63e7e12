"""Servers on the loopback for models that are elsewhere: files with and without ranges, and a stand-in for the Hub."""

from __future__ import annotations

import json
import os
import re
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha1, sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass(frozen=True, slots=True)
class Asked:
    """A request: its path, the first and the last byte of its range, and its headers in lower case."""

    path: str
    range: tuple[int, int] | None
    headers: dict[str, str]

    @property
    def token(self) -> str:
        """The token of the request, or ""."""
        return self.headers.get("authorization", "").removeprefix("Bearer ")


@dataclass
class Served:
    """A server of the files of a folder, and what it was asked.

    `fault` may answer a request itself: it gets the handler and the request, and returns True if it did.
    """

    folder: Path
    url: str = ""
    ranges: bool = True
    asked: list[Asked] = field(default_factory=list)
    sent: int = 0
    fault: Callable[[Handler, Asked], bool] = lambda _, __: False
    etag: Callable[[Path], str] = lambda path: f'"{path.stat().st_size}-{path.stat().st_mtime_ns}"'
    lock: threading.Lock = field(default_factory=threading.Lock)

    def find(self, path: str) -> Path | None:
        """Return the file for the path of a request."""
        file = self.folder / unquote(path).lstrip("/")
        return file if file.is_file() else None


class Server(ThreadingHTTPServer):
    """A server whose clients may break off."""

    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Print nothing."""


class Handler(BaseHTTPRequestHandler):
    """Answers GET with a file or a part of it."""

    protocol_version = "HTTP/1.1"
    served: Served

    def log_message(self, *_: object) -> None:
        """Print nothing."""

    def do_GET(self) -> None:
        """Answer a request."""
        asked = Asked(self.path, self._range(), {name.lower(): value for name, value in self.headers.items()})
        with self.served.lock:
            self.served.asked.append(asked)
        if self.served.fault(self, asked):
            return
        self.answer(asked)

    def answer(self, asked: Asked) -> None:
        """Answer with the file of the path."""
        file = self.served.find(urlsplit(asked.path).path)
        if file is None:
            self.say(404)
        else:
            self.send_file(file, asked.range)

    def _range(self) -> tuple[int, int] | None:
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        return None if match is None else (int(match[1]), int(match[2]))

    def say(self, status: int, headers: dict[str, str] | None = None, body: bytes = b"") -> None:
        """Answer with a status and a short body."""
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def send_file(self, file: Path, part: tuple[int, int] | None) -> None:
        """Answer with a file, or with a part of it if the server has ranges."""
        size = file.stat().st_size
        if part is None or not self.served.ranges:
            first, last, status = 0, size - 1, 200
        else:
            first, last, status = part[0], min(part[1], size - 1), 206
        if status == 206 and first >= size:
            self.say(416, {"Content-Range": f"bytes */{size}"})
            return
        self.send_response(status)
        if status == 206:
            self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        self.send_header("Content-Length", str(last - first + 1))
        self.send_header("ETag", self.served.etag(file))
        self.end_headers()
        self.send_bytes(file, first, last + 1)

    def send_bytes(self, file: Path, first: int, end: int) -> None:
        """Send a part of a file as the body."""
        fd = os.open(file, os.O_RDONLY)
        try:
            while first < end:
                data = os.pread(fd, min(1 << 20, end - first), first)
                first += len(data)
                with self.served.lock:  # before the client has it, and may look at the number
                    self.served.sent += len(data)
                self.wfile.write(data)
        except OSError:  # the client wants no more
            self.close_connection = True
        finally:
            os.close(fd)


class Hub(Handler):
    """Answers as the Hub: a list of the files of a model, and files at a commit. `models` are folders of the server."""

    token = ""
    """The token that models whose names begin with `private` need."""

    def answer(self, asked: Asked) -> None:
        """Answer a request of the interface, or of a file."""
        parts = urlsplit(asked.path)
        if parts.path.startswith("/api/models/"):
            repo, _, revision = parts.path.removeprefix("/api/models/").partition("/revision/")
            self.list_model(repo, unquote(revision), asked, blobs="blobs" in parse_qs(parts.query))
        elif match := re.fullmatch(r"/([\w./-]+)/resolve/([^/]+)/(.+)", parts.path):
            if self.allowed(match[1], asked):
                self.resolve(self.served.folder / match[1] / unquote(match[3]), asked)
        else:
            self.say(404)

    def allowed(self, repo: str, asked: Asked) -> bool:
        """Return whether a model may be read, after refusing it otherwise, as the Hub does."""
        if asked.token not in {"", self.token}:
            self.say(401, {"X-Error-Message": "Invalid credentials in Authorization header"})
            return False
        hidden = repo.startswith("private") and asked.token != self.token
        if hidden or not (self.served.folder / repo).is_dir():
            self.say(404 if asked.token else 401, {"X-Error-Code": "RepoNotFound"})
            return False
        return True

    def resolve(self, file: Path, asked: Asked) -> None:
        """Answer with a file; a subclass redirects to another server."""
        if file.is_file():
            self.send_file(file, asked.range)
        else:
            self.say(404, {"X-Error-Code": "EntryNotFound"})

    def list_model(self, repo: str, revision: str, asked: Asked, *, blobs: bool) -> None:
        """Answer with the files of a model."""
        if not self.allowed(repo, asked):
            return
        if revision not in {"", "main", "refs/pr/1", COMMIT}:
            self.say(404, {"X-Error-Code": "RevisionNotFound"})
            return
        folder = self.served.folder / repo
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        siblings = [listed(path, path.relative_to(folder).as_posix(), blobs=blobs) for path in paths]
        document = {"_id": "0", "id": repo, "modelId": repo, "sha": COMMIT, "siblings": siblings}
        self.say(200, {"Content-Type": "application/json"}, json.dumps(document).encode())


def listed(path: Path, name: str, *, blobs: bool) -> dict[str, object]:
    """Return a file as the Hub lists it; large ones have a digest of their content."""
    if not blobs:
        return {"rfilename": name}
    size, digest = path.stat().st_size, sha1(name.encode(), usedforsecurity=False).hexdigest()
    fields: dict[str, object] = {"rfilename": name, "size": size, "blobId": digest}
    if path.suffix in {".safetensors", ".bin", ".pth"}:
        fields["lfs"] = {"sha256": sha256(name.encode()).hexdigest(), "size": size, "pointerSize": 134}
    return fields


@contextmanager
def serving(folder: Path, handler: type[Handler] = Handler) -> Iterator[Served]:
    """Serve a folder on a free port of the loopback until the block ends."""
    served = Served(folder)
    own = type("Own", (handler,), {"served": served})
    server = Server(("127.0.0.1", 0), own)
    served.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
