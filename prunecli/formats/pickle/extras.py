"""The entries of a pickled object besides the tensors that are taken: numbers and strings, and everything else.

Relies on the symbolic values of the pickle reader. Nothing is unpickled.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from prunecli.formats.extras import Extras
from prunecli.formats.pickle.leaves import is_leaf, other_kind, unwrapped
from prunecli.formats.pickle.reader import Call, Global
from prunecli.formats.pickle.tree import prefixes, registries, text
from prunecli.text.escape import encodable
from prunecli.text.numbers import counted

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

MOST_TEXTS, LONGEST = 10_000, 1 << 20
"""The most numbers and strings that are taken as texts, and the most characters of one."""

_MOST_VISITED = 1 << 17
_LONGEST_PATH = 1000
_PLAIN = (bool, int, float, str)
_BITS = 1 << 12  # of an integer that is written out


def extras_below(root: object, inside: Collection[str]) -> Extras:
    """Return what is below `root` besides the tensors with the full dotted names `inside`."""
    names = set(inside)
    above = prefixes(names)
    texts: dict[str, str] = {}
    rest: list[tuple[str, str]] = []
    stack = [("", root)]
    seen: set[int] = set()
    while stack:
        name, node = stack.pop()
        if is_leaf(node):
            if name not in names:
                rest.append((name or "tensor", _kind(node)))
        elif (not name and names) or name in above:
            if id(node) not in seen:
                seen.add(id(node))
                rest += _own(name, node)
                stack += reversed([(_joined(name, part), child) for part, child in _parts(node)])
        elif (found := _texts(name, node)) is None or len(texts) + len(found) > MOST_TEXTS:
            rest.append((name, _kind(node)))
        else:
            texts.update(found)
    return Extras(texts, tuple(rest))


def _own(name: str, node: object) -> Iterator[tuple[str, str]]:
    """Yield the object itself if it is not only a container of its tensors."""
    if isinstance(node, Call):
        yield name or "the object itself", _kind(node)


def _joined(name: str, part: object) -> str:
    return f"{name}.{text(part)}" if name else text(part)


def _parts(node: object) -> Iterable[tuple[object, object]]:
    if isinstance(node, dict):
        return node.items()
    if isinstance(node, (list, tuple)):
        return enumerate(node)
    if isinstance(node, Call):
        if found := registries(node):
            # The other attributes of a module belong to the module itself. None stands for a parameter left out.
            return [item for one in found for item in one.items() if item[1] is not None]
        return node.entries.items()
    return ()


def _texts(name: str, node: object) -> dict[str, str] | None:
    """Return the numbers and strings below `node` as texts; None if there is anything else."""
    found: dict[str, str] = {}
    stack = [(name, node)]
    for _ in range(_MOST_VISITED):
        if not stack:
            return found
        name, node = stack.pop()
        if len(found) > MOST_TEXTS or len(name) > _LONGEST_PATH:
            return None
        if (written := _text(node)) is not None:
            found[name] = written
        elif isinstance(node, dict):
            stack += reversed([(_joined(name, part), child) for part, child in node.items()])
        elif isinstance(node, (list, tuple)):
            stack += reversed([(_joined(name, part), child) for part, child in enumerate(node)])
        else:
            return None
    return None


def _text(value: object) -> str | None:
    """Return a number, a string, None, or a row of these as text; None for anything else."""
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > _BITS:
        return None
    if isinstance(value, str):
        return value if len(value) <= LONGEST and encodable(value) else None
    if value is None or isinstance(value, _PLAIN):
        return str(value)
    if isinstance(value, (list, tuple)) and all(_is_short(one) for one in value):
        row = repr(list(value))
        return row if len(row) <= LONGEST and encodable(row) else None
    return None


def _is_short(value: object) -> bool:
    if isinstance(value, int):
        return value.bit_length() <= _BITS
    return value is None or isinstance(value, (float, str))


def _kind(node: object) -> str:
    """Return what an entry is, in a few words."""
    if is_leaf(node):
        inner = unwrapped(node)
        kind = other_kind(inner)
        return "tensor" if kind.startswith("tensor rebuilt by torch._utils._rebuild_tensor") else kind
    if isinstance(node, Call) and isinstance(node.func, Global):
        return f"{node.func.module}.{node.func.name}"
    count = sum(1 for _ in islice(_leaves(node), _MOST_VISITED))
    if count:
        return counted(count, "tensor")
    if isinstance(node, (dict, list, tuple)):
        return f"{counted(len(node), 'entry', 'entries')} with objects"
    return "bytes" if type(node).__name__ in {"Blob", "bytes"} else f"a {type(node).__name__}"


def _leaves(root: object) -> Iterator[object]:
    stack, seen = [root], {id(root)}
    while stack:
        node = stack.pop()
        parts = node.parts() if isinstance(node, Call) else _parts(node)
        for _, child in parts:
            if is_leaf(child):
                yield child
            elif id(child) not in seen and isinstance(child, (dict, list, tuple, Call)):
                seen.add(id(child))
                stack.append(child)
