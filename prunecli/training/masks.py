"""Masks as torch tensors, from mask files and from the zeros of pruned checkpoints.

torch is imported when a function is called.
"""

from __future__ import annotations

import importlib
import os
from functools import partial
from typing import TYPE_CHECKING, Any

from prunecli.checkpoint import Keys, PathLike
from prunecli.distributed.meshes import as_dtensor, is_dtensor
from prunecli.dtypes import FLOATS, MASK_DTYPES
from prunecli.engine.mask_files import masks_in
from prunecli.engine.score_files import MatchedTensors
from prunecli.engine.scorers import MaskReader
from prunecli.errors import Argument, CheckpointError
from prunecli.formats.open import open_checkpoint
from prunecli.io.memory import TensorsInMemory, state_dict_checkpoint
from prunecli.io.memory_reader import MemoryReader, on_host
from prunecli.io.reader import Reader, open_sources
from prunecli.io.threads import Worker
from prunecli.kernels.masks import nonzero
from prunecli.selection.select import Selector, select
from prunecli.text.escape import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from prunecli.checkpoint import TensorInfo


RUN = 1 << 20
"""Elements that are converted to booleans at once."""

_HINT = ("write a mask when you prune: ", Argument("mask_out", "mask.safetensors"))


def load_mask(path: PathLike) -> dict[str, Tensor]:
    """Return the masks in a file, such as one that `prune` writes to `mask_out`.

    Args:
        path: A file of `mask_out`, or a checkpoint whose tensors hold zeros (pruned) and ones (kept): booleans,
            integers or floats.

    Returns:
        A bool tensor for each tensor of the file, in its shape, True = kept. Names lose the ending `_mask`, which
        torch.nn.utils.prune appends.

    Raises:
        CheckpointError: The file is not a checkpoint, has no tensor, has two masks for one tensor, or has other
            numbers than 0 and 1.
    """
    checkpoint, worker = open_checkpoint(path), Worker(None)
    found = masks_in(checkpoint)
    tensors = dict(enumerate(found.tensors.values()))
    names = [name.removesuffix("_mask") for name in found.tensors]
    if not names or len(set(names)) < len(names):
        problem = "two masks for one tensor" if names else "no mask"
        raise CheckpointError(f"{printable(str(path))} holds {problem}", hint=_HINT)
    for tensor in tensors.values():
        _check_mask_tensor(path, tensor)
    bits = {index: found.bits[tensor.name] for index, tensor in tensors.items() if tensor.name in found.bits}
    with open_sources(checkpoint) as sources:
        matched = MatchedTensors(f"mask in {printable(str(path))}", checkpoint, tensors, bits)
        mask_reader = MaskReader(matched, Reader(sources))
        return {
            name: _filled(tensors[index], partial(mask_reader.keep, worker, index)) for index, name in enumerate(names)
        }


def mask_from_checkpoint(
    pruned: PathLike | Mapping[str, object],
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    key: Keys = None,
) -> dict[str, Tensor]:
    """Return masks that are True where the weights of a pruned checkpoint or state_dict are not zero.

    Args:
        pruned: The path of a checkpoint, or a flat dict of torch tensors by name. If some are DTensors, all processes
            of their device meshes call this together.
        include: Patterns over tensor names, as in `prunecli.prune`. By default the tensors that pruning would select:
            a bias that is zero gets no mask.
        exclude: Patterns of the tensors that get no mask.
        key: Where the state_dict is in the checkpoint, as in `prunecli.prune`; only with a path.

    Returns:
        A bool tensor for each selected tensor, in its shape, True = not zero, and on the device of a tensor of a
        state_dict. The mask of a DTensor is a DTensor with the same placements. Of tied tensors the first name is used.

    Raises:
        PruneError: The checkpoint cannot be read, or the patterns select no tensor.
    """
    selector, worker = Selector(tuple(include), tuple(exclude)), Worker(None)
    if isinstance(pruned, (str, os.PathLike)):
        checkpoint = open_checkpoint(pruned, key=key)
        targets = [target.tensor for target in select(checkpoint, selector).targets]
        with open_sources(checkpoint) as sources:
            return _nonzero_masks(worker, Reader(sources), targets)
    if any(map(is_dtensor, pruned.values())):
        return _masks_of_parts(worker, pruned, selector)
    memory = state_dict_checkpoint(pruned)
    memory.synchronize()
    targets = [target.tensor for target in select(memory.checkpoint, selector).targets]
    return _masks_in_memory(worker, memory, targets)


