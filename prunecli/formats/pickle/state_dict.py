"""Which tensors a pickled object holds, under which names, and which part of it is the state_dict.

Walks symbolic values without recursion, in bounded time, through cycles and shared parts. Knows nothing about
files.
"""

from __future__ import annotations

import difflib
import itertools
import re
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from prunecli.errors import CheckpointError
from prunecli.formats.pickle.leaves import is_leaf
from prunecli.formats.pickle.opcodes import Blob
from prunecli.formats.pickle.reader import Call, Key, Persistent

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

STATE_DICT_KEYS = (
    "state_dict",
    "model_state_dict",
    "model",
    "net",
    "module",
    "network",
    "params",
    "params_ema",
    "weights",
)
"""Where the state_dict is looked for at the top of a nested checkpoint, first one first."""

MAX_DEPTH = 256
MIN_STEPS, MAX_STEPS = 1 << 20, 1 << 25  # a leaf seen again costs 100; a container entered again 16 and its length
STEPS_PER_LEAF = 400  # what a leaf seen for the first time adds: some more names for its state_dict
MAX_NAME = 1000  # characters

_NOT_WEIGHTS = re.compile(
    r"optim|schedul|scaler|rng|^(opt|ema|amp|callbacks|loops)$|^(opt|ema)_|_(opt|ema)$", re.IGNORECASE
)
_NODES = (dict, list, tuple, Call, Persistent)
_REGISTRIES = ("_parameters", "_buffers", "_modules")  # in the order of nn.Module.state_dict

Path: TypeAlias = "tuple[Path, object] | None"


@dataclass(frozen=True, slots=True)
class Leaf:
    """A tensor, array or storage in the pickle, and its dotted name."""

    name: str
    value: object


@dataclass(frozen=True, slots=True)
class Found:
    """The leaves inside the state_dict at `key` ("" for the top), named from there; and the others, in full."""

    key: str
    inside: tuple[Leaf, ...]
    outside: tuple[Leaf, ...]


class Names:
    """The names given so far: no two leaves get the same."""

    def __init__(self) -> None:
        """Begin without any."""
        self._times: dict[str, int] = {}
        self._repeated: list[str] = []

    def unique(self, leaf: Leaf) -> str:
        """Return the leaf's name, with a number where another path gave the same name before."""
        name = leaf.name
        while name in self._times:
            self._times[leaf.name] += 1
            name = f"{leaf.name}#{self._times[leaf.name]}"
        self._times[name] = 1
        if name != leaf.name:
            self._repeated.append(name)
        return name

    def facts(self) -> tuple[str, ...]:
        """Say which names had to be numbered."""
        if not self._repeated:
            return ()
        more = f" and {len(self._repeated) - 1:,} more" if self._repeated[1:] else ""
        return (f"two places have the same name: the later one is listed as {self._repeated[0]!r}{more}",)


def find_leaves(root: object, label: str, key: str | None) -> Found:
    """Choose the state_dict in `root` and list what it and the rest hold.

    `key` is a dotted path, or None to choose by STATE_DICT_KEYS. Raises CheckpointError, naming `label`, where
    there is nothing at `key`, or where names nest or repeat beyond all reason.
    """
    try:
        at, chosen = (key, _resolve(root, key)) if key else _choose(root)
        if key and (is_leaf(chosen) or not _holds_leaf(chosen)):
            raise _no_state_dict(root, label, key)
        return _split(root, at, chosen)
    except ValueError as problem:
        raise CheckpointError(f"{label} cannot be listed: {problem}") from problem


def _split(root: object, at: str, chosen: object) -> Found:
    """List the leaves below `chosen`, then those of `root` that are not among them."""
    others = _not_weights(root) if chosen is root else {}
    seen: set[int] = set()
    inside = tuple(_leaves(chosen, None, seen, barred={id(other) for other in others.values()}))
    listed = {id(leaf.value) for leaf in inside}
    rest: list[tuple[Path, object]] = [((None, part), other) for part, other in others.items()]
    if chosen is not root:
        rest = [(None, root)]
    outside = (leaf for path, node in rest for leaf in _leaves(node, path, seen, once=True))
    return Found(at, inside, tuple(leaf for leaf in outside if id(leaf.value) not in listed))


def _choose(root: object) -> tuple[str, object]:
    entries = _entries(root)
    for name in STATE_DICT_KEYS:
        child = entries.get(name)
        if (_entries(child) or _registries(child)) and _holds_leaf(child):
            return name, child
    return "", root


def _entries(node: object) -> Mapping[object, object]:
    """Return what a dict, or an object of some subclass of dict, holds."""
    if isinstance(node, Call):
        return node.entries
    return node if isinstance(node, dict) else {}


def _registries(node: object) -> list[dict[object, object]]:
    """Return the dicts in which an nn.Module keeps its tensors and its children; nothing for other objects."""
    if not isinstance(node, Call) or not isinstance(node.state, dict):
        return []
    found = [node.state.get(name) for name in _REGISTRIES]
    return [registry for registry in found if isinstance(registry, dict)] if None not in found else []


