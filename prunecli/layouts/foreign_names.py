"""Names of tensors in other libraries than torch, as the dotted names that the evidence is looked up by.

Keras, Flax and TensorFlow separate the parts of a name by slashes, and call a weight `kernel` or `embedding`.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from prunecli.checkpoint import TensorInfo

_OUTPUT = re.compile(r":\d+$")  # TensorFlow numbers the outputs of an operation
_WEIGHTS = ("kernel", "embedding", "embeddings")


def with_dotted_names(tensors: Sequence[TensorInfo]) -> Sequence[TensorInfo]:
    """Return the tensors with their dotted names; as they are if two dotted names would be the same."""
    if not any("/" in tensor.name for tensor in tensors):
        return tensors
    dims = {tensor.name: len(tensor.shape) for tensor in tensors}
    dotted = {name: _dotted(_named(name, dims)) for name in dims}
    if len(set(dotted.values())) < len(dotted):
        return tensors
    return [replace(tensor, name=dotted[tensor.name]) for tensor in tensors]


def _named(name: str, dims: Mapping[str, int]) -> str:
    """Return the name of a variable of Keras 3, `layers/dense/vars/0`, with what it is in place of its number.

    `dims` are the numbers of dimensions of all tensors. Layers have a kernel first, and a bias last.
    """
    path, vars_, number = name.rpartition("/vars/")
    first = dims.get(f"{path}/vars/0", 0)
    if not vars_ or first < 2 or number not in {"0", "1", "2"}:
        return name
    layer = path.rpartition("/")[2]
    if "embedding" in layer:
        kinds = ["embeddings"]
    elif "separable" in layer:
        kinds = ["depthwise_kernel", "pointwise_kernel", "bias"]
    elif "depthwise" in layer:
        kinds = ["depthwise_kernel", "bias"]
    else:  # that of an LSTM or GRU has as many dimensions; a bias of several heads has fewer
        recurrent = dims.get(f"{path}/vars/1") == first == 2
        kinds = ["kernel", "recurrent_kernel", "bias"] if recurrent else ["kernel", "bias"]
    return f"{path}/{kinds[int(number)]}" if int(number) < len(kinds) else name


def is_kernel(name: str) -> bool:
    """Return whether a dotted name is one that Keras and Flax give to weights."""
    last = name.rpartition(".")[2]
    return last in _WEIGHTS or last.endswith("_kernel")


def _dotted(name: str) -> str:
    return _OUTPUT.sub("", name).replace("/", ".") if "/" in name else name