def _masks_in_memory(worker: Worker, memory: TensorsInMemory, targets: Sequence[TensorInfo]) -> dict[str, Tensor]:
    reader = MemoryReader(memory)
    here = [on_host(memory.tensors[tensor.name]) for tensor in targets]
    masks = _nonzero_masks(worker, reader, [tensor for tensor, own in zip(targets, here, strict=True) if own])
    there = [tensor for tensor, own in zip(targets, here, strict=True) if not own]
    masks.update((tensor.name, _on_device(worker, reader, tensor)) for tensor in there)
    return {tensor.name: masks[tensor.name] for tensor in targets}


def _masks_of_parts(worker: Worker, pruned: Mapping[str, object], selector: Selector) -> dict[str, Tensor]:
    """Return the masks of tensors of which some are DTensors."""
    from prunecli.engine.sharded.memory import check_exact, sharded_tensors  # noqa: PLC0415 - for DTensors only

    def select_targets() -> list[TensorInfo]:
        targets = [target.tensor for target in select(memory.checkpoint, selector).targets]
        check_exact(memory, targets)
        return targets

    with sharded_tensors(pruned) as memory:
        memory.synchronize()
        targets = memory.together(select_targets)
        local = {tensor.name: tensor for tensor in memory.local.checkpoint.tensors}
        own = [local[tensor.name] for tensor in targets if tensor.name in local]
        masks = _masks_in_memory(worker, memory.local, own)
    given: Mapping[str, Any] = memory.given
    return {name: as_dtensor(mask, given[name]) if is_dtensor(given[name]) else mask for name, mask in masks.items()}


def _nonzero_masks(worker: Worker, reader: Reader, targets: Sequence[TensorInfo]) -> dict[str, Tensor]:
    def keep(tensor: TensorInfo) -> Callable[[int, int], NDArray[Any]]:
        read, dtype = reader.range_reader(worker, tensor), FLOATS[tensor.dtype]
        return lambda first, count: nonzero(worker.host, read(first, first + count), dtype)

    return {tensor.name: _filled(tensor, keep(tensor)) for tensor in targets}


def _on_device(worker: Worker, reader: MemoryReader, tensor: TensorInfo) -> Tensor:
    """Return where a tensor on a device is not zero, in its shape and on that device."""
    array, read = reader.array(tensor), reader.array_reader(worker, tensor)
    mask: Tensor = array.new_empty(tensor.numel, dtype=importlib.import_module("torch").bool)
    step = reader.run_size(tensor) // tensor.itemsize
    for first in range(0, tensor.numel, step):
        stop = min(first + step, tensor.numel)
        weights = read(first, stop)
        mask[first:stop] = worker.ops_of(weights).magnitudes(weights, FLOATS[tensor.dtype]) != 0
    return mask.reshape(tensor.shape)


def _filled(tensor: TensorInfo, keep: Callable[[int, int], NDArray[Any]]) -> Tensor:
    """Return a bool tensor of the shape of `tensor` with the values of `keep(first, count)`."""
    torch = importlib.import_module("torch")
    mask: Tensor = torch.empty(tensor.numel, dtype=torch.bool, device="cpu")
    flat = mask.numpy()
    step = RUN if tensor.contiguous else max(tensor.numel, 1)  # a strided tensor is always read whole
    for first in range(0, tensor.numel, step):
        count = min(step, tensor.numel - first)
        flat[first : first + count] = keep(first, count)
    return mask.reshape(tensor.shape)


def _check_mask_tensor(path: PathLike, tensor: TensorInfo) -> None:
    name = f"{printable(repr(tensor.name))} in {printable(str(path))}"
    if tensor.dtype not in MASK_DTYPES:
        raise CheckpointError(f"{name} is {tensor.dtype}, not a mask of zeros and ones", hint=_HINT)
    if tensor.unprunable_reason is not None:
        raise CheckpointError(
            f"{name} cannot be read as a mask: {tensor.unprunable_reason}", hint="save it with .contiguous()"
        )
