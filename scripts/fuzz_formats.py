"""Generate files of safetensors and NumPy, and compare their listings with what these libraries read.

    python scripts/fuzz_formats.py --count 100000 --keep findings

A file that both accept must list the same tensors with the same bytes, and no file may end in a traceback. A file that
only `prunecli` accepts is a finding for safetensors, whose library decides what is one. The same seeds make the same
files. Each kind of finding is printed once.
"""

from __future__ import annotations

import argparse
import io
import mmap
import os
import pickle
import sys
import warnings
import zlib
from collections import Counter
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors
from header_grammar import made
from pickle_judge import stored

from prunecli.dtypes import NUMPY_DTYPES
from prunecli.errors import CheckpointError
from prunecli.formats.npy.reader import read_npy, read_npz
from prunecli.formats.numpy_pickle.reader import read_numpy_pickle
from prunecli.formats.safetensors.reader import read_safetensors
from prunecli.io.inflated import inflated_view

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from prunecli.checkpoint import TensorInfo
    from prunecli.formats.listing import Listing

Seen = dict[str, tuple[str, tuple[int, ...], bytes]]
"""The tensors that a library reads by name: dtype, shape, and little-endian bytes in row-major order."""

_CLASSES = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): lambda text, name: text.encode("latin-1" if name == "latin1" else name),
}
_ARRAYS = {"numpy.core.multiarray", "numpy._core.multiarray", "numpy.core.numeric", "numpy._core.numeric"}


def judged(kind: str, data: bytes) -> tuple[bool, bool, set[str]]:
    """Return whether `prunecli` accepts a file, whether the library does, and the kinds of their disagreements."""
    read, load = KINDS[kind]
    try:
        listing = read(io.BytesIO(data), "x")
    except CheckpointError:
        return False, False, set()
    except Exception as error:  # noqa: BLE001 - a traceback is a finding
        return True, False, {f"{type(error).__name__} is raised"}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            seen = load(data)
    except (Exception, SystemError):  # noqa: BLE001 - libraries raise all kinds
        return True, False, {"only prunecli accepts it"} if kind == "safetensors" else set()
    if listing.inflated is not None:
        data = inflated_view(io.BytesIO(data), listing.inflated, "x").read()
    return True, True, set(_disagreements(listing, seen, data))


def _disagreements(listing: Listing, seen: Seen, data: bytes) -> Iterator[str]:
    listed = {tensor.name: tensor for tensor in listing.tensors}
    others = {name for name, _ in listing.unprunable_entries}
    if seen.keys() - listed.keys() - others:
        yield "a tensor is not listed"
    if listed.keys() - seen.keys():
        yield "a tensor is listed that the library does not see"
    yield from (f"{what} differs" for name in listed.keys() & seen for what in _differs(listed[name], seen[name], data))


def _differs(tensor: TensorInfo, seen: tuple[str, tuple[int, ...], bytes], data: bytes) -> Iterator[str]:
    if tensor.dtype != seen[0]:
        yield "the dtype"
    elif tensor.shape != seen[1]:
        yield "the shape"
    elif tensor.numel and _values(tensor, data) != seen[2]:
        yield "a value"


def _values(tensor: TensorInfo, data: bytes) -> bytes:
    if tensor.dtype in {"F4", "F6_E2M3", "F6_E3M2"}:  # smaller than a byte
        return data[tensor.span.start : tensor.span.end]
    return stored(tensor, data)


# --- the libraries


def load_safetensors(data: bytes) -> Seen:
    """Read the tensors with the safetensors library."""
    read: Callable[[bytes], list[tuple[str, Any]]] = safetensors.deserialize
    return {name: _bools(t["dtype"], tuple(t["shape"]), bytes(t["data"])) for name, t in read(data)}


def _bools(dtype: str, shape: tuple[int, ...], data: bytes) -> tuple[str, tuple[int, ...], bytes]:
    return dtype, shape, bytes(map(bool, data)) if dtype == "BOOL" else data


def load_npy(data: bytes) -> Seen:
    """Read the array with NumPy."""
    return {"tensor": _seen(np.load(io.BytesIO(data), allow_pickle=False))}


def load_npz(data: bytes) -> Seen:
    """Read the arrays of an archive with NumPy."""
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        return {name: _seen(array) for name in arrays.files if isinstance(array := arrays[name], np.ndarray)}


class _Restricted(pickle.Unpickler):
    """An unpickler that makes arrays and containers only."""

    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401
        """Return one of the functions that NumPy pickles."""
        if module in _ARRAYS and name in {"_reconstruct", "_frombuffer"}:
            return super().find_class(module, name)
        return _CLASSES[module, name]


def load_pickle(data: bytes) -> Seen:
    """Read the arrays below the dicts, lists and tuples of a pickle."""
    return {name: _seen(array) for name, array in _below("", _Restricted(io.BytesIO(data)).load())}


