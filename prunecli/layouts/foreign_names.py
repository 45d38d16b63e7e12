"""Names of tensors in other libraries than torch, as the dotted names that the evidence is looked up by.

Keras, Flax and TensorFlow separate the parts of a name by slashes, and call a weight `kernel` or `embedding`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prunecli.checkpoint import TensorInfo

_OUTPUT = re.compile(r":\d+$")  # TensorFlow numbers the outputs of an operation
_WEIGHTS = ("kernel", "embedding", "embeddings")


def dotted_names(tensors: Sequence[TensorInfo]) -> dict[str, str]:
    """Return the dotted name of each tensor by its own name; the own ones if two dotted names would be the same."""
    dotted = {tensor.name: _dotted(tensor.name) for tensor in tensors}
    if len(set(dotted.values())) < len(dotted):
        return {name: name for name in dotted}
    return dotted


def is_kernel(name: str) -> bool:
    """Return whether a dotted name is one that Keras and Flax give to weights."""
    last = name.rpartition(".")[2]
    return last in _WEIGHTS or last.endswith("_kernel")


def _dotted(name: str) -> str:
    return _OUTPUT.sub("", name).replace("/", ".") if "/" in name else name
