"""Torch files in memory: write them, list them, zip them again with changes, and compare with torch's tensors."""

from __future__ import annotations

import io
import struct
import subprocess
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from prunecli.checkpoint import OUTSIDE, Keys, key_patterns
from prunecli.formats.detect import ForeignKind, detect_format, not_a_checkpoint
from prunecli.formats.format import HEAD
from prunecli.formats.zip.directory import read_records

if TYPE_CHECKING:
    from collections.abc import Callable

    from prunecli.checkpoint import TensorInfo
    from prunecli.formats.listing import Listing

Records = list[tuple[str, bytes]]


def saved(value: object, protocol: int = 2, *, legacy: bool = False) -> bytes:
    """Return the bytes that torch.save writes."""
    buffer = io.BytesIO()
    torch.save(value, buffer, pickle_protocol=protocol, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


def listing(data: bytes, key: Keys = None) -> Listing:
    """List the checkpoint `data`."""
    detected = detect_format(data[:HEAD])
    if isinstance(detected, ForeignKind):
        raise not_a_checkpoint(detected, Path("x.pth"), "x.pth")
    return detected.read(io.BytesIO(data), "x.pth", key_patterns(key))


def names(data: bytes, key: str | None = None) -> list[str]:
    """Return the names of the tensors in the state_dict."""
    return [tensor.name for tensor in listing(data, key).tensors if tensor.unprunable_reason != OUTSIDE]


def elements(data: bytes, tensor: TensorInfo) -> bytes:
    """Return the elements at the listed position, as little-endian bytes in row-major order."""
    dtype = np.dtype(f"V{tensor.itemsize}")
    flat = np.frombuffer(data[tensor.span.start : tensor.span.end], dtype)
    view = np.lib.stride_tricks.as_strided(
        flat[tensor.offset :], tensor.shape, [tensor.itemsize * s for s in tensor.strides]
    )
    order = f"u{tensor.itemsize}"
    packed = view.tobytes()
    return np.frombuffer(packed, ">" + order).astype("<" + order).tobytes() if tensor.big_endian else packed


def raw(tensor: torch.Tensor) -> bytes:
    """Return the bytes of a tensor in row-major order."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def flat(value: object, path: str = "") -> dict[str, torch.Tensor]:
    """Return every tensor in nested dicts and lists by its dotted path."""
    if isinstance(value, torch.Tensor):
        return {path[1:]: value}
    if not isinstance(value, (dict, list, tuple)):
        return {}
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    return {name: t for k, v in pairs for name, t in flat(v, f"{path}.{k}").items()}


def assert_same(data: bytes, expected: dict[str, torch.Tensor], key: str | None = None) -> None:
    """Check that names, order, shapes, strides and all bits equal those of torch's tensors."""
    found = {t.name: t for t in listing(data, key).tensors if t.unprunable_reason != OUTSIDE}
    assert list(expected) == list(found)
    for name, tensor in expected.items():
        assert (tuple(tensor.shape), tensor.stride()) == (found[name].shape, found[name].strides)
        assert raw(tensor) == elements(data, found[name])


def assert_checksums(data: bytes) -> None:
    """Check that each checksum is that of its span, and that the file has it at each of its places."""
    for checksum in listing(data).checksums:
        assert checksum.value == zlib.crc32(data[checksum.span.start : checksum.span.end])
        assert len(checksum.places) == 2
        assert {checksum.value} == {struct.unpack_from("<L", data, place)[0] for place in checksum.places}


def assert_only_records_differ(source: Path, output: Path) -> None:
    """Check that two zips differ only in data of weights and the checksums of these records, and that all are right."""
    old, new = source.read_bytes(), output.read_bytes()
    records = [r for r in read_records(io.BytesIO(old), "x").values() if "/data/" in r.name and ".json" not in r.name]
    allowed = np.zeros(len(old), bool)
    for record in records:
        allowed[record.span.start : record.span.end] = True
        for place in record.places:
            allowed[place : place + 4] = True
    assert len(old) == len(new)
    assert old != new
    assert not (np.frombuffer(old, np.uint8) != np.frombuffer(new, np.uint8))[~allowed].any()
    with zipfile.ZipFile(output) as archive:
        assert archive.testzip() is None
    subprocess.run(["unzip", "-tqq", output], check=True)


def rezip(data: bytes, edit: Callable[[Records], Records], method: int = zipfile.ZIP_STORED) -> bytes:
    """Write the records of a zip again with Python's zipfile, after `edit` has changed their list."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        records = [(info.filename, archive.read(info)) for info in archive.infolist()]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in edit(records):
            archive.writestr(name, content)
    return buffer.getvalue()


def renamed(change: Callable[[str, bytes], tuple[str, bytes] | None]) -> Callable[[Records], Records]:
    """Return an edit that changes or drops single records."""
    return lambda records: [changed for record in records if (changed := change(*record))]
