"""The entries of a pickled object that are not tensors, as names and identifying texts.

Relies on the symbolic values of the pickle reader. Nothing is unpickled.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, BinaryIO, cast

from prunecli.checkpoint import Span
from prunecli.errors import Argument, CheckpointError
from prunecli.formats.fingerprints import TEXT_LIMIT, shortened, span_digest, text_digest
from prunecli.formats.pickle.leaves import is_leaf, state_of
from prunecli.formats.pickle.opcodes import Blob
from prunecli.formats.pickle.reader import Call, Global, Key, Persistent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import TypeGuard

NAME_LIMIT = 300
"""Longer paths to an entry are cut to this many characters and completed by a digest."""

MAX_COST = 1 << 20
"""The limit on entries plus kilobytes of text: a few lists that contain each other can stand for any number."""

_BYTES = Global("_codecs", "encode")  # protocol 2 stores bytes as text and a call that encodes it
_CONTAINERS = (dict, list, tuple)
_PLAIN = (bool, int, float, str)


@dataclass(frozen=True, slots=True)
class Source:
    """The file around a pickled object: the `stream` that holds the pickle, and its name in messages.

    `is_tensor(leaf)` returns whether a leaf is listed as a tensor, whose values are compared as such.
    `storage_text(persistent)` identifies the bytes of a storage; it returns None for other persistent ids.
    """

    stream: IO[bytes]
    label: str
    is_tensor: Callable[[object], bool]
    storage_text: Callable[[Persistent], str | None] = lambda _: None


def entries(root: object, source: Source) -> Iterator[tuple[str, str]]:
    """Yield the name and text of each entry below `root` that is not a tensor.

    An object that several entries share is listed under each of them. Raises CheckpointError if the entries exceed
    MAX_COST.
    """
    stack: list[tuple[str, object, bool]] = [("", root, True)]
    ancestors: set[int] = set()
    cost = 0
    while stack:
        name, node, enter = stack.pop()
        node = _decoded(node)
        if not enter:
            ancestors.discard(id(node))
        elif id(node) not in ancestors:
            listed = is_leaf(node) and source.is_tensor(node)
            children = list(state_of(node) if listed else _children(node))
            cost += 1 + _cost(node) + sum(1 + _cost(part) for part, _ in children)
            if cost > MAX_COST:
                raise CheckpointError(
                    f"{source.label} has too many entries besides its tensors to compare: more than {MAX_COST:,}",
                    hint=("compare only the tensors: ", Argument("include", ["*"])),
                )
            text = None if listed else _own_text(node, source)
            if text is not None:
                yield (f"entry {name}" if name else "the object itself"), text
            if children:
                ancestors.add(id(node))
                stack.append((name, node, False))
                stack += [(_joined(name, part), child, True) for part, child in reversed(children)]


def _own_text(node: object, source: Source) -> str | None:
    """Return the text of `node` without its children, or None if only its children are listed."""
    if isinstance(node, Persistent):
        return source.storage_text(node)
    if isinstance(node, Call):
        return f"a {shortened(_scalar(node.func))}" if isinstance(node.func, Global) else None
    if isinstance(node, Blob):
        return _blob_text(node, cast("BinaryIO", source.stream))
    if isinstance(node, bytes) and len(node) > TEXT_LIMIT:
        return span_digest(io.BytesIO(node), Span(0, len(node)))
    if _is_row(node):
        return _row(node)
    return _scalar(node) if not isinstance(node, _CONTAINERS) or not node else None


def _blob_text(blob: Blob, stream: BinaryIO) -> str:
    if blob.content is None or blob.length > TEXT_LIMIT:
        return span_digest(stream, Span(blob.start, blob.length))
    return _scalar(blob.content)


def _decoded(node: object) -> object:
    """Return the bytes that `_codecs.encode` would build, and any other node unchanged."""
    if isinstance(node, Call) and node.func == _BYTES and node.args and isinstance(node.args[0], str):
        return node.args[0].encode("latin-1", "backslashreplace")
    return node


def _children(node: object) -> Iterable[tuple[object, object]]:
    """Return each part below `node` with its key, index or attribute."""
    if isinstance(node, dict):
        return node.items()
    if isinstance(node, (list, tuple)):
        return () if _is_row(node) else enumerate(node)
    if isinstance(node, Persistent):
        # The key of a storage is the writer's own number.
        return [] if isinstance(node.pid, tuple) and node.pid[:1] == ("storage",) else [("id", node.pid)]
    return node.parts() if isinstance(node, Call) else ()


def _cost(node: object) -> int:
    """Return the length of the text of `node` in kilobytes: a few bytes can refer to one long text many times."""
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
    """Return whether `node` is a list or tuple of plain values only, such as a history of losses: it is one entry."""
    return isinstance(node, (list, tuple)) and all(child is None or isinstance(child, _PLAIN) for child in node)


def _row(node: Sequence[object]) -> str:
    texts = [_scalar(child) for child in node]
    text = f"[{', '.join(texts)}]"
    return text if len(text) <= TEXT_LIMIT else f"{len(texts):,} values, {text_digest(chr(0).join(texts))}"


def _scalar(value: object) -> str:
    """Return the identifying text of a value without parts."""
    if isinstance(value, Global):
        return f"{value.module}.{value.name}"
    if isinstance(value, int) and value.bit_length() > 64:
        # hex, because repr() refuses integers of more than 4,300 decimal digits
        return f"a number of {value.bit_length():,} bits, {text_digest(hex(value))}"
    return shortened(repr(value))


def _joined(name: str, part: object) -> str:
    part = part.value if isinstance(part, Key) else part
    if isinstance(part, str):
        text = part
    elif _is_row(part):
        text = _row(part)
    else:
        text = f"<{type(part).__name__}>" if isinstance(part, (*_CONTAINERS, Call)) else _scalar(part)
    return shortened(f"{name}.{text}" if name else text, NAME_LIMIT)
