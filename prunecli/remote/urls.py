"""Texts that name models elsewhere, and the commands that download and upload them."""

from __future__ import annotations

import os
import re
import shlex
from urllib.parse import unquote, urlsplit

URL = re.compile(r"(hf|s3|https?)://", re.IGNORECASE)
"""The start of a text that names a model elsewhere."""

_ANY_URL = r"(?i)(?P<scheme>hf|s3|https?|gs|gcs|az|abfss?|ftp|sftp|ssh|file)://?(?P<rest>.*)"
"""A URL of any kind that people write; `pathlib` leaves one of the two slashes."""

_REVISION = r"@(refs/(?:convert|pr)/[^/]+|[^/]+)"


_PAGE = r"(?P<repo>[\w.-]+/[\w.-]+)(?:/(?:tree|blob|resolve)/(?P<revision>[^/?#]+)(?:/(?P<file>[^?#]*))?)?(?:[?#].*)?"
_NO_MODELS = ("datasets/", "spaces/", "docs/", "papers/", "collections/", "settings/", "api/")


def hub_address() -> str:
    """Return the address of the Hub."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def from_page(text: str) -> str:
    """Return the `hf://` URL of a model whose page on the Hub is at `text`; other texts as they are."""
    for address in (hub_address(), "https://hf.co"):
        rest = text[len(address) + 1 :].rstrip("/") if text.startswith(f"{address}/") else ""
        match = re.fullmatch(_PAGE, rest)
        if match is not None and not rest.startswith(_NO_MODELS):
            revision, file = match["revision"], unquote(match["file"] or "")
            at = f"@{unquote(revision).replace('/', '%2F')}" if revision and revision != "main" else ""
            return f"hf://{match['repo']}{at}" + (f"/{file}" if file else "")
    return text


def is_url(text: object) -> bool:
    """Return whether `text` names a model elsewhere that can be read."""
    return isinstance(text, str) and URL.match(text) is not None


def unreadable_url(text: object) -> str | None:
    """Return the scheme of a URL that cannot be read, such as "gs"; None if `text` is a path or can be read."""
    match = re.fullmatch(_ANY_URL, text) if isinstance(text, str) and "://" in text else None
    return None if match is None or URL.match(match[0]) else match["scheme"].lower()


def public(text: str) -> str:
    """Return a URL without what may be secret in it: the password of a user, and the query with its signature."""
    if not is_url(text):
        return text
    text = from_page(text)
    scheme, rest = text.split("://", 1)
    if scheme.lower() in {"hf", "s3"}:
        return f"{scheme.lower()}://{rest}"
    parts = urlsplit(text)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def local_name(url: str) -> str:
    """Return the name that a copy of `url` has in the current directory: its last part, without a revision."""
    scheme, _, rest = re.sub(_REVISION, "", public(url)).partition("://")
    parts = [part for part in rest.split("/") if part]
    if scheme.startswith("http"):
        parts = parts[1:]
    return parts[-1] if parts else "model"


def download_line(url: str) -> str:
    """Return the command that downloads what `url`, without secrets, names."""
    scheme, rest = url.split("://", 1)
    if scheme == "hf":
        return _download_from_hub(rest)
    if scheme == "s3":
        name = local_name(url)
        recursive = [] if "." in name else ["--recursive"]
        return shlex.join(["aws", "s3", "cp", *recursive, url, name])
    return shlex.join(["curl", "-fLO", url])


def _download_from_hub(rest: str) -> str:
    revision = re.search(_REVISION, rest)
    parts = re.sub(_REVISION, "", rest).strip("/").split("/")
    repo, file = "/".join(parts[:2]), "/".join(parts[2:])
    only = [file] if "." in parts[-1] and file else ["--include", f"{file}/*"] if file else []
    at = ["--revision", revision[1]] if revision else []
    return shlex.join(["hf", "download", repo, *only, *at, "--local-dir", parts[1] if len(parts) > 1 else repo])


def upload_line(url: str, local: str) -> str | None:
    """Return the command that uploads the path `local` to `url`; None if `url` is a path, or "" if there is none."""
    match = re.fullmatch(_ANY_URL, url)
    if match is None:
        return None
    scheme, rest = match["scheme"].lower(), match["rest"]
    if scheme == "hf":
        parts = re.sub(_REVISION, "", rest).strip("/").split("/")
        return shlex.join(["hf", "upload", "/".join(parts[:2]), local, *(["/".join(parts[2:])] if parts[2:] else [])])
    if scheme == "s3":
        return shlex.join(
            ["aws", "s3", "cp", *([] if "." in rest.rpartition("/")[2] else ["--recursive"]), local, f"s3://{rest}"]
        )
    return ""
