"""Writers of distributed checkpoints with chunks of any shape, as torch writes them from several ranks.

The metadata is pickled with torch's own classes.
"""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from functools import lru_cache
from itertools import product
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load, save

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
    from pathlib import Path

Cut = tuple[tuple[int, ...], tuple[int, ...]]
"""The offsets and the sizes of a chunk."""


def grid(shape: Sequence[int], counts: Sequence[int]) -> list[Cut]:
    """Return the chunks of a tensor that is cut into so many parts along each dimension, as torch.chunk cuts it."""
    edges = []
    for dim, size in enumerate(shape):
        step = -(-size // counts[dim]) if dim < len(counts) and size else max(size, 1)
        edges.append([(low, min(low + step, size) - low) for low in range(0, max(size, 1), step)])
    return [(tuple(low for low, _ in part), tuple(n for _, n in part)) for part in product(*edges)]


def rows(count: int) -> Callable[[str, torch.Tensor], list[Cut]]:
    """Return a function that cuts tensors into ranges of rows, for so many ranks."""
    return lambda _, tensor: grid(tensor.shape, (count,))


def mixed(_: str, tensor: torch.Tensor) -> list[Cut]:
    """Cut a tensor into rows, columns, both, or not at all, by its shape."""
    if tensor.dim() < 2:
        return grid(tensor.shape, (1,))
    return grid(tensor.shape, ((1, 3), (2, 2), (3, 1), (2, 3, 2))[sum(tensor.shape) % 4])


def save_distributed(
    folder: Path,
    state: Mapping[str, Any],
    cuts: Callable[[str, torch.Tensor], list[Cut]],
    *,
    layout: str = "torch",
    ranks: int = 2,
) -> Path:
    """Write a nested dict of tensors and other values to `folder`, chunk i of a tensor by rank i modulo `ranks`.

    The layout is "torch" (an archive for each chunk), "safetensors" (a file of safetensors for each rank), or
    "headers" (files of safetensors alone).
    """
    folder.mkdir(parents=True, exist_ok=True)
    flat = dict(flattened(state))
    chunks: list[dict[str, tuple[torch.Tensor, Cut]]] = [{} for _ in range(ranks)]
    objects = {name: value for name, (_, value) in flat.items() if not isinstance(value, torch.Tensor)}
    for name, (_, value) in flat.items():
        if isinstance(value, torch.Tensor):
            for number, cut in enumerate(cuts(name, value)):
                offsets, sizes = cut
                part = value.detach()[tuple(slice(o, o + n) for o, n in zip(offsets, sizes, strict=True))]
                key = name if name not in chunks[number % ranks] else f"{name}\0{number}"
                chunks[number % ranks][key] = (part.clone(memory_format=torch.contiguous_format), cut)
    if layout == "headers":
        for rank, own in enumerate(chunks):
            name = f"shard-{rank + 1:05}-model-00001-of-00001.safetensors"
            (folder / name).write_bytes(_safetensors(own))
        return folder
    places = {}
    for rank, own in enumerate(chunks):
        places |= _write_file(folder / f"__{rank}_0.distcp", own, objects if rank == ranks - 1 else {}, layout)
    (folder / ".metadata").write_bytes(_metadata(flat, cuts, places))
    return folder


def flattened(state: Mapping[str, Any], path: tuple[str, ...] = ()) -> list[tuple[str, tuple[tuple[str, ...], Any]]]:
    """Return (name, (path, value)) for each value of a nested dict."""
    found = []
    for key, value in state.items():
        if isinstance(value, dict) and value:
            found += flattened(value, (*path, str(key)))
        else:
            found.append((".".join((*path, str(key))), ((*path, str(key)), value)))
    return found


def _write_file(
    path: Path, chunks: Mapping[str, tuple[torch.Tensor, Cut]], objects: Mapping[str, Any], layout: str
) -> dict[tuple[str, tuple[int, ...] | None], tuple[str, int, int]]:
    """Write the file of one rank, and return the places of its items."""
    places: dict[tuple[str, tuple[int, ...] | None], tuple[str, int, int]] = {}
    content = io.BytesIO()
    for name, value in objects.items():
        start = content.tell()
        content.write(_saved(value))
        places[name, None] = (path.name, start, content.tell() - start)
    for key, (part, (offsets, _)) in chunks.items():
        start = content.tell()
        if layout == "torch":
            content.write(_saved(part))
        length = content.tell() - start if layout == "torch" else part.nbytes
        places[key.partition("\0")[0], offsets] = (path.name, start, length)
    if layout == "safetensors":
        content.write(_safetensors(chunks))
    path.write_bytes(content.getvalue())
    return places


def _saved(value: object) -> bytes:
    content = io.BytesIO()
    torch.save(value, content)
    return content.getvalue()


def _safetensors(chunks: Mapping[str, tuple[torch.Tensor, Cut]]) -> bytes:
    if any("\0" in name for name in chunks):
        raise ValueError("a file of safetensors has one chunk of a tensor")
    info = {name: {"saved_offsets": list(offsets)} for name, (_, (offsets, _)) in chunks.items()}
    metadata = {"DCP_SHARDING_INFO": json.dumps(info), "DCP_VERSION": "1.0", "format": "pt"}
    return save({name: part for name, (part, _) in chunks.items()}, metadata=metadata)


def _metadata(
    flat: Mapping[str, tuple[tuple[str, ...], Any]],
    cuts: Callable[[str, torch.Tensor], list[Cut]],
    places: Mapping[tuple[str, tuple[int, ...] | None], tuple[str, int, int]],
) -> bytes:
    from torch.distributed.checkpoint import metadata as classes
    from torch.distributed.checkpoint.filesystem import _StorageInfo

    tensors: dict[str, Any] = {}
    for name, (_, value) in flat.items():
        if not isinstance(value, torch.Tensor):
            tensors[name] = classes.BytesStorageMetadata()
            continue
        chunks = [classes.ChunkStorageMetadata(torch.Size(o), torch.Size(n)) for o, n in cuts(name, value)]
        properties = classes.TensorProperties.create_from_tensor(value)
        tensors[name] = classes.TensorStorageMetadata(properties, value.size(), chunks)
    stored = {
        classes.MetadataIndex(name, offsets, None if offsets is None else 0): _StorageInfo(*place)
        for (name, offsets), place in places.items()
    }
    paths = {name: path for name, (path, _) in flat.items()}
    whole = classes.Metadata(tensors, paths, stored, classes.StorageMeta(), "1.0.0")
    return pickle.dumps(whole)


def is_distributed(folder: Path) -> bool:
    """Return whether `save_distributed` wrote a folder."""
    return (folder / ".metadata").exists() or any(folder.glob("shard-*.safetensors"))


def read_distributed(folder: Path) -> dict[str, Any]:
    """Return the nested dict that was saved: read by torch, or from the headers of safetensors where torch cannot.

    A checkpoint that has not changed is read once.
    """
    return _read(folder, *sorted((path.name, path.stat().st_mtime_ns) for path in folder.iterdir()))


@lru_cache(maxsize=64)
def _read(folder: Path, *_: tuple[str, int]) -> dict[str, Any]:
    from torch.distributed.checkpoint import FileSystemReader, HuggingFaceStorageReader
    from torch.distributed.checkpoint.default_planner import _EmptyStateDictLoadPlanner
    from torch.distributed.checkpoint.state_dict_loader import _load_state_dict

    if (folder / ".metadata").exists() and not zipfile.is_zipfile(folder / "__0_0.distcp"):
        return _read_safetensors(folder)
    reader = FileSystemReader(folder) if (folder / ".metadata").exists() else HuggingFaceStorageReader(str(folder))
    state: dict[str, Any] = {}
    _load_state_dict(state, storage_reader=reader, planner=_EmptyStateDictLoadPlanner(), no_dist=True)
    return state


def _read_safetensors(folder: Path) -> dict[str, Any]:
    metadata = _unpickled(folder)
    state: dict[str, Any] = {}
    parts = [part for path in sorted(folder.glob("*.distcp")) for part in _parts(path, metadata)]
    for name, described in metadata.state_dict_metadata.items():
        path = metadata.planner_data[name]
        if hasattr(described, "size"):
            _put(state, path, _joined(described, [(offsets, t) for own, offsets, t, _ in parts if own == name]))
    for index, place in metadata.storage_data.items():
        if index.offset is None:
            content = (folder / place.relative_path).read_bytes()[place.offset : place.offset + place.length]
            _put(state, metadata.planner_data[index.fqn], torch.load(io.BytesIO(content), weights_only=False))
    return state


def _joined(described: Any, parts: Sequence[tuple[Sequence[int], torch.Tensor]]) -> torch.Tensor:  # noqa: ANN401 - torch's
    tensor = torch.empty(described.size, dtype=described.properties.dtype)
    for offsets, part in parts:
        tensor[tuple(slice(o, o + n) for o, n in zip(offsets, part.shape, strict=True))] = part
    return tensor


def _parts(path: Path, metadata: Any) -> list[tuple[str, list[int], torch.Tensor, int]]:  # noqa: ANN401 - torch's
    """Return the name, the offsets, the elements and the first byte of each part of a tensor in a file."""
    places = metadata.storage_data.items() if metadata else ()
    objects = [place for index, place in places if index.offset is None and place.relative_path == path.name]
    start = max((place.offset + place.length for place in objects), default=0)
    whole = path.read_bytes()[start:]
    data = 8 + int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8:data])
    info = json.loads(header["__metadata__"]["DCP_SHARDING_INFO"])
    return [
        (name, info[name]["saved_offsets"], part, start + data + header[name]["data_offsets"][0])
        for name, part in load(whole).items()
    ]


