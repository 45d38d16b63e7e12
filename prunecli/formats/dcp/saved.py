"""What a distributed checkpoint has saved, whatever its layout: files, tensors with their chunks, and objects."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from prunecli.checkpoint import MAX_SIZE, CheckpointFile
from prunecli.errors import CheckpointError
from prunecli.formats.dcp.build import StoredChunk
from prunecli.formats.dcp.format import DCP, DCP_SAFETENSORS, SHARDING_INFO
from prunecli.formats.dcp.items import part_of_file
from prunecli.formats.dcp.rows import grouped
from prunecli.formats.format import head_of
from prunecli.formats.safetensors.format import SAFETENSORS
from prunecli.formats.safetensors.reader import read_safetensors
from prunecli.formats.shards import check_member_name, check_shard
from prunecli.io.read_errors import read_errors
from prunecli.text.escape import quoted

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence
    from pathlib import Path

    from prunecli.formats.dcp.metadata import Metadata

Shape: TypeAlias = tuple[int, ...]


class SavedTensor(NamedTuple):
    """A tensor: its name, its path in the dict that was saved, its dtype, its shape and its chunks."""

    name: str
    path: tuple[object, ...]
    dtype: str
    shape: Shape
    chunks: list[StoredChunk]


class SavedObject(NamedTuple):
    """An item that is no tensor: its name, its file, and its bytes there."""

    name: str
    file: int
    start: int
    length: int


@dataclass(frozen=True, slots=True)
class Saved:
    """The contents of a distributed checkpoint.

    Attributes:
        format: The name of the format.
        files: The files with tensors or objects.
        archives: The numbers of the files that have an archive of torch.save for each chunk.
        tensors: The tensors, which are made when they are asked for.
        objects: The items that are no tensors.
        extensions: By the name of a tensor, what its chunks are stored through in place of their bytes.
        notes: Sentences that a user may want to know.
    """

    format: str
    files: tuple[CheckpointFile, ...]
    archives: frozenset[int]
    tensors: Iterator[SavedTensor]
    objects: Sequence[SavedObject] = ()
    extensions: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


class _Part(NamedTuple):
    """The part of a tensor in a safetensors file: its offsets and sizes, its dtype, and its bytes."""

    offsets: Shape
    sizes: Shape
    dtype: str
    start: int
    length: int


def from_metadata(directory: Path, metadatas: Sequence[Metadata]) -> Saved:
    """Return what one `.metadata` lists, or those of all ranks; CheckpointError where files do not fit them."""
    names = sorted({path for metadata in metadatas for path in metadata.places.paths})
    for name in names:
        check_member_name(str(directory / ".metadata"), name)
    numbers = {name: number for number, name in enumerate(names)}
    objects = [one for metadata in metadatas for one in _objects(metadata, numbers)]
    ends = _ends(objects)
    files, parts = [], {}
    for number, name in enumerate(names):
        check_shard(directory, name)
        path = directory / name
        files.append(_file(path, DCP.name))
        if is_safetensors(path, ends.get(number, 0)):
            parts[number] = _parts(path, ends.get(number, 0))
    _check_extents(files, parts.keys(), metadatas, numbers)
    chosen = DCP_SAFETENSORS.name if parts else DCP.name
    return Saved(
        chosen,
        tuple(CheckpointFile(file.path, file.size, (), file.modified, chosen) for file in files),
        frozenset(range(len(files))) - parts.keys(),
        _listed(directory, metadatas, numbers, parts),
        objects,
        {name: text for metadata in metadatas for name, text in _extensions(metadata)},
    )


def _ends(objects: Sequence[SavedObject]) -> dict[int, int]:
    """Return the end of the last object of each file: a safetensors file begins there."""
    ends: dict[int, int] = {}
    for one in objects:
        ends[one.file] = max(ends.get(one.file, 0), one.start + one.length)
    return ends


def is_safetensors(path: Path, start: int) -> bool:
    """Return whether a file is one of safetensors from the byte `start` on."""
    return SAFETENSORS.detect is not None and SAFETENSORS.detect(head_of(path, start))


def _file(path: Path, name: str) -> CheckpointFile:
    status = path.stat()
    return CheckpointFile(path, status.st_size, (), status.st_mtime_ns, name)


def _objects(metadata: Metadata, numbers: Mapping[str, int]) -> Iterator[SavedObject]:
    places, files = metadata.places, [numbers[path] for path in metadata.places.paths]
    names = list(places.names)
    for place, rank in enumerate(places.rank):
        if rank < 0:
            name, file = names[places.name[place]], files[places.file[place]]
            yield SavedObject(name, file, places.start[place], places.length[place])


def _extensions(metadata: Metadata) -> Iterator[tuple[str, str]]:
    names = list(metadata.places.names)
    return ((names[metadata.places.name[place]], text) for place, text in metadata.places.extensions.items())


def _check_extents(
    files: Sequence[CheckpointFile], whole: Collection[int], metadatas: Sequence[Metadata], numbers: Mapping[str, int]
) -> None:
    """Refuse items that overlap, or that end after their file. Items of files in `whole` have no places."""
    for metadata in metadatas:
        places = metadata.places
        order, begins = grouped(places.file, len(places.paths))
        for own, path in enumerate(places.paths):
            if numbers[path] not in whole:
                items = order[begins[own] : begins[own + 1]]
                _check_items(files[numbers[path]], [(places.start[item], places.length[item]) for item in items])


def _check_items(file: CheckpointFile, items: Sequence[tuple[int, int]]) -> None:
    end = 0
    for start, length in sorted(items):
        if start < end:
            raise CheckpointError(f"{file.path} is damaged: two chunks overlap at byte {start:,}")
        end = start + length
    if end > file.size:
        raise CheckpointError(
            f"{file.path} is truncated: its chunks end at byte {end:,} and the file at {file.size:,}",
            hint="download or copy the file again",
        )


def _listed(
    directory: Path,
    metadatas: Sequence[Metadata],
    numbers: Mapping[str, int],
    parts: Mapping[int, Mapping[str, _Part]],
) -> Iterator[SavedTensor]:
    """Yield the tensors of all metadata, each with the chunks of all ranks."""
    indexes = [_PlaceIndex(metadata, numbers) for metadata in metadatas]
    for name in dict.fromkeys(name for metadata in metadatas for name in metadata.tensors):
        own = [index for index in indexes if name in index.metadata.tensors]
        first = own[0].metadata.tensors[name]
        label = f"{directory}: the tensor {quoted(name)}"
        chunks: list[StoredChunk] = []
        for index in own:
            one = index.metadata.tensors[name]
            if (one.dtype, one.shape) != (first.dtype, first.shape):
                raise CheckpointError(f"{label} has another dtype or shape in the metadata of another rank")
            chunks += [_in_file(chunk, first.dtype, name, parts, label) for chunk in index.chunks(name, label)]
        path = own[0].metadata.paths.get(name, (name,))
        yield SavedTensor(name, path, first.dtype, first.shape, chunks)


def _in_file(
    chunk: StoredChunk, dtype: str, name: str, parts: Mapping[int, Mapping[str, _Part]], label: str
) -> StoredChunk:
    """Return a chunk with its bytes in a safetensors file, whose header has them; any other chunk is returned."""
    if chunk.file not in parts or 0 in chunk.sizes:
        return chunk
    part = parts[chunk.file].get(name)
    if part is None or part[:3] != (chunk.offsets, chunk.sizes, dtype):
        raise CheckpointError(f"{label} has a chunk at {list(chunk.offsets)} that its file does not have")
    return chunk._replace(start=part.start, length=part.length)


class _PlaceIndex:
    """The places of one metadata by tensor."""

    def __init__(self, metadata: Metadata, numbers: Mapping[str, int]) -> None:
        self.metadata = metadata
        self._order, self._begins = grouped(metadata.places.name, len(metadata.places.names))
        self._files = [numbers[path] for path in metadata.places.paths]

    def chunks(self, name: str, label: str) -> list[StoredChunk]:
        """Return the chunks of a tensor with their places; CheckpointError for one that has no place, or two."""
        places, number = self.metadata.places, self.metadata.places.names.get(name)
        own = () if number is None else self._order[self._begins[number] : self._begins[number + 1]]
        by_offsets = {places.offsets_of(place): place for place in own}
        if len(by_offsets) < len(own):
            raise CheckpointError(f"{label} has two places for one chunk")
        chunks = []
        for rows in self.metadata.tensors[name].chunks:
            for offsets, sizes in self.metadata.chunks.chunks(rows):
                place = by_offsets.get(offsets)
                if place is None:
                    raise CheckpointError(f"{label} has a chunk at {list(offsets)} that is stored nowhere")
                file = self._files[places.file[place]]
                chunks.append(StoredChunk(offsets, sizes, file, places.start[place], places.length[place]))
        return chunks


# --- safetensors


def from_headers(directory: Path, names: Sequence[str]) -> Saved:
    """Return what the headers of safetensors files list; CheckpointError where they do not fit each other."""
    files, parts = [], []
    for name in names:
        check_shard(directory, name)
        files.append(_file(directory / name, DCP_SAFETENSORS.name))
        parts.append(_parts(directory / name, 0))
    note = "no file lists all parts, so the shapes are those of the parts that are there"
    return Saved(DCP_SAFETENSORS.name, tuple(files), frozenset(), _put_together(directory, parts), notes=(note,))


def _put_together(directory: Path, parts: Sequence[Mapping[str, _Part]]) -> Iterator[SavedTensor]:
    for name in sorted({name for file in parts for name in file}):
        own = [(number, file[name]) for number, file in enumerate(parts) if name in file]
        first = own[0][1]
        if any((part.dtype, len(part.sizes)) != (first.dtype, len(first.sizes)) for _, part in own):
            label = f"{directory}: the tensor {quoted(name)}"
            raise CheckpointError(f"{label} has parts of different dtypes or dimensions")
        ends = (tuple(o + n for o, n in zip(part.offsets, part.sizes, strict=True)) for _, part in own)
        shape = tuple(map(max, zip(*ends, strict=True)))
        chunks = [StoredChunk(part.offsets, part.sizes, number, part.start, part.length) for number, part in own]
        yield SavedTensor(name, (name,), first.dtype, shape, chunks)


def _parts(path: Path, start: int) -> dict[str, _Part]:
    """Return the parts of tensors in a safetensors file that begins at the byte `start` of the file at `path`."""
    label = str(path)
    with read_errors(path), path.open("rb") as file:
        listing = read_safetensors(part_of_file(file, start, path.stat().st_size), label)
    offsets = _saved_offsets(listing.metadata.get(SHARDING_INFO), label)
    return {
        tensor.name: _Part(
            _offsets_of(offsets, tensor.name, len(tensor.shape), label),
            tensor.shape,
            tensor.dtype,
            start + tensor.span.start,
            tensor.span.length,
        )
        for tensor in listing.tensors
    }


def _saved_offsets(text: str | None, label: str) -> Mapping[str, object] | None:
    if text is None:
        return None
    try:
        info = json.loads(text)
    except (ValueError, RecursionError) as problem:
        raise CheckpointError(f"{label}: {SHARDING_INFO} is not JSON: {problem}") from None
    if not isinstance(info, dict):
        raise CheckpointError(f"{label}: {SHARDING_INFO} is not a JSON object")
    return info


def _offsets_of(info: Mapping[str, object] | None, name: str, rank: int, label: str) -> Shape:
    """Return where the part of a tensor begins; a file without such information has whole tensors."""
    if info is None:
        return (0,) * rank
    match info.get(name):
        case {"saved_offsets": list(offsets)} if len(offsets) == rank and all(
            type(offset) is int and 0 <= offset <= MAX_SIZE for offset in offsets
        ):
            return tuple(offsets)
        case _:
            raise CheckpointError(f"{label}: {SHARDING_INFO} does not say where the part of {quoted(name)} begins")
