"""Models in buckets of S3, or of servers like it. `fsspec` lists and signs; the bytes are read over HTTP as all others.

A signed address is valid for an hour and a new one is made after half of it. It is a secret, and in no message.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from prunecli.errors import CheckpointError
from prunecli.remote.ranges import Address, Remote
from prunecli.remote.stores import Store
from prunecli.text.escape import printable

if TYPE_CHECKING:
    from collections.abc import Callable

VALID = 3600
"""Seconds for which an address is valid."""

MOST = 10_000
"""The most files that a folder may have: a whole bucket is no model."""


def open_store(url: str) -> tuple[Store, str]:
    """Return the files of the folder or file that `s3://BUCKET/KEY` names, and the name of the file ("" for a folder).

    Raises CheckpointError.
    """
    key = url.split("://", 1)[1].strip("/")
    if not key:
        raise CheckpointError(f"{printable(url)} names no bucket", hint="s3://BUCKET/FOLDER")
    filesystem = _filesystem()
    try:
        return _listed(filesystem, key)
    except _library_errors() as error:
        if _lacks_login(error):
            return _without_login(key)
        raise _refusal(url, error) from error


def _without_login(key: str) -> tuple[Store, str]:
    """Return what a bucket gives to everyone."""
    try:
        return _listed(_filesystem(anon=True), key)
    except _library_errors() as error:
        raise _refusal(f"s3://{key}", error) from error


def _filesystem(*, anon: bool = False) -> Any:  # noqa: ANN401 - fsspec has no types
    try:
        import s3fs  # noqa: F401, PLC0415 - an optional library
        from fsspec import filesystem  # noqa: PLC0415 - an optional library
    except ImportError:
        raise CheckpointError(
            "s3:// needs fsspec and s3fs, which are not installed", hint="pip install 'prunecli[remote]'"
        ) from None
    return filesystem(
        "s3",
        anon=anon,
        use_listings_cache=False,
        skip_instance_cache=True,
        config_kwargs={"signature_version": "s3v4"} if not anon else {},
    )


def _library_errors() -> tuple[type[Exception], ...]:
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415 - an optional library

    return OSError, ValueError, BotoCoreError, ClientError


def _listed(filesystem: Any, key: str) -> tuple[Store, str]:  # noqa: ANN401 - fsspec has no types
    """List the folder, or the folder of the file."""
    bucket = key.split("/", maxsplit=1)[0]
    info = filesystem.info(key)
    folder = key if info["type"] == "directory" else key.rpartition("/")[0]
    files: dict[str, Remote] = {}
    pending = [folder]
    while pending:
        for one in filesystem.ls(pending.pop(), detail=True):
            name = one["name"]
            if one["type"] == "directory":
                pending.append(name) if name != folder else None
            elif name.rstrip("/") != folder and not name.endswith("/"):
                files[name[len(folder) + 1 :]] = _remote(filesystem, name, one)
            if len(files) + len(pending) > MOST:
                raise CheckpointError(
                    f"s3://{printable(folder)} has more than {MOST:,} files", hint=f"s3://{printable(bucket)}/FOLDER"
                )
    return Store(f"s3://{folder}", files), key[len(folder) + 1 :]


def _remote(filesystem: Any, name: str, listed: dict[str, Any]) -> Remote:  # noqa: ANN401 - fsspec has no types
    version = str(listed.get("ETag") or listed.get("LastModified") or "").strip('"')
    return Remote(f"s3://{name}", _signed(filesystem, name), _denied, int(listed["size"]), version)


def _signed(filesystem: Any, name: str) -> Callable[[], Address]:  # noqa: ANN401 - fsspec has no types
    """Return a function that returns a signed address of a file."""
    made: list[tuple[float, Address]] = []

    def address() -> Address:
        now = time.monotonic()
        if not made or made[0][0] < now:
            made[:] = [(now + VALID / 2, Address(filesystem.sign(name, expiration=VALID), {}))]
        return made[0][1]

    return address


def _lacks_login(error: Exception) -> bool:
    from botocore.exceptions import NoCredentialsError  # noqa: PLC0415 - an optional library

    return isinstance(error, NoCredentialsError) or isinstance(error.__cause__, NoCredentialsError)


def _denied(name: str, status: int) -> CheckpointError | None:
    return _refusal(name, PermissionError(f"it answers {status}")) if status in {401, 403} else None


def _refusal(url: str, error: Exception) -> CheckpointError:
    if isinstance(error, FileNotFoundError):
        return CheckpointError(f"there is no {printable(url)}", hint=f"aws s3 ls {printable(url.rpartition('/')[0])}/")
    reason = " ".join(printable(str(error)).split()) or error.__class__.__name__
    if isinstance(error, PermissionError):
        return CheckpointError(
            f"the bucket does not give {printable(url)} to you: {reason}",
            hint="AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, say who you are",
        )
    return CheckpointError(f"cannot read {printable(url)}: {reason}", hint="AWS_ENDPOINT_URL names another server")