def _unpickled(folder: Path) -> Any:  # noqa: ANN401 - torch's
    path = folder / ".metadata"
    return pickle.loads(path.read_bytes()) if path.exists() else None  # noqa: S301 - our own


def bytes_of_chunks(path: Path, names: Collection[str]) -> list[tuple[int, int]]:
    """Return the ranges of bytes in one file of a distributed checkpoint that belong to the tensors `names`.

    They are those of the elements, and the four bytes of every copy of their CRC-32.
    """
    metadata, content = _unpickled(path.parent), path.read_bytes()
    if not content.startswith(b"PK") or not metadata or not _is_archive(content, metadata, path.name):
        return [(start, start + part.nbytes) for name, _, part, start in _parts(path, metadata) if name in names]
    ranges = []
    for index, place in metadata.storage_data.items():
        if index.fqn in names and place.relative_path == path.name:
            item = content[place.offset : place.offset + place.length]
            ranges += [(place.offset + start, place.offset + end) for start, end in _bytes_in_archive(item)]
    return ranges


def _is_archive(content: bytes, metadata: Any, name: str) -> bool:  # noqa: ANN401 - torch's
    """Return whether the items of a file are archives of torch.save."""
    places = [p for i, p in metadata.storage_data.items() if i.offset is not None and p.relative_path == name]
    return all(content.startswith(b"PK\3\4", place.offset) for place in places)


def _bytes_in_archive(item: bytes) -> Iterator[tuple[int, int]]:
    with zipfile.ZipFile(io.BytesIO(item)) as archive:
        record = next(info for info in archive.infolist() if info.filename.endswith("/data/0"))
    lengths = struct.unpack_from("<2H", item, record.header_offset + 26)
    start = record.header_offset + 30 + sum(lengths)
    end = start + record.file_size
    yield start, end
    crc = record.CRC.to_bytes(4, "little")
    for position in range(len(item) - 3):
        if item.startswith(crc, position) and not start <= position < end:
            yield position, position + 4


def _put(state: dict[str, Any], path: Sequence[str], value: object) -> None:
    for part in path[:-1]:
        state = state.setdefault(part, {})
    state[path[-1]] = value
