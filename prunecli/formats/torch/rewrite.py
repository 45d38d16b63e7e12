"""Plan a file of torch.save with some tensors of the state_dict renamed and others removed.

The pickle is edited, and storages that it no longer refers to are left out. Nothing is unpickled.
"""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING, BinaryIO

from prunecli.checkpoint import Span
from prunecli.formats.pickle.reader import read_pickle
from prunecli.formats.pickle.rewrite import rewrite_pickle
from prunecli.formats.pickle.writing import text_opcode
from prunecli.formats.torch.legacy import COUNT_SIZE, read_legacy
from prunecli.formats.torch.packed import open_zip
from prunecli.formats.torch.rebuild import storage_claims
from prunecli.formats.torch.records import ALIGNMENT, resave, torch_archive
from prunecli.formats.zip.rewrite import rewrite_zip
from prunecli.io.parts import FilePlan

if TYPE_CHECKING:
    from collections.abc import Mapping

_MAX_ALIGNMENT = 1 << 16


def rewrite_torch_zip(file: BinaryIO, label: str, names: Mapping[str, str | None]) -> FilePlan:
    """Return the plan of the zip `file` of torch.save with entries renamed or removed.

    `names` maps the dotted path of each entry, from the pickled object on, to its new path, or to None to remove it.
    Raises CheckpointError, naming `label`, if the pickle cannot be rewritten safely.
    """
    opened = open_zip(file, label)
    file = opened.file
    archive = torch_archive(file, opened.records, label)
    old = archive.read("data.pkl")
    new = rewrite_pickle(old, names, label, hint=resave(label))
    alignment = ALIGNMENT
    if ".storage_alignment" in archive.records:
        digits = archive.read(".storage_alignment")
        # Six digits are enough for the limit: int() is slow for millions of digits.
        alignment = int(digits) if digits.isdigit() and 0 < int(digits[:6]) <= _MAX_ALIGNMENT else ALIGNMENT
    unused = _storage_keys(old, label) - _storage_keys(new, label)
    removed = {f"{archive.folder}/data/{key}" for key in unused}
    return rewrite_zip(file, label, {f"{archive.folder}/data.pkl": new}, removed, alignment)


def rewrite_torch_legacy(file: BinaryIO, label: str, names: Mapping[str, str | None]) -> FilePlan:
    """Return the plan of a file in the format before torch 1.6; see `rewrite_torch_zip`."""
    legacy = read_legacy(file, label)
    span = legacy.object_span
    file.seek(span.start)
    new = rewrite_pickle(file.read(span.length), names, label, hint=resave(label))
    used = _storage_keys(new, label)
    kept = {key: storage for key, storage in legacy.spans.items() if key in used}
    storages = (Span(storage.start - COUNT_SIZE, COUNT_SIZE + storage.length) for storage in kept.values())
    rest = Span(legacy.end, file.seek(0, os.SEEK_END) - legacy.end)
    return FilePlan((Span(0, span.start), new, _pickled_list(list(kept)), *storages, rest))


def _storage_keys(pickle: bytes, label: str) -> set[str]:
    """Return the keys of the storages that a pickle refers to."""
    return {claim.key for claim in storage_claims(read_pickle(io.BytesIO(pickle), label)).values()}


def _pickled_list(texts: list[str]) -> bytes:
    """Return the pickle of a list of strings with the opcodes that torch.save writes."""
    return b"\x80\x02]q\x00(" + b"".join(map(text_opcode, texts)) + b"e."
