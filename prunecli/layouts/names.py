"""The parts of tensor names, and the roles that names alone decide."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from prunecli.checkpoint import TensorInfo

_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")

_PROJECTIONS = frozenset({"attn", "conv", "dense", "fc", "linear", "lin", "mlp", "proj", "project", "projection"})
"""Words of modules that multiply by a matrix or kernel, whatever else their name says."""

_EMBEDDINGS = frozenset({"embd", "embed", "embedder", "embedding", "embeddings", "embeds", "wte", "wpe"})

_NORMS = frozenset({"batchnorm", "bn", "gn", "groupnorm", "layernorm", "ln", "norm", "rmsnorm"})

_TRANSPOSED = frozenset({"convtr", "convtranspose", "convtransposed", "transpose", "transposed"})
"""Words of the names that modules of transposed convolutions get, and `deconv` with any end."""

_SCALES = frozenset({"layerscale", "ls", "scale"})

_LORA = r"(?<![A-Za-z])lora(?P<mark>[._])(?P<half>A|B|down|up)(?![A-Za-z])"
_OTHER_HALF = {"A": "B", "B": "A", "down": "up", "up": "down"}

_FIXED = r"(?:^|[._])(?:dfl\.conv|i?stft(?:\.conv_(?:real|imag))?|[a-z]+_i?stft|i?stft_[a-z]+)\.weight$"
"""Names of fixed transforms: the bins of YOLOv8's distribution focal loss, windows of Fourier transforms."""

_LOSS = (
    r"(?:^|[._])(?:(?:loss(?:es|_fn|_func|_function)?|criterions?|criteria|(?:[A-Z]\w*)?Loss)(?:\.\d+)?\.weights?"
    r"|(?:class|loss|pos)_weights?)$"
)
"""Names of the weights of classes and of the parts of a loss: `criterion.weight`, `class_weights`."""

_LOSS_PARTS = re.compile("oss|criteri|s_weight")
"""One of these is in each such name, which takes less time to find out."""

NUMBER = re.compile(r"\d+")


@lru_cache(maxsize=1024)
def split_name(name: str) -> tuple[tuple[str, ...], str]:
    """Return the path of a tensor's module and the last part of its name."""
    *path, last = name.split(".")
    return tuple(path), last


@lru_cache(maxsize=1024)
def words(text: str) -> frozenset[str]:
    """Return the words of a part of a name, in lower case: `qProj_weight2` has q, proj and weight."""
    return frozenset(word.lower() for word in _WORD.findall(text))


def module_words(name: str) -> frozenset[str]:
    """Return the words of the last part of the module's path that is no number: `embed_tokens` has embed and tokens."""
    path, dot, last = name.rpartition(".")
    while dot:
        path, dot, own = path.rpartition(".")
        if not own.isdigit():
            return words(own)
    return words(last)


def is_embedding(name: str) -> bool:
    """Return whether the name is that of an embedding table."""
    found = module_words(name)
    named = not found.isdisjoint(_EMBEDDINGS) or not _EMBEDDINGS.isdisjoint(words(name.rpartition(".")[2]))
    return named and found.isdisjoint(_PROJECTIONS)


def is_norm(name: str) -> bool:
    """Return whether the module is a normalization by its name."""
    found = module_words(name)
    return not found.isdisjoint(_NORMS) and found.isdisjoint(_PROJECTIONS)


def is_fixed_transform(name: str) -> bool:
    """Return whether the name is that of a transform with fixed entries."""
    return ("dfl" in name or "stft" in name) and re.search(_FIXED, name) is not None


def is_loss_weight(name: str) -> bool:
    """Return whether the name is that of a factor of a loss, which the model does not use after training."""
    return _LOSS_PARTS.search(name) is not None and re.search(_LOSS, name) is not None


def is_transposed_by_name(name: str) -> bool:
    """Return whether the module itself, or the Sequential that it is a part of, is named as a transposed convolution.

    Modules inside of others are not: `deconv_block.conv` is a convolution.
    """
    return any(word in _TRANSPOSED or word.startswith("deconv") for word in module_words(name))


def is_scale_module(name: str) -> bool:
    """Return whether the module is named as one that scales its input, such as `layer_scale`."""
    return bool(module_words(name) & _SCALES)


def other_half(name: str) -> str | None:
    """Return the name of the matrix that a LoRA matrix is multiplied with: `lora_B` for `lora_A`; None for others."""
    match = re.search(_LORA, name) if "lora" in name else None
    if match is None:
        return None
    half = "lora" + match["mark"] + _OTHER_HALF[match["half"]]
    return name[: match.start()] + half + name[match.end() :]


@lru_cache(maxsize=1024)
def bias_names(name: str) -> tuple[str, ...]:
    """Return the names that the bias of a weight may have: with `bias` for `weight` in the last part, or at its end.

    Parameters that are no weight by name, such as the experts' `down_proj`, have `_bias` at the end. The variables of a
    layer of Keras 3 have numbers, and the bias is the last one.
    """
    head, dot, last = name.rpartition(".")
    if last == "weight" and "/" not in head:
        return f"{head}{dot}bias", f"{name}_bias"
    own = [f"{head}{dot}{last.replace(word, 'bias', 1)}" for word in ("weight", "kernel") if word in last]
    path, variables, number = name.rpartition("/vars/")
    later = range(int(number) + 1, 3) if variables and number in {"0", "1"} else ()
    return (*own, f"{name}_bias", *(f"{path}{variables}{index}" for index in later))


def bias_of(name: str, tensors: Mapping[str, TensorInfo]) -> TensorInfo | None:
    """Return the bias of the weight `name` among `tensors`, or None."""
    for bias in bias_names(name):
        if bias in tensors:
            return tensors[bias]
    return None


def starred(name: str) -> str:
    """Return the name with `*` for every number, except for a position in a Sequential just before the last part."""
    path, last = split_name(name)
    if path and path[-1].isdigit():
        return ".".join([NUMBER.sub("*", part) for part in path[:-1]] + [path[-1], NUMBER.sub("*", last)])
    return NUMBER.sub("*", name)
