"""Measure how a large `.metadata` of torch.distributed.checkpoint is read: seconds, and peak memory per chunk.

    python scripts/bench_dcp.py                                    # 1,000 tensors, 256 ranks, with Adam: 768,000 chunks
    python scripts/bench_dcp.py --tensors 700 --ranks 64 --copies 1

The file is written as pickle writes the metadata of torch, opcode by opcode, because torch's own objects would take
gigabytes. `tests/formats/dcp/test_metadata.py` unpickles a small one and compares it.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from prunecli.formats.dcp.metadata import read_metadata

if TYPE_CHECKING:
    from collections.abc import Iterator

ROWS, COLUMNS = 16, 4096
"""The size of a chunk, of bfloat16 numbers."""

ITEM = ROWS * COLUMNS * 2 + 1577
"""The bytes of the archive of a chunk."""

_BATCH = 1000  # items that pickle sets or appends at once
_STATES = ("", ".exp_avg", ".exp_avg_sq")


def main() -> None:
    """Write a metadata, read it in this process, and print what that takes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tensors", type=int, default=1000)
    parser.add_argument("--ranks", type=int, default=256)
    parser.add_argument("--copies", type=int, default=3, help="1 for the weights alone, 3 with both moments of Adam")
    options = parser.parse_args()
    with tempfile.TemporaryFile(dir=Path.cwd()) as file:
        for part in metadata(options.tensors, options.ranks, options.copies):
            file.write(part)
        size, before = file.tell(), _peak()
        start = time.process_time()
        found = read_metadata(file, "generated")
        seconds = time.process_time() - start
    print(
        f"{len(found.places):,} chunks, {size / 1e6:,.0f} MB: {seconds:.1f} CPU seconds, "
        f"peak {_peak():,.0f} MB ({before:,.0f} MB before)"
    )


