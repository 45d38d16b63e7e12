"""Models of the Hugging Face Hub by HTTP. `HF_ENDPOINT`, `HF_TOKEN` and `HF_HOME` mean what they mean there.

A revision is resolved to its commit once, and all files are read at that commit.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

from prunecli.errors import CheckpointError
from prunecli.remote.documents import StatusError, document
from prunecli.remote.ranges import Address, Remote
from prunecli.remote.stores import Store
from prunecli.remote.urls import hub_address
from prunecli.text.escape import printable, quoted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MOST = 100_000
"""The most files of a model."""

_NAME = re.compile(
    r"(?P<repo>[\w.-]+(?:/[\w.-]+)?)(?:@(?P<revision>refs/(?:convert|pr)/[^/]+|[^/@]+))?(?:/(?P<file>.*))?"
)
_OTHERS = {"datasets", "spaces", "buckets", "kernels"}
_COMMIT = re.compile(r"[0-9a-f]{40}")
_TRUE = {"1", "ON", "YES", "TRUE"}


def open_store(url: str) -> tuple[Store, str]:
    """Return the files of the model that `hf://ORG/MODEL[@REVISION][/FILE]` names, and the name of the file or folder.

    Raises CheckpointError.
    """
    text = url.split("://", 1)[1].strip("/")
    match = _NAME.fullmatch(text)
    if match is None:
        raise CheckpointError(f"{printable(url)} names no model of the Hub", hint="hf://ORG/MODEL")
    repo, revision, file = match["repo"], match["revision"] or "", match["file"] or ""
    if repo.split("/")[0] in _OTHERS:
        raise CheckpointError(f"{printable(url)} is no model: only models of the Hub are read", hint="hf://ORG/MODEL")
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in _TRUE:
        raise CheckpointError(
            f"{printable(url)} cannot be read while HF_HUB_OFFLINE is set", hint="unset HF_HUB_OFFLINE"
        )
    try:
        return _opened(repo, revision), file
    except CheckpointError:
        alone, _, name = repo.partition("/")
        if revision or "." not in name:
            raise
        with suppress(CheckpointError):  # old models have no organisation, as in hf://gpt2/model.safetensors
            return _opened(alone, ""), f"{name}/{file}".strip("/")
        raise


def _opened(repo: str, revision: str) -> Store:
    root = f"hf://{repo}" + (f"@{revision}" if revision else "")
    try:
        found = _listed(repo, unquote(revision) or "main")
    except StatusError as error:
        raise _refusal(root, repo, unquote(revision), error) from None
    return _store(root, repo, found)


def _listed(repo: str, revision: str) -> Mapping[str, object]:
    url = f"{endpoint()}/api/models/{repo}/revision/{quote(revision, safe='')}?blobs=true"
    found = document(f"hf://{repo}", Address(url, _secret()))
    if not isinstance(found, dict) or not isinstance(found.get("siblings"), list):
        raise CheckpointError(f"the server of hf://{printable(repo)} sends no valid list of its files")
    return found


def _store(root: str, repo: str, found: Mapping[str, object]) -> Store:
    """Return the store of a listing, which may hold anything."""
    commit = str(found.get("sha"))
    if not _COMMIT.fullmatch(commit):
        raise CheckpointError(f"the server of {printable(root)} names no commit")
    files = {}
    for name, size, version in _files(root, found["siblings"]):
        address = partial(_address, repo, commit, name)
        files[name] = Remote(f"{root}/{name}", address, _file_refusal, size, version, immutable=True)
    return Store(root, files, (f"read at the commit {commit[:12]}",))


def _files(root: str, siblings: object) -> Iterator[tuple[str, int, str]]:
    """Yield the name, the size and the digest of each file."""
    if not isinstance(siblings, list) or len(siblings) > MOST:
        raise CheckpointError(f"{printable(root)} has more than {MOST:,} files")
    for one in siblings:
        fields = one if isinstance(one, dict) else {}
        name, size = fields.get("rfilename"), fields.get("size")
        if not isinstance(name, str) or type(size) is not int or not 0 <= size < 1 << 63:
            raise CheckpointError(f"the server of {printable(root)} lists a file without a name or a size")
        large = fields.get("lfs")
        digest = large.get("sha256") if isinstance(large, dict) else None
        yield name, size, str(digest or fields.get("blobId"))


def _address(repo: str, commit: str, name: str) -> Address:
    return Address(f"{endpoint()}/{repo}/resolve/{commit}/{quote(name)}", _secret())


def endpoint() -> str:
    """Return the address of the Hub."""
    return hub_address()


def _secret() -> dict[str, str]:
    token = find_token()
    return {"Authorization": f"Bearer {token}"} if token else {}


def find_token() -> str:
    """Return the token of the environment, or the one that `hf auth login` has stored; "" if there is none."""
    token = os.environ.get("HF_TOKEN") or os.environ.get("HUGGING_FACE_HUB_TOKEN") or ""
    if not token and os.environ.get("HF_HUB_DISABLE_IMPLICIT_TOKEN", "").upper() not in _TRUE:
        cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        home = os.environ.get("HF_HOME") or os.path.join(cache, "huggingface")  # noqa: PTH118 - texts
        path = os.environ.get("HF_TOKEN_PATH") or os.path.join(home, "token")  # noqa: PTH118 - texts
        try:
            token = Path(path).expanduser().read_text(encoding="utf-8")
        except (OSError, ValueError, RuntimeError):
            return ""
    return token.strip()


def _file_refusal(name: str, status: int) -> CheckpointError | None:
    """Return the error for a file that was listed and is not given."""
    if status not in {401, 403}:
        return None
    repo = printable("/".join(name.split("://", 1)[1].split("@", maxsplit=1)[0].split("/")[:2]))
    return CheckpointError(
        f"the Hub does not give {printable(name)}: it answers {status}",
        hint=f"accept the terms at {endpoint()}/{repo}, and set HF_TOKEN to a token that may read it",
    )


def _refusal(root: str, repo: str, revision: str, error: StatusError) -> CheckpointError:
    """Return the error for a model that is not listed. The Hub answers 401 for models that are not there, too."""
    name, where = printable(root), endpoint()
    if error.code == "RevisionNotFound" and revision:
        return CheckpointError(f"{printable(f'hf://{repo}')} has no revision {quoted(revision)}", hint=f"hf://{repo}")
    if error.code == "GatedRepo":
        hint = f"accept its terms at {where}/{printable(repo)}, and set HF_TOKEN to a token of yours"
        return CheckpointError(f"{name} is given only to users who accepted its terms", hint=hint)
    if error.status not in {401, 403, 404}:
        return CheckpointError(f"cannot read {name}: the server answers {error.status}")
    if find_token() and error.status in {401, 403}:
        return CheckpointError(
            f"{where} does not accept the token in HF_TOKEN for {name}: it answers {error.status}",
            hint=f"set HF_TOKEN to a token that may read it ({where}/settings/tokens), or unset it for a public model",
        )
    hint = f"set HF_TOKEN to a token that may read it ({where}/settings/tokens), or correct the name"
    return CheckpointError(f"there is no model {name} at {where}, or it is not public", hint=hint)
