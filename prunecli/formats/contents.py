"""What a checkpoint holds beside its tensors, each thing under a name and as a short text that tells it from others.

Metadata, the other entries of a nested checkpoint, the other records of an archive, the other files of a directory.
Nothing is unpickled; how a container is laid out, and bytes of it that no tensor looks at, are no content.
"""

from __future__ import annotations

import hashlib
import io
import os
from itertools import chain
from typing import TYPE_CHECKING, BinaryIO

from prunecli.checkpoint import Span
from prunecli.errors import CheckpointError
from prunecli.formats.pickle.leaves import is_leaf
from prunecli.formats.pickle.opcodes import Blob, bounded
from prunecli.formats.pickle.reader import Call, Global, Key, read_pickle
from prunecli.formats.safetensors.reader import read_safetensors
from prunecli.formats.torch.legacy import is_legacy, read_legacy
from prunecli.formats.torch.records import read_record
from prunecli.formats.zip.directory import read_records

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence
    from pathlib import Path
    from typing import TypeGuard

    from prunecli.checkpoint import Checkpoint

LONGEST = 60
"""Characters up to which a value is told as it is; of longer ones the beginning and a digest are."""

NAME_LIMIT = 300
"""The same for the path to an entry."""

MOST_ENTRIES = 1 << 20
"""More entries, or kilobytes of them, are refused: a few lists that hold each other can stand for any number."""

READ_LIMIT = 1 << 28
"""Bytes of a pickle beside its arrays."""

CHUNK = 1 << 20

_BOOKKEEPING = {"data.pkl", "byteorder", "version"}  # read for what they mean, or about the archive itself
_TORCH = {"torch zip", "torch legacy"}
_BYTES = Global("_codecs", "encode")  # protocol 2 spells bytes as text, and a call that turns it back
_CONTAINERS = (dict, list, tuple)
_PLAIN = (bool, int, float, str)


def family(checkpoint: Checkpoint) -> str:
    """Name the kind of container: what two of one kind hold beside tensors can be compared."""
    return "torch" if checkpoint.format in _TORCH else checkpoint.format


def beside(checkpoint: Checkpoint) -> dict[str, str]:
    """Return everything but tensors in `checkpoint`: what it is called, and a text that is equal if it is equal.

    Reads headers, pickles and small records again, and a directory's other files. Raises CheckpointError where they
    cannot be read.
    """
    found = _Things()
    paths = [file.path for file in checkpoint.files]
    paths += [checkpoint.path / companion for companion in checkpoint.other_files]
    for at, path in enumerate(paths):
        _look(found, checkpoint, at, path)
    return found.things


class _Things:
    """The things found so far: no two get the same name."""

    def __init__(self) -> None:
        self.things: dict[str, str] = {}

    def add(self, name: str, text: str) -> None:
        """Keep a thing, unless another shard has it too."""
        at, numbered = 1, name
        while self.things.get(numbered, text) != text:
            at += 1
            numbered = f"{name}#{at}"
        self.things[numbered] = text


def _look(found: _Things, checkpoint: Checkpoint, at: int, path: Path) -> None:
    """Add what is in the file `path`, one with tensors or one beside those."""
    try:
        with path.open("rb") as file:
            if at < len(checkpoint.files):
                _file(found, file, checkpoint, at)
                return
            whole = Span(0, os.fstat(file.fileno()).st_size)
            found.add(f"file {path.relative_to(checkpoint.path).as_posix()}", _digest(file, whole))
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error


def _file(found: _Things, file: BinaryIO, checkpoint: Checkpoint, at: int) -> None:
    """Add what is in one file beside its tensors."""
    label = str(checkpoint.files[at].path)
    if checkpoint.format == "safetensors":
        for key, value in read_safetensors(file, label).metadata.items():
            found.add(f"metadata {_cut(key)}", _scalar(value))
        return
    head = file.read(64)
    file.seek(0)
    if head.startswith(b"PK\3\4"):
        spans = {tensor.span for tensor in checkpoint.tensors if tensor.file == at}
        _records(found, file, label, spans)
    elif is_legacy(head):
        _entries(found, read_legacy(file, label)[0], file, label)
    else:
        _entries(found, read_pickle(bounded(file, READ_LIMIT), label).value, file, label)


def _records(found: _Things, file: BinaryIO, label: str, tensors: Collection[Span]) -> None:
    for name, record in read_records(file, label).items():
        inner = name.partition("/")[2]
        if inner == "data.pkl":
            stream = io.BytesIO(read_record(file, record, label))
            _entries(found, read_pickle(stream, label).value, stream, label)
        elif inner not in _BOOKKEEPING and not inner.startswith(".") and record.span not in tensors:
            found.add(f"record {_cut(inner)}", _digest(file, record.span))


# --- the entries of a pickle