def _peak() -> float:
    """Return the peak memory of this program in MB; the usage of a process includes the one that it was forked from."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().split("VmHWM:")[1].split()[0]) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def metadata(tensors: int, ranks: int, copies: int) -> Iterator[bytes]:
    """Yield the bytes of a metadata: so many tensors, each cut into a range of rows for each rank.

    With more than one of `copies`, the moments of an optimizer are cut in the same way.
    """
    return _Writer().metadata([f"{name}.weight" for name in range(tensors)], ranks, _STATES[:copies])


class _Writer:
    """Writes opcodes as pickle does with protocol 4, and counts the values that go into the memo."""

    def __init__(self) -> None:
        self._count = 0
        self._known: dict[str, int] = {}

    def metadata(self, names: list[str], ranks: int, states: tuple[str, ...]) -> Iterator[bytes]:
        """Yield the bytes of the whole metadata."""
        fqns = [(state, name, self._fqn(state, name)) for state in states for name in names]
        yield b"\x80\x04" + self._new("torch.distributed.checkpoint.metadata", "Metadata") + b"("
        yield self._text("state_dict_metadata") + self._memo(b"}")
        for first in range(0, len(fqns), _BATCH):
            yield b"("
            for _, _, fqn in fqns[first : first + _BATCH]:
                yield self._text(fqn) + self._tensor(ranks)
            yield b"u"
        yield self._text("planner_data") + self._memo(b"}") + b"("
        for state, name, fqn in fqns:
            path = [self._text(part) for part in (("optim", "state", name, state[1:]) if state else ("model", name))]
            yield self._text(fqn) + self._memo(b"(" + b"".join(path) + b"t")
        yield b"u" + self._text("storage_data") + self._memo(b"}")
        yield from self._places([fqn for _, _, fqn in fqns], ranks)
        yield self._text("version") + self._text("1.0.0") + b"ub."

    @staticmethod
    def _fqn(state: str, name: str) -> str:
        return f"optim.state.{name}{state}" if state else f"model.{name}"

    def _tensor(self, ranks: int) -> bytes:
        parts = [self._new("torch.distributed.checkpoint.metadata", "TensorStorageMetadata"), b"("]
        parts += [self._text("properties"), self._properties()]
        parts += [self._text("size"), self._size(ranks * ROWS, COLUMNS)]
        parts += [self._text("chunks"), self._memo(b"]")]
        for first in range(0, ranks, _BATCH):
            parts.append(b"(")
            parts += [self._chunk(rank) for rank in range(first, min(first + _BATCH, ranks))]
            parts.append(b"e")
        return b"".join([*parts, b"ub"])

    def _properties(self) -> bytes:
        made = self._memo(self._global("torch.distributed.checkpoint.metadata", "TensorProperties") + b")\x81")
        dtype = self._global("torch", "bfloat16")
        order = self._global("torch.distributed.checkpoint.metadata", "_MEM_FORMAT_ENCODING")
        order = self._memo(self._memo(order + b"K\x00\x85") + b"R")
        return made + self._memo(b"(" + dtype + b"N\x89" + order + b"\x89t") + b"b"

    def _chunk(self, rank: int) -> bytes:
        made = self._new("torch.distributed.checkpoint.metadata", "ChunkStorageMetadata") + b"("
        offsets = self._text("offsets") + self._size(rank * ROWS, 0)
        return made + offsets + self._text("sizes") + self._size(ROWS, COLUMNS) + b"ub"

    def _places(self, fqns: list[str], ranks: int) -> Iterator[bytes]:
        count = 0
        for rank in range(ranks):
            path = f"__{rank}_0.distcp"
            for place, fqn in enumerate(fqns):
                yield b"(" if count % _BATCH == 0 else b""
                yield self._place(rank, fqn, path, place * ITEM)
                count += 1
                yield b"u" if count % _BATCH == 0 or count == ranks * len(fqns) else b""

    def _place(self, rank: int, fqn: str, path: str, start: int) -> bytes:
        index = self._new("torch.distributed.checkpoint.metadata", "MetadataIndex") + b"("
        name = self._text("fqn") + self._new_text(fqn)  # each rank has sent texts of its own
        hint = self._text("index") + _number(rank)
        offset = self._text("offset") + self._size(rank * ROWS, 0) + b"ub"
        info = self._new("torch.distributed.checkpoint.filesystem", "_StorageInfo") + b"("
        where = self._text("relative_path") + self._text(path) + self._text("offset") + _number(start)
        return index + name + hint + offset + info + where + self._text("length") + _number(ITEM) + b"ub"

    # --- opcodes

    def _memo(self, code: bytes) -> bytes:
        self._count += 1
        return code + b"\x94"

    def _text(self, text: str) -> bytes:
        """Write a text, or fetch it if it is known."""
        if text in self._known:
            return _fetch(self._known[text])
        self._known[text] = self._count
        return self._new_text(text)

    def _new_text(self, text: str) -> bytes:
        return self._memo(b"\x8c%c" % len(text) + text.encode())

    def _global(self, module: str, name: str) -> bytes:
        key = f"{module} {name}"
        if key in self._known:
            return _fetch(self._known[key])
        code = self._text(module) + self._text(name) + b"\x93"
        self._known[key] = self._count
        return self._memo(code)

    def _new(self, module: str, name: str) -> bytes:
        """Write an object without attributes, and the empty dict of them."""
        return self._memo(self._global(module, name) + b")\x81") + self._memo(b"}")

    def _size(self, rows: int, columns: int) -> bytes:
        numbers = self._global("torch", "Size") + self._memo(_number(rows) + _number(columns) + b"\x86")
        return self._memo(self._memo(numbers + b"\x85") + b"R")


def _fetch(number: int) -> bytes:
    return b"h%c" % number if number < 1 << 8 else b"j" + number.to_bytes(4, "little")


def _number(value: int) -> bytes:
    if value < 1 << 8:
        return b"K%c" % value
    if value < 1 << 16:
        return b"M" + value.to_bytes(2, "little")
    return b"J" + value.to_bytes(4, "little") if value < 1 << 31 else b"\x8a\x05" + value.to_bytes(5, "little")


if __name__ == "__main__":
    main()
