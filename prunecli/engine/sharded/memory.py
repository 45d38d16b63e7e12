"""The tensors of a state_dict with DTensors: the whole tensors as a checkpoint, and the part that each process has.

Every process lists its own tensors. The lists are exchanged and joined, so that all processes select the same tensors,
also where a process has no part of a tensor, or knows nothing of it, as in a pipeline.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from prunecli.checkpoint import IN_MEMORY, Checkpoint, CheckpointFile, Span, TensorInfo, row_major
from prunecli.distributed.meshes import (
    IndexFinder,
    group_of,
    inexact_placement,
    is_dtensor,
    local_part,
    placements_of,
)
from prunecli.dtypes import BITS
from prunecli.engine.sharded.parts import Part, runs_of
from prunecli.errors import CheckpointError, UsageError
from prunecli.io.memory import NAME, TensorsInMemory, listed, named_tensors, nothing_to_prune
from prunecli.selection.aliases import tied
from prunecli.text.escape import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from torch import Tensor

    from prunecli.distributed.mesh_group import MeshGroup
    from prunecli.distributed.meshes import Indices

    Entry = dict[str, Any]  # what a process says about one tensor

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ShardedTensors:
    """The tensors of several processes.

    Attributes:
        checkpoint: The whole tensors.
        local: The parts that this process has.
        parts: The same by name, with their places in the whole tensors.
        group: The processes.
        copied: The names of tensors of which several processes have the same part, with the ranks of each part.
        refused: Why a tensor cannot be pruned exactly, by name.
        given: The tensors as they were passed.
        placements: The placements of DTensors, in words.
    """

    checkpoint: Checkpoint
    local: TensorsInMemory
    parts: Mapping[str, Part]
    group: MeshGroup
    copied: Mapping[str, Sequence[Sequence[int]]]
    refused: Mapping[str, str]
    given: Mapping[str, Tensor]
    placements: Mapping[str, str]

    @property
    def regions(self) -> Sequence[Any]:
        """The memory of this process's parts."""
        return self.local.regions

    def together(self, work: Callable[[], T]) -> T:
        """Return what `work` returns in this process; an error of one process is one of all."""
        return self.group.together(work)

    def synchronize(self) -> None:
        """Wait until every device has finished its queued work."""
        self.local.synchronize()

    def mark_changed(self, names: Sequence[str]) -> None:
        """Increment the versions of these tensors, as far as this process has parts of them."""
        own = [name for name in names if name in self.local.tensors]
        self.local.mark_changed(own)
        from torch.autograd.graph import increment_version  # noqa: PLC0415 - there are tensors, so it is loaded

        for name in own:
            if is_dtensor(self.given[name]):
                increment_version(self.given[name])


@contextmanager
def sharded_tensors(state_dict: Mapping[str, object]) -> Iterator[ShardedTensors]:
    """List the tensors of a state_dict with DTensors; all processes of their meshes call this together.

    Raises UsageError and CheckpointError as `state_dict_checkpoint` does, and where processes disagree.
    """
    given = named_tensors(state_dict)
    meshes: list[Any] = [getattr(tensor, "device_mesh", None) for tensor in given.values() if is_dtensor(tensor)]
    with group_of(meshes) as group:
        own = _Own(given)
        lists = [json.loads(text) for text in group.gather(lambda: json.dumps(own.listing()).encode())]
        joined = _Joined(group.ranks, lists)
        if not joined.tensors:
            raise nothing_to_prune(state_dict, joined.others)
        yield ShardedTensors(
            joined.checkpoint,
            own.local,
            {info.name: part for info in joined.tensors if (part := own.part(info, joined, group.rank))},
            group,
            joined.copied,
            joined.refused,
            given,
            {name: placements_of(tensor) for name, tensor in given.items() if is_dtensor(tensor)},
        )


class _Own:
    """The tensors of this process."""

    def __init__(self, given: Mapping[str, Tensor]) -> None:
        finder = IndexFinder()
        self.given = given
        self.indices: dict[str, Indices] = {}
        self._refused: dict[str, str] = {}
        plain: dict[str, Tensor] = {}
        for name, tensor in given.items():
            if not is_dtensor(tensor):
                plain[name] = tensor
            elif (placement := inexact_placement(tensor)) is not None:
                self._refused[name] = f"has the placement {placement}, whose parts are no elements of the whole tensor"
            elif (found := finder.indices(tensor)) is not None:
                self._add(name, local_part(tensor), found, plain)
        self.local = listed(plain)

    def _add(self, name: str, local: Tensor, found: Indices, plain: dict[str, Tensor]) -> None:
        expected = [len(index) for index in found]
        if list(local.shape) != expected:
            self._refused[name] = f"has a part of the shape {list(local.shape)}, not {expected} as its placements say"
        else:
            plain[name], self.indices[name] = local, found

    def listing(self) -> list[Entry]:
        """Return what the other processes get: no weight, and the runs of indices in place of all of them."""
        infos = self.local.checkpoint.tensors
        kinds = dict(self.local.checkpoint.unprunable_entries)
        leaders = {infos[i].name: infos[group[0]].name for group in tied(infos) for i in group}
        by_name = {info.name: info for info in infos}
        return [self._entry(name, by_name.get(name), kinds.get(name), leaders.get(name)) for name in self.given]

    def _entry(self, name: str, info: TensorInfo | None, kind: str | None, leader: str | None) -> Entry:
        tensor = self.given[name]
        entry: Entry = {"name": name, "shape": list(tensor.shape), "type": str(tensor.dtype), "kind": kind}
        entry |= {"refused": self._refused.get(name), "leader": leader, "dtype": None, "runs": None, "reason": None}
        if info is not None:
            entry |= {"dtype": info.dtype, "reason": info.unprunable_reason, "runs": self._runs(info)}
        elif kind is None:
            entry["dtype"] = _dtype_of(tensor)
        return entry

    def _runs(self, info: TensorInfo) -> list[list[list[int]]]:
        indices = self.indices.get(info.name)
        if indices is None:
            return [[[0, size]] for size in info.shape]
        return [np.stack(runs_of(index), axis=1).tolist() for index in indices]

    def part(self, info: TensorInfo, joined: _Joined, rank: int) -> Part | None:
        """Return the part of a tensor that this process has."""
        local = next((t for t in self.local.checkpoint.tensors if t.name == info.name), None)
        if local is None or not local.numel or info.name in joined.refused:
            return None
        indices = self.indices.get(info.name) or tuple(np.arange(size) for size in info.shape)
        placements = placements_of(self.given[info.name]) if info.name in self.indices else ""
        return Part(info, local, indices, joined.counts(info.name, rank), placements)


