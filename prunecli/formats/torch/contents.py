"""The contents of torch files besides tensors: the entries of the pickle and the other records of the archive."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, BinaryIO

from prunecli.formats.extras import Extras
from prunecli.formats.fingerprints import shortened, span_digest
from prunecli.formats.pickle.contents import Source, entries
from prunecli.formats.pickle.extras import extras_below
from prunecli.formats.pickle.leaves import unwrapped
from prunecli.formats.pickle.reader import Call, Persistent, read_pickle
from prunecli.formats.torch.data_pickle import read_data_pickle
from prunecli.formats.torch.legacy import read_legacy
from prunecli.formats.torch.packed import open_zip
from prunecli.formats.torch.reader import zip_storages
from prunecli.formats.torch.rebuild import is_strided, unknown_dtype
from prunecli.formats.torch.records import torch_archive

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from prunecli.checkpoint import Span
    from prunecli.formats.torch.rebuild import Storage

_INTERPRETED = {"data.pkl", "byteorder", "version"}  # records whose meaning is listed, or that describe the archive


def zip_contents(file: BinaryIO, label: str, tensor_spans: Collection[Span]) -> Iterator[tuple[str, str]]:
    """Yield the entries of data.pkl and the records of a zip that hold no tensor."""
    opened = open_zip(file, label)
    file = opened.file
    archive = torch_archive(file, opened.records, label)
    texts = _StorageTexts(file, {}, ())
    if "data.pkl" in archive.records:
        stream = io.BytesIO(archive.read("data.pkl"))
        pickle = read_pickle(stream, label)
        texts = _StorageTexts(file, zip_storages(pickle, archive), tensor_spans)
        yield from entries(pickle.value, Source(stream, label, texts.is_tensor, texts.text))
    for name, record in archive.records.items():
        ignored = name in _INTERPRETED or name.startswith(".")
        if not ignored and record.span not in tensor_spans and record.span not in texts.known:
            yield f"record {shortened(name)}", span_digest(file, record.span)


def legacy_contents(file: BinaryIO, label: str, tensor_spans: Collection[Span]) -> Iterator[tuple[str, str]]:
    """Yield the entries of the pickled object of a legacy file, and the storages of no entry and no tensor."""
    legacy = read_legacy(file, label)
    texts = _StorageTexts(file, legacy.storages, tensor_spans)
    yield from entries(legacy.pickle.value, Source(file, label, texts.is_tensor, texts.text))
    unused = [span for span in legacy.spans.values() if span not in tensor_spans and span not in texts.known]
    for number, span in enumerate(unused):
        yield f"storage {number}", span_digest(file, span)


def zip_extras(file: BinaryIO, label: str, names: Collection[str]) -> Extras:
    """Return what a zip holds besides the tensors `names`: entries of data.pkl, and unknown records."""
    opened = open_zip(file, label)
    archive = torch_archive(opened.file, opened.records, label)
    pickle = read_data_pickle(archive)
    found = extras_below(pickle.value, names)
    known = (*_INTERPRETED, "data/", ".")
    others = [(f"record {name}", "bytes") for name in archive.records if not name.startswith(known)]
    return Extras(found.texts, (*found.rest, *others))


def legacy_extras(file: BinaryIO, label: str, names: Collection[str]) -> Extras:
    """Return what the pickled object of a legacy file holds besides the tensors `names`."""
    return extras_below(read_legacy(file, label).pickle.value, names)


class _StorageTexts:
    """The texts of storages; `known` has the spans of those that were asked for."""

    def __init__(self, file: BinaryIO, storages: Mapping[Persistent, Storage], tensor_spans: Collection[Span]) -> None:
        self._file, self._storages, self._tensor_spans = file, storages, tensor_spans
        self.known: dict[Span, str] = {}

    def is_tensor(self, leaf: object) -> bool:
        """Return whether a leaf is listed as a tensor: a view of a storage of tensors, with a known dtype."""
        value = unwrapped(leaf)
        if not isinstance(value, Call) or not is_strided(value) or unknown_dtype(value) is not None:
            return False
        first = value.args[0] if value.args else None
        storage = self._storages.get(first) if isinstance(first, Persistent) else None
        return storage is not None and storage.span in self._tensor_spans

    def text(self, persistent: Persistent) -> str | None:
        """Return the dtype and a digest of the storage of a persistent id; None if it describes no storage."""
        storage = self._storages.get(persistent)
        if storage is None:
            return None
        if storage.span not in self.known:
            self.known[storage.span] = span_digest(self._file, storage.span)
        claim = storage.claim
        view = f", {claim.view.count:,} elements from {claim.view.first:,}" if claim.view else ""
        return f"{claim.dtype} storage{view}, {self.known[storage.span]}"
