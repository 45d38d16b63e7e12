"""Stacks of experts: tensors of shape [experts, out, in] or [experts, in, out]."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from prunecli.layouts.evidence import Orientation
from prunecli.layouts.names import bias_of, is_embedding, split_name, words

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from prunecli.checkpoint import TensorInfo

LONGEST_KERNEL = 7
"""Trailing dimensions that are longer are not those of a kernel."""

_FIRST = frozenset(
    {"gate_up_proj", "gate_up", "input_linear", "w13", "gate_proj", "up_proj", "w1", "w3", "v1", "wi", "fc1"}
)
_FUSED = frozenset({"gate_up_proj", "gate_up", "input_linear", "w13"})
_SECOND = ("down_proj", "output_linear", "w2", "wo", "fc2")
_ROUTERS = ("gate", "router", "router.layer", "router.linear", "gate.wg")
_IN_OUT_MODELS = frozenset({"gpt_oss", "llama4", "llama4_text"})
"""Names of the first and the second matrix of an expert, of routers, and architectures with [experts, in, out]."""


def is_expert_stack(tensor: TensorInfo, tensors: Mapping[str, TensorInfo]) -> bool:
    """Return whether the tensor is a stack of matrices, such as `mlp.experts.gate_up_proj`.

    Its name and shape say so; or its bias has an entry for each output of each matrix; or the router in its module has
    an output for each matrix, and their inputs.
    """
    if len(tensor.shape) != 3:
        return False
    path, last = split_name(tensor.name)
    if words(last) & {"bias", "scale", "scales", "zeros", "blocks"}:
        return False
    if (named := _is_named_as_stack(path, last)) is not None:
        return named and not any("conv" in part.lower() for part in path)
    if any("moe" in words(part) for part in path) and min(tensor.shape[1:]) > LONGEST_KERNEL:
        return True
    if _by_bias(tensor, tensors):
        return True
    stack = _parts(tensor.name)
    router = _router(tensor, tensors, stack.parent) if _is_first_or_second(stack) else None
    return router is not None and router.shape[1] in tensor.shape[1:]


def _is_named_as_stack(path: Sequence[str], last: str) -> bool | None:
    """Return whether the name is that of all experts, not of one of them (`experts.0`, `expert_1`); None for others."""
    following = dict(pairwise([*path, last]))
    named = [part for part in path if words(part) & {"expert", "experts"}]
    if not named:
        return None
    return not (any(map(str.isdigit, named[-1])) or following[named[-1]].isdigit())


def flat_stack_evidence(tensor: TensorInfo, tensors: Mapping[str, TensorInfo]) -> Orientation | None:
    """Return the orientation of a matrix of the rows of all experts, such as `ffn.experts.mlp.w1` of DBRX, or None.

    Its columns are the hidden states, as those of the router: inputs of the first matrices, outputs of the second.
    """
    if len(tensor.shape) != 2 or tensor.name.endswith(".weight"):
        return None
    path, last = split_name(tensor.name)
    stack = _parts(tensor.name)
    if not _is_first_or_second(stack):
        return None
    if not _is_named_as_stack(path, last) and not any("moe" in words(part) for part in path):
        return None
    router = _router(tensor, tensors, stack.parent)
    if router is None or router.shape[1] != tensor.shape[1] or tensor.shape[0] == router.shape[0]:
        return None
    experts = router.shape[0]
    evidence = f"rows of {experts} experts: the router's inputs have the length of dim 1"
    return Orientation(1, 0, experts, evidence) if stack.own in _SECOND else Orientation(0, 1, 1, evidence)


class _Stack(NamedTuple):
    """The name of a stack as its parent module, its own name, and `.weight` or nothing."""

    parent: str
    own: str
    suffix: str


def _parts(name: str) -> _Stack:
    suffix = ".weight" if name.endswith(".weight") else ""
    parent, _, own = name.removesuffix(suffix).rpartition(".")
    return _Stack(parent, own, suffix)


def _is_first_or_second(stack: _Stack) -> bool:
    return stack.own in _FIRST or stack.own in _SECOND


def expert_evidence(
    tensor: TensorInfo, tensors: Mapping[str, TensorInfo], model_type: str, width: int | None
) -> Orientation | None:
    """Return what proves the outputs and inputs of a stack, or None.

    `width` is the length of the model's hidden states, if an embedding gives it.
    """
    return (
        _by_bias(tensor, tensors)
        or _by_pair(tensor, tensors)
        or _by_width(tensor, tensors, width)
        or (Orientation(2, 1, 1, f"config.json: {model_type}") if model_type in _IN_OUT_MODELS else None)
    )


def _by_bias(tensor: TensorInfo, tensors: Mapping[str, TensorInfo]) -> Orientation | None:
    bias = bias_of(tensor.name, tensors)
    if bias is None or len(bias.shape) != 2 or bias.shape[0] != tensor.shape[0] or tensor.shape[1] == tensor.shape[2]:
        return None
    return _either(tensor, bias.shape[1], "bias has the length of dim {}", outputs=True)


def _either(tensor: TensorInfo, length: int, evidence: str, *, outputs: bool) -> Orientation | None:
    """Return the orientation in which the one dimension of this length is that of outputs, or of inputs."""
    for dim, other in ((1, 2), (2, 1)):
        if tensor.shape[dim] == length != tensor.shape[other]:
            return Orientation(*((dim, other) if outputs else (other, dim)), 1, evidence.format(dim))
    return None


def _by_pair(tensor: TensorInfo, tensors: Mapping[str, TensorInfo]) -> Orientation | None:
    """Compare a fused first matrix with the second one: its outputs are twice the inputs of the second."""
    stack = _parts(tensor.name)
    firsts = [stack.own] if stack.own in _FUSED else sorted(_FUSED) if stack.own in _SECOND else []
    seconds = [stack.own] if stack.own in _SECOND else _SECOND
    for first in firsts:
        for second in seconds:
            pair = [tensors.get(f"{stack.parent}.{own}{stack.suffix}".lstrip(".")) for own in (first, second)]
            if all(t is not None and len(t.shape) == 3 for t in pair):
                a, b = (t.shape[1:] for t in pair if t is not None)
                if a[0] == 2 * b[1] and a[1] == b[0]:
                    return Orientation(1, 2, 1, f"dim 1 of {first} is twice dim 2 of {second}")
                if a[1] == 2 * b[0] and a[0] == b[1]:
                    return Orientation(2, 1, 1, f"dim 2 of {first} is twice dim 1 of {second}")
    return None


def _by_width(tensor: TensorInfo, tensors: Mapping[str, TensorInfo], width: int | None) -> Orientation | None:
    """Compare with the length of the hidden states, which are the inputs of the first and the outputs of the second."""
    stack = _parts(tensor.name)
    if not _is_first_or_second(stack):
        return None
    router = _router(tensor, tensors, stack.parent)
    length = router.shape[1] if router is not None else width
    if length is None:
        return None
    source = "the router's inputs" if router is not None else "an embedding's features"
    return _either(tensor, length, f"{source} have the length of dim {{}}", outputs=stack.own in _SECOND)


def _router(tensor: TensorInfo, tensors: Mapping[str, TensorInfo], parent: str) -> TensorInfo | None:
    """Return the router of a stack: a matrix [experts, inputs] in the module of the experts, or one around it."""
    rows, dims = tensor.shape[0], len(tensor.shape)
    for module in (parent, parent.rpartition(".")[0], ".".join(parent.split(".")[:-2])):
        for name in _ROUTERS:
            router = tensors.get(f"{module}.{name}.weight".lstrip("."))
            if router is None or len(router.shape) != 2 or not router.numel:
                continue
            if rows == router.shape[0] or (dims == 2 and rows % router.shape[0] == 0):
                return router
    return None


def model_width(tensors: Mapping[str, TensorInfo]) -> int | None:
    """Return the number of features of the embedding with the most entries, or None if there is no embedding."""
    tables = [t.shape for name, t in tensors.items() if len(t.shape) == 2 and is_embedding(name)]
    return max(tables)[1] if tables else None