def _below(name: str, value: object) -> Iterator[tuple[str, NDArray[Any]]]:
    if isinstance(value, np.ndarray):
        yield name, value
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, (list, tuple)) else ()
    for key, part in parts:
        yield from _below(f"{name}.{_text(key)}" if name else _text(key), part)


def _text(key: object) -> str:
    """Return the name of a key, as the listing has it."""
    if isinstance(key, bytes):
        return key.decode("utf-8", "backslashreplace")
    if key is None or isinstance(key, (str, int, float)):
        return str(key)
    return "<Global>" if callable(key) else "<tuple>" if isinstance(key, tuple) else "<Call>"


def _seen(array: NDArray[Any]) -> tuple[str, tuple[int, ...], bytes]:
    name = NUMPY_DTYPES.get(array.dtype.str[1:], array.dtype.str)
    little = array.astype(array.dtype.newbyteorder("<")) if array.dtype.byteorder == ">" else array
    if prod(array.shape) > 1 << 20:
        raise ValueError("it is too large to compare")
    return _bools(name, array.shape, little.tobytes())


KINDS: dict[str, tuple[Callable[[io.BytesIO, str], Listing], Callable[[bytes], Seen]]] = {
    "safetensors": (read_safetensors, load_safetensors),
    "npy": (read_npy, load_npy),
    "npz": (read_npz, load_npz),
    "pickle": (read_numpy_pickle, load_pickle),
}


# --- the search


BATCH = 500
"""Seeds per process: NumPy crashes on some damaged pickles."""

Found = dict[tuple[str, str], int]
"""The first seed by the kind of the file and the kind of the finding."""


def search(
    seeds: range, keep: Path | None = None, note: Callable[[int], object] = lambda _: None
) -> tuple[Counter[str], Found]:
    """Judge one file of each kind for each seed, and call `note` with the seed before; return counts and findings."""
    counts: Counter[str] = Counter()
    found: Found = {}
    for seed in seeds:
        note(seed)
        for kind in KINDS:
            data = made(kind, seed)
            ours, both, findings = judged(kind, data)
            counts["files"] += 1
            counts[f"{kind}, accepted"] += ours
            counts[f"{kind}, compared"] += both
            for finding in findings - {what for one, what in found if one == kind}:
                found[kind, finding] = seed
                if keep:
                    (keep / f"{seed}-{zlib.crc32(data):08x}.{kind}").write_bytes(data)
    return counts, found


def search_in_children(seeds: range, keep: Path | None) -> tuple[Counter[str], Found]:
    """Search in child processes; a seed at which a library ends the process is counted and passed over."""
    counts: Counter[str] = Counter()
    found: Found = {}
    pending = [range(at, min(at + BATCH, seeds.stop)) for at in range(seeds.start, seeds.stop, BATCH)][::-1]
    while pending:
        batch = pending.pop()
        if isinstance(result := _in_child(batch, keep), int):
            counts["crashes of a library"] += 1
            pending += [part for part in (range(result + 1, batch.stop), range(batch.start, result)) if part]
            continue
        counts += result[0]
        found = {**result[1], **found}
    return counts, found


def _in_child(seeds: range, keep: Path | None) -> tuple[Counter[str], Found] | int:
    """Search in a child process; return the result, or the seed at which the process ended."""
    at, (reader, writer) = mmap.mmap(-1, 8), os.pipe()
    if (child := os.fork()) == 0:
        result = search(seeds, keep, lambda seed: at.__setitem__(slice(0, 8), seed.to_bytes(8, "little")))
        with os.fdopen(writer, "wb") as pipe:
            pickle.dump(result, pipe)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        sent = pipe.read()
    _, status = os.waitpid(child, 0)
    return pickle.loads(sent) if status == 0 else int.from_bytes(at[:8], "little")  # noqa: S301 - our own child wrote it


def main() -> int:
    """Judge the files of the seeds and print the findings."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("files", nargs="*", type=Path, help="Judge these again; the suffix is the kind.")
    parser.add_argument("--start", type=int, default=0, help="The first seed.")
    parser.add_argument("--count", type=int, default=10000, help="The number of files of each kind.")
    parser.add_argument("--keep", type=Path, help="A folder for one file of each kind of finding.")
    options = parser.parse_args()
    for path in options.files:
        print(path, *judged(path.suffix[1:], path.read_bytes()))
    if options.files:
        return 0
    if options.keep:
        options.keep.mkdir(parents=True, exist_ok=True)
    counts, found = search_in_children(range(options.start, options.start + options.count), options.keep)
    print(", ".join(f"{what}: {count:,}" for what, count in counts.items()))
    for (kind, finding), seed in found.items():
        print(f"{kind} {seed}: {finding}")
    print(f"{len(found)} findings" if found else "no disagreement")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
