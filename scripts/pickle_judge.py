"""Compare the listing of a torch file with the tensors that `torch.load(weights_only=True)` returns.

The judge walks the loaded objects on its own: it shares no code with the readers. A file that torch refuses, or that
`prunecli` refuses with a CheckpointError, agrees.
"""

from __future__ import annotations

import io
import re
import warnings
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from prunecli.checkpoint import OUTSIDE
from prunecli.dtypes import TORCH_DTYPES
from prunecli.errors import CheckpointError
from prunecli.formats.detect import ForeignKind, detect_format
from prunecli.formats.format import HEAD

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prunecli.checkpoint import TensorInfo
    from prunecli.formats.listing import Listing

MOST = 100_000
"""The most elements of a tensor whose values are compared: an expanded view may have any number."""

NAMES = {getattr(torch, name): key for name, key in TORCH_DTYPES.items()}


@dataclass(frozen=True)
class Seen:
    """A tensor or storage in the loaded object: its path, or None for a place without a name."""

    path: tuple[str, ...] | None
    value: object


@dataclass
class Verdict:
    """Which of the two readers accept a file, and the kinds of their disagreements."""

    torch: bool = False
    ours: bool = False
    findings: list[str] = field(default_factory=list)


def judged(data: bytes) -> Verdict:
    """Return the verdict on a file."""
    verdict = Verdict()
    try:
        listing = _listed(data)
        verdict.ours = True
    except CheckpointError:
        return verdict
    except Exception as error:  # noqa: BLE001 - a traceback is a finding
        verdict.findings.append(f"{type(error).__name__} is raised")
        return verdict
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loaded = torch.load(io.BytesIO(data), weights_only=True)
    except Exception:  # noqa: BLE001 - torch raises all kinds
        return verdict
    verdict.torch = True
    verdict.findings = sorted(set(_disagreements(loaded, listing, data)))
    return verdict


def _listed(data: bytes) -> Listing:
    detected = detect_format(data[:HEAD])
    if isinstance(detected, ForeignKind):
        raise CheckpointError("it is of another kind")
    return detected.read(io.BytesIO(data), "x.pth", ())


def _disagreements(loaded: object, listing: Listing, data: bytes) -> Iterator[str]:
    seen = [*_walk(loaded, (), set())]
    for key in listing.keys:  # a cycle may lead back from a state_dict to the top: then its members have two names
        seen += _walk(_part(loaded, key), (key,), set())
    one_key = f"{listing.keys[0]}." if len(listing.keys) == 1 else ""  # with several, names have the keys in front
    listed: dict[str, list[TensorInfo]] = defaultdict(list)
    for tensor in listing.tensors:
        prefix = one_key if tensor.unprunable_reason != OUTSIDE else ""
        listed[prefix + _base(tensor.name)].append(tensor)
    others = {prefix + _base(name) for name, _ in listing.unprunable_entries for prefix in ("", one_key)}
    matched: set[int] = set()  # of listed tensors
    named: set[int] = set()  # of loaded values
    missing: list[tuple[Seen, str]] = []
    for one in seen:
        name = None if one.path is None else ".".join(one.path)
        candidates = listing.tensors if name is None else listed[name]
        differences = {id(tensor): _difference(one.value, tensor, data) for tensor in candidates}
        equal = [tensor for tensor in candidates if not differences[id(tensor)]]
        matched.update(map(id, equal))
        if equal or name in others or (name is None and others):
            named.add(id(one.value))
        else:
            missing.append((one, min(differences.values(), default="is not listed")))
    for one, why in missing:
        # A tensor that is listed in the state_dict is not listed again outside it, where another may have the name.
        inside = one.path is not None and ".".join(one.path).startswith(one_key)
        if id(one.value) not in named or (inside and why != "is not listed"):
            yield f"a {_kind(one.value)} that torch sees {why}"
    if any(id(tensor) not in matched for tensor in listing.tensors):
        yield "a tensor is listed that torch does not see"