def _entries(found: _Things, root: object, stream: BinaryIO, label: str) -> None:
    """Add each entry below `root` that is no tensor; what several places share is entered in each."""
    stack: list[tuple[str, object, bool]] = [("", root, True)]
    above: set[int] = set()
    steps = 0
    while stack:
        name, node, enter = stack.pop()
        node = _spelled_out(node)
        if not enter:
            above.discard(id(node))
        elif id(node) not in above and not is_leaf(node):
            children = list(_children(node))
            steps += 1 + _cost(node) + sum(1 + _cost(part) for part, _ in children)
            if steps > MOST_ENTRIES:
                raise CheckpointError(
                    f"{label} has more entries beside its tensors than can be compared: over {MOST_ENTRIES:,}",
                    hint="-i '*' compares the tensors alone",
                )
            _tell(found, name, node, stream)
            if children:
                above.add(id(node))
                stack.append((name, node, False))
                stack += [(_joined(name, part), child, True) for part, child in reversed(children)]


def _tell(found: _Things, name: str, node: object, stream: BinaryIO) -> None:
    """Add what `node` is by itself, without its children."""
    name = f"entry {name}" if name else "the object itself"
    if isinstance(node, Call):
        if isinstance(node.func, Global):
            found.add(name, f"a {_cut(_scalar(node.func))}")
    elif isinstance(node, Blob):
        if node.content is None or node.length > LONGEST:
            found.add(name, _digest(stream, Span(node.start, node.length)))
        else:
            found.add(name, _scalar(node.content))
    elif isinstance(node, bytes) and len(node) > LONGEST:
        found.add(name, _digest(io.BytesIO(node), Span(0, len(node))))
    elif _is_row(node):
        found.add(name, _row(node))
    elif not isinstance(node, _CONTAINERS) or not node:
        found.add(name, _scalar(node))


def _spelled_out(node: object) -> object:
    """Return bytes that are spelled as text, and any other node as it is."""
    if isinstance(node, Call) and node.func == _BYTES and node.args and isinstance(node.args[0], str):
        return node.args[0].encode("latin-1", "backslashreplace")
    return node


def _children(node: object) -> Iterable[tuple[object, object]]:
    """Yield each part below `node` and its key, index or attribute."""
    if isinstance(node, dict):
        return node.items()
    if isinstance(node, (list, tuple)):
        return () if _is_row(node) else enumerate(node)
    if not isinstance(node, Call):
        return ()
    states = node.state if isinstance(node.state, tuple) else (node.state,)
    attributes = [state.items() for state in states if isinstance(state, dict)]
    others = enumerate(state for state in states if state is not None and not isinstance(state, dict))
    return chain(node.entries.items(), enumerate(node.items), *attributes, others, enumerate(node.args))


def _cost(node: object) -> int:
    """Return what telling `node` itself costs, in kilobytes: a few bytes may come back to a long text any often."""
    if isinstance(node, (str, bytes)):
        return len(node) >> 10
    if isinstance(node, Blob):
        return node.length >> 10
    if isinstance(node, Global):
        return (len(node.module) + len(node.name)) >> 10
    if isinstance(node, int):
        return node.bit_length() >> 13
    if isinstance(node, Key):
        return _cost(node.value)
    return (len(node) >> 6) + sum(map(_cost, node)) if _is_row(node) else 0


def _is_row(node: object) -> TypeGuard[Sequence[object]]:
    """Whether `node` is a list or tuple of plain values alone, as a history of losses is, which counts as one."""
    return isinstance(node, (list, tuple)) and all(child is None or isinstance(child, _PLAIN) for child in node)


def _row(node: Sequence[object]) -> str:
    texts = [_scalar(child) for child in node]
    text = f"[{', '.join(texts)}]"
    return text if len(text) <= LONGEST else f"{len(texts):,} values, {_sha(chr(0).join(texts))}"


def _scalar(value: object) -> str:
    """Return a text for a value without parts that tells it from others."""
    if isinstance(value, Global):
        return f"{value.module}.{value.name}"
    if isinstance(value, int) and value.bit_length() > 64:
        return (
            hex(value)
            if value.bit_length() < LONGEST
            else f"a number of {value.bit_length():,} bits, {_sha(hex(value))}"
        )
    return _cut(repr(value))


def _joined(name: str, part: object) -> str:
    part = part.value if isinstance(part, Key) else part
    if isinstance(part, str):
        text = part
    elif _is_row(part):
        text = _row(part)
    else:
        text = f"<{type(part).__name__}>" if isinstance(part, (*_CONTAINERS, Call)) else _scalar(part)
    return _cut(f"{name}.{text}" if name else text, NAME_LIMIT)


def _cut(text: str, limit: int = LONGEST) -> str:
    """Return `text`, or its beginning and a digest where it is longer than `limit` characters."""
    return text if len(text) <= limit else f"{text[:limit]}... ({_sha(text)})"


# --- digests


def _sha(text: str) -> str:
    return f"sha256 {hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:12]}"


def _digest(file: BinaryIO, span: Span) -> str:
    """Return the length and a digest of some bytes of a file, read in chunks."""
    digest = hashlib.sha256()
    file.seek(span.start)
    left = span.length
    while left and (data := file.read(min(CHUNK, left))):
        digest.update(data)
        left -= len(data)
    return f"{span.length:,} bytes, sha256 {digest.hexdigest()[:12]}"
