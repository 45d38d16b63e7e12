"""masks."""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

from prunecli.checkpoint import PathLike
from prunecli.dtypes import FLOATS, MASK_DTYPES
from prunecli.engine.score_files import MatchedTensors
from prunecli.engine.scorers import MaskReader
from prunecli.errors import CheckpointError
from prunecli.formats.open import open_checkpoint
from prunecli.io.memory import state_dict_checkpoint
from prunecli.io.reader import Reader, open_sources
from prunecli.io.threads import Worker
from prunecli.selection.select import Selector, select
from prunecli.text.escape import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from prunecli.checkpoint import TensorInfo


RUN = 1 << 20
"""Elements that are turned into booleans at once."""


def load_mask(path: PathLike) -> dict[str, Tensor]:
    """Return the masks in a file that `--mask-out` wrote, by tensor name: bool, in the tensor's shape, True = kept.

    Any checkpoint of zeros and ones will do; `_mask` at the end of a name, as torch.nn.utils.prune has it, is dropped.
    Raises CheckpointError for what is no checkpoint, holds no tensor, or holds other numbers than 0 and 1.
    """
    checkpoint, worker = open_checkpoint(path), Worker(None)
    names = [tensor.name.removesuffix("_mask") for tensor in checkpoint.tensors]
    if not names or len(set(names)) < len(names):
        what = "two masks for one tensor" if names else "no mask"
        raise CheckpointError(f"{printable(str(path))} holds {what}", hint=_MAKE_ONE)
    for tensor in checkpoint.tensors:
        _refuse_non_mask(path, tensor)
    beside = MatchedTensors(f"mask in {printable(str(path))}", checkpoint, dict(enumerate(checkpoint.tensors)))
    with open_sources(checkpoint) as sources:
        flags = MaskReader(beside, Reader(sources))

        def stays(at: int) -> Callable[[int, int], NDArray[Any]]:
            return lambda first, stop: flags.stays(worker, at, first, stop - first)

        return {
            name: _filled(tensor, stays(at)) for (at, tensor), name in zip(beside.tensors.items(), names, strict=True)
        }


def mask_from_checkpoint(
    pruned: PathLike | Mapping[str, object],
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    key: str | None = None,
) -> dict[str, Tensor]:
    """Return where the weights of a pruned checkpoint, or state_dict, are not zero, as `load_mask` returns a mask.

    The tensors are those that pruning would choose, with `include`, `exclude` and, for a path, `key` as in
    `prunecli.prune`: biases that are zero are not held at zero. Of tied tensors the first name counts. Raises
    PruneError as pruning does.
    """
    rules, worker = Selector(tuple(include), tuple(exclude)), Worker(None)
    if isinstance(pruned, (str, os.PathLike)):
        checkpoint = open_checkpoint(pruned, key=key)
        targets = [target.tensor for target in select(checkpoint, rules).targets]
        with open_sources(checkpoint) as sources:
            return _survivors(worker, Reader(sources), targets)
    memory = state_dict_checkpoint(pruned)
    memory.synchronize()
    targets = [target.tensor for target in select(memory.checkpoint, rules).targets]
    return _survivors(worker, Reader(memory.regions), targets)  # type: ignore[arg-type] # a region can be read


def _survivors(worker: Worker, reader: Reader, targets: Sequence[TensorInfo]) -> dict[str, Tensor]:
    def of(tensor: TensorInfo) -> Callable[[int, int], NDArray[Any]]:
        read, dtype = reader.range_reader(worker, tensor), FLOATS[tensor.dtype]
        return lambda first, stop: worker.host.magnitudes(read(first, stop), dtype) != 0

    return {tensor.name: _filled(tensor, of(tensor)) for tensor in targets}


def _filled(tensor: TensorInfo, stays: Callable[[int, int], NDArray[Any]]) -> Tensor:
    """Return a bool tensor of the shape of `tensor` with what `stays` says of runs of its elements."""
    torch = importlib.import_module("torch")
    mask: Tensor = torch.empty(tensor.numel, dtype=torch.bool, device="cpu")
    flat = mask.numpy()
    step = RUN if tensor.contiguous else max(tensor.numel, 1)  # one that is not is always read whole
    for first in range(0, tensor.numel, step):
        stop = min(first + step, tensor.numel)
        flat[first:stop] = stays(first, stop)
    return mask.reshape(tensor.shape)


_MAKE_ONE = "prune l1 CKPT --amount 0.5 --mask-out mask.safetensors"


def _refuse_non_mask(path: PathLike, tensor: TensorInfo) -> None:
    name = f"{printable(repr(tensor.name))} in {printable(str(path))}"
    if tensor.dtype not in MASK_DTYPES:
        raise CheckpointError(f"{name} is {tensor.dtype}, not a mask of zeros and ones", hint=_MAKE_ONE)
    if tensor.unprunable_reason is not None:
        raise CheckpointError(
            f"{name} cannot be read as a mask: {tensor.unprunable_reason}", hint="save it with .contiguous()"
        )