def _part(loaded: object, key: str) -> object:
    """Return the value at a dotted path; keys may contain dots."""
    for path, child in _children(loaded, ()):
        text = ".".join(path) if path else None
        if text == key:
            return child
        if text is not None and key.startswith(f"{text}.") and (part := _part(child, key[len(text) + 1 :])) is not None:
            return part
    return None


def _base(name: str) -> str:
    return re.sub(r"#\d+$", "", name)


def _kind(value: object) -> str:
    return "tensor" if isinstance(value, torch.Tensor) else "storage"


def _walk(value: object, path: tuple[str, ...] | None, above: set[int]) -> Iterator[Seen]:
    """Yield the tensors and storages below a loaded value, with those in attributes, keys and hooks."""
    if id(value) in above:
        return
    if isinstance(value, (torch.Tensor, torch.TypedStorage, torch.UntypedStorage)):
        yield Seen(path, value)
    for part, child in _children(value, path):
        yield from _walk(child, part, {*above, id(value)})


def _children(value: object, path: tuple[str, ...] | None) -> Iterator[tuple[tuple[str, ...] | None, object]]:
    """Yield the path, or None, and the value of each part of a loaded value."""
    if isinstance(value, torch.Tensor):
        yield from ((None, part) for part in (value.__dict__, value.grad, value._backward_hooks))  # noqa: SLF001
    elif isinstance(value, dict):
        yield from ((_below(path, key), child) for key, child in value.items())
        yield from ((None, key) for key in value)
        yield None, getattr(value, "__dict__", None)
    elif isinstance(value, (list, tuple)):
        yield from ((_below(path, index), child) for index, child in enumerate(value))
    elif isinstance(value, set):
        yield from ((None, child) for child in value)


def _below(path: tuple[str, ...] | None, key: object) -> tuple[str, ...] | None:
    if path is None:
        return None
    if isinstance(key, bytes):
        return (*path, key.decode("utf-8", "backslashreplace"))
    if isinstance(key, tuple):
        return (*path, "<tuple>")
    if isinstance(key, int) and key.bit_length() >= 64:
        return (*path, "<int>")
    return (*path, str(key)) if key is None or isinstance(key, (str, int, float)) else None


def _difference(value: object, tensor: TensorInfo, data: bytes) -> str:
    """Return how a loaded value differs from a listed tensor, or "" if it does not."""
    if not isinstance(value, torch.Tensor):
        return "is listed as a tensor"
    if value.layout is not torch.strided or value.is_quantized or value.is_meta:
        return "is listed as another kind of tensor"
    if (NAMES.get(value.dtype), tuple(value.shape)) != (tensor.dtype, tensor.shape):
        return "has another dtype or shape"
    if value.is_neg() or value.is_conj():  # the stored numbers are not the values
        return "" if tensor.unprunable_reason else "is listed as prunable"
    return "" if value.numel() > MOST or _values(value) == stored(tensor, data) else "has other values"


def _values(value: torch.Tensor) -> bytes:
    packed = torch.empty(value.numel(), dtype=value.dtype).copy_(value.detach().reshape(-1))
    return packed.view(torch.uint8).numpy().tobytes()


def stored(tensor: TensorInfo, data: bytes) -> bytes:
    """Return the elements of a tensor in the file `data`, as little-endian bytes in row-major order."""
    values = _elements(data, tensor) if tensor.numel else b""
    return bytes(map(bool, values)) if tensor.dtype == "BOOL" else values  # any byte but zero is True


def _elements(data: bytes, tensor: TensorInfo) -> bytes:
    """Return the elements at the listed position, as little-endian bytes in row-major order."""
    count = tensor.span.length // tensor.itemsize
    flat = np.frombuffer(data, np.dtype(f"V{tensor.itemsize}"), count, tensor.span.start)
    strides = [tensor.itemsize * s for s in tensor.strides]
    packed = np.lib.stride_tricks.as_strided(flat[tensor.offset :], tensor.shape, strides).tobytes()
    part = tensor.itemsize // 2 if tensor.dtype.startswith("C") else tensor.itemsize
    return np.frombuffer(packed, f">u{part}").astype(f"<u{part}").tobytes() if tensor.big_endian else packed