def _dtype_of(tensor: Tensor) -> str | None:
    from prunecli.dtypes import TORCH_DTYPES  # noqa: PLC0415 - for tensors without a part

    return TORCH_DTYPES.get(str(tensor.dtype).removeprefix("torch."))


class _Joined:
    """The lists of all processes as one: tensors in the order of the first list, and then those of the others."""

    def __init__(self, ranks: Sequence[int], lists: Sequence[Sequence[Entry]]) -> None:
        entries: dict[str, list[tuple[int, Entry]]] = {}
        for rank, own in zip(ranks, lists, strict=True):
            for entry in own:
                entries.setdefault(entry["name"], []).append((rank, entry))
        self.refused: dict[str, str] = {}
        self.copied: dict[str, list[list[int]]] = {}
        self._counting: dict[str, set[int]] = {}
        kinds = {name: next((e["kind"] for _, e in own if e["kind"]), None) for name, own in entries.items()}
        self.others = tuple((name, kind) for name, kind in kinds.items() if kind is not None)
        plain = {name: own for name, own in entries.items() if kinds[name] is None}
        files = _Files()
        self.tensors = tuple(self._joined(name, own, files) for name, own in plain.items())
        path = Path(NAME)
        self.checkpoint = Checkpoint(
            path,
            IN_MEMORY,
            tuple(CheckpointFile(path, size) for size in files.sizes),
            self.tensors,
            unprunable_entries=self.others,
        )

    def counts(self, name: str, rank: int) -> bool:
        """Return whether a process counts its part of a tensor, and not another one with the same part."""
        return rank in self._counting[name]

    def _joined(self, name: str, own: Sequence[tuple[int, Entry]], files: _Files) -> TensorInfo:
        first_rank, first = own[0]
        for rank, entry in own:
            for key in ("shape", "type"):
                if entry[key] != first[key]:
                    raise CheckpointError(
                        f"{printable(repr(name))} has the {key} {first[key]} on rank {first_rank} "
                        f"and {entry[key]} on rank {rank}"
                    )
        shape, dtype = tuple(first["shape"]), next((e["dtype"] for _, e in own if e["dtype"]), "")
        self._find_parts(name, shape, own)
        size = prod(shape) * BITS[dtype] // 8
        leader = next((e["leader"] for _, e in own if e["leader"]), name)
        reason = next((e["reason"] for _, e in own if e["reason"]), None)
        span = Span(0, size)
        return TensorInfo(
            name, dtype, shape, row_major(shape), files.home(leader, size), span, unprunable_reason=reason
        )

    def _find_parts(self, name: str, shape: tuple[int, ...], own: Sequence[tuple[int, Entry]]) -> None:
        """Find which process counts each part; the parts must make up the tensor."""
        ranks: dict[str, list[int]] = {}
        covered = 0
        for rank, entry in own:
            sizes = [sum(high - low for low, high in runs) for runs in entry["runs"] or []]
            if entry["runs"] is None or not prod(sizes):
                continue
            having = ranks.setdefault(json.dumps(entry["runs"]), [])
            covered += 0 if having else prod(sizes)
            having.append(rank)
        self._counting[name] = {having[0] for having in ranks.values()}
        if any(len(having) > 1 for having in ranks.values()):
            self.copied[name] = list(ranks.values())
        refused = next((e["refused"] for _, e in own if e["refused"]), None)
        if refused is None and covered != prod(shape):
            refused = f"is not complete: the parts of {len(own)} processes have {covered} of its {prod(shape)} weights"
        if refused is not None:
            self.refused[name] = refused


class _Files:
    """The sizes of the storages of whole tensors, of which tied ones share one."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self.sizes: list[int] = []

    def home(self, leader: str, size: int) -> int:
        """Return the number of the storage of the tensors that are tied to `leader`."""
        if leader not in self._numbers:
            self._numbers[leader] = len(self.sizes)
            self.sizes.append(size)
        return self._numbers[leader]


def check_exact(memory: ShardedTensors, targets: Sequence[TensorInfo]) -> None:
    """Raise UsageError for a target that cannot be pruned exactly."""
    for tensor in targets:
        name = printable(repr(tensor.name))
        if (why := memory.refused.get(tensor.name)) is not None:
            placed = memory.placements.get(tensor.name)
            hint = "prune after `redistribute` to Shard or Replicate" if placed else None
            raise UsageError(f"{name} {why}", hint=hint)
        if tensor.scale is not None:
            raise UsageError(
                f"{name} holds codes with a scale, which cannot be pruned in parts",
                hint="prune the checkpoint file, or `full_tensor()` of it",
            )
