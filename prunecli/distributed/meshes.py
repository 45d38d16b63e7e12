"""DTensors: the part of one that a process has, and the processes that have the other parts.

torch is imported when a function is called.
"""

from __future__ import annotations

import importlib
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from prunecli.distributed.mesh_group import MeshGroup
from prunecli.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    Indices = tuple[NDArray[np.int64], ...]

EXACT = ("Shard", "_StridedShard", "Replicate")
"""The placements under which a part consists of elements of the whole tensor."""


def is_dtensor(value: object) -> bool:
    """Return whether `value` is a DTensor; this imports nothing."""
    return type(value).__name__ == "DTensor" and hasattr(value, "placements")


def local_part(tensor: Any) -> Tensor:  # noqa: ANN401 - a DTensor
    """Return the part of a DTensor that this process has, which shares its memory."""
    torch = importlib.import_module("torch")
    with torch.no_grad():
        local: Any = tensor.to_local()
    if hasattr(local, "wait"):  # it is on its way from other processes
        local = local.wait()
    plain: Tensor = local.detach()
    return plain


def placements_of(tensor: Any) -> str:  # noqa: ANN401 - a DTensor
    """Return the placements of a DTensor in words, such as "(Shard(dim=0),)"."""
    return "(" + "".join(f"{placement!r}, " for placement in tensor.placements).removesuffix(" ") + ")"


def inexact_placement(tensor: Any) -> str | None:  # noqa: ANN401 - a DTensor
    """Return a placement whose parts are not elements of the whole tensor, such as "Partial(sum)", or None."""
    others = (repr(placement) for placement in tensor.placements if type(placement).__name__ not in EXACT)
    return next(others, None)


OLDEST = (2, 6)
"""The first version of torch whose `distribute_tensor` takes None as the source."""


class IndexFinder:
    """Finds which elements of DTensors this process has."""

    def __init__(self) -> None:
        """Know nothing yet. UsageError if torch is too old to say who has what without an exchange."""
        version = importlib.import_module("torch").__version__
        if tuple(int(number) for number in version.split(".")[:2]) < OLDEST:
            raise UsageError(f"DTensors need torch 2.6 or later, and this is {version}", hint="pip install -U torch")
        self._known: dict[object, NDArray[np.int64]] = {}

    def indices(self, tensor: Any) -> Indices | None:  # noqa: ANN401 - a DTensor
        """Return the indices along each dimension of the elements that this process has; None outside the mesh."""
        if tensor.device_mesh.get_coordinate() is None:
            return None
        return tuple(self._along(tensor, dim) for dim in range(tensor.dim()))

    def _along(self, tensor: Any, dim: int) -> NDArray[np.int64]:  # noqa: ANN401 - a DTensor
        mesh, placements, size = tensor.device_mesh, tensor.placements, tensor.shape[dim]
        along = tuple(repr(p) if getattr(p, "dim", None) == dim else "" for p in placements)
        key = (id(mesh), size, along)
        if key not in self._known:
            self._known[key] = _distributed_range(mesh, [_of_vector(p, dim) for p in placements], size)
        return self._known[key]


def _of_vector(placement: Any, dim: int) -> Any:  # noqa: ANN401 - placements
    """Return the placement of the numbers 0, 1 and so on along `dim`."""
    types = importlib.import_module("torch.distributed.tensor.placement_types")
    if getattr(placement, "dim", None) != dim:
        return types.Replicate()
    if type(placement).__name__ == "Shard":
        return types.Shard(0)
    return types._StridedShard(0, split_factor=placement.split_factor)  # noqa: SLF001 - FSDP2 makes them


def _distributed_range(mesh: Any, placements: Sequence[Any], size: int) -> NDArray[np.int64]:  # noqa: ANN401 - of torch
    torch = importlib.import_module("torch")
    numbers = torch.arange(size, device=mesh.device_type)
    tensor = importlib.import_module("torch.distributed.tensor")
    # Without a source no process sends anything: each takes its part of its own numbers.
    part = tensor.distribute_tensor(numbers, mesh, placements, src_data_rank=None).to_local()
    found: NDArray[np.int64] = part.cpu().numpy()
    return found


def laid_out_like(whole: Tensor, like: Any) -> Tensor:  # noqa: ANN401 - a DTensor
    """Return the part of a whole tensor that this process has of the DTensor `like`, on the same device.

    Every process has the same `whole`. No process sends anything.
    """
    indices = IndexFinder().indices(like)
    if indices is None:
        return whole.new_empty(0)
    torch = importlib.import_module("torch")
    for dim, index in enumerate(indices):
        if len(index) < whole.shape[dim]:
            whole = whole.index_select(dim, torch.from_numpy(index).to(whole.device))
    return whole.to(local_part(like).device)


def mask_of_part(mask: Any, parameter: Any) -> Tensor:  # noqa: ANN401 - tensors or DTensors
    """Return the part of a mask that belongs to the part of a parameter that this process has."""
    if not is_dtensor(parameter):
        whole: Tensor = mask.full_tensor() if is_dtensor(mask) else mask
        return whole
    if not is_dtensor(mask):
        return laid_out_like(mask, parameter)
    return local_part(mask.redistribute(placements=parameter.placements))


def placed_as(tensor: Any, parameter: Any, part: Tensor) -> Tensor:  # noqa: ANN401 - DTensors
    """Return `part`, that of a parameter, for a DTensor of the parameter's shape that may be placed in another way.

    A gradient may be a sum of which each process has a summand.
    """
    if tensor.placements == parameter.placements:
        return part
    torch_tensor = importlib.import_module("torch.distributed.tensor")
    placements = [torch_tensor.Replicate() if p.is_partial() else p for p in tensor.placements]
    return local_part(as_dtensor(part, parameter).redistribute(placements=placements))


def as_dtensor(part: Tensor, like: Any) -> Any:  # noqa: ANN401 - a DTensor
    """Return a DTensor that is placed as `like`, of which this process has `part`."""
    distributed_tensor = importlib.import_module("torch.distributed.tensor").DTensor
    return distributed_tensor.from_local(
        part, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    )


@contextmanager
def group_of(meshes: Iterable[Any]) -> Iterator[MeshGroup]:
    """Return the group of all processes of the meshes; of a mesh that is a slice of another one, those of the other."""
    roots = list({id(root): root for root in map(_root, meshes)}.values())
    ranks = sorted({rank for root in roots for rank in root.mesh.flatten().tolist()})
    distributed, made = importlib.import_module("torch.distributed"), None
    if len(ranks) == distributed.get_world_size():
        handle = distributed.group.WORLD
    elif len(roots) == 1 and roots[0].ndim == 1:
        handle = roots[0].get_group()
    else:
        handle = made = distributed.new_group(ranks, use_local_synchronization=True)
    try:
        yield MeshGroup(handle, ranks, _device(handle, roots[0].device_type))
    finally:
        if made is not None:
            distributed.destroy_process_group(made)


def _root(mesh: Any) -> Any:  # noqa: ANN401 - meshes
    find = getattr(mesh, "_get_root_mesh", None)
    return mesh if find is None else find()


def _device(handle: Any, device_type: str) -> str:  # noqa: ANN401 - a ProcessGroup
    """Return the device of the tensors that a process group exchanges."""
    kinds = {device.type for device in getattr(handle, "_device_types", ())}
    return "cpu" if "cpu" in kinds else device_type
