"""Masks in other files: a number per weight as torch and others write them, or a bit as this package does."""

from __future__ import annotations

from dataclasses import field, replace
from math import prod
from typing import TYPE_CHECKING

from prunecli.checkpoint import row_major
from prunecli.errors import CheckpointError
from prunecli.formats.safetensors.mask_writer import BASE, BITMASK, SHAPE, bitmask_shape
from prunecli.formats.strict_json import parse_json_object
from prunecli.io.files import Source
from prunecli.text.escape import printable
from prunecli.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Mapping

    from prunecli.checkpoint import Checkpoint, TensorInfo

DIGEST = 64
"""The digits of a SHA-256."""


@dataclass(frozen=True, slots=True)
class FoundMasks:
    """The masks of a file.

    Attributes:
        tensors: The masks by name, each as a tensor of the shape of its weights. One of bits is called BOOL.
        bits: The bytes of those that are stored as bits, by the same name.
        base: The SHA-256 of the weights that a mask was made of, by the same name, where the file has it.
    """

    tensors: Mapping[str, TensorInfo]
    bits: Mapping[str, TensorInfo] = field(default_factory=dict)
    base: Mapping[str, str] = field(default_factory=dict)


def masks_in(checkpoint: Checkpoint) -> FoundMasks:
    """Return the masks of a file; CheckpointError if the shape of one is missing or is not that of its bits."""
    stored = {tensor.name: tensor for tensor in checkpoint.tensors}
    bits = {
        name.removesuffix(BITMASK): tensor
        for name, tensor in stored.items()
        if name.endswith(BITMASK) and f"{name.removesuffix(BITMASK)}{SHAPE}" in stored
    }
    taken = {name + end for name in bits for end in (BITMASK, SHAPE)}
    tensors = {name: tensor for name, tensor in stored.items() if name not in taken}
    for name, tensor in bits.items():
        if name in tensors:
            raise CheckpointError(f"{_file(checkpoint)} has two masks for {printable(repr(name))}")
        shape = _shape(checkpoint, stored[name + SHAPE], tensor)
        tensors[name] = replace(tensor, name=name, dtype="BOOL", shape=shape, strides=row_major(shape))
    return FoundMasks(tensors, bits, _base(checkpoint))


def _shape(checkpoint: Checkpoint, tensor: TensorInfo, bits: TensorInfo) -> tuple[int, ...]:
    """Return the shape that `tensor` holds, after checking that `bits` has a bit for each weight."""
    shape: tuple[int, ...] = ()
    plain = tensor.contiguous and bits.contiguous and not tensor.big_endian
    if plain and (tensor.dtype, bits.dtype, len(tensor.shape)) == ("I64", "U8", 1):
        data = memoryview(bytearray(tensor.nbytes))
        file = checkpoint.files[tensor.file]
        source = Source(file.path, file.size, file.modified)
        try:
            source.read(data, tensor.start)
        finally:
            source.close()
        shape = tuple(int.from_bytes(data[at : at + 8], "little", signed=True) for at in range(0, len(data), 8))
        if all(size >= 0 for size in shape) and bits.shape == bitmask_shape(shape) and prod(shape) < 1 << 63:
            return shape
    raise CheckpointError(
        f"{_file(checkpoint)} is damaged: {printable(repr(bits.name))} does not have a bit for each weight of the "
        f"shape in {printable(repr(tensor.name))}"
    )


def _base(checkpoint: Checkpoint) -> dict[str, str]:
    text = checkpoint.metadata.get(BASE)
    if text is None:
        return {}
    what = f"{_file(checkpoint)}: {BASE} of its metadata"
    digests = {name: value for name, value in parse_json_object(text.encode(), what) if isinstance(value, str)}
    if any(len(digest) != DIGEST for digest in digests.values()):
        raise CheckpointError(f"{what} has a value that is not a SHA-256")
    return digests


def _file(checkpoint: Checkpoint) -> str:
    return printable(str(checkpoint.path))