def _not_weights(root: object) -> dict[object, object]:
    return {
        part: child
        for part, child in _entries(root).items()
        if isinstance(part, str) and isinstance(child, _NODES) and not is_leaf(child) and _NOT_WEIGHTS.search(part)
    }


def _resolve(node: object, dotted: str) -> object:
    """Return what lies at the path `dotted` below `node`, or None; a part may have dots in it."""
    for part, child in _children(node):
        text = _text(part)
        if dotted == text:
            return child
        if dotted.startswith(f"{text}.") and (found := _resolve(child, dotted[len(text) + 1 :])) is not None:
            return found
    return None


def _no_state_dict(root: object, label: str, key: str) -> CheckpointError:
    # Entries may share their parts: each is looked at once, so that a hint costs no more than a listing.
    seen: set[int] = set()
    names = []
    for part, child in itertools.islice(_children(root), 1000):
        if is_leaf(child) or id(child) in seen:
            continue
        found = next(_leaves(child, None, seen, once=True), None)
        seen.add(id(child))
        if found is not None and (name := _text(part)).isprintable():
            names.append(name)
    near = difflib.get_close_matches(key, names, n=len(names) or 1, cutoff=0)
    hint = f"--key {shlex.quote(near[0])}" if near else "leave --key out: the tensors are at the top"
    if near[1:]:
        hint += f" (there are also: {', '.join(near[1:6])})"
    return CheckpointError(f"{label} holds no tensors at the key {key!r}", hint=hint)


def _holds_leaf(node: object) -> bool:
    return next(_leaves(node, None, set()), None) is not None


def _leaves(
    root: object, path: Path, seen: set[int], *, barred: Collection[int] = (), once: bool = False
) -> Iterator[Leaf]:
    """Yield the leaves below `root` in order, and add the containers on the way to `seen`.

    Plain containers and modules are listed under each of their names, unless `once`; other objects, and what
    holds no leaf, are entered once. Raises ValueError past MAX_DEPTH, MAX_STEPS and MAX_NAME.
    """
    stack = [(root, path, _children(root), 0)]
    closed = {id(root), *barred}  # the containers above, and those not worth entering
    steps, leaves, known = MIN_STEPS, 0, set[int]()
    while stack:
        node, path, children, before = stack[-1]
        for part, child in children:
            if is_leaf(child):
                leaves += 1
                steps = steps - 100 if id(child) in known else min(steps + STEPS_PER_LEAF, MAX_STEPS)
                known.add(id(child))
                yield Leaf(_name((path, part)), child)
            elif id(child) not in closed and not (id(child) in seen and (once or not _is_plain(child))):
                steps -= 16 + _width(child) if id(child) in seen else 0
                stack.append((child, (path, part), _children(child), leaves))
                closed.add(id(child))
                seen.add(id(child))
                break
        else:
            stack.pop()
            if leaves > before:
                closed.discard(id(node))
        if len(stack) > MAX_DEPTH or steps < 0:
            raise ValueError("its objects nest too deeply or share too many parts")


def _is_plain(node: object) -> bool:
    return not isinstance(node, Call) or bool(_registries(node))


def _width(node: object) -> int:
    if isinstance(node, Call):
        return len(node.args) + len(node.items) + len(node.entries)
    return len(node) if isinstance(node, (dict, list, tuple)) else 0


def _children(node: object) -> Iterator[tuple[object, object]]:
    """Yield each part below `node` that may hold a tensor, and its key, index or attribute."""
    return ((part, child) for part, child in _parts(node) if child and isinstance(child, _NODES))


def _parts(node: object) -> Iterable[tuple[object, object]]:
    if isinstance(node, dict):
        return node.items()
    if isinstance(node, (list, tuple)):
        return enumerate(node)
    if not isinstance(node, Call):
        return ()
    if registries := _registries(node):
        return itertools.chain.from_iterable(registry.items() for registry in registries)
    states = node.state if isinstance(node.state, tuple) else (node.state,)  # a tuple has the slots too
    attributes = [state.items() for state in states if isinstance(state, dict)]
    others = enumerate(state for state in states if not isinstance(state, dict))
    return itertools.chain(node.entries.items(), enumerate(node.items), *attributes, others, enumerate(node.args))


def _name(path: Path) -> str:
    parts: list[str] = []
    length = 0
    while path is not None:
        path, part = path
        parts.append(_text(part))
        length += len(parts[-1]) + 1
    if length > MAX_NAME:
        raise ValueError(f"a tensor's name has {length - 1:,} characters")
    return ".".join(reversed(parts))


def _text(part: object) -> str:
    """Return how a dict key or list index reads in a name; lone surrogates come out escaped."""
    if isinstance(part, Key):
        part = part.value
    if isinstance(part, Blob) and part.content is not None:
        return part.content.decode("utf-8", "backslashreplace")
    if part is None or isinstance(part, (int, float)):
        return str(part) if not isinstance(part, int) or part.bit_length() < 64 else "<int>"
    if not isinstance(part, str):
        return f"<{type(part).__name__}>"
    return part if part.isascii() else part.encode("utf-8", "backslashreplace").decode("utf-8")
