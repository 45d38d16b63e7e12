"""Evidence about one tensor: which dimension of it counts outputs and which counts inputs.

A hint is evidence only if it cannot be a coincidence, such as a bias whose length is one dimension and not the other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from prunecli.layouts.names import bias_of, is_transposed_by_name, module_words, other_half, split_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from prunecli.checkpoint import TensorInfo

Shape: TypeAlias = tuple[int, ...]
Numbered: TypeAlias = tuple[str, str]

FUSED_QKV = frozenset({"c_attn", "qkv", "qkv_proj", "query_key_value", "in_proj_weight", "Wqkv"})
"""Modules that compute queries, keys and values from one input."""

CONV1D_MODELS = frozenset({"gpt2", "openai-gpt", "imagegpt", "decision_transformer"})
CONV1D_MODULES = frozenset({"c_attn", "c_fc", "c_proj", "q_attn"})
"""Architectures of transformers with matrices of shape [in, out] (its class Conv1D), and the modules that have them."""


class Orientation(NamedTuple):
    """The dimensions of outputs and inputs, the groups of a transposed convolution, and the evidence in words."""

    outputs: int
    inputs: int
    groups: int
    evidence: str


def out_in(evidence: str) -> Orientation:
    """Return the orientation of Linear and Conv."""
    return Orientation(0, 1, 1, evidence)


def in_out(evidence: str, groups: int = 1) -> Orientation:
    """Return the orientation of Conv1D of transformers and of ConvTranspose."""
    return Orientation(1, 0, groups, evidence)


def own_evidence(tensor: TensorInfo, tensors: Mapping[str, TensorInfo], model_type: str) -> Orientation | None:
    """Return what the tensor's own name and shape, its bias and the batch norm after it prove; None if nothing."""
    path, last = split_name(tensor.name)
    if last == "depthwise_kernel":  # of Keras: (height, width, channels, outputs of each channel)
        dims = len(tensor.shape)
        return Orientation(dims - 2, dims - 1, 1, "named depthwise kernel: channels are the last dimension but one")
    if last == "pointwise_kernel":
        dims = len(tensor.shape)
        return Orientation(dims - 1, dims - 2, 1, "named pointwise kernel: inputs and outputs are the last dimensions")
    if last in {"kernel", "recurrent_kernel"}:
        return _of_kernel(tensor, bias_of(tensor.name, tensors))
    return (
        _by_bias(tensor, tensors)
        or _by_lora(tensor, tensors)
        or _by_ratio(tensor.shape, path, last)
        or _by_next_norm(tensor, tensors)
        or _by_config(tensor.shape, path, model_type)
        or (in_out("named as a transposed convolution") if _is_transposed(tensor) else None)
    )


def _of_kernel(tensor: TensorInfo, bias: TensorInfo | None) -> Orientation | None:
    """Return the orientation of a kernel of TensorFlow or JAX: inputs and outputs are its last dimensions.

    The kernel of a transposed convolution of Keras has outputs before inputs, that of Flax has not. A kernel of three
    dimensions without a bias can be that of a convolution, or one of several heads.
    """
    *_, first, second = tensor.shape
    dims = len(tensor.shape)
    if bias is not None and bias.shape == (first,) != (second,):
        return Orientation(dims - 2, dims - 1, 1, f"bias has the length of dim {dims - 2}")
    if bias is not None and bias.shape == (second,) != (first,):
        return Orientation(dims - 1, dims - 2, 1, f"bias has the length of dim {dims - 1}")
    if bias is not None and dims == 3 and bias.shape == tensor.shape[1:]:
        return Orientation(2, 0, 1, "bias has dims 1 and 2: a kernel of several heads, whose inputs are first")
    if (bias is None and dims == 3) or (bias is not None and bias.shape != (second,)):
        return None
    if dims > 2 and is_transposed_by_name(tensor.name):
        return None
    return Orientation(dims - 1, dims - 2, 1, "named kernel: inputs and outputs are the last dimensions")


def _is_transposed(tensor: TensorInfo) -> bool:
    """Return whether the name says that a kernel is transposed.

    In a Sequential of that name, the kernel must also be even: an odd one can be that of a convolution that follows.
    """
    path, _ = split_name(tensor.name)
    if len(tensor.shape) <= 2 or not is_transposed_by_name(tensor.name):
        return False
    return not (path and path[-1].isdigit()) or all(size % 2 == 0 for size in tensor.shape[2:])


def _by_lora(tensor: TensorInfo, tensors: Mapping[str, TensorInfo]) -> Orientation | None:
    """Compare the two matrices of LoRA: the outputs of the first, the rank, are the inputs of the second.

    The rank is the smaller number where both fit.
    """
    name = other_half(tensor.name)
    other = tensors.get(name) if name else None
    if other is None or len(other.shape) < 2:
        return None
    first = tensor.name.rpartition("lora")[2][1:].startswith(("A", "down"))
    a, b = (tensor.shape, other.shape) if first else (other.shape, tensor.shape)
    ranks = [(a[dim], dim) for dim in (0, 1) if a[dim] == b[1 - dim]]
    if not ranks or a[0] == a[1]:
        return None
    return (in_out if min(ranks)[1] else out_in)("the rank of LoRA is the dimension that both its matrices have")


