"""The contents of torch files besides tensors: the entries of the pickle and the other records of the archive."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, BinaryIO

from prunecli.formats.fingerprints import shortened, span_digest
from prunecli.formats.pickle.contents import entries
from prunecli.formats.pickle.reader import read_pickle
from prunecli.formats.torch.legacy import read_legacy
from prunecli.formats.torch.records import torch_archive
from prunecli.formats.zip.directory import read_records

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from prunecli.checkpoint import Span

_INTERPRETED = {"data.pkl", "byteorder", "version"}  # records whose meaning is listed, or that describe the archive


def zip_contents(file: BinaryIO, label: str, tensor_spans: Collection[Span]) -> Iterator[tuple[str, str]]:
    """Yield the entries of data.pkl and the records of a zip that hold no tensor."""
    archive = torch_archive(file, read_records(file, label), label)
    for name, record in archive.records.items():
        if name == "data.pkl":
            stream = io.BytesIO(archive.read(name))
            yield from entries(read_pickle(stream, label).value, stream, label)
        elif name not in _INTERPRETED and not name.startswith(".") and record.span not in tensor_spans:
            yield f"record {shortened(name)}", span_digest(file, record.span)


def legacy_contents(file: BinaryIO, label: str) -> Iterator[tuple[str, str]]:
    """Yield the entries of the pickled object of a legacy file."""
    return entries(read_legacy(file, label).pickle.value, file, label)
