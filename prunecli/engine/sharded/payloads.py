"""Arrays as bytes for an exchange between processes."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def packed(arrays: dict[str, NDArray[Any]]) -> bytes:
    """Return named arrays as bytes."""
    stream = BytesIO()
    np.savez(stream, allow_pickle=False, **arrays)
    return stream.getvalue()


def unpacked(payload: bytes) -> dict[str, NDArray[Any]]:
    """Return the arrays in a result of `packed`."""
    with np.load(BytesIO(payload), allow_pickle=False) as arrays:
        return dict(arrays)
