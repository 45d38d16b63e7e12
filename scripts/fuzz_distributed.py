"""The distributed checkpoint of the fuzzer: its metadata is damaged, and its files of chunks stay as they are."""

from __future__ import annotations

import io
import pickle
from functools import cache
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from byte_oracle import Finding
from torch.distributed.checkpoint import metadata as classes
from torch.distributed.checkpoint.filesystem import _StorageInfo

from prunecli.formats.open import open_checkpoint
from prunecli.io.assembled import AssembledSource
from prunecli.io.reader import open_sources

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from prunecli.checkpoint import Checkpoint

METADATA = ".metadata"


@cache
def distributed_seed() -> tuple[bytes, dict[str, bytes]]:
    """Return the metadata of a checkpoint whose tensors are cut into two by two chunks, and the files of two ranks."""
    generator = torch.Generator().manual_seed(0)
    state = {f"model.{name}.weight": torch.randn(4, 6, generator=generator) for name in "ab"}
    state["optim.state.a.exp_avg"] = torch.ones(4, 6)
    files, places = [io.BytesIO(), io.BytesIO()], {}
    tensors: dict[str, Any] = {}
    for name, t in state.items():
        cuts = [((row, column), (2, 3)) for row, column in product((0, 2), (0, 3))]
        chunks = [classes.ChunkStorageMetadata(torch.Size(offsets), torch.Size(sizes)) for offsets, sizes in cuts]
        tensors[name] = classes.TensorStorageMetadata(classes.TensorProperties(t.dtype), t.size(), chunks)
        for number, ((row, column), _) in enumerate(cuts):
            places[classes.MetadataIndex(name, (row, column), number)] = _StorageInfo(
                f"__{number % 2}_0.distcp", *_saved(files[number % 2], t[row : row + 2, column : column + 3].clone())
            )
    tensors["epoch"] = classes.BytesStorageMetadata()
    places[classes.MetadataIndex("epoch")] = _StorageInfo("__0_0.distcp", *_saved(files[0], 3))
    paths = {name: tuple(name.split(".", 1)) for name in tensors}
    whole = classes.Metadata(tensors, paths, places, classes.StorageMeta(), "1.0.0")
    return pickle.dumps(whole), {f"__{rank}_0.distcp": file.getvalue() for rank, file in enumerate(files)}


def _saved(file: io.BytesIO, value: object) -> tuple[int, int]:
    start, buffer = file.tell(), io.BytesIO()
    torch.save(value, buffer)
    file.write(buffer.getvalue())
    return start, file.tell() - start


def write_distributed(folder: Path, metadata: bytes) -> None:
    """Write the files of the checkpoint, with this metadata, into a new folder."""
    folder.mkdir()
    for name, content in (*distributed_seed()[1].items(), (METADATA, metadata)):
        (folder / name).write_bytes(content)


def check_distributed(path: Path, output: Path, report: dict[str, Any]) -> None:
    """Raise Finding unless `output` is `path` with zeros among the selected weights, and their checksums repaired."""
    if sorted(p.name for p in path.iterdir()) != sorted(p.name for p in output.iterdir()):
        raise Finding("the output has other files than the input")
    before = open_checkpoint(path, key=report["input"]["keys"] or None)
    selected = {row["name"] for row in report["tensors"] if row["selected"]}
    allowed = {name: np.zeros(len(content), bool) for name, content in distributed_seed()[1].items()}
    for name, start, end in _places(before, selected):
        allowed[name][start:end] = True
    for file in path.iterdir():
        old, new = (np.frombuffer(p.read_bytes(), np.uint8) for p in (file, output / file.name))
        if len(old) != len(new) or (old != new)[~allowed.get(file.name, np.zeros(len(old), bool))].any():
            raise Finding(f"bytes of {file.name} changed that must not")


def _places(checkpoint: Checkpoint, selected: set[str]) -> Iterator[tuple[str, int, int]]:
    """Yield the file and the bytes of each chunk of the selected tensors, and of its checksums."""
    with open_sources(checkpoint) as sources:
        stream = sources[-1]
        if not isinstance(stream, AssembledSource):
            raise Finding("a distributed checkpoint has no stream")
        for tensor in checkpoint.tensors:
            for chunk in stream.assembly.chunks_in(tensor.start, tensor.end) if tensor.name in selected else ():
                place, name = stream.place(chunk), checkpoint.files[stream.assembly.files[chunk]].path.name
                yield name, place.start, place.start + stream.assembly.chunk_bytes(chunk)
                yield from ((name, one, one + 4) for one in place.places)
