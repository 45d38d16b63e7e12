"""JSON documents of web servers, read whole: they are small, and never longer than a limit."""

from __future__ import annotations

import json
import time
from http.client import HTTPException
from typing import TYPE_CHECKING

from prunecli.errors import CheckpointError
from prunecli.remote import ranges
from prunecli.remote.connections import RequestError, get
from prunecli.remote.ranges import TRIES, cannot_read, is_final
from prunecli.text.escape import printable

if TYPE_CHECKING:
    from http.client import HTTPResponse

    from prunecli.remote.ranges import Address

LARGEST = 1 << 25
"""The most bytes of a document."""

_LATER = {408, 425, 429, 500, 502, 503, 504}


class StatusError(Exception):
    """An answer with another status than 200; `code` is the word that the server says besides."""

    def __init__(self, status: int, code: str) -> None:
        """Keep what the server said."""
        super().__init__(f"the server answers {status}")
        self.status, self.code = status, code


def document(name: str, address: Address) -> object:
    """Return the document at `address`, which messages call `name`. Raises CheckpointError and StatusError."""
    for attempt in range(TRIES):
        try:
            return _read(name, address)
        except RequestError as error:
            raise cannot_read(name, error) from error
        except StatusError as error:
            if error.status not in _LATER:
                raise
            failure: Exception = error
        except (OSError, HTTPException) as error:
            if is_final(error):
                raise cannot_read(name, error) from error
            failure = error
        if attempt < TRIES - 1:
            time.sleep(ranges.PAUSE * 2**attempt)
    raise cannot_read(name, failure)


def _read(name: str, address: Address) -> object:
    answer = get(address.url, {"Accept": "application/json"}, address.secret)
    try:
        if answer.status != 200:
            raise StatusError(answer.status, answer.headers.get("X-Error-Code", ""))
        return json.loads(_body(name, answer.response))
    except (ValueError, RecursionError):
        raise CheckpointError(f"the server of {printable(name)} sends no valid list of its files") from None
    finally:
        answer.close()


def _body(name: str, response: HTTPResponse) -> bytes:
    body = response.read(LARGEST + 1)
    if len(body) > LARGEST:
        raise CheckpointError(f"the server of {printable(name)} sends a list of files of more than {LARGEST:,} bytes")
    return body
