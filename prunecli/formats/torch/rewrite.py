"""Files of torch.save with some tensors of the state_dict renamed and others taken out, as parts of a new file.

The pickle is edited, and the storages that nothing refers to any more are left out; nothing is unpickled.
"""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING, BinaryIO

from prunecli.checkpoint import Span
from prunecli.errors import CheckpointError
from prunecli.formats.pickle.opcodes import bounded
from prunecli.formats.pickle.reader import read_pickle
from prunecli.formats.pickle.rewrite import rewrite_pickle
from prunecli.formats.torch.export import is_exported
from prunecli.formats.torch.format import is_legacy
from prunecli.formats.torch.rebuild import storage_claim
from prunecli.formats.torch.records import only_folder, read_record, resave
from prunecli.formats.torch.torchscript import is_script
from prunecli.formats.zip.directory import read_records
from prunecli.formats.zip.rewrite import rewrite_zip
from prunecli.io.parts import FilePlan

if TYPE_CHECKING:
    from collections.abc import Mapping

    from prunecli.formats.pickle.reader import Pickle

_MAX_PICKLES = 1 << 28  # bytes of a legacy file's five pickles
_ALIGNMENT = 64  # of the records, where the file does not say
_MODEL_FIRST = "torch.nn.utils.prune.remove(module, 'weight') on the model, then export it again"


def rewrite_torch(file: BinaryIO, label: str, names: Mapping[str, str | None]) -> FilePlan:
    """Return the plan of the torch `file` with the entries at the dotted paths `names` renamed, or gone where None.

    The paths lead from the pickled object, through the key of the state_dict. Raises CheckpointError, naming `label`,
    for an archive of TorchScript or torch.export, and where the pickle cannot be rewritten with certainty.
    """
    file.seek(0)
    head = file.read(64)
    return _legacy(file, label, names) if is_legacy(head) else _zip(file, label, names)


def _zip(file: BinaryIO, label: str, names: Mapping[str, str | None]) -> FilePlan:
    records = read_records(file, label)
    if is_exported(records) or is_script(records):
        raise CheckpointError(
            f"{label} is an exported model, whose code names x_orig and x_mask: it cannot be folded", hint=_MODEL_FIRST
        )
    folder = only_folder(records, label)
    old = read_record(file, records[f"{folder}/data.pkl"], label)
    new = rewrite_pickle(old, names, label, hint=resave(label))
    unused = _storages(read_pickle(io.BytesIO(old), label)) - _storages(read_pickle(io.BytesIO(new), label))
    alignment = _ALIGNMENT
    if record := records.get(f"{folder}/.storage_alignment"):
        digits = read_record(file, record, label)
        alignment = int(digits) if digits.isdigit() and 0 < int(digits[:6]) <= 1 << 16 else _ALIGNMENT
    return rewrite_zip(file, label, {f"{folder}/data.pkl": new}, {f"{folder}/data/{key}" for key in unused}, alignment)


def _storages(pickle: Pickle) -> set[str]:
    """Return the keys of the storages that a pickle refers to."""
    pids = (persistent for persistent in pickle.persistent if not _is_module(persistent.pid))
    return {storage_claim(persistent).key for persistent in pids}


def _is_module(pid: object) -> bool:
    return isinstance(pid, tuple) and pid[:1] == ("module",)  # a class with its source, in the old format


# --- before torch 1.6


def _legacy(file: BinaryIO, label: str, names: Mapping[str, str | None]) -> FilePlan:
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    window = bounded(file, min(size, _MAX_PICKLES))
    ends = []
    pickles = []
    for _ in range(5):
        pickles.append(read_pickle(window, label))
        ends.append(file.tell())
    claims = {claim.key: claim for claim in (storage_claim(p) for p in pickles[3].persistent if not _is_module(p.pid))}
    file.seek(ends[2])
    new = rewrite_pickle(file.read(ends[3] - ends[2]), names, label, hint=resave(label))
    used = _storages(read_pickle(io.BytesIO(new), label))
    keys = [key for key in pickles[4].value if isinstance(key, str)] if isinstance(pickles[4].value, list) else []
    parts: list[bytes | Span] = [Span(0, ends[2]), new, _list_of([key for key in keys if key in used])]
    at = ends[4]
    for key in keys:
        storage = Span(at, 8 + claims[key].nbytes)
        if key in used:
            parts.append(storage)
        at = storage.end
    return FilePlan((*parts, Span(at, size - at)))


def _list_of(texts: list[str]) -> bytes:
    """Return a pickle of a list of strings, as torch spells it."""
    encoded = (text.encode("utf-8", "surrogatepass") for text in texts)
    items = b"".join(b"X" + len(text).to_bytes(4, "little") + text for text in encoded)
    return b"\x80\x02]q\x00(" + items + b"e."
