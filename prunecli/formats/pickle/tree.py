"""The containers of a pickled object as a tree with named leaves: the tensors, arrays and storages.

The walk is iterative, visits cycles and shared parts in bounded time, and reads no file.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, TypeAlias

from prunecli.formats.pickle.leaves import is_leaf
from prunecli.formats.pickle.opcodes import Blob
from prunecli.formats.pickle.reader import Call, Key, Persistent
from prunecli.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

MAX_DEPTH = 256
"""The most levels of containers."""

MAX_NAME = 1000
"""The most characters of a tensor's name."""

MIN_STEPS, MAX_STEPS = 1 << 19, 1 << 25
"""The steps that a search may take at its start, and at most. A leaf that is reached again costs 100 steps; a container
that is entered again costs 16 and its length."""

STEPS_PER_LEAF = 200
"""The steps that each new leaf adds, so that it may have several names."""

FREE_CONTAINERS, BYTES_PER_CONTAINER = 1 << 17, 32
"""The containers that a search may note: so many, and one more for so many bytes of the pickle. Each takes about 200
bytes while the search runs; small ones of plain values are not noted."""

MIN_CHARACTERS, CHARACTERS_PER_LEAF = 1 << 21, 300
"""The characters that all names may have at the start, and those that each new leaf adds: long keys of a few containers
that share each other stand for any number of characters."""

NODES = (dict, list, tuple, Call, Persistent)
_SMALL = 8
_REGISTRIES = ("_parameters", "_buffers", "_modules")  # in the order of nn.Module.state_dict

Path: TypeAlias = "tuple[Path, object] | None"


@dataclass(frozen=True, slots=True)
class Leaf:
    """A tensor, array or storage of the pickle, and its dotted name.

    `key` is the dotted path of its state_dict if the name starts with it, else "".
    """

    name: str
    value: object
    key: str = ""


def entries(node: object) -> Mapping[object, object]:
    """Return the entries of a dict or of an object of a dict subclass; nothing for other values."""
    if isinstance(node, Call):
        return node.entries
    return node if isinstance(node, dict) else {}


def registries(node: object) -> list[dict[object, object]]:
    """Return the dicts of an nn.Module with its tensors and children; nothing for other objects."""
    if not isinstance(node, Call) or not isinstance(node.state, dict):
        return []
    # All three must be there: other classes may have one attribute of such a name.
    found = [node.state.get(name) for name in _REGISTRIES]
    return [registry for registry in found if isinstance(registry, dict)] if None not in found else []


def leaves(
    root: object,
    path: Path,
    seen: set[int],
    *,
    excluded: Collection[int] = (),
    once: bool = False,
    most: int = FREE_CONTAINERS,
) -> Iterator[Leaf]:
    """Yield the leaves below `root` in order, and add the containers on the way to `seen`.

    Plain containers and modules are listed under each of their names, unless `once`; other objects and containers
    without leaves are entered once. The containers whose ids are `excluded` are skipped. Raises ValueError past
    MAX_DEPTH, MAX_STEPS and MAX_NAME, and for more than `most` containers.
    """
    stack = [(root, path, children(root), 0)]
    closed = {id(root), *excluded}  # the containers on the current path, and those without leaves
    # 60 lists, each of which holds the next one twice, have 2^60 paths: `steps` bounds the search.
    steps, characters, count, known = MIN_STEPS, MIN_CHARACTERS, 0, set[int]()
    while stack:
        node, path, rest, before = stack[-1]
        for part, child in rest:
            if is_leaf(child):
                count += 1
                name = _name((path, part))
                steps = steps - 100 if id(child) in known else min(steps + STEPS_PER_LEAF, MAX_STEPS)
                characters += (0 if id(child) in known else CHARACTERS_PER_LEAF) - len(name)
                known.add(id(child))
                yield Leaf(name, child)
                if characters < 0:
                    raise ValueError("the names of its tensors are too long")
                continue
            number = id(child)  # one int for both sets
            if number not in closed and not (number in seen and (once or not _is_plain(child))):
                steps -= 16 + _width(child) if number in seen else 0
                stack.append((child, (path, part), children(child), count))
                closed.add(number)
                seen.add(number)
                break
        else:
            stack.pop()
            if count > before:
                closed.discard(id(node))
        if len(stack) > MAX_DEPTH or steps < 0:
            raise ValueError("its objects are nested too deeply or share too many parts")
        check_count(max(len(seen), len(closed)), most)


def check_count(count: int, most: int) -> None:
    """Raise ValueError if a search has noted more than `most` containers."""
    if count > most:
        raise ValueError(f"it has more than {most:,} containers of containers, too many for its length")


def _is_plain(node: object) -> bool:
    return not isinstance(node, Call) or bool(registries(node))


def _width(node: object) -> int:
    if isinstance(node, Call):
        return len(node.args) + len(node.items) + len(node.entries)
    return len(node) if isinstance(node, (dict, list, tuple)) else 0


def children(node: object) -> Iterator[tuple[object, object]]:
    """Yield the key, index or attribute, and the value, of each part of `node` that may contain a tensor."""
    return ((part, child) for part, child in _parts(node) if child and isinstance(child, NODES) and _may_hold(child))


def _may_hold(node: object) -> bool:
    """Return whether a container may contain a tensor; it is looked into only if it is small."""
    if not isinstance(node, (dict, list, tuple)) or len(node) > _SMALL:
        return True
    return any(isinstance(child, NODES) for child in (node.values() if isinstance(node, dict) else node))


def _parts(node: object) -> Iterable[tuple[object, object]]:
    if isinstance(node, dict):
        return node.items()
    if isinstance(node, (list, tuple)):
        return enumerate(node)
    if not isinstance(node, Call):
        return ()
    if found := registries(node):
        return itertools.chain.from_iterable(registry.items() for registry in found)
    return node.parts()


def _name(path: Path) -> str:
    parts: list[str] = []
    length = 0
    while path is not None:
        path, part = path
        parts.append(text(part))
        length += len(parts[-1]) + 1
    if length > MAX_NAME:
        raise ValueError(f"the name of a tensor has {length - 1:,} characters, at most {MAX_NAME:,}")
    return ".".join(reversed(parts))


def text(part: object) -> str:
    """Return the text of a dict key or list index in a name, with lone surrogates escaped."""
    if isinstance(part, Key):
        part = part.value
    if isinstance(part, Blob) and part.content is not None:
        part = part.content
    if isinstance(part, bytes):
        return part.decode("utf-8", "backslashreplace")
    if part is None or isinstance(part, (int, float)):
        return str(part) if not isinstance(part, int) or part.bit_length() < 64 else "<int>"
    if not isinstance(part, str):
        return f"<{type(part).__name__}>"
    return part if part.isascii() else part.encode("utf-8", "backslashreplace").decode("utf-8")


def prefixes(names: Iterable[str]) -> frozenset[str]:
    """Return all starts of dotted names that end before a dot."""
    return frozenset(name[:i] for name in names for i, c in enumerate(name) if c == ".")
