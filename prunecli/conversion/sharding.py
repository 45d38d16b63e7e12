"""Divide tensors into shards, and name the files and their index, as the Hub's libraries do."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from prunecli.conversion.contents import identity
from prunecli.formats.safetensors.writer import NewTensor

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

STEMS = {"safetensors": ("model", ".safetensors"), "torch": ("pytorch_model", ".bin")}
"""The name and the suffix of a model by the family of its format."""


def divided(tensors: Sequence[NewTensor], most: int) -> list[list[NewTensor]]:
    """Return the tensors in shards of at most `most` bytes; a larger tensor has a shard of its own.

    Tensors that are the same elements are in one shard and are counted once.
    """
    shards: list[list[NewTensor]] = []
    current: list[NewTensor] = []
    size, home = 0, dict[object, list[NewTensor]]()
    for tensor in tensors:
        same = home.get(identity(tensor))
        if same is not None:
            same.append(tensor)
            continue
        if tensor.nbytes > most:
            shards.append([tensor])
            home[identity(tensor)] = shards[-1]
            continue
        if size + tensor.nbytes > most:
            shards.append(current)
            current, size = [], 0
        current.append(tensor)
        home[identity(tensor)] = current
        size += tensor.nbytes
    shards.append(current)
    return [shard for shard in shards if shard]


def file_names(family: str, count: int) -> list[str]:
    """Return the names of `count` shards; one shard has the name of a whole model."""
    stem, suffix = STEMS[family]
    if count == 1:
        return [f"{stem}{suffix}"]
    return [f"{stem}-{number:05d}-of-{count:05d}{suffix}" for number in range(1, count + 1)]


def index_of(
    family: str, names: Sequence[str], shards: Sequence[Sequence[NewTensor]], metadata: Mapping[str, str]
) -> tuple[str, bytes]:
    """Return the name and the content of the index; its total size counts tensors that are the same elements once."""
    stem, suffix = STEMS[family]
    sizes = {identity(tensor): tensor.nbytes for shard in shards for tensor in shard}
    weight_map = {tensor.name: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
    index = {"metadata": {**metadata, "total_size": sum(sizes.values())}, "weight_map": weight_map}
    text = json.dumps(index, indent=2, sort_keys=True) + "\n"
    return f"{stem}{suffix}.index.json", text.encode()
