"""Find the state_dict in a pickled object, and name the tensors inside and outside it.

The search is iterative, visits cycles and shared parts in bounded time, and reads no file.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from prunecli.errors import Argument, CheckpointError
from prunecli.formats.pickle.leaves import is_leaf
from prunecli.formats.pickle.opcodes import Blob
from prunecli.formats.pickle.reader import Call, Key, Persistent
from prunecli.layouts.reparametrized import BARE
from prunecli.text.closest import closest

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
"""The keys of a nested checkpoint under which its state_dict is looked for, in this order."""

MAX_DEPTH = 256
"""The most levels of containers."""

MAX_NAME = 1000
"""The most characters of a tensor's name."""

MIN_STEPS, MAX_STEPS = 1 << 20, 1 << 25
"""The steps that a search may take at its start, and at most. A leaf that is reached again costs 100 steps; a container
that is entered again costs 16 and its length."""

STEPS_PER_LEAF = 400
"""The steps that each new leaf adds, so that it may have several names."""

_NOT_WEIGHTS = re.compile(
    r"optim|schedul|scaler|rng|^(opt|ema|amp|callbacks|loops)$|^(opt|ema)_|_(opt|ema)$", re.IGNORECASE
)
_NODES = (dict, list, tuple, Call, Persistent)
_REGISTRIES = ("_parameters", "_buffers", "_modules")  # in the order of nn.Module.state_dict

Path: TypeAlias = "tuple[Path, object] | None"


@dataclass(frozen=True, slots=True)
class Leaf:
    """A tensor, array or storage of the pickle, and its dotted name."""

    name: str
    value: object


@dataclass(frozen=True, slots=True)
class StateDictLeaves:
    """The leaves inside and outside the state_dict at `key` ("" for the top of the pickled object).

    Names of the leaves inside start at the state_dict, names of those outside at the top. With `is_module` the
    state_dict is that of a pickled module.
    """

    key: str
    inside: tuple[Leaf, ...]
    outside: tuple[Leaf, ...]
    is_module: bool = False


def find_leaves(root: object, label: str, key: str | None) -> StateDictLeaves:
    """Return the leaves of `root`, inside and outside its state_dict.

    `key` is the dotted path of the state_dict, or None to look for it under STATE_DICT_KEYS. A leaf without a container
    around it is named BARE. Raises CheckpointError,
    naming `label`, if there is no tensor at `key`, or if containers are nested or shared beyond the limits.
    """
    if is_leaf(root) and not key:
        return StateDictLeaves("", (Leaf(BARE, root),), ())
    try:
        path, chosen = (key, _resolve(root, key)) if key else _choose(root)
        if key and (is_leaf(chosen) or not _holds_leaf(chosen)):
            raise _no_state_dict(root, label, key)
        return _split(root, path, chosen)
    except ValueError as problem:
        raise CheckpointError(f"{label} cannot be listed: {problem}") from problem


def _split(root: object, key: str, chosen: object) -> StateDictLeaves:
    """List the leaves below `chosen`, then the other leaves of `root`."""
    excluded = _not_weights(root) if chosen is root else {}
    seen: set[int] = set()
    inside = tuple(_leaves(chosen, None, seen, excluded={id(node) for node in excluded.values()}))
    listed = {id(leaf.value) for leaf in inside}
    rest: list[tuple[Path, object]] = [((None, part), node) for part, node in excluded.items()]
    if chosen is not root:
        rest = [(None, root)]
    outside = (leaf for path, node in rest for leaf in _leaves(node, path, seen, once=True))
    others = tuple(leaf for leaf in outside if id(leaf.value) not in listed)
    return StateDictLeaves(key, inside, others, is_module=bool(_registries(chosen)))


def _choose(root: object) -> tuple[str, object]:
    entries = _entries(root)
    for name in STATE_DICT_KEYS:
        child = entries.get(name)
        if (_entries(child) or _registries(child)) and _holds_leaf(child):
            return name, child
    return "", root


def _entries(node: object) -> Mapping[object, object]:
    """Return the entries of a dict or of an object of a dict subclass; nothing for other values."""
    if isinstance(node, Call):
        return node.entries
    return node if isinstance(node, dict) else {}