def _by_bias(tensor: TensorInfo, tensors: Mapping[str, TensorInfo]) -> Orientation | None:
    bias = bias_of(tensor.name, tensors)
    if bias is None or len(bias.shape) != 1 or not tensor.numel or not bias.numel:
        return None
    first, second, length = *tensor.shape[:2], bias.shape[0]
    transposed = _is_transposed(tensor)
    if length == first != second and not (transposed and length % second == 0):
        return out_in("bias has the length of dim 0")
    if length == second != first:
        return in_out("bias has the length of dim 1")
    if len(tensor.shape) == 2:
        return None
    return _by_bias_of_groups(tensor, length, transposed=transposed) or _by_bias_of_last(tensor.shape, length)


def _by_bias_of_groups(tensor: TensorInfo, length: int, *, transposed: bool) -> Orientation | None:
    """Use a bias that is a multiple of dim 1, as that of a grouped transposed convolution is."""
    first, second = tensor.shape[:2]
    groups = length // second
    if groups <= 1 or length != groups * second or first % groups:
        return None
    if length != first:
        return in_out(f"bias has {groups} times the length of dim 1", groups)
    if transposed:
        return in_out(f"named as a transposed convolution; bias has {groups} times the length of dim 1", groups)
    return None


def _by_bias_of_last(shape: Shape, length: int) -> Orientation | None:
    """Use a bias of the last dimension: kernels of TensorFlow have one, and matrices for each relation of a graph.

    No convolution of torch does, if the bias is neither dim 0 nor a multiple of dim 1.
    """
    if length != shape[-1] or length == shape[0] or length % shape[1] == 0:
        return None
    last = len(shape) - 1
    return Orientation(last, last - 1, 1, f"bias has the length of dim {last}")


def _by_ratio(shape: Shape, path: Sequence[str], last: str) -> Orientation | None:
    if len(shape) != 2 or (shape[0] != 3 * shape[1] and shape[1] != 3 * shape[0]):
        return None
    if not {last, *path[-1:]} & FUSED_QKV:
        return None
    if shape[0] == 3 * shape[1]:
        return out_in("queries, keys and values: dim 0 is three times dim 1")
    return in_out("queries, keys and values: dim 1 is three times dim 0")


def _by_next_norm(tensor: TensorInfo, tensors: Mapping[str, TensorInfo]) -> Orientation | None:
    """Use the batch norm that follows in a Sequential: it has one entry for each output."""
    path, _ = split_name(tensor.name)
    if not path or not path[-1].isdecimal() or len(path[-1]) > 6:
        return None
    norm = tensors.get(".".join([*path[:-1], str(int(path[-1]) + 1), "running_mean"]))
    if norm is None or len(norm.shape) != 1:
        return None
    first, second = tensor.shape[:2]
    if norm.shape[0] == first != second:
        return out_in("the batch norm after it has the length of dim 0")
    if norm.shape[0] == second != first:
        return in_out("the batch norm after it has the length of dim 1")
    return None


def _by_config(shape: Shape, path: Sequence[str], model_type: str) -> Orientation | None:
    if len(shape) == 2 and model_type in CONV1D_MODELS and set(path[-1:]) & CONV1D_MODULES:
        return in_out(f"config.json: {model_type}")
    return None


def is_confirmed_by_norm(tensor: TensorInfo, norm_lengths: Mapping[Numbered, set[int]]) -> bool:
    """Return whether a batch norm next to a `conv`, with the same number, has the length of dim 0 and not of dim 1.

    This supports the usual layout of Conv. It is no evidence against it, because a norm may also be before the
    convolution.
    """
    first, second = tensor.shape[:2]
    named = any(word.startswith("conv") for word in module_words(tensor.name))
    return named and first != second and first in norm_lengths.get(_numbered(tensor.name), ())


def norm_lengths(tensors: Mapping[str, TensorInfo]) -> dict[Numbered, set[int]]:
    """Return the lengths of the batch norms in each module, by the module and the number in the norm's own name."""
    lengths: dict[Numbered, set[int]] = {}
    for name, tensor in tensors.items():
        if name.endswith("running_mean") and len(tensor.shape) == 1:
            lengths.setdefault(_numbered(name), set()).add(tensor.shape[0])
    return lengths


def _numbered(name: str) -> Numbered:
    """Return the module around a tensor's own, and the number in the name of its own: `layer1.0` and 2 for bn2."""
    path, _ = split_name(name)
    own = path[-1] if path else ""
    return ".".join(path[:-1]), own if own.isdigit() else "".join(filter(str.isdigit, own))