def _registries(node: object) -> list[dict[object, object]]:
    """Return the dicts of an nn.Module with its tensors and children; nothing for other objects."""
    if not isinstance(node, Call) or not isinstance(node.state, dict):
        return []
    # All three must be there: other classes may have one attribute of such a name.
    registries = [node.state.get(name) for name in _REGISTRIES]
    return [registry for registry in registries if isinstance(registry, dict)] if None not in registries else []


def _not_weights(root: object) -> dict[object, object]:
    return {
        part: child
        for part, child in _entries(root).items()
        if isinstance(part, str) and isinstance(child, _NODES) and not is_leaf(child) and _NOT_WEIGHTS.search(part)
    }


def _resolve(node: object, dotted: str) -> object:
    """Return the value at the path `dotted` below `node`, or None; keys may contain dots."""
    for part, child in _children(node):
        text = _text(part)
        if dotted == text:
            return child
        if dotted.startswith(f"{text}.") and (value := _resolve(child, dotted[len(text) + 1 :])) is not None:
            return value
    return None


def _no_state_dict(root: object, label: str, key: str) -> CheckpointError:
    message = f"{label} has no tensors at the key {key!r}"
    near = closest(key, _keys_of_tensors(root), count=6, cutoff=0)
    if not near:
        return CheckpointError(message, hint="leave the key out: the tensors are at the top of the file")
    more = f" (other keys: {', '.join(near[1:])})" if near[1:] else ""
    return CheckpointError(message, hint=(Argument("key", near[0]), more))


def _keys_of_tensors(root: object) -> list[str]:
    """Return the printable keys of `root` that lead to tensors."""
    seen: set[int] = set()  # entries may share parts: each is visited once, so the hint costs no more than a listing
    names = []
    for part, child in itertools.islice(_children(root), 1000):
        if is_leaf(child) or id(child) in seen:
            continue
        leaf = next(_leaves(child, None, seen, once=True), None)
        seen.add(id(child))
        if leaf is not None and (name := _text(part)).isprintable():
            names.append(name)
    return names


def _holds_leaf(node: object) -> bool:
    return next(_leaves(node, None, set()), None) is not None


def _leaves(
    root: object, path: Path, seen: set[int], *, excluded: Collection[int] = (), once: bool = False
) -> Iterator[Leaf]:
    """Yield the leaves below `root` in order, and add the containers on the way to `seen`.

    Plain containers and modules are listed under each of their names, unless `once`; other objects and containers
    without leaves are entered once. The containers whose ids are `excluded` are skipped. Raises ValueError past
    MAX_DEPTH, MAX_STEPS and MAX_NAME.
    """
    stack = [(root, path, _children(root), 0)]
    closed = {id(root), *excluded}  # the containers on the current path, and those without leaves
    # 60 lists, each of which holds the next one twice, have 2^60 paths: `steps` bounds the search.
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
            raise ValueError("its objects are nested too deeply or share too many parts")


def _is_plain(node: object) -> bool:
    return not isinstance(node, Call) or bool(_registries(node))


def _width(node: object) -> int:
    if isinstance(node, Call):
        return len(node.args) + len(node.items) + len(node.entries)
    return len(node) if isinstance(node, (dict, list, tuple)) else 0


def _children(node: object) -> Iterator[tuple[object, object]]:
    """Yield the key, index or attribute, and the value, of each part of `node` that may contain a tensor."""
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
    return node.parts()


def _name(path: Path) -> str:
    parts: list[str] = []
    length = 0
    while path is not None:
        path, part = path
        parts.append(_text(part))
        length += len(parts[-1]) + 1
    if length > MAX_NAME:
        raise ValueError(f"the name of a tensor has {length - 1:,} characters, at most {MAX_NAME:,}")
    return ".".join(reversed(parts))


def _text(part: object) -> str:
    """Return the text of a dict key or list index in a name, with lone surrogates escaped."""
    if isinstance(part, Key):
        part = part.value
    if isinstance(part, Blob) and part.content is not None:
        return part.content.decode("utf-8", "backslashreplace")
    if part is None or isinstance(part, (int, float)):
        return str(part) if not isinstance(part, int) or part.bit_length() < 64 else "<int>"
    if not isinstance(part, str):
        return f"<{type(part).__name__}>"
    return part if part.isascii() else part.encode("utf-8", "backslashreplace").decode("utf-8")
